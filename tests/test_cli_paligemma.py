"""The commands that find things, with a PaliGemma checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from .adapters import save_adapter
from .command_line import Promptgen
from .paligemma_checkpoints import make_paligemma, pictures

QUICK = (
    "--device", "cpu", "--dtype", "fp32", "--num-beams", 1, "--max-new-tokens", 40,
    "--repetition-penalty", 1.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_paligemma(tmp_path_factory.mktemp("tiny") / "locating", locations=True)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Three pictures, each in a file."""
    album = tmp_path / "album"
    album.mkdir()
    for number, picture in enumerate(pictures(3)):
        picture.save(album / f"{number}.png")
    return album


@pytest.mark.parametrize("option", ["--phrase", "--text", "--text-input"])
def test_detect_finds_what_is_named(promptgen: Promptgen, folder: Path, album: Path, option: str) -> None:
    if option == "--text-input":
        flags = ("caption", album / "0.png", "-i", "detect", option, "cat; dog")
    else:
        flags = ("detect", album / "0.png", option, "cat; dog", "--scores")
    ended = promptgen(*flags, "--model", folder, *QUICK, "--format", "json")
    assert ended.status == 0, ended.stderr
    (record,) = json.loads(ended.stdout)
    assert record["instruction"] == "OPEN_VOCABULARY_DETECTION"
    width, height = pictures(1)[0].size
    for region in record["regions"]:
        left, top, right, bottom = region["box"]
        assert 0 <= left <= right <= width
        assert 0 <= top <= bottom <= height
        assert ("score" in region) == ("--scores" in flags)


def test_boxes_go_to_all_forms_and_pictures(
    promptgen: Promptgen, folder: Path, album: Path, tmp_path: Path
) -> None:
    common = ("detect", album, "--phrase", "cat; dog", "--model", folder, *QUICK)
    coco = tmp_path / "coco.json"
    drawn = ("--overlay", tmp_path / "drawn", "--mask", tmp_path / "masks", "--crop", tmp_path / "crops")
    ended = promptgen(*common, "--format", "coco", "--output", coco, *drawn)
    assert ended.status == 0, ended.stderr
    told = json.loads(coco.read_text(encoding="utf-8"))
    assert len(told["images"]) == 3
    assert told["annotations"], "random as it is, the model names places"
    for annotation in told["annotations"]:
        assert len(annotation["bbox"]) == 4
    for number, picture in enumerate(pictures(3)):
        for kind in ("drawn", "masks"):
            with Image.open(tmp_path / kind / f"{number}.png") as image:
                assert image.size == picture.size
    ended = promptgen(*common, "--format", "yolo", "--output", tmp_path / "yolo")
    assert ended.status == 0, ended.stderr
    assert list((tmp_path / "yolo").rglob("*.txt"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("detect",), ["OD is for Florence-2", "--phrase 'cat; dog'"]),
        (("detect", "--dense"), ["DENSE_REGION_CAPTION is for Florence-2"]),
        (("detect", "--region", "0,0,1,1"), ["REGION_TO_CATEGORY is for Florence-2"]),
        (("ocr",), ["OCR_WITH_REGION is for Florence-2", "--plain reads the text"]),
        (("ground", "--text", "a cat"), ["CAPTION_TO_PHRASE_GROUNDING", "promptgen detect"]),
        (("segment", "--phrase", "a cat"), ["REFERRING_EXPRESSION_SEGMENTATION", "promptgen detect"]),
    ],
)
def test_what_it_cannot_do_says_what_does_and_fetches_nothing(
    promptgen: Promptgen, album: Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    command, *flags = arguments
    ended = promptgen(command, album / "0.png", *flags, "--model", "google/paligemma-3b-mix-224")
    assert ended.status == 2
    for word in words:
        assert word in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("caption", "{album}/0.png"),
        ("detect", "{album}/0.png", "--phrase", "cat"),
        ("folder", "{album}"),
        ("folder", "{album}", "--devices", "cpu"),
        ("serve", "--port", "0"),
    ],
    ids=["caption", "detect", "folder", "devices", "serve"],
)
def test_a_lora_is_refused_before_anything_is_fetched_or_loaded(
    promptgen: Promptgen, folder: Path, album: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    lora = save_adapter(tmp_path / "lora")
    asked = [argument.format(album=album) for argument in arguments]
    for model in (folder, "google/paligemma-3b-mix-224"):
        ended = promptgen(*asked, "--model", model, "--lora", lora, "--offline")
        assert ended.status == 2, ended.stderr
        assert "LoRA adapters go with Florence-2" in ended.stderr
    assert {path.suffix for path in album.iterdir()} == {".png"}


def test_what_cannot_be_compared_is_said_before_anything_is_fetched(
    promptgen: Promptgen, album: Path, tmp_path: Path
) -> None:
    lora = save_adapter(tmp_path / "lora")
    for number in range(3):
        (album / f"{number}.txt").write_text("a cat", encoding="utf-8")
    data = ("--data", album, "-i", "CAPTION", "--output", tmp_path / "out")
    for model, flags, said in (
        ("google/paligemma-3b-mix-224", ("--fast",), "cannot be loaded as int8"),
        ("google/paligemma-3b-mix-224", ("--dtype", "fp16"), "cannot be loaded as fp16"),
        (f"google/paligemma-3b-mix-224+{lora}", (), "LoRA adapters go with Florence-2"),
    ):
        ended = promptgen("evaluate", "-m", model, *data, "--offline", "--device", "cpu", *flags)
        assert (ended.status, said in ended.stderr) == (2, True), ended.stderr


def test_plain_text_is_read(promptgen: Promptgen, folder: Path, album: Path) -> None:
    ended = promptgen("ocr", album / "0.png", "--plain", "--model", folder, *QUICK, "--format", "json")
    assert ended.status == 0, ended.stderr
    assert json.loads(ended.stdout)[0]["instruction"] == "OCR"


def test_instructions_and_models_tell_their_families(promptgen: Promptgen) -> None:
    rows = {row["name"]: row for row in json.loads(promptgen("instructions", "--format", "json").stdout)}
    assert rows["OD"]["families"] == ["florence2"]
    assert rows["DESCRIBE"]["families"] == ["paligemma"]
    assert rows["CAPTION"]["prompts"]["paligemma"] == "caption {language}"
    assert "paligemma-longprompt-v1-safetensors" in rows["LONG_PROMPT"]["models"]
    lines = {line.split()[0]: line for line in promptgen("instructions").stdout.splitlines()}
    assert "Florence-2, PaliGemma" in lines["OPEN_VOCABULARY_DETECTION"]
    models = {row["name"]: row for row in json.loads(promptgen("models", "list", "--format", "json").stdout)}
    assert models["paligemma2-3b-mix-224"]["family"] == "paligemma"
    assert models["demo"]["family"] == "florence2"
    assert "Accept the licence" in models["paligemma2-3b-mix-224"]["note"]


def test_it_is_not_exported(promptgen: Promptgen, folder: Path, tmp_path: Path) -> None:
    ended = promptgen("models", "export", folder, tmp_path / "out")
    assert ended.status != 0
    assert "PaliGemma checkpoint; only those of Florence-2" in ended.stderr
