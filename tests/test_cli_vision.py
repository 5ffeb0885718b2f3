"""``promptgen detect``, ``ground``, ``segment`` and ``ocr``, run as users run them, on the demo model."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from promptgen.captioning import Captioner, Region, draw_masks, draw_overlay, open_image
from promptgen.captioning.vision_options import DEFAULT_REGION_MODEL

from .command_line import Ended, Promptgen

EXAMPLES = Path(__file__).parents[1] / "examples"
REFERENCE = Path(__file__).parent / "data" / "florence2-tiny-original"
QUICK = ("--device", "cpu", "--dtype", "fp32", "--num-beams", 1)
DEMO = ("--model", "demo", *QUICK)
SHAPES = ["circle", "heart", "square"]  # of circle-heart-square.png


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three drawn pictures in two folders, and the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    shutil.copy(EXAMPLES / "circle-heart-square.png", folder / "three.png")
    shutil.copy(EXAMPLES / "stop.png", folder / "more" / "stop.png")
    shutil.copy(EXAMPLES / "triangle-heart-turned.jpg", folder / "more" / "turned.jpg")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """All files but journals."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".promptgen-run" not in path.name]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def found(path: Path, instruction: str = "OD", **options: Any) -> tuple[Region, ...]:
    """What the engine itself finds."""
    from promptgen.captioning import CaptionOptions, GenerationOptions

    asked = CaptionOptions(GenerationOptions(num_beams=1), **options)
    (picture,) = Captioner("demo", device="cpu", dtype="fp32").caption(path, instruction, asked)
    regions: tuple[Region, ...] = picture.results[0].regions  # type: ignore[attr-defined]
    return regions


def arrays(*images: Any) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(image) for image in images]


# ---- on the screen


def test_one_image_gives_a_table(promptgen: Promptgen, album: Path) -> None:
    ended = promptgen("detect", album / "three.png", *DEMO)
    regions = found(album / "three.png")
    assert (ended.status, ended.stderr) == (0, "")
    header, *rows = (line.split() for line in ended.stdout.splitlines())
    assert header == ["#", "label", "left", "top", "right", "bottom"]
    assert rows == [
        [str(number), region.label, *(f"{value:.0f}" for value in region.box or ())]
        for number, region in enumerate(regions)
    ]
    assert [region.label for region in regions] == SHAPES


def test_several_images_have_headings_and_scores_where_asked_for(promptgen: Promptgen, album: Path) -> None:
    ended = promptgen("detect", album / "three.png", album / "more" / "stop.png", "--scores", *DEMO)
    assert ended.status == 0
    headings = [line for line in ended.stdout.splitlines() if line.startswith("==> ")]
    assert headings == [f"==> {album / 'three.png'}: OD <==", f"==> {album / 'more' / 'stop.png'}: OD <=="]
    assert ended.stdout.count("#  label") == 2
    assert " score " in ended.stdout


def test_a_folder_is_looked_into(promptgen: Promptgen, album: Path) -> None:
    ended = promptgen("detect", album, "--format", "jsonl", *DEMO)
    records = [json.loads(line) for line in ended.stdout.splitlines()]
    names = [str(album / name) for name in ("three.png", "more/stop.png", "more/turned.jpg")]
    assert [record["image"] for record in records] == names
    assert [region["label"] for region in records[0]["regions"]] == SHAPES
    assert tree(album).keys() == {"three.png", "more/stop.png", "more/turned.jpg"}  # nothing is left there


def test_json_has_the_size_of_the_upright_picture(promptgen: Promptgen, album: Path) -> None:
    path = album / "more" / "turned.jpg"
    detected = json.loads(promptgen("detect", path, "--format", "json", *DEMO).stdout)
    asked = ("caption", path, "-i", "OD,CAPTION", "--format", "json")
    captioned, caption = json.loads(promptgen(*asked, *DEMO).stdout)
    assert detected == [captioned]
    assert (captioned["width"], captioned["height"]) == open_image(path).size
    assert open_image(path).size != Image.open(path).size
    assert "width" not in caption


