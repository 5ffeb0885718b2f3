"""PaliGemma through the engine's public face: what it is asked, what comes back, what it cannot be asked."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from promptgen.captioning import (
    Caption,
    Captioner,
    CaptionOptions,
    GenerationOptions,
    InstructionError,
    Mixed,
    OcrText,
    Regions,
    TileOptions,
    VisionOptions,
    default_instruction,
    draw_overlay,
)
from promptgen.models_cache import ModelManager, family_of_model, told_family

from .paligemma_checkpoints import make_paligemma, pictures

SHORT = GenerationOptions(num_beams=1, max_new_tokens=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_paligemma(tmp_path_factory.mktemp("tiny") / "tiny-paligemma")


@pytest.fixture(scope="module")
def locating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_paligemma(tmp_path_factory.mktemp("tiny") / "locating", locations=True)


@pytest.fixture(scope="module")
def manager() -> Iterator[ModelManager]:
    manager = ModelManager()
    yield manager
    manager.close()


def captioner(folder: Path, manager: ModelManager) -> Captioner:
    return Captioner(str(folder), device="cpu", dtype="fp32", manager=manager)


def prompts_of(monkeypatch: pytest.MonkeyPatch, asking: Captioner) -> list[str]:
    """The literal prompts that the model is given from now on, as they come."""
    with asking.loaded() as model:
        kind = type(model)
    given: list[str] = []
    generate = kind.generate

    def noting(self: Any, features: Any, prompts: Sequence[str], *more: Any, **named: Any) -> Any:
        given.extend(prompts)
        return generate(self, features, prompts, *more, **named)

    monkeypatch.setattr(kind, "generate", noting)
    return given


def test_instructions_reach_the_model_as_the_family_is_asked(
    folder: Path, manager: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = captioner(folder, manager)
    given = prompts_of(monkeypatch, asking)
    names = ["LONG_PROMPT", "CAPTION", "DESCRIBE", "OCR", "VQA", "DETECT", "PROMPT"]
    options = CaptionOptions(SHORT, text_input="cat, dog", language="de")
    (result,) = asking.caption(pictures(1), names, options)
    assert result.ok, result.error
    assert given == [
        "caption en", "caption de", "describe de", "ocr", "answer de cat, dog", "detect cat ; dog", "cat, dog"
    ]  # fmt: skip
    kinds = [Mixed, Caption, Caption, OcrText, Caption, Regions, Caption]
    assert [type(one) for one in result.results] == kinds
    assert [one.instruction for one in result.results] == [
        *names[:5], "OPEN_VOCABULARY_DETECTION", "PROMPT"
    ]  # fmt: skip


def test_without_an_instruction_it_is_the_familys(
    folder: Path, manager: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_instruction(str(folder)) == "CAPTION"
    assert default_instruction("mnemic/paligemma-longprompt-v1-safetensors") == "LONG_PROMPT"
    assert default_instruction("paligemma2-3b-mix-448") == "CAPTION"
    assert default_instruction() == default_instruction("demo") == "GENERATE_TAGS"
    asking = captioner(folder, manager)
    given = prompts_of(monkeypatch, asking)
    (result,) = asking.caption(pictures(1), options=CaptionOptions(SHORT))
    assert (result.results[0].instruction, given) == ("CAPTION", ["caption en"])


def test_the_same_words_are_the_same_answer(folder: Path, manager: ModelManager) -> None:
    asking = captioner(folder, manager)
    options = CaptionOptions(SHORT, text_input="caption en")
    for result in asking.caption(pictures(3), "CAPTION,LONG_PROMPT,PROMPT", options):
        caption, long_prompt, free = result.results
        assert caption.raw == long_prompt.raw == free.raw
        assert free.text == free.raw.strip()
    singles = [asking.caption(picture, "CAPTION,PROMPT", options)[0].results for picture in pictures(3)]
    together = [one.results for one in asking.caption(pictures(3), "CAPTION,PROMPT", options)]
    assert singles == together


def test_boxes_are_regions_of_the_picture_with_scores(locating: Path, manager: ModelManager) -> None:
    asking = captioner(locating, manager)
    generation = GenerationOptions(num_beams=1, max_new_tokens=40, repetition_penalty=1.5)
    options = CaptionOptions(generation, text_input="cat ; dog", vision=VisionOptions(scores=True))
    results = asking.caption(pictures(4), "DETECT", options)
    assert all(result.ok for result in results), [result.error for result in results]
    found = [(result, region) for result in results for region in result.results[0].regions]  # type: ignore[attr-defined]
    assert found
    for result, region in found:
        assert result.size is not None
        left, top, right, bottom = region.box
        assert 0 <= left <= right <= result.size[0]
        assert 0 <= top <= bottom <= result.size[1]
        assert 0 < region.score <= 1
    for picture, result in zip(pictures(4), results, strict=True):
        drawn = draw_overlay(picture, result.results[0].regions)  # type: ignore[attr-defined]
        assert drawn.size == picture.size


def test_large_pictures_in_tiles(
    locating: Path, manager: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = captioner(locating, manager)
    given = prompts_of(monkeypatch, asking)
    picture = pictures(1)[0].resize((200, 100))
    vision = VisionOptions(tile=TileOptions(100, 0.0, whole=False))
    options = CaptionOptions(SHORT, text_input="cat", vision=vision)
    (result,) = asking.caption(picture, "OCR,DETECT", options)
    assert result.ok, result.error
    assert sorted(given) == ["detect cat", "detect cat", "ocr", "ocr"]
    assert [getattr(one, "tiles", 0) for one in result.results] == [2, 2]


@pytest.mark.parametrize(
    ("instruction", "options", "words"),
    [
        ("OD", {}, "OD is for Florence-2.*OPEN_VOCABULARY_DETECTION"),
        ("CAPTION,GENERATE_TAGS", {}, "GENERATE_TAGS is for Florence-2.*CAPTION"),
        ("OCR_WITH_REGION", {}, "Ask for OCR"),
        ("REGION_TO_CATEGORY", {"text_input": "0,0,1,1"}, "REGION_TO_CATEGORY is for Florence-2"),
        ("VQA", {}, "VQA needs a text input"),
        ("DETECT", {"text_input": " ; "}, "needs a text input"),
        ("DETECT", {"text_input": "cat ; <image>"}, "holds <image>. Leave it out"),
        ("PROMPT", {"text_input": "<image>caption en"}, "holds <image>. Leave it out"),
        ("CAPTION", {"text_input": "a cat"}, "has no use: CAPTION"),
        ("CAPTION", {"language": "german"}, "no code"),
        ("OCR", {"language": "de"}, "OCR of PaliGemma is not asked in a language"),
        ("OCR", {"vision": VisionOptions(scores=True)}, "finds no regions"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_opened(
    instruction: str, options: dict[str, Any], words: str
) -> None:
    """The checkpoint is not on this computer, and is not fetched either."""
    asking = Captioner("google/paligemma-3b-mix-224")
    with pytest.raises(InstructionError, match=words):
        asking.stream(["absent.png"], instruction, CaptionOptions(SHORT, **options))


def test_florence2_cannot_be_asked_what_is_paligemmas() -> None:
    with pytest.raises(InstructionError, match=r"LONG_PROMPT is for PaliGemma.*Ask for MIXED_CAPTION"):
        Captioner("demo").inquire("LONG_PROMPT")
    with pytest.raises(InstructionError, match="not asked in a language"):
        Captioner("demo").inquire("CAPTION", CaptionOptions(language="fr"))
    assert (
        Captioner("demo").inquire(options=CaptionOptions(language="en")).instructions[0].name
        == "GENERATE_TAGS"
    )


def test_a_free_prompt_goes_to_florence2_too_and_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    options = CaptionOptions(SHORT, text_input="<GENERATE_TAGS>")
    with caplog.at_level(logging.WARNING, "promptgen"):
        (result,) = Captioner("demo").caption(pictures(1), "PROMPT,GENERATE_TAGS", options)
    free, tags = result.results
    assert free.raw == tags.raw
    assert not [record for record in caplog.records if "PROMPT" in record.getMessage()]


def test_the_users_catalogue_may_name_prompts_of_a_checkpoint(
    folder: Path, manager: ModelManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its prompts win, also for what the family lacks; its first instruction is the default."""
    entry = {
        "folder": str(folder),
        "family": "paligemma",
        "instructions": ["LONG_PROMPT", "GENERATE_TAGS"],
        "prompts": {"GENERATE_TAGS": "tags {language}", "LONG_PROMPT": "caption this"},
    }
    file = tmp_path / "models.json"
    file.write_text(json.dumps({"mine": entry}), encoding="utf-8")
    monkeypatch.setenv("PROMPTGEN_CATALOGUE", str(file))
    asking = Captioner("mine", device="cpu", dtype="fp32", manager=manager)
    assert default_instruction("mine") == "LONG_PROMPT"
    given = prompts_of(monkeypatch, asking)
    (result,) = asking.caption(pictures(1), "LONG_PROMPT,GENERATE_TAGS", CaptionOptions(SHORT, language="fr"))
    assert given == ["caption this", "tags fr"]
    assert [one.instruction for one in result.results] == ["LONG_PROMPT", "GENERATE_TAGS"]


