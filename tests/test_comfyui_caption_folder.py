"""Caption Image Folder in a real ComfyUI: the run of ``promptgen folder``, with progress and cancel."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from promptgen.captioning.runs.outputs import Existing, Form, SameStem
from promptgen.captioning.runs.places import JOURNAL
from promptgen.captioning.runs.sources.ordered import Order
from promptgen.cli import main

from .comfyui_host import Entry, Event, Host, HostError

pytestmark = pytest.mark.comfyui

SHAPES = [
    (ground, figure, colour)
    for ground in ("white", "cyan")
    for figure in ("ellipse", "rectangle")
    for colour in ("red", "blue")
]
QUICK = {"num_beams": 1, "max_new_tokens": 8}
COUNTS = ("captioned", "failed", "left", "total")


def drawing(number: int, form: str = "PNG") -> bytes:
    """One of eight pictures that the demo model tells apart."""
    ground, figure, colour = SHAPES[number % len(SHAPES)]
    image = Image.new("RGB", (64, 64), ground)
    getattr(ImageDraw.Draw(image), figure)((12, 12, 52, 52), fill=colour)
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Six pictures, two of them a folder below."""
    folder = tmp_path / "album"
    (folder / "deep").mkdir(parents=True)
    for number in range(6):
        name = f"{number}.png" if number < 4 else f"deep/{number}.png"
        (folder / name).write_bytes(drawing(number))
    return folder