def test_what_was_cut_off_is_told_and_keeps_whole_objects(promptgen: Promptgen, album: Path) -> None:
    asked = ("detect", album / "three.png", "--max-new-tokens", 9, *DEMO)
    ended = promptgen(*asked)
    assert "cut off" in ended.stdout
    assert len(ended.stdout.splitlines()) == 3  # the header, one object, and that
    (record,) = json.loads(promptgen(*asked, "--format", "json").stdout)
    assert record["truncated"] is True
    assert [region["label"] for region in record["regions"]] == ["circle"]
    for format in ("coco", "csv"):
        assert "three.png: the answer was cut off" in promptgen(*asked, "--format", format).stderr


@pytest.mark.parametrize("format", ["csv", "coco"])
def test_other_formats_go_to_the_screen(promptgen: Promptgen, album: Path, format: str) -> None:
    ended = promptgen("detect", album / "three.png", "--format", format, *DEMO)
    assert (ended.status, ended.stderr) == (0, "")
    if format == "csv":
        rows = list(csv.DictReader(io.StringIO(ended.stdout)))
        assert [row["label"] for row in rows] == SHAPES
        assert {row["image"] for row in rows} == {str(album / "three.png")}
    else:
        data = json.loads(ended.stdout)
        assert [item["name"] for item in data["categories"]] == SHAPES
        assert len(data["annotations"]) == 3


@pytest.mark.parametrize(
    ("select", "labels"),
    [("square, circle", ["circle", "square"]), ("-1", ["square"]), ("0-1", ["circle", "heart"])],
)
def test_some_regions_are_selected(promptgen: Promptgen, album: Path, select: str, labels: list[str]) -> None:
    ended = promptgen("detect", album / "three.png", "--select", select, "--format", "json", *DEMO)
    (record,) = json.loads(ended.stdout)
    assert [region["label"] for region in record["regions"]] == labels
    assert record["text"] == ", ".join(labels)


def test_a_selection_that_fits_nothing_is_an_error_of_one_image_alone(
    promptgen: Promptgen, album: Path
) -> None:
    ended = promptgen("detect", album / "three.png", "--select", "cat", *DEMO)
    assert ended.status == 1
    assert "no region is cat; there are 3 (numbers 0 to 2), labelled circle, heart, square" in ended.stderr
    several = promptgen("detect", album / "three.png", album / "more/stop.png", "--select", "heart", *DEMO)
    assert several.status == 0
    assert several.stdout.count("no regions") == 1
    nothing = promptgen("detect", album / "three.png", album / "more/stop.png", "--select", "cat", *DEMO)
    assert nothing.status == 1
    assert "--select 'cat' is none of the " in nothing.stderr


def test_bad_images_stop_no_other(promptgen: Promptgen, album: Path) -> None:
    (album / "bad.png").write_bytes(b"nothing")
    ended = promptgen(
        "detect", album / "bad.png", album / "three.png", "--overlay", "shown", "--format", "json", *DEMO
    )
    assert ended.status == 1
    bad, good = json.loads(ended.stdout)
    assert "error" in bad
    assert len(good["regions"]) == 3
    assert "1 of 2 images done, 1 failed" in ended.stderr
    Path("list.txt").write_text("album/nowhere.png")
    listed = promptgen("detect", "list.txt", *DEMO)
    assert listed.status == 1
    assert listed.stderr.startswith("error: album/nowhere.png: cannot be read")
    assert tree(Path("shown")).keys() == {"three.png"}


# ---- what is asked


def raw_of(promptgen: Promptgen, *arguments: object) -> dict[str, Any]:
    ended = promptgen(*arguments, "--model", REFERENCE, *QUICK, "--max-new-tokens", 24, "--format", "json")
    assert ended.status == 0, ended.stderr
    (record,) = json.loads(ended.stdout)
    return dict(record)


