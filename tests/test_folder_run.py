"""``promptgen folder``: runs that go on where they ended, on real folders with the demo model."""

from __future__ import annotations

import io
import json
import os
import random
import re
import select
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tarfile
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image, ImageDraw
from promptgen.captioning import (
    Captioner,
    CaptionOptions,
    GenerationOptions,
    ImageError,
    TagOptions,
    open_image,
)
from promptgen.captioning.runs.asked_model import local_model
from promptgen.captioning.runs.outputs import Column, Existing, Form, OutputError, OutputOptions
from promptgen.captioning.runs.places import JOURNAL
from promptgen.captioning.runs.run import FolderRun, RunOptions, RunProgress, RunReport, run_folder
from promptgen.captioning.runs.settings import settings_digest
from promptgen.cli import main
from promptgen.models_cache import ModelManager, find_checkpoint

posix = pytest.mark.skipif(os.name == "nt", reason="signals and fork as POSIX has them")

QUICK = ("--model", "demo", "--device", "cpu", "--dtype", "fp32", "--num-beams", "1", "--max-new-tokens", "8")
OPTIONS = CaptionOptions(GenerationOptions(num_beams=1, max_new_tokens=8))
SHAPES = [
    (ground, figure, colour)
    for ground in ("white", "cyan")
    for figure in ("ellipse", "rectangle")
    for colour in ("red", "blue")
]