@pytest.fixture
def command_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Runs ``promptgen folder`` in this process: its exit status and what it told."""

    def run(*arguments: object) -> tuple[int, str]:
        command = ["promptgen", "folder", *map(str, arguments), "--model", "demo", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", command)
        capfd.readouterr()
        try:
            main()
        except SystemExit as exit:
            return (exit.code if isinstance(exit.code, int) else 0), capfd.readouterr().err
        return 0, capfd.readouterr().err

    return run


def prompt(folder: Path | str, **inputs: Any) -> dict[str, Any]:
    """The node, and nodes that show each of its counts."""
    node = {"folder": str(folder), "checkpoint": "demo", "instruction": "GENERATE_TAGS", **inputs}
    return {
        "1": {"class_type": "PromptGenCaptionFolder", "inputs": node},
        **{
            name: {"class_type": "PreviewAny", "inputs": {"source": ["1", place]}}
            for place, name in enumerate(COUNTS, start=1)
        },
    }


def counts(entry: Entry) -> dict[str, int]:
    """The node's numbers by their outputs' names."""
    assert entry.succeeded, entry.error
    return {name: int(entry.outputs[name]["text"][0]) for name in COUNTS}


def refusal(host: Host, folder: Path | str, **inputs: Any) -> str:
    """Why the node did not run, said by the host beforehand or by the node itself."""
    try:
        entry = host.run(prompt(folder, **inputs))
    except HostError as error:
        return str(error)
    assert entry.error is not None
    return str(entry.error["exception_message"])


def files(folder: Path, *extensions: str) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for extension in extensions
        for path in folder.rglob(f"*.{extension}")
    }


# The same run as the command's --------------------------------------------------------------


def test_caption_files_are_those_of_the_command_line_and_each_goes_on_with_the_others_run(
    host: Host, album: Path, tmp_path: Path, command_line: Callable[..., tuple[int, str]]
) -> None:
    other = Path(shutil.copytree(album, tmp_path / "other"))
    asked = "GENERATE_TAGS:tags,CAPTION:txt"
    entry = host.run(prompt(album, instructions=asked, prefix="red hat", exclude_tags="blurry, *_hair"))
    assert counts(entry) == {"captioned": 6, "failed": 0, "left": 0, "total": 6}
    flags = ["--prefix", "red hat", "--exclude", "blurry,*_hair"]
    status, told = command_line(other, "--instruction", asked, *flags)
    assert status == 0, told
    written = files(album, "tags", "txt")
    assert len(written) == 12
    assert all(content.startswith(b"red hat") for content in written.values())
    assert written == files(other, "tags", "txt")
    assert (album / JOURNAL).exists()

    status, told = command_line(album, "--instruction", asked, *flags)
    assert (status, "0 captioned, 6 done before" in told) == (0, True), told
    entry = host.run(prompt(other, instructions=asked, prefix="red hat", exclude_tags="blurry, *_hair"))
    assert counts(entry) == {"captioned": 0, "failed": 0, "left": 6, "total": 6}
    assert "6 done before" in entry.texts("1")[0]


def test_lines_are_those_of_the_command_line(
    host: Host, album: Path, tmp_path: Path, command_line: Callable[..., tuple[int, str]]
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    entry = host.run(prompt(album, form="jsonl", output_folder=str(ours), instruction="CAPTION"))
    assert counts(entry)["captioned"] == 6
    status, told = command_line(
        album, "--format", "jsonl", "--output-dir", theirs, "-i", "CAPTION", "--num-beams", 3
    )
    assert status == 0, told
    assert (ours / "captions.jsonl").read_bytes() == (theirs / "captions.jsonl").read_bytes()
    assert files(album, "txt") == {}


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("csv", "captions.csv"),
        ("parquet", "captions.parquet"),
        ("kohya", "metadata.json"),
        ("imagefolder", "metadata.jsonl"),
        ("webdataset", "captions-000000.tar"),
    ],
)
def test_every_form_lies_in_the_folder(host: Host, album: Path, form: str, name: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    entry = host.run(prompt(album, form=form, **QUICK))
    assert counts(entry)["captioned"] == 6
    assert (album / name).stat().st_size > 100
    assert str(album) in entry.texts("1")[0]


def test_caption_files_may_mirror_the_folder_below_the_hosts_own(host: Host, album: Path) -> None:
    shutil.copytree(album, host.input_dir / "album", dirs_exist_ok=True)
    try:
        entry = host.run(prompt("album", output_folder="captions of album", recursive=False, **QUICK))
        assert counts(entry)["captioned"] == 4
        assert set(files(host.output_dir / "captions of album", "txt")) == {f"{n}.txt" for n in range(4)}
        assert files(host.input_dir / "album", "txt") == {}
    finally:
        shutil.rmtree(host.input_dir / "album")


def test_the_model_may_come_from_the_loader(host: Host, album: Path) -> None:
    loader = {"class_type": "PromptGenModelLoader", "inputs": {"checkpoint": "demo", "precision": "fp32"}}
    absent = "Florence-2-base-PromptGen-v2.0"
    entry = host.run({**prompt(album, checkpoint=absent, model=["m", 0], **QUICK), "m": loader})
    assert counts(entry)["captioned"] == 6


def test_the_menus_offer_what_the_engine_has(host: Host) -> None:
    def menu(node: str, name: str) -> tuple[list[str], dict[str, Any]]:
        kind, options = host.object_info(node)["input"]["optional"][name]
        return list(options["options"] if kind == "COMBO" else kind), options

    of_captions = list(Form)[: list(Form).index(Form.COCO)]  # the others hold regions
    for node, name, choices in [
        ("PromptGenCaptionFolder", "form", of_captions),
        ("PromptGenCaptionFolder", "existing", Existing),
        ("PromptGenCaptionFolder", "same_stem", SameStem),
        ("PromptGenSaveCaptions", "mode", Existing),
        ("PromptGenSaveCaptions", "same_stem", SameStem),
        ("PromptGenLoadFolder", "sort", Order),
    ]:
        offered, options = menu(node, name)
        assert offered == [choice.value for choice in choices]
        assert options["default"] == offered[0]
    seed = host.object_info("PromptGenCaptionFolder")["input"]["optional"]["seed"][1]
    assert not seed["control_after_generate"]  # the page would make another seed, and caption all again


# Once more -----------------------------------------------------------------------------------


def test_only_what_is_new_or_has_changed_is_captioned_again(host: Host, album: Path) -> None:
    assert counts(host.run(prompt(album, **QUICK)))["captioned"] == 6
    before = files(album, "txt")
    assert counts(host.run(prompt(album, **QUICK))) == {"captioned": 0, "failed": 0, "left": 6, "total": 6}
    assert "1" in host.run(prompt(album, **QUICK)).cached  # there is nothing to do, and the host knows it

    (album / "new.png").write_bytes(drawing(6))
    (album / "deep" / "5.png").write_bytes(drawing(7, "PNG") + b"\0")
    (album / "1.txt").unlink()
    entry = host.run(prompt(album, **QUICK))
    assert "1" not in entry.cached
    assert counts(entry) == {"captioned": 2, "failed": 0, "left": 5, "total": 7}
    assert "1 written again" in entry.texts("1")[0]
    after = files(album, "txt")
    assert set(after) == {*before, "new.txt"}
    changed = {name for name, content in before.items() if after[name] != content}
    assert changed == {"deep/5.txt"}


def test_a_seed_that_draws_nothing_captions_nothing_again(host: Host, album: Path) -> None:
    host.run(prompt(album, seed=1, **QUICK))
    assert counts(host.run(prompt(album, seed=2, temperature=0.5, **QUICK)))["captioned"] == 0
    # but other settings caption again
    assert counts(host.run(prompt(album, seed=2, suffix="end", **QUICK)))["captioned"] == 6


def test_captions_of_others_are_kept_unless_it_is_said(host: Host, album: Path) -> None:
    (album / "2.txt").write_text("mine", encoding="utf-8")
    entry = host.run(prompt(album, **QUICK))
    assert counts(entry) == {"captioned": 5, "failed": 0, "left": 1, "total": 6}
    assert (album / "2.txt").read_text(encoding="utf-8") == "mine"
    entry = host.run(prompt(album, existing="prepend", separator="\\n", **QUICK))
    assert counts(entry)["captioned"] == 1
    assert (album / "2.txt").read_text(encoding="utf-8").endswith("\nmine\n")


def test_restart_captions_again_what_existing_says(host: Host, album: Path) -> None:
    host.run(prompt(album, **QUICK))
    (album / "3.txt").unlink()
    (album / "2.txt").write_text("mine", encoding="utf-8")
    entry = host.run(prompt(album, restart=True, **QUICK))
    assert counts(entry) == {"captioned": 1, "failed": 0, "left": 5, "total": 6}
    assert "5 had captions" in entry.texts("1")[0]
    again = prompt(album, restart=True, existing="overwrite", **QUICK)
    for _ in range(2):  # each time it is asked for
        entry = host.run(again)
        assert "1" not in entry.cached
        assert counts(entry)["captioned"] == 6
    assert (album / "2.txt").read_text(encoding="utf-8") != "mine"


# What goes wrong -------------------------------------------------------------------------------


def test_a_broken_picture_is_named_and_stops_nothing(host: Host, album: Path) -> None:
    (album / "broken.png").write_bytes(drawing(1)[:60])
    entry = host.run(prompt(album, report_page=True, **QUICK))
    assert counts(entry) == {"captioned": 6, "failed": 1, "left": 0, "total": 7}
    (text,) = entry.texts("1")
    assert "broken.png: " in text
    assert str(album / "errors.jsonl") in text
    (error,) = [json.loads(line) for line in (album / "errors.jsonl").read_text("utf-8").splitlines()]
    assert error["name"] == "broken.png"
    assert "broken.png" in (album / "report.html").read_text(encoding="utf-8")

    assert counts(host.run(prompt(album, report_page=True, **QUICK)))["failed"] == 1
    again = prompt(album, report_page=True, retry_errors=True, **QUICK)
    for _ in range(2):  # each time it is asked for
        entry = host.run(again)
        assert "1" not in entry.cached
        assert "1 failed" in entry.texts("1")[0]
    (album / "broken.png").write_bytes(drawing(1))
    assert counts(host.run(again)) == {"captioned": 1, "failed": 0, "left": 6, "total": 7}


def test_too_many_errors_stop_it_with_all_that_is_done_kept(host: Host, album: Path) -> None:
    (album / "0.png").write_bytes(b"no picture")
    told = refusal(host, album, max_errors=0, **QUICK)
    assert "max_errors" in told
    assert "0.png: " in told
    assert (album / "errors.jsonl").exists()


def test_cancelled_in_the_middle_it_goes_on_without_repeating(host: Host, tmp_path: Path) -> None:
    album = tmp_path / "many"
    album.mkdir()
    for number in range(64):
        (album / f"{number:02}.png").write_bytes(drawing(number))
    with host.events() as events:
        number = host.queue(prompt(album, instruction="MIXED_CAPTION"))

        def begun(event: Event) -> bool:
            return event.type == "progress" and event.data["max"] == 64 and event.data["value"] > 0

        events.wait_for(begun)
        host.interrupt()
        entry = host.wait(number)
        assert entry.interrupted
        done = {path: path.stat().st_mtime_ns for path in album.glob("*.txt")}
        assert 0 < len(done) < 64
        entry = host.run(prompt(album, instruction="MIXED_CAPTION"))
        assert counts(entry) == {
            "captioned": 64 - len(done), "failed": 0, "left": len(done), "total": 64,
        }  # fmt: skip
        assert len(list(album.glob("*.txt"))) == 64
        assert {path: path.stat().st_mtime_ns for path in done} == done
        shown = [event.data["value"] for event in events.all("progress", entry["prompt"][1])]
        assert shown == sorted(shown)
        assert shown[-1] == 64
    assert not [path.name for path in album.iterdir() if "partial" in path.name]


def test_folders_that_cannot_be_used_are_errors(host: Host, album: Path, tmp_path: Path) -> None:
    assert "There is no folder" in refusal(host, tmp_path / "nowhere")
    assert "is a file" in refusal(host, album / "0.png")
    assert "No folder is named" in refusal(host, "  ")
    (tmp_path / "empty").mkdir()
    assert "no picture in" in refusal(host, tmp_path / "empty")
    assert "'output_folder'" in refusal(host, album, output_folder=str(album / "0.png"))
    assert str(album / "0.png") in refusal(host, album, output_folder=str(album / "0.png" / "below"))
    assert files(album, "txt", "jsonl", "sqlite") == {}


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"extension": "py"}, "extension"),
        ({"instructions": "GENERATE_TAGS:../../x"}, "is not one of caption files"),
        ({"instructions": "GENERATE_TAGS:tags, CAPTION:exe"}, "is not one of caption files"),
        ({"instructions": "CAPTON"}, "Did you mean CAPTION?"),
        ({"instructions": "CAPTION, CAPTION:txt"}, "asks the same twice"),
        ({"instructions": "CAPTION_TO_PHRASE_GROUNDING"}, "needs a text input"),
        ({"instruction": "CAPTON"}, "Did you mean CAPTION?"),
        ({"form": "sh"}, "form"),
        ({"existing": "delete"}, "existing"),
        ({"same_stem": "both"}, "same_stem"),
        ({"underscores": "all"}, "underscores"),
        ({"checkpoint": "../../etc"}, "no model"),
    ],
)
def test_what_no_menu_has_is_refused(host: Host, album: Path, inputs: dict[str, Any], told: str) -> None:
    assert told in refusal(host, album, **inputs)
    assert sorted(path.suffix for path in album.rglob("*") if path.is_file()) == [".png"] * 6


def test_messages_speak_of_inputs_and_not_of_flags(host: Host, album: Path) -> None:
    album = album.rename(album.with_name("my--existing pictures"))
    (album / "3.jpg").write_bytes(drawing(7, "JPEG"))
    told = refusal(host, album)
    assert f"3.jpg and 3.png: {album}" in told  # a path is no option
    assert "same_stem full-name" in told
    assert "--" not in told.replace(str(album), "")
    entry = host.run(prompt(album, same_stem="full-name", **QUICK))
    assert counts(entry)["captioned"] == 7
    assert {"3.jpg.txt", "3.png.txt"} <= set(files(album, "txt"))
