"""Runs that go on in other circumstances: with more outputs, beside other runs, and told to stop at once."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from promptgen.captioning import Captioner, CaptionOptions, GenerationOptions
from promptgen.captioning.runs import run as runs
from promptgen.captioning.runs.asked_model import local_model
from promptgen.captioning.runs.outputs import Column, Existing, Form, OutputError, OutputOptions
from promptgen.captioning.runs.records import Item
from promptgen.captioning.runs.run import FolderRun, RunOptions, RunProgress, RunReport
from promptgen.captioning.runs.sources import find_items

OPTIONS = CaptionOptions(GenerationOptions(num_beams=1, max_new_tokens=8))


def drawing(number: int) -> bytes:
    image = Image.new("RGB", (64, 64), ("white", "cyan")[number % 2])
    ImageDraw.Draw(image).ellipse((12, 12, 52, 52), fill=("red", "blue")[number // 2 % 2])
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner("demo", device="cpu", dtype="fp32")


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Four pictures that can be read from their shard alone."""
    path = tmp_path / "in" / "pictures.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for number in range(4):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(drawing(number))
            tar.addfile(member, io.BytesIO(drawing(number)))
    return path


def run(
    source: Path,
    captioner: Captioner,
    *forms: Form,
    stop: threading.Event | None = None,
    told: list[tuple[str, str]] | None = None,
    on_progress: Callable[[RunProgress], None] = lambda progress: None,
    **output: Any,
) -> RunReport:
    where = {"forms": forms, "output_dir": source.parent.parent / "out", **output}
    options = RunOptions((str(source),), OutputOptions((Column("GENERATE_TAGS"),), **where), OPTIONS)
    problems = [] if told is None else told
    model = local_model(captioner, options)
    return FolderRun(
        options, model, on_progress, stop or threading.Event(), lambda *one: problems.append(one)
    ).run()


def samples(out: Path) -> list[str]:
    """The pictures that all shards have samples of."""
    names = []
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    content = tar.extractfile(member)
                    assert content is not None
                    names.append(json.loads(content.read())["image"])
    return names


NAMES = [f"pictures.tar#{number}.png" for number in range(4)]


# Outputs that come later --------------------------------------------------------------------


def test_another_output_leaves_the_shards_as_they_are(shard: Path, captioner: Captioner) -> None:
    out, told = shard.parent.parent / "out", []
    run(shard, captioner, Form.WEBDATASET, told=told)
    before = [path.read_bytes() for path in sorted(out.glob("*.tar"))]
    report = run(shard, captioner, Form.WEBDATASET, Form.JSONL, told=told)
    assert (report.captioned, report.rewritten, told) == (0, 4, [])
    assert [path.read_bytes() for path in sorted(out.glob("*.tar"))] == before
    assert samples(out) == NAMES
    lines = (out / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["image"] for line in lines] == NAMES


def test_an_output_whose_first_run_was_cut_short_gets_all_by_the_next(
    shard: Path, captioner: Captioner
) -> None:
    out, told = shard.parent.parent / "out", []
    run(shard, captioner, Form.JSONL, told=told)
    stopped = threading.Event()
    stopped.set()
    assert run(shard, captioner, Form.JSONL, Form.WEBDATASET, stop=stopped).rewritten == 0
    assert run(shard, captioner, Form.JSONL, Form.WEBDATASET, told=told).rewritten == 4
    assert samples(out) == NAMES
    assert run(shard, captioner, Form.JSONL, Form.WEBDATASET, told=told).rewritten == 0
    assert (samples(out), told) == (NAMES, [])


def test_an_output_that_was_left_out_for_a_while_gets_what_came_meanwhile(
    shard: Path, captioner: Captioner
) -> None:
    out, told = shard.parent.parent / "out", []
    run(shard, captioner, Form.WEBDATASET, told=told)
    with tarfile.open(shard, "a") as tar:
        member = tarfile.TarInfo("4.png")
        member.size = len(drawing(4))
        tar.addfile(member, io.BytesIO(drawing(4)))
    run(shard, captioner, Form.JSONL, told=told)
    run(shard, captioner, Form.JSONL, Form.WEBDATASET, told=told)
    assert samples(out) == [*NAMES, "pictures.tar#4.png"]
    report = run(shard, captioner, Form.JSONL, Form.WEBDATASET, told=told)
    assert (report.rewritten, told) == (0, [])


# Beside others ------------------------------------------------------------------------------


def test_a_part_leaves_the_copies_of_another_part_alone(shard: Path, captioner: Captioner) -> None:
    out = shard.parent.parent / "out"
    out.mkdir()
    kept: list[Path] = []

    def another_part(progress: RunProgress) -> None:
        """Leaves what a part has that is at work."""
        for copy in out.glob(".promptgen-picture-*-1-of-2*"):
            other = copy.with_name(copy.name.replace("-1-of-2", "-2-of-2"))
            other.touch()
            kept.append(other)

    run(shard, captioner, Form.WEBDATASET, part=(1, 2), on_progress=another_part)
    (out / ".promptgen-picture-captions-2-of-2.0123.tmp").touch()
    run(shard, captioner, Form.WEBDATASET, part=(1, 2))
    assert (out / ".promptgen-picture-captions-2-of-2.0123.tmp").exists()
    assert all(copy.exists() for copy in kept)


def test_a_shard_of_the_user_is_not_removed(shard: Path, captioner: Captioner) -> None:
    run(shard, captioner, Form.WEBDATASET)
    foreign = shard.parent.parent / "out" / "captions-000007.tar"
    foreign.write_bytes(b"mine")
    with pytest.raises(OutputError, match="captions-000007"):
        run(shard, captioner, Form.WEBDATASET)
    assert foreign.read_bytes() == b"mine"
    run(shard, captioner, Form.WEBDATASET, existing=Existing.OVERWRITE)
    assert not foreign.exists()


# Written anew -------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_stays_a_link_when_its_file_is_written_anew(tmp_path: Path, captioner: Captioner) -> None:
    album, file = tmp_path / "album", tmp_path / "elsewhere" / "all.jsonl"
    for folder in (album, file.parent, tmp_path / "out"):
        folder.mkdir()
    (album / "0.png").write_bytes(drawing(0))
    (tmp_path / "out" / "captions.jsonl").symlink_to(file)
    run(album, captioner, Form.JSONL, output_dir=tmp_path / "out")
    (album / "0.png").write_bytes(drawing(3))
    run(album, captioner, Form.JSONL, output_dir=tmp_path / "out")
    assert (tmp_path / "out" / "captions.jsonl").is_symlink()
    assert len(file.read_text(encoding="utf-8").splitlines()) == 1


# Told to stop -------------------------------------------------------------------------------


def test_a_run_stops_while_it_leaves_out_what_is_done(
    shard: Path, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shard, captioner, Form.JSONL)
    until = time.monotonic() + 20

    def without_end(*inputs: Any, **settings: Any) -> Iterator[Item]:
        while time.monotonic() < until:
            yield from find_items(*inputs, **settings)

    monkeypatch.setattr(runs, "find_items", without_end)
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    report = run(shard, captioner, Form.JSONL, stop=stop)
    assert report.stopped
    assert report.done_before > 4
    assert time.monotonic() < until - 10
