"""A checkpoint that was trained with a prompt of its own is asked that prompt, wherever it is taken."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from promptgen.captioning import Captioner, GenerationOptions
from promptgen.florence2 import Florence2Model
from promptgen.models_cache import CatalogueError

from .command_line import Promptgen
from .training_runs import draw_data, train

LITERAL = "<CAPTION>Say it in one line."


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = draw_data(folder / "data")
    result = train(data, folder / "out", model_name="demo", max_steps=2, prompts={"CAPTION": LITERAL})
    assert result.final is not None
    return result.final


def test_the_literal_prompt_of_a_run_is_asked_of_what_it_made(final: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(final, tmp_path / "Taken elsewhere: a style")
    picture = next(Path(__file__).parents[1].glob("examples/*.png"))
    captioner = Captioner(str(elsewhere), device="cpu", dtype="fp32")

    (result,) = captioner.caption([picture], ["CAPTION"], None)[0].results

    from PIL import Image

    model = Florence2Model.load(elsewhere, device="cpu", dtype="fp32")
    features = model.encode_images(model.preprocess([Image.open(picture).convert("RGB")]))
    literal, usual = (
        model.generate(features, [prompt], GenerationOptions())[0].text
        for prompt in (LITERAL, "What does the image describe?")
    )
    assert result.raw == literal
    assert literal != usual  # or the above would say nothing


def test_an_adapters_own_prompt_is_asked_wherever_it_is_taken(promptgen: Promptgen, tmp_path: Path) -> None:
    data = draw_data(tmp_path / "data")
    how = {"lora": {"rank": 4, "merge": True}, "prompts": {"CAPTION": LITERAL}, "max_steps": 2}
    final = train(data, tmp_path / "out", model_name="demo", **how).final
    assert final is not None
    adapter = shutil.copytree(final, tmp_path / "taken elsewhere")
    (adapter / "training_config.yaml").unlink()  # evaluation is to find it in the same place
    usual = dict(Captioner("demo").prompts())

    assert Captioner("demo", loras=[(adapter, 0.5)]).prompts() == usual | {"CAPTION": LITERAL}
    assert Captioner("demo", loras=[(adapter, 0.0)]).prompts() == usual
    assert Captioner(str(adapter / "merged")).prompts() == usual | {"CAPTION": LITERAL}

    done = promptgen("models", "export", "demo", tmp_path / "whole", "--lora", adapter)
    assert done.status == 0, done.stderr
    whole = Captioner(str(tmp_path / "whole"))
    assert whole.prompts() == usual | {"CAPTION": LITERAL}
    picture = next(Path(__file__).parents[1].glob("examples/*.png"))
    at_hand = Captioner("demo", loras=[(adapter, 1.0)], device="cpu", dtype="fp32")
    answers = [one.caption(picture, "CAPTION")[0].results[0].raw for one in (at_hand, whole)]
    assert answers[0] == answers[1]

    (adapter / "promptgen.json").unlink()
    assert at_hand.caption(picture, "CAPTION")[0].results[0].raw != answers[0]  # asked what is usual


def test_nothing_is_said_of_instructions_that_what_was_trained_knows(
    final: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Captioner(str(final)).inquire(["CAPTION", "GENERATE_TAGS"])
        assert not caplog.records
        Captioner(str(final)).inquire("OCR_WITH_REGION")
    assert "was not trained on OCR_WITH_REGION" in caplog.text


def test_an_unreadable_note_is_told(final: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(final, tmp_path / "copy")
    (copy / "promptgen.json").write_text('{"prompts": {"CAPTION": 3}}', encoding="utf-8")

    with pytest.raises(CatalogueError, match=r"promptgen\.json.*prompts must be"):
        Captioner(str(copy)).inquire("CAPTION")
    (copy / "promptgen.json").write_text(json.dumps({"prompts": {}}), encoding="utf-8")
    assert Captioner(str(copy)).inquire("CAPTION").prompts == {}
