"""The Captioner: order, batches, bad pictures, the cache of image features, cancelling."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from promptgen.captioning import Captioner, CaptionOptions, FeatureCache, ImageError, TagOptions
from promptgen.captioning.errors import InstructionError
from promptgen.captioning.features import pixels_key
from promptgen.captioning.results import AnalysisResult, Caption, Mixed, OcrText, Regions, Tags
from promptgen.florence2 import GenerationOptions
from promptgen.models_cache import ModelManager

from .checkpoints import REFERENCE, copy_reference, edit_json, expected

PICTURES = [REFERENCE / "images" / name for name in expected()["images"]]
SHORT = CaptionOptions(generation=GenerationOptions(num_beams=1, max_new_tokens=12))


@pytest.fixture(scope="module")
def manager() -> Iterator[ModelManager]:
    manager = ModelManager(idle_seconds=None)
    yield manager
    manager.close()


def captioner(manager: ModelManager, **options: object) -> Captioner:
    options = {"device": "cpu", "dtype": "fp32", "feature_cache": FeatureCache(), **options}
    return Captioner(str(REFERENCE), manager=manager, **options)  # type: ignore[arg-type]


def drawing(number: int) -> Image.Image:
    """A different picture for every number."""
    image = Image.new("RGB", (40 + number % 7, 40 + number % 5), (number % 256, 40, 200))
    ImageDraw.Draw(image).ellipse((5, 5, 12 + number % 20, 25), fill=(255, number % 251, 0))
    return image


def test_texts_are_what_the_published_code_answers(manager: ModelManager) -> None:
    cases = [
        case for case in expected()["cases"] if case["settings"] == {"num_beams": 1, "max_new_tokens": 96}
    ]
    names = list(dict.fromkeys(case["instruction"] for case in cases))
    options = CaptionOptions(generation=GenerationOptions(num_beams=1, max_new_tokens=96))
    results = captioner(manager, batch_size=16).caption(PICTURES, names, options)
    answers = {
        (Path(result.image).name, answer.instruction): answer.raw
        for result in results
        for answer in result.results
    }
    assert cases
    for case in cases:
        assert answers[case["image"], case["instruction"]] == case["text"]


def test_results_are_in_order_and_typed_per_instruction(manager: ModelManager) -> None:
    kinds = {
        "generate_tags": Tags, "<CAPTION>": Caption, "Mixed_Caption": Mixed, "ANALYZE": AnalysisResult,
        "ocr": OcrText, "<od>": Regions,
    }  # fmt: skip
    results = captioner(manager).caption(PICTURES[:2], list(kinds), SHORT)
    assert [result.image for result in results] == [str(path) for path in PICTURES[:2]]
    for result in results:
        assert [type(answer) for answer in result.results] == list(kinds.values())
        for answer in result.results:
            assert json.loads(json.dumps(answer.to_dict()))["instruction"] == answer.instruction


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_a_batch_gives_what_its_members_give_alone(manager: ModelManager, batch_size: int) -> None:
    names = ["GENERATE_TAGS", "MORE_DETAILED_CAPTION"]
    options = CaptionOptions(generation=GenerationOptions(max_new_tokens=24))
    alone = [captioner(manager, batch_size=1).caption(path, names, options)[0] for path in PICTURES]
    assert captioner(manager, batch_size=batch_size).caption(PICTURES, names, options) == alone


def test_two_hundred_pictures_twenty_of_them_bad(manager: ModelManager, tmp_path: Path) -> None:
    whole = io.BytesIO()
    drawing(3).save(whole, "PNG")
    bad = [
        b"", b"not a picture", whole.getvalue()[:60], b"GIF89a", b"\xff\xd8\xff\xe0\x00", b"<svg/>",
        whole.getvalue()[:-30], b"RIFF\0\0\0\0WEBP", b"BM", b"\0" * 500,
    ]  # fmt: skip
    paths = []
    for number in range(200):
        path = tmp_path / f"{number:03}.png"
        if number % 10 == 5:
            path.write_bytes(bad[number // 10 % len(bad)])
        else:
            drawing(number).save(path)
        paths.append(path)
    results = captioner(manager, batch_size=16).caption(paths, "CAPTION", SHORT)
    assert [result.image for result in results] == [str(path) for path in paths]
    assert sum(result.ok for result in results) == 180
    for number, result in enumerate(results):
        if number % 10 == 5:
            assert isinstance(result.exception, ImageError)
            assert result.results == ()
            assert result.error is not None
            assert f"{number:03}.png" in result.error
        else:
            assert len(result.results) == 1
            assert result.results[0].raw


def test_results_with_errors_keep_neither_the_model_nor_the_batch(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    with closing(ModelManager(idle_seconds=None)) as own:
        with own.acquire(str(REFERENCE), device="cpu", dtype="fp32") as model:
            kept = weakref.ref(model)
            del model
        results = captioner(own).caption([tmp_path / "bad.png", PICTURES[0]], "CAPTION", SHORT)
        assert isinstance(results[0].exception, ImageError)
        assert isinstance(results[0].exception.__cause__, Image.UnidentifiedImageError)
        own.unload()
        gc.collect()
        assert kept() is None
    error: BaseException | None = results[0].exception
    while error is not None:
        assert error.__traceback__ is None
        error = error.__context__


def test_pictures_of_every_kind_of_source(manager: ModelManager) -> None:
    path = PICTURES[3]
    image = Image.open(path).convert("RGB")
    with open(path, "rb") as file:
        sources = [path, str(path), path.read_bytes(), file, image, np.asarray(image)]
        results = captioner(manager).caption(sources, "CAPTION", SHORT)
    assert len({result.results for result in results}) == 1
    assert [result.image for result in results][:3] == [str(path), str(path), "image 3"]
    alone = [str(path), path, path.read_bytes(), bytearray(path.read_bytes()), image, np.asarray(image)]
    with os.scandir(path.parent) as entries:
        alone += [entry for entry in entries if entry.name == path.name]  # a path, but no Path
    for source in alone:  # one, not in a list
        [result] = captioner(manager).caption(source, "CAPTION", SHORT)
        assert result.results == results[0].results


def test_results_come_as_they_are_ready(manager: ModelManager) -> None:
    opened = []

    def endless() -> Iterator[Image.Image]:
        for number in range(10**9):
            opened.append(number)
            yield drawing(number)

    stream = captioner(manager, batch_size=2).stream(endless(), "CAPTION", SHORT)
    for number in range(4):
        assert next(stream).ok
        assert len(opened) <= (2 if number < 2 else number + 4)  # a batch ahead, but not before the first


class CountingManager(ModelManager):
    """A real manager that notes how many pictures go through the vision tower."""

    def __init__(self) -> None:
        super().__init__(idle_seconds=None)
        self.encoded: list[int] = []

    def watch(self, model: torch.nn.Module) -> None:
        model.register_forward_pre_hook(lambda _, inputs: self.encoded.append(inputs[0].shape[0]))


@pytest.fixture
def counting() -> Iterator[CountingManager]:
    manager = CountingManager()
    with manager.acquire(str(REFERENCE), device="cpu", dtype="fp32") as model:
        manager.watch(model.network.vision_tower.stem)  # type: ignore[attr-defined]
    yield manager
    manager.close()


def test_the_vision_tower_runs_once_per_picture(counting: CountingManager) -> None:
    names = ["GENERATE_TAGS", "CAPTION", "DETAILED_CAPTION", "ANALYZE"]
    captioner(counting, batch_size=3).caption(PICTURES[:3], names, SHORT)
    assert sum(counting.encoded) == 3


def test_a_picture_seen_before_skips_the_vision_tower(counting: CountingManager, tmp_path: Path) -> None:
    cache = FeatureCache()
    first = captioner(counting, feature_cache=cache).caption(PICTURES[:2], "CAPTION", SHORT)
    assert sum(counting.encoded) == 2
    copy = tmp_path / "another name.png"
    copy.write_bytes(PICTURES[1].read_bytes())
    again = captioner(counting, feature_cache=cache).caption([copy, PICTURES[0]], "CAPTION", SHORT)
    assert sum(counting.encoded) == 2  # found by content, by another Captioner, under another name
    assert [result.results for result in again] == [result.results for result in first[::-1]]
    captioner(counting, feature_cache=cache).caption([PICTURES[2], PICTURES[2]], "CAPTION", SHORT)
    assert sum(counting.encoded) == 3  # twice in one batch is once as well


def test_pictures_that_will_not_come_again_leave_the_cache_as_it_is(counting: CountingManager) -> None:
    cache = FeatureCache()
    ours = captioner(counting, feature_cache=cache)
    ours.caption(PICTURES[:1], "CAPTION", SHORT)
    held = (len(cache), cache.nbytes)
    passing = list(ours.stream(PICTURES[:3], "CAPTION", SHORT, keep_features=False))
    assert (len(cache), cache.nbytes) == held
    assert sum(counting.encoded) == 3  # the one that is there is taken from there
    assert passing == ours.caption(PICTURES[:3], "CAPTION", SHORT)


def test_the_cache_knows_one_checkpoint_from_another(counting: CountingManager, tmp_path: Path) -> None:
    other = copy_reference(tmp_path / "other", weights=True)
    cache = FeatureCache()
    captioner(counting, feature_cache=cache).caption(PICTURES[0], "CAPTION", SHORT)
    held = len(cache)
    Captioner(str(other), device="cpu", manager=counting, feature_cache=cache).caption(
        PICTURES[0], "CAPTION", SHORT
    )
    assert len(cache) == held + 1


def test_feature_cache_is_bounded_in_bytes() -> None:
    cache = FeatureCache(max_bytes=4 * 400)
    for number in range(10):
        cache.put(number, torch.full((10, 10), float(number)))
        assert cache.nbytes <= 1600
        cache.get(7)  # used, so kept longest
    assert len(cache) == 4
    assert cache.get(0) is None
    kept = cache.get(7)
    assert kept is not None
    assert kept[0, 0] == 7
    cache.put("large", torch.zeros(1000))
    assert cache.get("large") is None
    cache.put(7, torch.ones(10, 10))
    assert cache.nbytes == 1600
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)
    with pytest.raises(ValueError, match="max_bytes is -1"):
        FeatureCache(max_bytes=-1)


def test_the_cache_keeps_rows_not_batches() -> None:
    cache = FeatureCache()
    batch = torch.zeros(64, 10, 10)
    cache.put("row", batch[3])
    kept = cache.get("row")
    assert kept is not None
    assert kept.untyped_storage().nbytes() == 400


def test_pixels_keys_tell_pictures_apart() -> None:
    tall, wide = torch.zeros(6, 2, 3, dtype=torch.uint8), torch.zeros(2, 6, 3, dtype=torch.uint8)
    assert pixels_key(tall) != pixels_key(wide)
    assert pixels_key(tall) == pixels_key(torch.zeros_like(tall))
    assert pixels_key(tall) != pixels_key(tall + 1)


def test_many_threads_share_one_model(manager: ModelManager) -> None:
    results: dict[int, list[object]] = {}

    def work(number: int) -> None:
        results[number] = [
            r.results for r in captioner(manager).caption(PICTURES[:3], "GENERATE_TAGS", SHORT)
        ]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(result == results[0] for result in results.values())
    assert len(manager.loaded()) == 1


def test_a_callback_that_raises_cancels_and_leaves_the_model_usable(manager: ModelManager) -> None:
    class CancelledError(Exception):
        pass

    steps: list[int] = []

    def cancel(step: int) -> None:
        steps.append(step)
        if step == 4:
            raise CancelledError

    with pytest.raises(CancelledError):
        captioner(manager).caption(PICTURES[0], "MORE_DETAILED_CAPTION", on_step=cancel)
    assert [step for step in steps if step] == [1, 2, 3, 4]
    assert steps[0] == 0
    assert len(steps) > 20  # the vision tower tells of itself
    assert manager.loaded()[0].in_use == 0
    assert captioner(manager).caption(PICTURES[0], "CAPTION", SHORT)[0].ok


def test_a_callback_can_cancel_within_the_vision_tower(manager: ModelManager) -> None:
    class CancelledError(Exception):
        pass

    ticks = iter(range(10))

    def cancel(step: int) -> None:
        assert step == 0
        if next(ticks) == 5:
            raise CancelledError

    images = captioner(manager, feature_cache=FeatureCache())
    with pytest.raises(CancelledError):
        images.caption(PICTURES[0], "CAPTION", SHORT, on_step=cancel)
    quiet = captioner(manager, feature_cache=FeatureCache())
    assert quiet.caption(PICTURES[0], "CAPTION", SHORT)[0].ok
    assert next(ticks) == 6  # nobody calls it any more


def test_tag_options_reach_the_answer(manager: ModelManager) -> None:
    options = CaptionOptions(
        generation=GenerationOptions(num_beams=1),
        tags=TagOptions(
            prefix="my style", exclude=("cyan background",), replace=("white triangle:blue star",)
        ),
    )
    result = captioner(manager).caption(PICTURES[0], "GENERATE_TAGS", options)[0].results[0]
    assert isinstance(result, Tags)
    assert result.raw == "1 object, white triangle, cyan background"
    assert result.text == "my style, 1 object, blue star"
    assert result.tags == ("my style", "1 object", "blue star")


def test_answers_that_hit_the_limit_are_marked(manager: ModelManager) -> None:
    long, short = (
        captioner(manager).caption(
            PICTURES[0],
            "DETAILED_CAPTION",
            CaptionOptions(generation=GenerationOptions(max_new_tokens=limit)),
        )[0].results[0]
        for limit in (96, 6)
    )  # fmt: skip
    assert not long.truncated
    assert short.truncated


@pytest.mark.parametrize("text_input", ["a red circle", "<loc_1><loc_2><loc_3><loc_4>"])
def test_text_inputs_reach_the_prompt(manager: ModelManager, text_input: str) -> None:
    name = "REGION_TO_CATEGORY" if text_input.startswith("<loc") else "CAPTION_TO_PHRASE_GROUNDING"
    options = CaptionOptions(generation=SHORT.generation, text_input=text_input)
    assert captioner(manager).caption(PICTURES[0], name, options)[0].ok


def test_what_is_wrong_for_all_is_said_before_the_first_picture(manager: ModelManager) -> None:
    def explode() -> Iterator[Path]:
        raise AssertionError("a picture was asked for")
        yield Path()

    with pytest.raises(InstructionError, match="GENERATE_TAGS"):
        captioner(manager).stream(explode(), "GENERATE_TAG")
    with pytest.raises(InstructionError):
        captioner(manager).stream(explode(), "CAPTION_TO_PHRASE_GROUNDING")
    with pytest.raises(InstructionError):
        captioner(manager).stream(explode(), [])
    with pytest.raises(ValueError, match="no such colour"):
        captioner(manager).stream(explode(), "CAPTION", CaptionOptions(background="no such colour"))
    with pytest.raises(ValueError, match="batch_size is 0"):
        captioner(manager, batch_size=0)


def test_bits_are_a_text_or_a_number(manager: ModelManager) -> None:
    assert (
        captioner(manager, quantization=4).quantization == captioner(manager, quantization="4").quantization
    )
    [result] = captioner(manager, quantization=8).caption(PICTURES[0], "CAPTION", SHORT)
    assert result.ok
    for wrong in (5, "5", True, None, 8.0):
        with pytest.raises(ValueError, match=f"quantization is {wrong!r}; it takes 'none', '8', '4'"):
            captioner(manager, quantization=wrong)


def test_a_limit_above_the_decoder_is_an_error(manager: ModelManager) -> None:
    options = CaptionOptions(generation=GenerationOptions(max_new_tokens=1025))
    with pytest.raises(ValueError, match="1025; the decoder of this checkpoint has 1024"):
        captioner(manager).caption(PICTURES[0], "CAPTION", options)


def test_a_prompt_that_leaves_no_room_is_an_error(manager: ModelManager) -> None:
    options = CaptionOptions(generation=SHORT.generation, text_input="circle " * 1200)
    with pytest.raises(ValueError, match="room for 1007"):
        captioner(manager).caption(PICTURES[0], "CAPTION_TO_PHRASE_GROUNDING", options)


def test_an_instruction_the_checkpoint_does_not_know_is_warned_of_once(
    manager: ModelManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue = {
        "own": {"hub_id": "some/own", "parameters": 1, "licence": "MIT", "instructions": ["CAPTION"]}
    }
    (tmp_path / "models.json").write_text(json.dumps(catalogue), encoding="utf-8")
    monkeypatch.setenv("PROMPTGEN_CATALOGUE", str(tmp_path / "models.json"))
    monkeypatch.setenv("PROMPTGEN_MODELS", str(tmp_path))
    copy_reference(tmp_path / "own", weights=True)
    own = Captioner("own", device="cpu", dtype="fp32", manager=manager)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            own.caption(PICTURES[0], ["CAPTION", "OD"], SHORT)
    warnings = [
        record.getMessage() for record in caplog.records if "was not trained on" in record.getMessage()
    ]
    assert warnings == ["own was not trained on OD; its answer may make no sense. It knows CAPTION."]


def test_a_catalogue_entry_may_override_the_literal_prompt(
    manager: ModelManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"hub_id": "some/own", "parameters": 1, "licence": "MIT", "instructions": ["MIXED_CAPTION"]}
    entry["prompts"] = {"MIXED_CAPTION": "What does the image describe?"}  # type: ignore[assignment]
    (tmp_path / "models.json").write_text(json.dumps({"own": entry}), encoding="utf-8")
    monkeypatch.setenv("PROMPTGEN_CATALOGUE", str(tmp_path / "models.json"))
    monkeypatch.setenv("PROMPTGEN_MODELS", str(tmp_path))
    copy_reference(tmp_path / "own", weights=True)
    own = Captioner("own", device="cpu", dtype="fp32", manager=manager)
    caption = captioner(manager).caption(PICTURES[4], "CAPTION")[0].results[0]
    mixed = captioner(manager).caption(PICTURES[4], "MIXED_CAPTION")[0].results[0]
    overridden = own.caption(PICTURES[4], "MIXED_CAPTION")[0].results[0]
    assert overridden.raw == caption.raw != mixed.raw
    by_path = Captioner(str(tmp_path / "own"), device="cpu", dtype="fp32", manager=manager)
    assert by_path.caption(PICTURES[4], "MIXED_CAPTION")[0].results[0].raw == overridden.raw


def test_the_size_of_pictures_is_the_checkpoints(manager: ModelManager, tmp_path: Path) -> None:
    folder = copy_reference(tmp_path / "small", weights=True)
    edit_json(folder / "preprocessor_config.json", lambda raw: raw.update(size={"height": 64, "width": 96}))
    with manager.acquire(str(folder), device="cpu") as model:
        assert model.image_size == (64, 96)
        assert model.encode_images(model.preprocess([drawing(1)])).shape == (1, 1 + 2 * 3, 64)
    assert Captioner(str(folder), device="cpu", manager=manager).caption(drawing(1), "CAPTION", SHORT)[0].ok