@pytest.mark.parametrize(
    ("command", "instruction", "text_input"),
    [
        (["detect", "--phrase", "a red circle"], "OPEN_VOCABULARY_DETECTION", "a red circle"),
        (["detect", "--text-input", "a ring"], "OPEN_VOCABULARY_DETECTION", "a ring"),
        (["detect", "--dense"], "DENSE_REGION_CAPTION", None),
        (["detect", "--proposals"], "REGION_PROPOSAL", None),
        (["ground", "--text", "a star and a ring"], "CAPTION_TO_PHRASE_GROUNDING", "a star and a ring"),
        (["segment", "--phrase", "a star"], "REFERRING_EXPRESSION_SEGMENTATION", "a star"),
        (
            ["segment", "--region", "1,1,20,20; 0,0,0.5,0.5"],
            "REGION_TO_SEGMENTATION",
            "1,1,20,20; 0,0,0.5,0.5",
        ),
        (["detect", "--region", "1,1,20,20"], "REGION_TO_CATEGORY", "1,1,20,20"),
        (["detect", "--dense", "--region", "1,1,20,20"], "REGION_TO_DESCRIPTION", "1,1,20,20"),
        (["ocr"], "OCR_WITH_REGION", None),
        (["ocr", "--plain"], "OCR", None),
        (["ocr", "--region", "1,1,20,20"], "REGION_TO_OCR", "1,1,20,20"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_commands_are_shortcuts_of_caption(
    promptgen: Promptgen, command: list[str], instruction: str, text_input: str | None
) -> None:
    name, *options = command
    image = next((REFERENCE / "images").glob("*.png"))
    given = [] if text_input is None else ["--text-input", text_input]
    record = raw_of(promptgen, name, image, *options)
    assert record == raw_of(promptgen, "caption", image, "--instruction", instruction, *given)
    assert record["instruction"] == instruction


def test_words_are_no_class_names(promptgen: Promptgen, album: Path) -> None:
    asked = ("--region", "0,0,0.5,0.5; 0,0,1,1", "--max-new-tokens", 5, "--format", "coco", "-q")
    data = json.loads(promptgen("ocr", album / "more" / "stop.png", *asked, *DEMO).stdout)
    assert [one["name"] for one in data["categories"]] == ["text"]
    assert all(one["text"] for one in data["annotations"])


def test_ocr_reads_the_word(promptgen: Promptgen, album: Path) -> None:
    assert promptgen("ocr", album / "more" / "stop.png", "--plain", *DEMO) == Ended(0, "STOP\n", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ground"], "--text"),
        (["segment"], "--phrase"),
        (["segment", "--phrase", " "], "--phrase is empty"),
        (["segment", "--phrase", "a", "--region", "1,1,2,2"], "give one of them"),
        (["segment", "--region", "1,2"], "1,2"),
        (["detect", "--dense", "--proposals"], "give one of them"),
        (["detect", "--phrase", "a", "--text-input", "b"], "give one of them"),
        (["detect", "--phrase", "a", "--region", "1,1,2,2"], "give one of them"),
        (["detect", "--proposals", "--region", "1,1,2,2"], "give one of them"),
        (["ocr", "--plain", "--overlay", "x"], "OCR gives no regions, which --overlay needs"),
        (["ocr", "--plain", "--format", "coco"], "OCR gives no regions"),
        (["ocr", "--plain", "--region", "1,1,2,2"], "give one of them"),
        (["detect", "--grow", "2"], "--mask"),
        (["detect", "--format", "yolo"], "--output"),
        (["detect", "--output", "found"], "give --format"),
        (["detect", "--classes", "a", "--format", "csv"], "--classes"),
        (["detect", "--mask", "x.jpg"], "'jpg'"),
        (["detect", "--mask", "x.png", "--per-object"], "one for each region"),
        (["detect", "--crop", "x.png"], "one for each region"),
        (["detect", "--feather", "-1", "--mask", "x"], "feather is -1"),
        (["detect", "--overlay", "x", "--mask", "x"], "folder of its own"),
        (["detect", "--overlay", "there.png"], "exists already"),
        (["detect", "--format", "labelme"], "exists already"),
        (["detect", "--format", "yolo", "-o", "."], "is there already"),
        (["detect", "-o", "there.json"], "exists already"),
        (["detect", "--overlay", "there.json"], "is no folder"),
        (["detect", "--mask", "there.json/below", "--per-object"], "is no folder"),
        (["detect", "--crop", "there.png/below"], "is no folder"),
        (["detect", "--format", "yolo", "-o", "there.json", "--overwrite"], "is no folder"),
        (["detect", "--format", "labelme", "-o", "there.json"], "is no folder"),
        (["detect", "-o", "there.json/x.csv"], "is no folder"),
        (["detect", "--format", "json", "-o", "-"], "Without it regions go to standard output"),
        (["detect", "--exclude", "circle"], "change captions and tags"),
        (["ocr", "--plain", "--prefix", "it says"], "change captions and tags"),
        (["detect", "--overlay", "x/three.png", "--mask", "x", "--overwrite"], "give each its own place"),
        (["detect", "--overlay", "-"], "needs a file or a folder"),
        (["detect", "--overlay", "x.gif"], "'gif' cannot be written for overlay"),
        (["detect", "--overlay", "x/*"], "FOLDER/*.png"),
        (["detect", "--mask", "x/*_mask.png"], "FOLDER/*.png"),
        (["detect", "--crop", "x*/*.png"], "FOLDER/*.png"),
        (["caption", "-o", "-"], "Without it results go to standard output"),
        (["detect", "-o", "x.txt", "--overlay", "x.txt"], "--output and --overlay name one place"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_told_before_the_model_is_looked_for(
    promptgen: Promptgen, album: Path, arguments: list[str], told: str
) -> None:
    for name in ("there.png", "there.json", "classes.txt", "album/three.json"):
        Path(name).write_text("the user's")
    name, *options = arguments
    ended = promptgen(name, album / "three.png", *options, "--model", "no-such-model")
    assert (ended.status, ended.stdout) == (2, "")
    assert told in ended.stderr
    assert "no-such-model" not in ended.stderr
    assert all(path.read_text() == "the user's" for path in Path().glob("there.*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["album/three.png", "--overlay", "album/three.png"],
        ["album/three.png", "--mask", "album"],
        ["album/three.png", "album/more/three.png", "--overlay", "album"],
        ["album/three.png", "album/more/stop.png", "--overlay", "link/*.png"],
        ["album/three.png", "-o", "album/three.png", "--format", "json"],
        ["list.txt", "-o", "list.txt", "--format", "csv"],
    ],
    ids=" ".join,
)
def test_what_is_read_is_never_replaced(promptgen: Promptgen, album: Path, arguments: list[str]) -> None:
    shutil.copy(album / "more" / "stop.png", album / "more" / "three.png")
    Path("link").symlink_to("album")
    Path("list.txt").write_text("album/three.png\n")
    before = tree(Path())
    ended = promptgen("detect", *arguments, "--overwrite", *DEMO)
    assert (ended.status, ended.stdout) == (2, "")
    assert "is what is read" in ended.stderr
    assert tree(Path()) == before


def test_a_path_with_a_slash_at_its_end_is_an_image_that_is_not_there(
    promptgen: Promptgen, album: Path
) -> None:
    ended = promptgen("detect", "nowhere/", "--overlay", "x", *DEMO)
    assert ended.status == 1
    assert "no such file" in ended.stderr


def test_one_file_for_several_images_is_refused(promptgen: Promptgen, album: Path) -> None:
    ended = promptgen("detect", album / "*.png", album / "more" / "stop.png", "--overlay", "x.png", *DEMO)
    assert ended.status == 2
    assert "several images" in ended.stderr


# ---- pictures


def test_overlay_and_masks_are_those_of_the_engine(promptgen: Promptgen, album: Path) -> None:
    path = album / "three.png"
    asked = ("--overlay", "o.png", "--mask", "m.webp", "--grow", 3, "--feather", 1, "--select", "heart,0")
    ended = promptgen("detect", path, *asked, *DEMO)
    assert ended.status == 0, ended.stderr
    image = open_image(path)
    regions = [region for region in found(path) if region.label != "square"]
    overlay, mask = arrays(Image.open("o.png"), Image.open("m.webp").convert("L"))
    np.testing.assert_array_equal(overlay, np.asarray(draw_overlay(image, regions)))
    (expected,) = draw_masks(regions, image.size, per_object=False, grow=3, feather=1)
    np.testing.assert_array_equal(mask, np.asarray(expected))


def test_each_object_has_its_mask_and_its_cut_out(promptgen: Promptgen, album: Path) -> None:
    path = album / "three.png"
    ended = promptgen("detect", path, "--mask", "masks", "--per-object", "--crop", "cut/*.jpg", *DEMO)
    assert ended.status == 0, ended.stderr
    names = [f"{number}-{label}" for number, label in enumerate(SHAPES)]
    assert sorted(tree(Path("masks"))) == [f"three/{name}.png" for name in names]
    assert sorted(tree(Path("cut"))) == [f"three/{name}.jpg" for name in names]
    regions = found(path)
    for name, mask, region in zip(
        names, draw_masks(regions, open_image(path).size, per_object=True), regions, strict=True
    ):
        np.testing.assert_array_equal(*arrays(Image.open(f"masks/three/{name}.png"), mask))
        left, top, right, bottom = region.box or (0, 0, 0, 0)
        size = Image.open(f"cut/three/{name}.jpg").size
        assert size == (int(np.ceil(right)) - int(left), int(np.ceil(bottom)) - int(top))


def test_images_of_one_name_are_kept_apart(promptgen: Promptgen, album: Path) -> None:
    Image.open(album / "three.png").save(album / "three.webp", lossless=True)
    shutil.copy(album / "more" / "stop.png", album / "more" / "three.png")
    images = (album / "three.png", album / "three.webp", album / "more" / "three.png")
    ended = promptgen("detect", *images, "--overlay", "shown", "--format", "labelme", "-o", "marked", *DEMO)
    assert ended.status == 0, ended.stderr
    assert sorted(tree(Path("shown"))) == ["more/three.png.png", "three.png.png", "three.webp.png"]
    assert sorted(tree(Path("marked"))) == ["more/three.png.json", "three.png.json", "three.webp.json"]


def test_labelme_beside_the_image_is_replaced_only_when_told(promptgen: Promptgen, album: Path) -> None:
    asked = ("detect", album / "three.png", "--format", "labelme", *DEMO)
    assert promptgen(*asked) == Ended(0, "", "")
    data = json.loads((album / "three.json").read_text())
    assert [shape["label"] for shape in data["shapes"]] == SHAPES
    assert data["imagePath"] == "three.png"
    (album / "three.json").write_text("mine")
    assert promptgen(*asked).status == 2
    assert (album / "three.json").read_text() == "mine"
    assert promptgen(*asked, "--overwrite").status == 0
    assert json.loads((album / "three.json").read_text()) == data


def test_yolo_of_single_images(promptgen: Promptgen, album: Path) -> None:
    images = (album / "three.png", album / "more" / "stop.png")
    asked = ("--format", "yolo", "-o", "yolo", "--classes", "square,cross")
    assert promptgen("detect", *images, *asked, *DEMO).status == 0
    assert sorted(tree(Path("yolo"))) == [
        "classes.txt", "data.yaml", "labels/more/stop.txt", "labels/three.txt",
    ]  # fmt: skip
    classes = Path("yolo/classes.txt").read_text().split()
    assert classes[:2] == ["square", "cross"]
    lines = Path("yolo/labels/three.txt").read_text().splitlines()
    assert [classes[int(line.split()[0])] for line in lines] == SHAPES


def test_yolo_has_no_labels_for_two_images_of_one_name(promptgen: Promptgen, album: Path) -> None:
    Image.open(album / "three.png").save(album / "three.webp", lossless=True)
    ended = promptgen("detect", album / "*.*", "--format", "yolo", "-o", "yolo", *DEMO)
    assert ended.status == 2
    assert "one name but for the extension" in ended.stderr
    assert not Path("yolo").exists()


# ---- runs


FORMS = ("coco", "csv", "json", "jsonl", "labelme", "yolo", "yolo-seg")


@pytest.mark.parametrize("format", FORMS)
def test_folders_become_files_in_runs_that_go_on(promptgen: Promptgen, album: Path, format: str) -> None:
    output = Path("out") / "found" if format in FORMS[4:] else Path("out") / f"found.{format}"
    asked = ("detect", album, "--format", format, "-o", output, "--overlay", "shown/*.webp", *DEMO)
    first = promptgen(*asked)
    assert first.status == 0, first.stderr
    assert "3 captioned" in first.stderr
    made, shown = tree(Path("out")), tree(Path("shown"))
    assert sorted(shown) == ["more/stop.webp", "more/turned.webp", "three.webp"]
    if format == "coco":
        data = json.loads(output.read_text())
        assert [one["file_name"] for one in data["images"]] == [
            "three.png", "more/stop.png", "more/turned.jpg",
        ]  # fmt: skip
        assert [one["name"] for one in data["categories"]][:3] == SHAPES
    elif format in ("json", "jsonl"):
        text = output.read_text()
        records = json.loads(text) if format == "json" else [json.loads(line) for line in text.splitlines()]
        assert [len(record["regions"]) for record in records] == [3, len(records[1]["regions"]), 2]
        assert (records[2]["width"], records[2]["height"]) == open_image(album / "more/turned.jpg").size
    elif format == "csv":
        assert {row["image"] for row in csv.DictReader(io.StringIO(output.read_text()))} == {
            "three.png", "more/stop.png", "more/turned.jpg",
        }  # fmt: skip
    elif format == "labelme":
        place = json.loads((output / "more/stop.json").read_text())["imagePath"]
        assert (output / "more" / place).resolve() == album / "more/stop.png"
    else:
        assert (output / "classes.txt").read_text().split()[:3] == SHAPES
        assert len((output / "labels/three.txt").read_text().splitlines()[0].split()) == (
            5 if format == "yolo" else 9
        )
    again = promptgen(*asked)
    assert "0 captioned, 3 done before" in again.stderr
    assert (tree(Path("out")), tree(Path("shown"))) == (made, shown)


def test_runs_replace_what_they_have_made_and_nothing_else(promptgen: Promptgen, album: Path) -> None:
    asked = ("detect", album, "--format", "labelme", "--crop", "cut", *DEMO)
    assert promptgen(*asked).status == 0
    edited = album / "more" / "stop.json"
    edited.write_text("edited by hand")
    for name in ("three.png", "more/stop.png"):  # both pictures change
        shutil.copy(EXAMPLES / "one-ring.png", album / name)
    ended = promptgen(*asked)
    assert ended.status == 1
    assert "stop.json' is there already" in ended.stderr
    assert "three.json' is there already" not in ended.stderr
    assert edited.read_text() == "edited by hand"
    assert [shape["label"] for shape in json.loads((album / "three.json").read_text())["shapes"]] == ["ring"]
    assert sorted(tree(Path("cut") / "three")) == ["0-ring.png"]  # the three of before are gone
    (album / "three.json").unlink()
    (Path("cut") / "three" / "0-ring.png").unlink()
    (Path("cut") / "three").rmdir()
    assert "1 written again" in promptgen(*asked).stderr
    assert (album / "three.json").exists()
    assert (Path("cut") / "three" / "0-ring.png").exists()


def test_runs_with_other_options_replace_what_runs_have_made(promptgen: Promptgen, album: Path) -> None:
    (album / "more").rename("elsewhere")

    def run(*options: object) -> tuple[Ended, dict[str, bytes]]:
        ended = promptgen("detect", album, "--mask", "shown", "--crop", "cut", *options, *DEMO)
        return ended, {**tree(Path("shown")), **tree(Path("cut"))}

    _, made = run()
    assert len(made) == 1 + len(SHAPES)
    ended, grown = run("--grow", 8, "--select", "heart")
    assert (ended.status, sorted(grown)) == (0, ["three.png", "three/0-heart.png"])
    assert grown["three.png"] != made["three.png"]
    assert run()[1] == made  # and back again
    Path("shown/three.png").write_text("mine")
    ended, _ = run("--grow", 8)
    assert ended.status == 1
    assert "changed by somebody; left as it is" in ended.stderr
    assert Path("shown/three.png").read_text() == "mine"


def test_what_a_run_has_left_is_replaced_when_that_is_allowed(promptgen: Promptgen, album: Path) -> None:
    asked = ("detect", album, "--format", "labelme", "-o", "marked", "--overlay", "shown", *DEMO)
    Path("shown").mkdir()
    Path("shown/three.png").write_text("mine")
    assert promptgen(*asked).status == 1
    Path("marked/three.json").write_text("changed")
    assert promptgen(*asked).status == 0
    assert (Path("shown/three.png").read_text(), Path("marked/three.json").read_text()) == ("mine", "changed")
    again = promptgen(*asked, "--overwrite")
    assert (again.status, "1 written again" in again.stderr) == (0, True)
    assert Image.open("shown/three.png").size == Image.open(album / "three.png").size
    assert len(json.loads(Path("marked/three.json").read_text())["shapes"]) == 3
    assert "3 done before" in promptgen(*asked, "--overwrite").stderr


def test_a_run_keeps_the_numbers_of_classes(promptgen: Promptgen, album: Path) -> None:
    asked = ("detect", album, "--format", "yolo", "-o", "yolo", *DEMO)
    assert promptgen(*asked).status == 0
    classes = Path("yolo/classes.txt").read_text().split()
    labels = tree(Path("yolo/labels"))
    shutil.copy(EXAMPLES / "star-and-heart.jpg", album / "a.jpg")  # comes first, with a shape that is new
    assert promptgen(*asked).status == 0
    assert Path("yolo/classes.txt").read_text().split() == [*classes, "star"]
    after = tree(Path("yolo/labels"))
    assert {name: after[name] for name in labels} == labels
    numbers = [int(line.split()[0]) for line in Path("yolo/labels/a.txt").read_text().splitlines()]
    assert [[*classes, "star"][number] for number in numbers] == ["star", "heart"]


def test_a_run_selects(promptgen: Promptgen, album: Path) -> None:
    asked = ("detect", album, "-o", "hearts.csv", "--select", "heart", "--mask", "masks", *DEMO)
    ended = promptgen(*asked)
    assert ended.status == 0, ended.stderr
    rows = list(csv.DictReader(io.StringIO(Path("hearts.csv").read_text())))
    assert [(row["image"], row["label"]) for row in rows] == [
        ("three.png", "heart"), ("more/turned.jpg", "heart"),
    ]  # fmt: skip
    assert not np.asarray(Image.open("masks/more/stop.png")).any()
    (heart,) = (region for region in found(album / "three.png") if region.label == "heart")
    (expected,) = draw_masks([heart], open_image(album / "three.png").size, per_object=False)
    np.testing.assert_array_equal(*arrays(Image.open("masks/three.png"), expected))


def test_promptgen_folder_writes_regions_too(promptgen: Promptgen, album: Path) -> None:
    asked = ("folder", album, "-i", "OD,CAPTION", "--format", "coco", "--format", "regions-csv")
    assert promptgen(*asked, "--format", "jsonl", "--details", "--output-dir", "out", *DEMO).status == 0
    assert len(json.loads(Path("out/coco.json").read_text())["images"]) == 3
    rows = list(csv.DictReader(io.StringIO(Path("out/regions.csv").read_text())))
    first = json.loads(Path("out/captions.jsonl").read_text().splitlines()[0])
    assert [row["label"] for row in rows if row["image"] == "three.png"] == SHAPES
    assert [region["label"] for region in first["results"][0]["regions"]] == SHAPES
    assert (first["width"], first["height"]) == open_image(album / "three.png").size
    ended = promptgen("folder", album, "-i", "CAPTION", "--format", "coco", "-o", "x.json", *DEMO)
    assert ended.status == 2
    assert "no regions for coco" in ended.stderr


def test_a_shard_gives_pictures_of_its_members(promptgen: Promptgen, album: Path) -> None:
    import tarfile

    with tarfile.open("shard.tar", "w") as tar:
        tar.add(album / "three.png", "in/three.png")
    ended = promptgen("detect", "shard.tar", "--overlay", "shown", *DEMO)
    assert ended.status == 0, ended.stderr
    (made,) = (path for path in Path("shown").rglob("*.png"))
    image = open_image(album / "three.png")
    np.testing.assert_array_equal(*arrays(Image.open(made), draw_overlay(image, found(album / "three.png"))))


def test_pictures_are_not_put_among_the_images_of_a_run(promptgen: Promptgen, album: Path) -> None:
    asked = ("detect", album, "--model", "no-such-model", "--mask")
    ended = promptgen(*asked, album / "masks")
    assert ended.status == 2
    assert "take its pictures for images" in ended.stderr
    for place in (album / ".masks", album.parent / "masks"):
        assert "no-such-model" in promptgen(*asked, place).stderr


def test_the_default_checkpoint_knows_what_is_asked(
    promptgen: Promptgen, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants
    from promptgen.models_cache import entry_of

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(album.parent / "cache"))
    monkeypatch.setenv("PROMPTGEN_MODELS", str(album.parent / "models"))
    ended = promptgen("ocr", album / "three.png", "--offline")
    assert ended.status == 1
    entry = entry_of(DEFAULT_REGION_MODEL)
    assert entry is not None
    assert entry.hub_id in ended.stderr
    asked = ("OD", "DENSE_REGION_CAPTION", "REGION_PROPOSAL", "OPEN_VOCABULARY_DETECTION", "OCR_WITH_REGION")
    assert set(asked) <= set(entry.instructions)


def test_text_of_a_run_is_refused(promptgen: Promptgen, album: Path) -> None:
    ended = promptgen("detect", album, "-o", "found.txt", "--model", "no-such-model")
    assert ended.status == 2
    assert "another --format" in ended.stderr
    assert not os.path.lexists("found.txt")