def drawing(number: int, form: str = "PNG") -> bytes:
    """One of eight pictures that the demo model tells apart."""
    ground, figure, colour = SHAPES[number % len(SHAPES)]
    image = Image.new("RGB", (64, 64), ground)
    getattr(ImageDraw.Draw(image), figure)((12, 12, 52, 52), fill=colour)
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner("demo", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def expected(captioner: Captioner) -> Callable[..., str]:
    """What the engine answers without any run."""

    def answer(number: int, instruction: str = "GENERATE_TAGS", options: CaptionOptions = OPTIONS) -> str:
        (result,) = captioner.caption(drawing(number), instruction, options)
        return result.results[0].text

    return answer


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Six pictures, two of them a folder below."""
    folder = tmp_path / "album"
    (folder / "deep").mkdir(parents=True)
    for number in range(6):
        name = f"{number}.png" if number < 4 else f"deep/{number}.png"
        (folder / name).write_bytes(drawing(number))
    return folder


class Ended(NamedTuple):
    """How a run of the command ended."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def folder(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Runs ``promptgen folder`` in this process."""

    def run(*arguments: object, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "argv", ["promptgen", "folder", *map(str, arguments), *QUICK])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        status = 0
        try:
            main()
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else 0
        return Ended(status, *capfd.readouterr())

    return run


def captions(folder: Path, extension: str = "txt") -> dict[str, str]:
    """All captions below a folder, by the name of the file without its extension."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path.read_text(encoding="utf-8").strip()
        for path in folder.rglob(f"*.{extension}")
    }


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def run(
    album: Path,
    captioner: Captioner,
    *,
    options: CaptionOptions = OPTIONS,
    output: Any = None,
    **changes: Any,
) -> RunReport:
    """A run by the Python interface."""
    output = {"columns": (Column("GENERATE_TAGS"),)} | (output or {})
    settings = {"inputs": (str(album),), "captions": options} | changes
    return run_folder(RunOptions(output=OutputOptions(**output), **settings), captioner)


# What comes out -----------------------------------------------------------------------------


def test_each_caption_lies_beside_its_picture(
    album: Path, folder: Callable[..., Ended], expected: Callable[..., str]
) -> None:
    ended = folder(album)
    assert ended.status == 0, ended.stderr
    assert captions(album) == {
        name: expected(int(name[-1])) for name in ("0", "1", "2", "3", "deep/4", "deep/5")
    }
    assert "6 captioned" in ended.stderr
    assert sorted(path.name for path in album.iterdir() if path.suffix not in (".png", ".txt")) == [
        JOURNAL, "deep",
    ]  # fmt: skip


def test_several_instructions_go_to_several_extensions(
    album: Path, folder: Callable[..., Ended], expected: Callable[..., str]
) -> None:
    ended = folder(album, "--instruction", "GENERATE_TAGS:tags,caption:txt")
    assert ended.status == 0, ended.stderr
    assert captions(album, "tags")["deep/4"] == expected(4)
    assert captions(album)["deep/4"] == expected(4, "CAPTION")


def test_one_file_takes_the_form_that_its_name_says(
    album: Path, tmp_path: Path, folder: Callable[..., Ended], expected: Callable[..., str]
) -> None:
    ended = folder(album, "--output", tmp_path / "out" / "captions.jsonl", "-i", "GENERATE_TAGS:tags")
    assert ended.status == 0, ended.stderr
    rows = lines_of(tmp_path / "out" / "captions.jsonl")
    assert {row["image"]: row["tags"] for row in rows} == {
        name: expected(int(name[-5]))
        for name in ("0.png", "1.png", "2.png", "3.png", "deep/4.png", "deep/5.png")
    }
    assert (rows[0]["width"], rows[0]["height"]) == (64, 64)
    assert captions(album) == {}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f".captions.jsonl{JOURNAL}", "captions.jsonl",
    ]  # fmt: skip


def test_captions_may_mirror_the_folders_elsewhere(
    album: Path, tmp_path: Path, folder: Callable[..., Ended]
) -> None:
    assert folder(album, "--output-dir", tmp_path / "out").status == 0
    assert set(captions(tmp_path / "out")) == {"0", "1", "2", "3", "deep/4", "deep/5"}
    assert captions(album) == {}
    assert (tmp_path / "out" / JOURNAL).exists()


def test_shards_of_a_run_share_the_pictures(album: Path, folder: Callable[..., Ended]) -> None:
    counts = []
    for part in ("1/3", "2/3", "3/3"):
        ended = folder(album, "--shard", part)
        assert ended.status == 0, ended.stderr
        counts.append(len(captions(album)))
    assert counts[-1] == 6
    assert counts[0] < 6
    assert (album / ".promptgen-run-2-of-3.sqlite").exists()


def test_paths_come_from_standard_input(album: Path, folder: Callable[..., Ended], tmp_path: Path) -> None:
    paths = "\n".join(str(path) for path in sorted(album.rglob("*.png"))[:2])
    ended = folder("-", "--journal", tmp_path / "journal", stdin=paths.encode())
    assert ended.status == 0, ended.stderr
    assert len(captions(album)) == 2


def test_a_run_from_standard_input_goes_on_from_the_current_folder(
    album: Path, folder: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(album)
    (album / "bad.png").write_bytes(b"no picture")
    paths = b"0.png\0deep/4.png\0bad.png"
    ended = folder("-", stdin=paths)
    assert "2 captioned, 1 failed" in ended.stderr
    assert [line["name"] for line in lines_of(album / "errors.jsonl")] == ["bad.png"]
    ended = folder("-", stdin=paths)
    assert "0 captioned, 2 done before, 1 failed before" in ended.stderr


# Going on where the last run ended ----------------------------------------------------------


def test_a_second_run_has_nothing_to_do(album: Path, folder: Callable[..., Ended]) -> None:
    folder(album)
    before = {path: path.stat().st_mtime_ns for path in album.rglob("*.txt")}
    ended = folder(album)
    assert ended.status == 0
    assert "0 captioned, 6 done before" in ended.stderr
    assert {path: path.stat().st_mtime_ns for path in album.rglob("*.txt")} == before


def test_only_a_picture_that_has_changed_is_captioned_again(
    album: Path, captioner: Captioner, expected: Callable[..., str]
) -> None:
    run(album, captioner)
    (album / "1.png").write_bytes(drawing(6))
    report = run(album, captioner)
    assert (report.captioned, report.done_before) == (1, 5)
    assert captions(album)["1"] == expected(6)


@pytest.mark.parametrize(
    "options",
    [
        CaptionOptions(GenerationOptions(num_beams=1, max_new_tokens=4)),
        CaptionOptions(GenerationOptions(num_beams=1, max_new_tokens=8), TagOptions(prefix="trigger")),
    ],
    ids=["generation", "tags"],
)
def test_other_settings_caption_everything_again(
    album: Path, captioner: Captioner, options: CaptionOptions, expected: Callable[..., str]
) -> None:
    run(album, captioner)
    report = run(album, captioner, options=options)
    assert (report.captioned, report.done_before) == (6, 0)
    assert captions(album)["2"] == expected(2, options=options)
    assert run(album, captioner, options=options).done_before == 6


def test_captions_of_the_user_are_kept(
    album: Path, captioner: Captioner, expected: Callable[..., str]
) -> None:
    (album / "0.txt").write_text("mine", encoding="utf-8")
    report = run(album, captioner)
    assert (report.captioned, report.kept) == (5, 1)
    (album / "1.txt").write_text("edited", encoding="utf-8")
    other = CaptionOptions(GenerationOptions(num_beams=1, max_new_tokens=4))
    run(album, captioner, options=other)
    found = captions(album)
    assert (found["0"], found["1"]) == ("mine", "edited")
    assert found["2"] == expected(2, options=other)


def test_damaged_captions_are_counted_however_many_are_told(
    album: Path, folder: Callable[..., Ended]
) -> None:
    for path in album.rglob("*.png"):
        path.with_suffix(".txt").write_text("null")
    ended = folder(album)
    assert ended.status == 1
    assert "6 had captions" in ended.stderr
    assert "Other problems: 6," in ended.stderr


def test_a_caption_that_was_deleted_is_written_again_without_a_model(
    album: Path, captioner: Captioner, expected: Callable[..., str]
) -> None:
    run(album, captioner)
    (album / "deep" / "5.txt").unlink()

    def load(*_: object, **__: object) -> Any:
        raise AssertionError("a model was loaded")

    without = Captioner("demo", device="cpu", dtype="fp32", manager=ModelManager(loader=load))
    report = run(album, without)
    assert (report.rewritten, report.captioned, report.done_before) == (1, 0, 5)
    assert captions(album)["deep/5"] == expected(5)


def test_restart_captions_again_and_keeps_what_is_there(album: Path, folder: Callable[..., Ended]) -> None:
    folder(album)
    (album / "3.txt").unlink()
    ended = folder(album, "--restart")
    assert "1 captioned, 5 had captions" in ended.stderr
    ended = folder(album, "--restart", "--existing", "overwrite")
    assert "6 captioned" in ended.stderr


def test_the_checkpoint_counts_by_its_content(tmp_path: Path, captioner: Captioner) -> None:
    demo = find_checkpoint("demo")
    assert demo is not None
    copy = Path(shutil.copytree(demo, tmp_path / "copy"))
    os.utime(copy / "model.safetensors", (1, 1))
    same = settings_digest(Captioner(str(copy), device="cpu", dtype="bf16"), ["CAPTION"], OPTIONS)
    assert settings_digest(captioner, ["CAPTION"], OPTIONS) == same
    config = json.loads((copy / "generation_config.json").read_text(encoding="utf-8"))
    (copy / "generation_config.json").write_text(json.dumps({**config, "num_beams": 2}), encoding="utf-8")
    digests = {
        same,
        settings_digest(Captioner(str(copy)), ["CAPTION"], OPTIONS),
        settings_digest(Captioner("demo", dtype="int8"), ["CAPTION"], OPTIONS),
        settings_digest(captioner, ["CAPTION", "GENERATE_TAGS"], OPTIONS),
        settings_digest(captioner, ["CAPTION"], CaptionOptions()),
        settings_digest(captioner, ["CAPTION"], CaptionOptions(background=(0, 0, 0))),
    }
    assert len(digests) == 6


def test_a_setting_counts_by_what_it_does(captioner: Captioner) -> None:
    def digest(**settings: Any) -> str:
        return settings_digest(captioner, ["CAPTION"], CaptionOptions(GenerationOptions(**settings)))

    own = digest()  # three beams, as the checkpoint's file says
    assert digest(num_beams=3, max_new_tokens=1024, do_sample=False) == own
    assert digest(temperature=0.5, top_k=5, top_p=0.5, seed=7) == own
    drawn = digest(do_sample=True, seed=7)
    assert digest(do_sample=True, num_beams=3, seed=7) == drawn
    others = [digest(num_beams=2), digest(length_penalty=2.0), digest(do_sample=True, seed=8)]
    others.append(digest(do_sample=True, seed=7, temperature=0.5))
    assert len({own, drawn, *others}) == 6


def test_captions_within_the_pictures_change_no_picture(
    album: Path, captioner: Captioner, expected: Callable[..., str]
) -> None:
    pytest.importorskip("exiv2")
    assert run(album, captioner, output={"embed": True}).captioned == 6
    assert run(album, captioner, output={"embed": True}).done_before == 6


def test_a_form_that_comes_later_gets_what_is_known(
    album: Path, tmp_path: Path, captioner: Captioner, expected: Callable[..., str]
) -> None:

    out = {"output_dir": tmp_path / "out"}
    run(album, captioner, output=out)
    report = run(album, captioner, output={**out, "forms": (Form.SIDECAR, Form.JSONL)})
    assert (report.captioned, report.rewritten) == (0, 6)
    rows = lines_of(tmp_path / "out" / "captions.jsonl")
    assert sorted(row["GENERATE_TAGS"] for row in rows) == sorted(expected(number) for number in range(6))


# What goes wrong ----------------------------------------------------------------------------


def test_a_bad_picture_is_named_and_stops_no_other(
    album: Path, folder: Callable[..., Ended], expected: Callable[..., str]
) -> None:
    (album / "deep" / "4.png").write_bytes(b"nonsense")
    ended = folder(album)
    assert ended.status == 1
    assert "deep/4.png" in ended.stderr
    assert len(captions(album)) == 5
    assert lines_of(album / "errors.jsonl") == [
        {"name": "deep/4.png", "path": str(album / "deep" / "4.png"), "reason": "a text file, not an image"}
    ]
    again = folder(album)  # nothing has changed: it is not read again, and not forgotten
    assert again.status == 1
    assert "1 failed before" in again.stderr
    assert "1 failed," in folder(album, "--retry-errors").stderr
    assert len(lines_of(album / "errors.jsonl")) == 1
    (album / "deep" / "4.png").write_bytes(drawing(4))
    assert folder(album).status == 0
    assert captions(album)["deep/4"] == expected(4)
    assert not (album / "errors.jsonl").exists()


@posix
def test_a_caption_file_that_cannot_be_read_is_named_and_stops_no_other(
    album: Path, folder: Callable[..., Ended], expected: Callable[..., str]
) -> None:
    (album / "0.txt").symlink_to("0.txt")  # leads to itself
    (album / "deep" / "4.txt").mkdir()
    told = {"0.png": f"{album / '0.txt'}", "deep/4.png": f"{album / 'deep' / '4.txt'}"}
    if os.geteuid() != 0:  # who may read everything
        (album / "1.txt").write_text("of somebody else")
        (album / "1.txt").chmod(0)
        told["1.png"] = f"{album / '1.txt'}"

    plan = folder(album, "--dry-run", "--redo-damaged")
    assert re.search(rf"^ +{len(told)} to fail", plan.stdout, re.MULTILINE)
    assert f"{6 - len(told)} to caption" in plan.stdout
    ended = folder(album, "--existing", "overwrite")
    assert ended.status == 1
    assert f"{6 - len(told)} captioned, {len(told)} failed" in ended.stderr
    errors = {row["name"]: row["reason"] for row in lines_of(album / "errors.jsonl")}
    assert errors.keys() == told.keys()
    for name, path in told.items():
        assert path in errors[name]
        assert "--retry-errors" in errors[name]
    assert (album / "0.txt").readlink() == Path("0.txt")
    assert (album / "deep" / "4.txt").is_dir()
    assert (album / "3.txt").read_text(encoding="utf-8").strip() == expected(3)

    (album / "0.txt").unlink()
    (album / "deep" / "4.txt").rmdir()
    (album / "1.txt").chmod(0o644)
    ended = folder(album, "--retry-errors", "--existing", "overwrite")
    assert ended.status == 0, ended.stderr
    assert captions(album)["deep/4"] == expected(4)
    assert len(captions(album)) == 6
    assert not (album / "errors.jsonl").exists()


def test_a_run_stops_when_too_many_have_failed(album: Path, folder: Callable[..., Ended]) -> None:
    for number in range(3):
        (album / f"{number}.png").write_bytes(b"nonsense")
    ended = folder(album, "--max-errors", 1, "--batch-size", 1)
    assert ended.status == 1
    assert "--max-errors" in ended.stderr
    assert len(captions(album)) < 3
    assert folder(album, "--max-errors", 1).status == 1
    assert len(captions(album)) == 3


def test_pictures_of_one_stem_are_noticed_before_anything_is_written(
    album: Path, folder: Callable[..., Ended]
) -> None:
    (album / "3.jpg").write_bytes(drawing(7, "JPEG"))
    ended = folder(album)
    assert ended.status == 1
    assert "3.jpg" in ended.stderr
    assert "--same-stem" in ended.stderr
    assert captions(album) == {}
    first = folder(album, "--same-stem", "first")
    assert first.status == 0, first.stderr
    assert "6 captioned" in first.stderr
    assert len(captions(album)) == 6


@pytest.mark.parametrize("rule", ["error", "first", "full-name"])
def test_pictures_of_one_stem_in_a_shard_are_noticed_where_kohya_names_them(
    album: Path, tmp_path: Path, folder: Callable[..., Ended], expected: Callable[..., str], rule: str
) -> None:
    shard, out = tmp_path / "s.tar", tmp_path / "metadata.json"
    with tarfile.open(shard, "w") as tar:
        for number, name in enumerate(("a.jpg", "a.png", "b.png")):
            (tmp_path / name).write_bytes(drawing(number, "JPEG" if name == "a.jpg" else "PNG"))
            tar.add(tmp_path / name, name)
    asked = [album, shard, "-o", out, "--same-stem"]
    ended = folder(*asked, rule)
    if rule == "error":
        assert ended.status == 1
        assert "s.tar#a.jpg and s.tar#a.png: " in ended.stderr
        assert "--same-stem" in ended.stderr
        assert not out.exists()
        assert folder(*asked, "full-name").status == 0  # and then by another rule, with all in the journal
        ended = folder(*asked, rule := "first")
    assert ended.status == 0, ended.stderr
    pairs = json.loads(out.read_text(encoding="utf-8"), object_pairs_hook=list)
    in_shard = [(key, dict(entry)["tags"]) for key, entry in pairs if not Path(key).is_absolute()]
    if rule == "first":
        assert in_shard == [("s/a", in_shard[0][1]), ("s/b", expected(2))]
        assert "1 left out" in ended.stderr
    else:
        assert [key for key, _ in in_shard] == ["s/a.jpg", "s/a.png", "s/b.png"]
        assert in_shard[1][1] == expected(1)
    assert len(pairs) == 6 + len(in_shard)


def test_pictures_of_one_stem_are_noticed_across_the_parts_of_a_run(
    album: Path, folder: Callable[..., Ended]
) -> None:
    for number in range(6):  # so many that some pairs are divided
        name = f"{number}.jpg" if number < 4 else f"deep/{number}.jpg"
        (album / name).write_bytes(drawing(number, "JPEG"))
    parts = ("1/3", "2/3", "3/3")
    for part in parts:
        ended = folder(album, "--shard", part)
        assert (ended.status, "6 pictures ask" in ended.stderr) == (1, True), ended.stderr
    assert captions(album) == {}
    told = [folder(album, "--shard", part, "--same-stem", "first") for part in parts]
    assert [ended.status for ended in told] == [0, 0, 0]
    for what in ("captioned", "left out"):
        counts = [int(count) for one in told for count in re.findall(rf"(\d+) {what}", one.stderr)]
        assert sum(counts) == 6
    assert len(captions(album)) == 6


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "no such file or folder: 'nowhere'"),
        ([".", "--shard", "0/4"], "1/4"),
        ([".", "--shard", "5/4"], "1/4"),
        ([".", "-i", "CAPTON:txt"], "Did you mean CAPTION?"),
        ([".", "-i", "CAPTION,CAPTION:txt"], "asks the same twice"),
        ([".", "--output", "out.xyz"], "--format"),
        ([".", "--format", "csv"], "--output"),
        ([".", "--existing", "perhaps"], "perhaps"),
        ([".", "--extension", "png"], "png"),
        ([".", "--fast"], "--fast"),
        (["-", "-"], "once"),
    ],
)
def test_wrong_usage_is_told_before_the_model_is_loaded(
    album: Path,
    folder: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(album)
    ended = folder(*arguments)
    assert ended.status == 2
    assert told in " ".join(ended.stderr.split())
    assert not (album / JOURNAL).exists()


def test_a_folder_without_pictures_is_told(tmp_path: Path, folder: Callable[..., Ended]) -> None:
    (tmp_path / "empty").mkdir()
    ended = folder(tmp_path / "empty")
    assert ended.status == 2
    assert "no picture" in ended.stderr


def test_dry_run_says_what_would_be_done_and_writes_nothing(
    album: Path, folder: Callable[..., Ended]
) -> None:
    before = sorted(album.rglob("*"))
    ended = folder(album, "--dry-run")
    assert ended.status == 0
    assert "6 to caption" in ended.stdout
    assert str(album / JOURNAL) in ended.stdout
    assert sorted(album.rglob("*")) == before
    folder(album)
    (album / "0.png").write_bytes(drawing(5))
    ended = folder(album, "--dry-run")
    assert "1 to caption" in ended.stdout
    assert "5 done before" in ended.stdout


def test_an_output_in_the_way_is_never_overwritten_unasked(
    album: Path, tmp_path: Path, captioner: Captioner
) -> None:

    file = tmp_path / "captions.jsonl"
    file.write_text("mine\n", encoding="utf-8")
    output = {"forms": (Form.JSONL,), "output": file}
    with pytest.raises(OutputError, match=r"captions\.jsonl"):
        run(album, captioner, output=output)
    assert file.read_text(encoding="utf-8") == "mine\n"
    run(album, captioner, output={**output, "existing": Existing.OVERWRITE})
    assert len(lines_of(file)) == 6


# Stopping -----------------------------------------------------------------------------------


def test_a_run_that_is_stopped_writes_what_it_has_and_goes_on_later(
    album: Path, captioner: Captioner, expected: Callable[..., str]
) -> None:
    stop = threading.Event()
    seen: list[RunProgress] = []

    def watch(progress: RunProgress) -> None:
        seen.append(progress)
        if progress.captioned == 2:
            stop.set()

    slow = Captioner("demo", device="cpu", dtype="fp32", batch_size=1)
    options = RunOptions((str(album),), OutputOptions((Column("GENERATE_TAGS"),)), OPTIONS)
    report = FolderRun(options, local_model(slow, options), watch, stop, lambda *_: None).run()
    assert report.stopped
    assert not report.complete
    assert report.captioned == 2
    assert len(captions(album)) == 2
    assert seen[-1].total == 6
    report = run(album, captioner)
    assert (report.captioned, report.done_before) == (4, 2)
    assert captions(album)["deep/5"] == expected(5)


def test_a_run_can_be_ended_within_a_batch(album: Path, captioner: Captioner) -> None:
    def watch(progress: RunProgress) -> None:
        assert not progress.captioned  # all six are one batch
        if any(frame.name == "on_step" for frame in traceback.extract_stack()):  # the model is at work
            raise InterruptedError

    options = RunOptions((str(album),), OutputOptions((Column("GENERATE_TAGS"),)), OPTIONS)
    with pytest.raises(InterruptedError):
        run_folder(options, captioner, watch)
    assert captions(album) == {}
    assert run(album, captioner).captioned == 6


def start(album: Path, *arguments: object, **how: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "promptgen.cli", "folder", str(album), *QUICK, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, **streams | how)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)


@pytest.fixture
def long_album(tmp_path: Path) -> Path:
    """So many that no run comes to its end before it is stopped."""
    folder = tmp_path / "long"
    folder.mkdir()
    pictures = [drawing(number) for number in range(8)]
    for number in range(3000):
        (folder / f"{number:04}.png").write_bytes(pictures[number % 8])
    return folder


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_in_order_and_says_how_to_go_on(long_album: Path, number: signal.Signals) -> None:
    process = start(long_album, "--batch-size", 4, "--report-every", 0.1)
    wait_for(lambda: next(long_album.glob("*.txt"), None), process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    told = stderr.decode()
    assert process.returncode == 130
    assert "Ctrl-C again" in told
    assert f"promptgen folder {long_album}" in told
    assert "of 3000 images" in told
    assert "Traceback" not in told
    assert not list(long_album.glob(".*-wal"))
    with sqlite3.connect(long_album / JOURNAL) as journal:
        rows = journal.execute("SELECT count(*), sum(finished) FROM records").fetchone()
    assert rows == (len(captions(long_album)),) * 2


INTERRUPTED = """
import signal, sys
from promptgen.captioning.runs import run
from promptgen.cli import main

at, sys.argv = int(sys.argv[1]), sys.argv[2:]
found, find_items = 0, run.find_items

def find(*inputs, **how):  # as the user presses Ctrl-C while the so-manieth picture is looked at
    global found
    for item in find_items(*inputs, **how):
        found += 1
        if found == at:
            signal.raise_signal(signal.SIGINT)
        assert found < at + 2
        yield item

run.find_items = find

main()
"""


@posix
@pytest.mark.parametrize("at", [2, 9], ids=["while stems are compared", "while captions are looked for"])
def test_ctrl_c_ends_a_dry_run(album: Path, at: int) -> None:
    before = sorted(album.rglob("*"))
    command = [sys.executable, "-c", INTERRUPTED, str(at), "promptgen", "folder", str(album), "--dry-run"]
    ended = subprocess.run([*command, *QUICK], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 130, ended.stderr
    assert ended.stdout == ""
    assert "Ctrl-C again" in ended.stderr
    assert "Nothing was written" in ended.stderr
    assert sorted(album.rglob("*")) == before


@posix
def test_a_second_ctrl_c_ends_at_once(long_album: Path) -> None:
    process = start(long_album, "--batch-size", 256, "--max-new-tokens", 1000, "--min-new-tokens", 900)
    wait_for(lambda: (long_album / JOURNAL).exists(), process)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - started < 2
    assert process.returncode == 130


@posix
def test_a_second_run_on_one_folder_is_refused(long_album: Path, folder: Callable[..., Ended]) -> None:
    process = start(long_album)
    try:
        wait_for(lambda: next(long_album.glob("*.txt"), None), process)
        ended = folder(long_album)
        assert ended.status == 1
        assert "in use by another run" in ended.stderr
    finally:
        process.kill()
        process.communicate()


@posix
def test_a_full_disk_stops_the_run_with_what_is_done_safe(
    tmp_path: Path, expected: Callable[..., str]
) -> None:
    """The system lets no file grow beyond a limit, which a run meets as it meets a full disk."""
    album = tmp_path / "album"
    album.mkdir()
    for number in range(200):
        (album / f"{number}.png").write_bytes(drawing(number))
    out = tmp_path / "out" / "captions.jsonl"
    limit = 12_000

    import resource

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    journal = tmp_path / "journal.sqlite"
    ready = start(album, "--output", out, "--journal", journal, "--details", preexec_fn=limited)
    _, stderr = ready.communicate(timeout=120)
    assert ready.returncode == 1, stderr
    assert b"error: " in stderr
    assert b"Traceback" not in stderr
    process = start(album, "--output", out, "--journal", journal, "--details")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    rows = lines_of(out)
    assert sorted(row["image"] for row in rows) == sorted(f"{number}.png" for number in range(200))
    assert {row["GENERATE_TAGS"] for row in rows} == {expected(number) for number in range(8)}


@posix
def test_a_terminal_shows_a_bar(album: Path) -> None:
    import fcntl
    import pty
    import termios

    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("4H", 40, 100, 0, 0))
    process = start(album, "--batch-size", 1, stderr=its_end)
    os.close(its_end)
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:  # how Linux says that the last process has closed the terminal
        pass
    process.communicate(timeout=60)
    os.close(terminal)
    assert process.returncode == 0
    assert b"6/6" in shown
    assert b"image/s" in shown or b"s/image" in shown


# Kills at any moment ------------------------------------------------------------------------

# The libraries are loaded once; each run is a child that begins with them and is killed.
SERVER = """
import json, os, sys
import torch, transformers, PIL.Image
from promptgen.cli import main
from promptgen.captioning import Captioner
import promptgen.florence2.model, promptgen.captioning.runs.run, promptgen.models_cache.manager

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        sys.stdin = open(os.devnull)
        sys.argv = ["promptgen", *json.loads(line)]
        main()
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Runs:
    """Starts runs of the command, to be killed or waited for."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._log = open(log, "wb")  # noqa: SIM115 - closed by `close`
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            encoding="utf-8", env=environment, bufsize=1,
        )  # fmt: skip
        self._line = json.dumps(["folder", *arguments, *QUICK]) + "\n"

    def run(self, until: Callable[[], object] | None = None) -> int:
        """One run, killed when ``until`` says so; its exit status."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(self._line)
        self._server.stdin.flush()
        child = int(self._server.stdout.readline())
        ended = select.poll()
        ended.register(self._server.stdout, select.POLLIN)
        while until is not None and not ended.poll(5):
            if until():
                os.kill(child, signal.SIGKILL)
                break
        return int(self._server.stdout.readline())

    def close(self) -> None:
        self._server.kill()
        self._server.communicate()
        self._log.close()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Callable[[list[str]], Runs]]:
    begun: list[Runs] = []

    def begin(arguments: list[str]) -> Runs:
        begun.append(Runs(arguments, tmp_path / "log"))
        return begun[-1]

    yield begin
    for one in begun:
        one.close()


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of these chunks."""
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        whole += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return whole


def header(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def broken_pictures() -> dict[str, bytes]:
    """Twenty files that are called pictures and are none, or no longer; by their extension and a number."""
    noise = random.Random(1).randbytes(4000)
    jpeg, gif, webp, tiff, bmp = (drawing(1, form) for form in ("JPEG", "GIF", "WEBP", "TIFF", "BMP"))
    return {
        "empty.png": b"",
        "text.jpg": b"not a picture, but a note",
        "page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "paper.jpg": b"%PDF-1.7\n" + noise,
        "noise.webp": noise,
        "zeros.png": bytes(5000),
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "header.jpg": jpeg[:20],
        "cut.png": drawing(2)[:60],
        "signature.png": b"\x89PNG\r\n\x1a\n",
        "cut.gif": gif[:30],
        "cut.webp": webp[: len(webp) // 2],
        "cut.tiff": tiff[:8],
        "cut.bmp": bmp[:100],
        "no_pixels.png": png(header(0, 0), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")),
        "bomb.png": png(header(60000, 60000), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")),
        "garbled.png": png(header(64, 64), (b"IDAT", noise), (b"IEND", b"")),
        "phone.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + noise,
        "film.jpg": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + noise,
    }


def make_many(folder: Path, good: int, bad_of_each: int) -> dict[str, int]:
    """A folder tree of good and broken pictures; which drawing each good one is, by its name."""
    names = {}
    drawings = [(drawing(number), f"{number}") for number in range(8)]
    for number in range(good):
        below = folder / f"{number % 7}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"{number:04}.png").write_bytes(drawings[number % 8][0])
        names[f"{number % 7}/{number:04}.png"] = number % 8
    for name, content in broken_pictures().items():
        for number in range(bad_of_each):
            (
                folder / f"{number % 7}" / f"bad-{number}-{name.replace('.', '-')}{Path(name).suffix}"
            ).write_bytes(content)
    return names


def test_broken_pictures_are_broken_in_twenty_ways() -> None:
    assert len(broken_pictures()) == 20
    for content in broken_pictures().values():
        with pytest.raises(ImageError):
            open_image(content)


def finished_captions(album: Path) -> dict[str, int]:
    """The inode of each caption file whose record the journal has finished."""
    if not (album / JOURNAL).exists():
        return {}
    with sqlite3.connect(album / JOURNAL) as journal:
        assert journal.execute("PRAGMA quick_check").fetchone() == ("ok",)
        tables = journal.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        names = (
            journal.execute("SELECT name FROM records WHERE finished = 1 AND error IS NULL").fetchall()
            if tables
            else []
        )
    journal.close()
    return {name.decode(): (album / name.decode()).with_suffix(".txt").stat().st_ino for (name,) in names}


def at_a_random_moment(chance: random.Random, count: Callable[[], int], most: int) -> Callable[[], bool]:
    """Says yes a while after up to ``most`` captions more are there; now and then before the first is."""
    started = time.monotonic()
    early = started + chance.uniform(0, 1) if chance.random() < 0.25 else None
    wanted, pause = count() + chance.randrange(most), chance.uniform(0, 0.1)
    due: list[float] = []

    def is_due() -> bool:
        if early is not None:
            return time.monotonic() > early
        if not due and count() > wanted:
            due.append(time.monotonic() + pause)
        return bool(due) and time.monotonic() > due[0]

    return is_due


@posix
@pytest.mark.slow
def test_killed_at_many_moments_every_caption_is_there_once_and_whole(
    tmp_path: Path, runs: Callable[[list[str]], Runs], expected: Callable[..., str]
) -> None:
    album = tmp_path / "album"
    names = make_many(album, 1900, 5)
    assert len(list(album.rglob("*.*"))) == 2000
    texts = [expected(number) for number in range(8)]
    assert len(set(texts)) > 4
    moments = random.Random(5)
    run = runs([str(album), "--quiet", "--batch-size", "16"])
    kills, kept = 0, dict[str, int]()
    while kills < 25:
        moment = at_a_random_moment(moments, lambda: sum(1 for _ in album.rglob("*.txt")), 150)
        if run.run(moment) != -signal.SIGKILL:
            break
        kills += 1
        for name, text in captions(album).items():
            assert text == texts[names[f"{name}.png"]]
        now = finished_captions(album)
        assert {name: now[name] for name in kept} == kept  # nothing that was done has been done again
        kept = now
    print(f"{kills} kills; {len(kept)} captions were finished at the last of them")
    assert kills >= 10
    assert run.run() == 1, (tmp_path / "log").read_text(encoding="utf-8")
    found = captions(album)
    assert len(found) == 1900
    assert {f"{name}.png": text for name, text in found.items()} == {
        name: texts[number] for name, number in names.items()
    }
    now = finished_captions(album)
    assert len(now) == 1900
    assert {name: now[name] for name in kept} == kept
    errors = lines_of(album / "errors.jsonl")
    assert len(errors) == len({error["name"] for error in errors}) == 100
    assert all(error["reason"] and Path(error["path"]).exists() for error in errors)
    others = {
        path.name for path in album.rglob("*") if path.is_file() and path.suffix not in (".txt", ".png")
    }
    assert {name for name in others if not name.startswith("bad-")} == {JOURNAL, "errors.jsonl"}
    with sqlite3.connect(album / JOURNAL) as journal:
        assert journal.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert journal.execute("SELECT count(*), sum(finished), count(error) FROM records").fetchone() == (
            2000, 2000, 100,
        )  # fmt: skip


@posix
@pytest.mark.slow
def test_killed_at_many_moments_one_file_has_each_caption_once(
    tmp_path: Path, runs: Callable[[list[str]], Runs], expected: Callable[..., str]
) -> None:
    album, out = tmp_path / "album", tmp_path / "out"
    names = make_many(album, 760, 2)
    texts = [expected(number) for number in range(8)]
    moments = random.Random(6)
    run = runs([str(album), "--quiet", "--batch-size", "16", "--output", str(out / "captions.jsonl")])
    file, kills = out / "captions.jsonl", 0
    while kills < 15:
        moment = at_a_random_moment(moments, lambda: file.exists() and file.read_bytes().count(b"\n"), 100)
        if run.run(moment) != -signal.SIGKILL:
            break
        kills += 1
    print(f"{kills} kills")
    assert kills >= 7
    assert run.run() == 1, (tmp_path / "log").read_text(encoding="utf-8")
    rows = lines_of(out / "captions.jsonl")
    assert len(rows) == 760
    assert {row["image"]: row["GENERATE_TAGS"] for row in rows} == {
        name: texts[number] for name, number in names.items()
    }
    errors = lines_of(out / "captions.errors.jsonl")
    assert len(errors) == len({error["name"] for error in errors}) == 40
    assert sorted(path.name for path in out.iterdir()) == [
        f".captions.jsonl{JOURNAL}", "captions.errors.jsonl", "captions.jsonl",
    ]  # fmt: skip
