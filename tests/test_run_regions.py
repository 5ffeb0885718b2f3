"""Regions that come out of a run, killed at any line and started again."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from promptgen.captioning.drawings import Drawing, DrawingKind
from promptgen.captioning.runs.outputs import (
    Column,
    Drawn,
    Existing,
    Form,
    OutputError,
    OutputOptions,
    SameStem,
)
from promptgen.captioning.runs.records import Item, Record

from . import test_run_outputs as plain
from .test_run_outputs import Session, item, kill_after, kill_points, picture, posix, prepare, tree, write_all

OD = Column("OD")


def record(one: Item, **changes: Any) -> Record:
    """A box or two, with labels that follow from the name and the version."""
    count = 2 if one.fingerprint == "1" else 1
    regions = [
        {"label": f"{one.name[0]}{number} v{one.fingerprint}", "box": [0.0, number, 5.0, number + 2.0]}
        for number in range(count)
    ]
    results = ({"instruction": "OD", "text": "…", "regions": regions, "raw": "…", "truncated": False},)
    made = Record(one.name, one.relative, one.path, one.fingerprint, results, size=(6, 4), open=one.open)
    return replace(made, **changes)


@posix
def test_killed_at_any_line_the_files_come_out_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "record", record)
    place = tmp_path / "place"
    root = place / "pictures"
    case: dict[str, Any] = {
        "columns": (OD,),
        "forms": (Form.COCO, Form.LABELME, Form.YOLO),
        "drawn": (
            Drawn(Drawing(DrawingKind.MASK, "bmp"), root / "masks"),
            Drawn(Drawing(DrawingKind.CROP, "bmp"), root / "crops"),
        ),
    }
    seen: list[tuple[str, int]] = []
    prepare(place)
    write_all(place, case, seen=seen)
    wanted = tree(place)
    place.rename(tmp_path / "whole")
    names = {name.removeprefix("pictures/") for name in wanted}
    assert {"coco.json", "a.json", "labels/a.txt", "classes.txt", "masks/a.bmp"} <= names
    assert {name for name in names if name.startswith("crops/a/")} == {"crops/a/0-a0_v2.bmp"}
    assert len([name for name in names if name.startswith("crops/c/")]) == 2
    dice = random.Random(6)
    points = list(kill_points(seen, dice))
    for trial, told in enumerate(dice.sample(points, 10)):  # other forms are killed at all of them
        prepare(place)
        for lines in told:
            kill_after(place, case, lines)
        write_all(place, case)
        assert tree(place) == wanted, f"killed after {told} lines: {[seen[most - 1] for most in told[:1]]}"
        place.rename(tmp_path / f"trial {trial}")


def options(folder: Path, **more: Any) -> OutputOptions:
    return OutputOptions((OD,), **{"forms": (Form.LABELME,), "output": folder, **more})


def test_what_others_have_put_there_is_told_and_left(tmp_path: Path) -> None:
    one = item(picture(tmp_path / "in" / "a.png"), tmp_path / "in")
    other = item(picture(tmp_path / "in" / "b.png"), tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.json").write_text("mine")
    drawn = (Drawn(Drawing(DrawingKind.OVERLAY), tmp_path / "shown"),)
    session = Session(tmp_path, options(out, drawn=drawn)).run([one, other], record)
    assert (out / "a.json").read_text() == "mine"
    [(name, reason)] = session.problems
    assert name == "a.png"
    assert "is there already" in reason
    assert {"b.json"} == tree(out).keys() - {"a.json"}
    assert tree(tmp_path / "shown").keys() == {"a.png", "b.png"}

    (tmp_path / ".promptgen-run.sqlite").unlink()
    allowed = options(out, drawn=drawn, existing=Existing.OVERWRITE)
    assert not Session(tmp_path, allowed).run([one, other], record).problems
    assert (out / "a.json").read_text() != "mine"


def test_a_picture_is_never_replaced_by_what_is_drawn_of_it(tmp_path: Path) -> None:
    one = item(picture(tmp_path / "in" / "a.png"), tmp_path / "in")
    before = tree(tmp_path / "in")
    (tmp_path / "link").symlink_to("in")
    drawn = (Drawn(Drawing(DrawingKind.OVERLAY), tmp_path / "link"),)
    allowed = options(tmp_path / "out", drawn=drawn, existing=Existing.OVERWRITE)
    session = Session(tmp_path, allowed).run([one], record)
    assert tree(tmp_path / "in") == before
    [(name, reason)] = session.problems
    assert name == "a.png"
    assert "would replace the picture itself" in reason


def test_a_picture_that_is_gone_is_told_and_stops_nothing(tmp_path: Path) -> None:
    items = [item(picture(tmp_path / "in" / name), tmp_path / "in") for name in ("a.png", "b.png")]
    (tmp_path / "in" / "a.png").unlink()
    drawn = (Drawn(Drawing(DrawingKind.OVERLAY, "webp"), tmp_path / "shown"),)
    session = Session(tmp_path, options(tmp_path / "out", drawn=drawn)).run(items, record)
    assert tree(tmp_path / "shown").keys() == {"b.webp"}
    assert Image.open(tmp_path / "shown" / "b.webp").size == (6, 4)
    assert tree(tmp_path / "out").keys() == {"a.json", "b.json"}
    [(name, reason)] = session.problems
    assert name == "a.png"
    assert "no overlay could be made" in reason


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"existing": Existing.APPEND}, "append cannot be done"),
        ({"forms": (Form.YOLO,), "part": (1, 2)}, "parts of a run"),
        ({"forms": (Form.YOLO_SEG,), "same_stem": SameStem.FULL_NAME}, "without the extension"),
        ({"columns": (Column("CAPTION"),)}, "no regions for labelme: CAPTION gives none"),
        ({"forms": (Form.SIDECAR,), "output": None, "select": "cat"}, "nothing to select from"),
        ({"drawn": (Drawn(Drawing(DrawingKind.CROP), Path("x")),) * 2}, "a folder of its own"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_cannot_be(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    with pytest.raises(OutputError, match=told):
        replace(options(tmp_path / "out"), **more)