def test_the_family_of_a_folder_is_what_its_config_says(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert family_of_model(str(folder)) == "paligemma"
    assert family_of_model("demo") == "florence2"
    named = tmp_path / "models" / "Florence-2-fine-tune"
    named.mkdir(parents=True)
    monkeypatch.setenv("PROMPTGEN_MODELS", str(named.parent))
    config = named / "config.json"
    config.write_text('{"model_type": "paligemma"}', encoding="utf-8")
    assert family_of_model("Florence-2-fine-tune") == "paligemma"
    config.write_text('{"model_type": "florence2"} ', encoding="utf-8")
    assert family_of_model("Florence-2-fine-tune") == "florence2", "an edit is seen"
    file = tmp_path / "models.json"
    file.write_text(
        '{"far": {"hub_id": "a/b", "family": "paligemma"}, "near": {"hub_id": "a/c"}}', encoding="utf-8"
    )
    monkeypatch.setenv("PROMPTGEN_CATALOGUE", str(file))
    assert [family_of_model(name) for name in ("far", "near")] == ["paligemma", "florence2"]
    assert [told_family(name) for name in ("far", "near")] == [None, None], "what the user says may be wrong"


def test_it_cannot_be_trained_or_exported_here(folder: Path, tmp_path: Path) -> None:
    from promptgen.training.base_model import check_family
    from promptgen.training.config import SaveOptions
    from promptgen.training.errors import TrainingError
    from promptgen.training.merging import export_checkpoint

    check_family("demo")
    for model in (str(folder), "google/paligemma-3b-mix-224"):
        with pytest.raises(TrainingError, match=r"PaliGemma checkpoint.*Name one of them"):
            check_family(model)
    with pytest.raises(TrainingError, match="PaliGemma"):
        export_checkpoint(str(folder), folder, [], tmp_path / "out", SaveOptions())
    assert not (tmp_path / "out").exists()
