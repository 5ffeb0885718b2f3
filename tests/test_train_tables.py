"""Training data in tables, and in Hugging Face's data sets."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from promptgen.training.data import arrow_tables, check_images
from promptgen.training.errors import DataError

from .training_data import drawn_as, drawn_bytes, load, save_drawn, told, write_text

ROWS = [{"image": "img/a.png", "CAPTION": "one", "OCR": "STOP"}, {"image": "img/b.png", "CAPTION": "two"}]
OF_ROWS = [("img/a.png", "CAPTION", "one"), ("img/a.png", "OCR", "STOP"), ("img/b.png", "CAPTION", "two")]


def save_table(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """A table in the format of its extension."""
    import pandas

    path = folder / name
    ending = path.suffix
    if ending == ".jsonl":
        return write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    if ending == ".json":
        return write_text(path, json.dumps(rows))
    table = pandas.DataFrame(rows)
    if ending == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if ending == ".tsv" else ";")
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number, name in enumerate(["img/a.png", "img/b.png"]):
        save_drawn(tmp_path / name, number)
    return tmp_path


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.tsv", "t.json", "t.parquet"])
def test_columns_called_as_instructions(images: Path, name: str) -> None:
    examples, problems = load(save_table(images, name, ROWS))
    assert told(examples) == OF_ROWS
    assert [problem.kind for problem in problems] == []
    assert drawn_as(examples[-1], 1)
    assert examples[0].origin.startswith(name)


def test_an_instruction_chooses_among_columns_and_rows(images: Path) -> None:
    path = save_table(images, "t.jsonl", ROWS)
    assert told(load(path, instruction="ocr")[0]) == [("img/a.png", "OCR", "STOP")]
    rows = [{"image": "img/a.png", "caption": "x", "OCR": "STOP"}]  # where 'caption' may be any of them
    assert told(load(save_table(images, "u.jsonl", rows), instruction="DETAILED_CAPTION")[0]) == [
        ("img/a.png", "DETAILED_CAPTION", "x")
    ]
    answers = [{"image": "img/a.png", "instruction": name, "text": name} for name in ("CAPTION", "OCR")]
    examples, problems = load(save_table(images, "v.jsonl", answers), instruction="OCR")
    assert (told(examples), problems) == ([("img/a.png", "OCR", "OCR")], [])
    with pytest.raises(DataError, match="nothing says which of its columns"):
        load(path, instruction="OD")


def test_columns_by_any_name(images: Path) -> None:
    rows = [{"file": "img/a.png", "short": "x", "long": ["y", "z"], "other": 3}]
    path = save_table(images, "t.jsonl", rows)
    columns = {"short": "CAPTION", "long": "DETAILED_CAPTION"}
    examples, _ = load(path, columns=columns, image_column="file")
    assert told(examples) == [
        ("img/a.png", "CAPTION", "x"), ("img/a.png", "DETAILED_CAPTION", "y"),
        ("img/a.png", "DETAILED_CAPTION", "z"),
    ]  # fmt: skip


def test_a_row_for_each_answer_and_regions_as_the_model_writes_them(images: Path) -> None:
    raw = "square<loc_100><loc_200><loc_300><loc_400>"
    path = save_table(
        images / "elsewhere",
        "answers.jsonl",
        [
            {"image": "img/a.png", "model": "demo", "instruction": "OD", "text": "square at 3,4", "raw": raw},
            {"image": "img/b.png", "instruction": "region_to_ocr", "text": "STOP", "text_input": "1,2,30,20"},
            {"image": "img/b.png", "instruction": "REGION_TO_OCR", "text": "STOP"},
            {"image": "img/b.png", "instruction": "CAPTOIN", "text": "x"},
            {"image": "img/none.png", "instruction": "CAPTION", "text": "x"},
            {"image": "https://example.org/a.png", "instruction": "CAPTION", "text": "x"},
            {"image": "img/b.png", "instruction": "CAPTION", "text": ""},
        ],
    )
    examples, problems = load(path, images_dir=images)
    assert told(examples) == [("img/a.png", "OD", raw), ("img/b.png", "REGION_TO_OCR", "STOP")]
    assert examples[1].text_input == "1,2,30,20"
    assert [problem.kind for problem in problems] == [
        "no text input", "unknown instruction", "no image", "no image", "empty caption",
    ]  # fmt: skip
    assert problems[0].place == "answers.jsonl:3"


def test_an_empty_answer_can_be_one(images: Path) -> None:
    rows = [{"image": "img/a.png", "OCR": "", "CAPTION": None}, {"image": "img/b.png", "OCR": "STOP"}]
    path = save_table(images, "t.jsonl", rows)
    examples, problems = load(path, empty_captions="keep")
    assert told(examples) == [("img/a.png", "OCR", ""), ("img/b.png", "OCR", "STOP")]
    assert problems == []
    examples, problems = load(path)
    assert told(examples) == [("img/b.png", "OCR", "STOP")]
    assert [problem.kind for problem in problems] == ["empty caption"]


def test_conversations(images: Path) -> None:
    turns = [{"from": "system", "value": "x"}, {"from": "human", "value": "<image>\nDescribe."}]
    rows = [
        {"images": ["img/a.png"], "conversations": [*turns, {"from": "gpt", "value": "A square."}]},
        {"image": "img/b.png", "conversations": [{"role": "user", "content": "<image><OCR>"},
                                                 {"role": "assistant", "content": "STOP"}]},
    ]  # fmt: skip
    path = save_table(images, "t.json", rows)
    examples, _ = load(path, instruction="MORE_DETAILED_CAPTION")
    assert told(examples) == [
        ("img/a.png", "MORE_DETAILED_CAPTION", "A square."),
        ("img/b.png", "OCR", "STOP"),
    ]
    examples, problems = load(path)
    assert told(examples) == [("img/b.png", "OCR", "STOP")]
    assert "nothing says what its conversations answer" in problems[0].reason
    with pytest.raises(DataError, match="nothing says what its conversations answer"):
        load(save_table(images, "t.json", rows[:1]))


def test_sd_scripts_metadata(images: Path) -> None:
    content = {
        "img/a": {"caption": "a square", "tags": "square"},
        str(images / "img/b.png"): {"caption": "two"},
    }
    path = write_text(images / "metadata_cap.json", json.dumps(content))
    examples, _ = load(path, columns={"caption": "MORE_DETAILED_CAPTION", "tags": "GENERATE_TAGS"})
    assert told(examples) == [
        ("img/a.png", "GENERATE_TAGS", "square"), ("img/a.png", "MORE_DETAILED_CAPTION", "a square"),
        ("img/b.png", "MORE_DETAILED_CAPTION", "two"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        ([{"image": "img/a.png", "caption": "x"}], {}, r"columns \('image', 'caption'\) are captions"),
        ([{"picture": "img/a.png", "OCR": "x"}], {}, "nothing says which column is the image"),
        ([{"image": "img/a.png", "OCR": "x"}], {"columns": {"text": "OCR"}}, "there is no column 'text'"),
        ([{"image": "img/a.png", "OCR": "x"}], {"image_column": "img"}, "there is no column 'img'"),
    ],
)
def test_a_table_that_does_not_say_enough(
    images: Path, rows: list[dict[str, Any]], options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        load(save_table(images, "t.jsonl", rows), **options)


def test_lines_that_are_damaged_are_left_out(images: Path) -> None:
    path = save_table(images, "t.jsonl", ROWS)
    path.write_text(path.read_text() + '{"image": "img/a\n[1]\n', encoding="utf-8")
    examples, problems = load(path)
    assert told(examples) == OF_ROWS
    assert [(problem.kind, problem.place) for problem in problems] == [
        ("unreadable row", "t.jsonl:3"), ("unreadable row", "t.jsonl:4"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"image": "img/a.png", "OCR": {"en": "x"}}', "the OCR is an object, not a text"),
        ('{"image": "img/a.png", "OCR": true}', "the OCR is of type bool, not a text"),
        ('{"image": "img/a.png", "OCR": [["x"]]}', "the OCR is of type list, not a text"),
        ('{"image": "img/a.png", "OCR": NaN}', "it has no caption"),
        ('{"image": "img/a.png", "OCR": [null]}', None),  # nothing, rather than the word None
        ('{"image": "img/a.png", "OCR": "x\\ud800"}', "the OCR: it has halves of characters"),
        ('{"image": "img/a.png", "OCR": "x\\u0000"}', "the OCR: it has zero bytes"),
        ('{"image": "img/a.png", "conversations": ["x"]}', "a turn of its conversation is of type str"),
        ("[" * 100_000, "it is no JSON"),
        ('{"image": ["img/a.png", "img/b.png"], "OCR": "x"}', "holds no path of one image"),
        ('{"image": "img/a.png", "OD": "x", "instruction": 3}', None),
    ],
)  # fmt: skip
def test_what_is_no_text_is_never_trained_on(images: Path, line: str, reason: str | None) -> None:
    path = save_table(images, "t.jsonl", ROWS)
    path.write_text(path.read_text() + line + "\n", encoding="utf-8")
    examples, problems = load(path)
    assert [one for one in told(examples) if one[1] != "OD"] == OF_ROWS
    assert [problem.place for problem in problems] == ([] if reason is None else ["t.jsonl:3"])
    assert all(reason in problem.reason for problem in problems if reason is not None)


def test_the_first_row_need_not_have_everything(images: Path) -> None:
    examples, problems = load(save_table(images, "t.jsonl", [{"image": "img/a.png"}, *ROWS]))
    assert told(examples) == OF_ROWS
    assert [(problem.kind, problem.place) for problem in problems] == [("no caption", "t.jsonl:1")]


def test_an_answer_without_its_input_takes_no_other_with_it(images: Path) -> None:
    row = {"image": "img/a.png", "REGION_TO_OCR": "STOP", "CAPTION": "x"}
    examples, problems = load(save_table(images, "t.jsonl", [row]))
    assert told(examples) == [("img/a.png", "CAPTION", "x")]
    assert [problem.kind for problem in problems] == ["no text input"]


def test_why_no_row_can_be_used_is_told(images: Path) -> None:
    path = save_table(images / "elsewhere", "t.jsonl", [*ROWS, *ROWS])
    with pytest.raises(DataError, match="what was found cannot be used") as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert lines[1].startswith("  t.jsonl:1: there is no file ")
    assert lines[-1] == "  … and 1 more"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,CAPTION,CAPTION\nimg/a.png,x,y\n", "two columns of one name"),
        ('image,CAPTION\nimg/a.png,"x\nimg/b.png,y\n', "it is no CSV"),  # the quote is never closed
    ],
)
def test_csv_that_can_be_read_in_two_ways(images: Path, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        load(write_text(images / "t.csv", text))


def test_csv_as_spreadsheets_write_it(images: Path) -> None:
    text = '\ufeff"image";"CAPTION"\r\n"img/a.png";"one, ""two""\r\nthree"\r\nimg/b.png;\r\n'
    examples, problems = load(write_text(images / "t.csv", text))
    assert told(examples) == [("img/a.png", "CAPTION", 'one, "two"\nthree')]
    assert [(problem.kind, problem.place) for problem in problems] == [("empty caption", "t.csv:4")]


# Hugging Face


def test_an_image_folder_with_metadata(tmp_path: Path) -> None:
    for split, number in [("train", 0), ("test", 1)]:
        save_drawn(tmp_path / split / "a.png", number)
        write_text(tmp_path / split / "metadata.jsonl", json.dumps({"file_name": "a.png", "text": split}))
    examples, _ = load(tmp_path, instruction="CAPTION")
    assert told(examples) == [("train/a.png", "CAPTION", "train")]
    examples, _ = load(tmp_path, instruction="CAPTION", split="test")
    assert told(examples) == [("test/a.png", "CAPTION", "test")]
    assert drawn_as(examples[0], 1)
    with pytest.raises(DataError, match="there is no folder 'validation'"):
        load(tmp_path, instruction="CAPTION", split="validation")


@pytest.fixture
def table() -> Any:
    import datasets

    rows = {
        "image": [{"bytes": drawn_bytes(number), "path": f"{number}.png"} for number in range(3)],
        "caption": ["zero", "one", "two"],
    }
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


OF_TABLE = [("0.png", "CAPTION", "zero"), ("1.png", "CAPTION", "one"), ("2.png", "CAPTION", "two")]


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("form", ["saved", "dictionary", "parquet", "hub"])
def test_data_sets_with_images_in_them(
    tmp_path: Path, table: Any, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(arrow_tables, "_ROWS", 2)
    path = tmp_path / "data_set"
    if form == "saved":
        table.select([2, 1, 0]).save_to_disk(path)  # rows that are chosen by their numbers
    elif form == "dictionary":
        datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(path)
    elif form == "parquet":
        path = tmp_path / "t.parquet"
        table.to_parquet(path)
    else:
        (path / "data").mkdir(parents=True)
        table.to_parquet(path / "data" / "train-00000-of-00001.parquet")
        table.select([0]).to_parquet(path / "data" / "test-00000-of-00001.parquet")

    examples, problems = load(path, columns={"caption": "CAPTION"})

    assert told(examples) == OF_TABLE
    assert problems == []
    assert check_images([example.image for example in examples]).errors == {}
    again = pickle.loads(pickle.dumps(examples))  # as it comes to the processes that read
    for example in again:
        assert drawn_as(example, int(example.image.name[0]))


@pytest.mark.usefixtures("_own_cache")
def test_pictures_of_one_name_in_a_table_are_several(tmp_path: Path) -> None:
    """Some tools give all pictures one name; others repeat a picture for each of its captions."""
    import datasets

    rows = {
        "image": [{"bytes": drawn_bytes(number), "path": "image.png"} for number in (0, 1, 0)],
        "caption": ["zero", "one", "zero again"],
    }
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.to_parquet(tmp_path / "t.parquet")
    examples, _ = load(tmp_path / "t.parquet", columns={"caption": "CAPTION"})
    assert told(examples) == [
        ("image.png", "CAPTION", "zero"), ("image.png", "CAPTION", "zero again"),
        ("image.png#1", "CAPTION", "one"),
    ]  # fmt: skip
    assert len({one.image for one in examples}) == 2
    assert all(drawn_as(one, "one" in one.target.split()) for one in examples)


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("form", ["bytes", "bytes and no path", "lists"])
def test_images_in_parquet_in_other_ways(tmp_path: Path, form: str) -> None:
    import pyarrow
    import pyarrow.parquet

    files = [drawn_bytes(number) for number in range(2)]
    forms: dict[str, list[Any]] = {
        "bytes": files,
        "bytes and no path": [{"bytes": file} for file in files],
        "lists": [[{"bytes": file, "path": "a.png"}] for file in files],
    }
    table = pyarrow.table({"image": forms[form], "caption": ["x", "y"]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    if form == "lists":
        with pytest.raises(DataError, match="'image' holds lists of images; make it one image a row"):
            load(tmp_path / "t.parquet", columns={"caption": "CAPTION"})
        return
    examples, _ = load(tmp_path / "t.parquet", columns={"caption": "CAPTION"})
    assert told(examples) == [("t.parquet#0", "CAPTION", "x"), ("t.parquet#1", "CAPTION", "y")]
    assert all(drawn_as(one, one.image.row) for one in examples)


def test_a_split_that_a_data_set_does_not_have(tmp_path: Path, table: Any) -> None:
    import datasets

    datasets.DatasetDict({"fit": table}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match=r"it has no split 'train' \(key split\); there are: fit"):
        load(tmp_path / "d", columns={"caption": "CAPTION"})
