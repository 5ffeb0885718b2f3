"""Regions as other programs read them, read back by those programs' libraries where they are light."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from promptgen.captioning import Region, Regions, parse_answer
from promptgen.captioning.formats import FORMATS, FormatError, open_writer, stream_writer

SIZE = (200, 100)
CAT = Region("cat", (10, 20, 110, 70), score=0.75)
WORD = Region("Grüße, 猫", (1, 2, 9, 8), quad=(1, 2, 9, 2, 9, 8, 1, 8))
PARTS = Region("dog", (0, 0, 90, 50), polygons=((0, 0, 50, 0, 50, 50, 0, 50), (60, 10, 90, 10, 90, 45)))
PROPOSAL = Region("", (0.5, 0.5, 199.5, 99.5))


def found(*regions: Region, instruction: str = "OD") -> Regions:
    return Regions(instruction=instruction, raw="…", text="…", regions=regions)


PICTURES = {
    "a/one.jpg": [found(CAT, PARTS), found(WORD, instruction="OCR_WITH_REGION")],
    "two.png": [found()],
    "three.webp": [found(PROPOSAL, CAT)],
}


def write(
    format: str, output: Path, pictures: dict[str, list[Regions]] | None = None, **options: Any
) -> None:
    with open_writer(format, output, **options) as writer:
        for image, results in (PICTURES if pictures is None else pictures).items():
            for result in results:
                writer.write(image, SIZE, result)


def test_coco_is_read_by_pycocotools(tmp_path: Path) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    write("coco", tmp_path / "coco.json", classes=["dog", "bird"])
    coco = coco_module.COCO(str(tmp_path / "coco.json"))
    assert [coco.imgs[number]["file_name"] for number in (1, 2, 3)] == list(PICTURES)
    assert {item["name"]: number for number, item in coco.cats.items()} == {
        "dog": 1, "bird": 2, "cat": 3, "text": 4, "object": 5,
    }  # fmt: skip
    cat, dog, word = coco.loadAnns(coco.getAnnIds(imgIds=1))
    assert [coco.cats[one["category_id"]]["name"] for one in (cat, dog, word)] == ["cat", "dog", "text"]
    assert cat["bbox"] == [10, 20, 100, 50]
    assert cat["area"] == 100 * 50
    assert cat["score"] == 0.75
    assert word["text"] == WORD.label
    assert "score" not in dog
    assert coco.getAnnIds(imgIds=2) == []
    mask = coco.annToMask(dog)
    assert mask.shape == (100, 200)
    assert mask.sum() == pytest.approx(dog["area"], rel=0.03)
    assert dog["area"] == 50 * 50 + 30 * 35 / 2
    np.testing.assert_array_equal(np.argwhere(coco.annToMask(cat)).min(axis=0), [20, 10])
    scored = [item for item in coco.dataset["annotations"] if "score" in item]
    assert len(coco.loadRes(scored).anns) == 2


def test_an_empty_run_gives_valid_files(tmp_path: Path) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    write("coco", tmp_path / "coco.json", {})
    assert coco_module.COCO(str(tmp_path / "coco.json")).imgs == {}
    write("json", tmp_path / "all.json", {})
    assert json.loads((tmp_path / "all.json").read_text()) == []
    write("yolo", tmp_path / "yolo", {})
    assert yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())["names"] == {}


def test_yolo_boxes(tmp_path: Path) -> None:
    write("yolo", tmp_path)
    lines = (tmp_path / "labels/a/one.txt").read_text().splitlines()
    assert lines[0] == "0 0.300000 0.450000 0.500000 0.500000"
    assert [line.split()[0] for line in lines] == ["0", "1", "2"]
    assert all(len(line.split()) == 5 for line in lines)
    assert (tmp_path / "labels/two.txt").read_text() == ""
    assert (tmp_path / "classes.txt").read_text().splitlines() == ["cat", "dog", "text", "object"]
    data = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert data["names"] == {0: "cat", 1: "dog", 2: "text", 3: "object"}
    assert set(data) == {"train", "val", "names"}  # all below the file itself, wherever training is started


def test_yolo_outlines_have_one_line_per_object(tmp_path: Path) -> None:
    write("yolo-seg", tmp_path, classes=["dog"])
    cat, dog, word = (tmp_path / "labels/a/one.txt").read_text().splitlines()
    assert cat == "1 0.050000 0.200000 0.550000 0.200000 0.550000 0.700000 0.050000 0.700000"
    assert len(word.split()) == 1 + 8
    number, *values = dog.split()
    points = np.array(values, float).reshape(-1, 2) * SIZE
    assert number == "0"
    assert {(x, y) for x, y in points.round(3).tolist()} == {
        (0, 0), (50, 0), (50, 50), (0, 50), (60, 10), (90, 10), (90, 45),
    }  # fmt: skip
    x, y = points.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert area == pytest.approx(50 * 50 + 30 * 35 / 2)  # the bridge covers nothing, both parts turn one way


@given(st.text(min_size=1).map(lambda text: " ".join(text.split())).filter(bool))
@settings(deadline=None, max_examples=60)
def test_any_label_is_a_class_name(tmp_path_factory: pytest.TempPathFactory, label: str) -> None:
    folder = tmp_path_factory.mktemp("yolo")
    write("yolo", folder, {"a.jpg": [found(Region(label, (1, 1, 2, 2)))]})
    assert yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))["names"] == {0: label}


def test_labelme(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with open_writer("labelme", tmp_path / "labels") as writer:
        for result in PICTURES["a/one.jpg"]:
            writer.write("a/one.jpg", SIZE, result, path=tmp_path / "a/one.jpg")  # type: ignore[call-arg]
    file = tmp_path / "labels/a/one.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    assert (file.parent / data["imagePath"]).resolve() == (tmp_path / "a/one.jpg").resolve()
    assert (data["imageWidth"], data["imageHeight"], data["imageData"]) == (200, 100, None)
    cat, first, second, word = data["shapes"]
    assert (cat["label"], cat["shape_type"], cat["points"]) == ("cat", "rectangle", [[10, 20], [110, 70]])
    assert cat["score"] == 0.75
    assert first["group_id"] == second["group_id"] is not None
    assert (word["label"], word["description"], len(word["points"])) == ("text", WORD.label, 4)
    for shape in data["shapes"]:  # what labelme.LabelFile.load asks for
        assert {"label", "points", "shape_type", "flags", "description", "group_id", "mask"} <= set(shape)
        assert len(shape["points"]) == 2 if shape["shape_type"] == "rectangle" else len(shape["points"]) >= 3
    assert {"version", "flags", "imagePath", "imageData", "imageHeight", "imageWidth"} <= set(data)


def test_csv_has_a_row_for_each_region(tmp_path: Path) -> None:
    write("csv", tmp_path / "all.csv")
    with open(tmp_path / "all.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["label"] for row in rows] == ["cat", "dog", WORD.label, "", "cat"]
    assert [row["region"] for row in rows] == ["0", "1", "0", "0", "1"]
    cat, dog, word, proposal, _ = rows
    assert (cat["left"], cat["right"], cat["score"], cat["shape"], cat["points"]) == (
        "10",
        "110",
        "0.75",
        "box",
        "",
    )
    assert dog["points"] == "0 0 50 0 50 50 0 50;60 10 90 10 90 45"
    assert word["instruction"] == "OCR_WITH_REGION"
    assert (proposal["left"], proposal["score"], proposal["width"]) == ("0.5", "", "200")


def test_our_json_gives_back_the_regions_and_other_formats_take_it(tmp_path: Path) -> None:
    write("json", tmp_path / "all.json")
    write("jsonl", tmp_path / "all.jsonl")
    records = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    lines = (tmp_path / "all.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == records
    assert list(records[0])[:5] == ["image", "width", "height", "instruction", "text"]
    assert [Region.from_dict(data) for data in records[0]["regions"]] == [CAT, PARTS]
    write("csv", tmp_path / "direct.csv")
    with open_writer("csv", tmp_path / "again.csv") as writer:
        for record in records:
            writer.write(record["image"], (record["width"], record["height"]), record)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "direct.csv").read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_files_that_are_there_are_kept_unless_asked(tmp_path: Path, name: str) -> None:
    output = tmp_path / f"out{FORMATS[name].suffix}"
    write(name, output)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert not [path for path in files if path.name.startswith(".")]
    with pytest.raises(FormatError, match="is there already"):
        write(name, output, {"a/one.jpg": [found()]})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    write(name, output, {"a/one.jpg": [found()]}, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} != files


def stopped(format: str, output: Path) -> None:
    with open_writer(format, output) as writer:
        writer.write("a.jpg", SIZE, found(CAT))
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if format.suffix])
def test_after_an_error_what_was_done_is_complete_and_beside(tmp_path: Path, name: str) -> None:
    output = tmp_path / "sub" / f"out{FORMATS[name].suffix}"
    with pytest.raises(KeyboardInterrupt):
        stopped(name, output)
    assert [path.name for path in output.parent.iterdir()] == [output.name + ".partial"]
    stream = io.StringIO()
    whole = stream_writer(name, stream)
    whole.write("a.jpg", SIZE, found(CAT))
    whole.close()
    assert output.with_name(output.name + ".partial").read_text(encoding="utf-8") == stream.getvalue()


@pytest.mark.parametrize("name", ["labelme", "yolo"])
def test_pictures_that_ask_for_one_file_are_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match=r"'a\.png' asks for the file of another picture"):
        write(name, tmp_path, {"a.jpg": [found(CAT)], "a.png": [found(PROPOSAL)]})
    (first,) = tmp_path.rglob("a.*")
    assert "cat" in first.read_text() or first.read_text().startswith("0 0.3")


def test_names_that_lead_out_of_the_folder_stay_in_it(tmp_path: Path) -> None:
    pictures = {"/somewhere/x.jpg": [found()], "../y.jpg": [found()], "shard.tar#z.jpg": [found()]}
    write("labelme", tmp_path / "out", pictures)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")}
    assert written == {"out/x.json", "out/y.json", "out/shard.tar#z.json"}


@pytest.mark.parametrize("name", ["labelme", "yolo"])
def test_a_picture_without_a_name_stops_no_other(tmp_path: Path, name: str) -> None:
    with open_writer(name, tmp_path) as writer:
        for nameless in ("", "..", "/"):
            with pytest.raises(FormatError, match="cannot have a file of its own"):
                writer.write(nameless, SIZE, found(CAT))
        writer.write("b.jpg", SIZE, found(CAT))
    assert [path.stem for path in tmp_path.rglob("b.*")] == ["b"]


def test_what_cannot_be_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="csv has no numbered classes"):
        write("csv", tmp_path / "x.csv", classes=["a"])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="unknown format 'voc'; known are json, jsonl, csv, coco"):
        write("voc", tmp_path)
    with pytest.raises(FormatError, match="is a folder; csv is one file"):
        write("csv", tmp_path)
    with pytest.raises(FormatError, match="labelme has no numbered classes"):
        write("labelme", tmp_path, classes=["a"])
    with pytest.raises(FormatError, match="yolo is a folder"):
        stream_writer("yolo", io.StringIO())
    with pytest.raises(FormatError, match="an answer to CAPTION has no regions"):
        stream_writer("csv", io.StringIO()).write("a", SIZE, parse_answer("CAPTION", "a cat", SIZE))
    with pytest.raises(FormatError, match="an answer to CAPTION has no regions"):
        stream_writer("coco", io.StringIO()).write("a", SIZE, {"instruction": "CAPTION", "text": ""})


@pytest.mark.parametrize("name", ["json", "csv", "coco"])
def test_memory_does_not_grow_with_the_pictures(tmp_path: Path, name: str) -> None:
    def peak(pictures: int) -> int:
        tracemalloc.start()
        with open_writer(name, tmp_path / f"out{pictures}") as writer:
            for number in range(pictures):
                writer.write(f"{number:06}.jpg", SIZE, found(CAT, PARTS))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)
    few = peak(300)
    assert (tmp_path / "out300").stat().st_size > 10_000
    assert peak(3000) < few + 100_000
