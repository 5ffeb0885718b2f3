"""Folder runs from and to object stores: a server of S3, one of HTTP, and fsspec's store in memory."""

from __future__ import annotations

import csv
import functools
import http.server
import io
import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image, ImageDraw
from promptgen.captioning import Captioner, CaptionOptions, GenerationOptions
from promptgen.captioning.runs.asked_model import local_model
from promptgen.captioning.runs.flow import Behind
from promptgen.captioning.runs.journal import JournalError
from promptgen.captioning.runs.outputs import (
    Column,
    Existing,
    Form,
    OutputError,
    OutputOptions,
    ShardLimits,
)
from promptgen.captioning.runs.run import FolderRun, RunOptions, RunProgress, RunReport, run_folder
from promptgen.captioning.runs.sources import SourceError, find_items
from promptgen.captioning.runs.stores import StorePath, as_place, hold
from promptgen.captioning.runs.stores.hold import HeldError, Hold
from promptgen.cli import main

fsspec = pytest.importorskip("fsspec")
OPTIONS = CaptionOptions(GenerationOptions(num_beams=1, max_new_tokens=8))
QUICK = ("--model", "demo", "--device", "cpu", "--dtype", "fp32", "--num-beams", "1", "--max-new-tokens", "8")
SHAPES = [
    (ground, figure, colour)
    for ground in ("white", "cyan")
    for figure in ("ellipse", "rectangle")
    for colour in ("red", "blue")
]


@functools.cache
def drawing(number: int) -> bytes:
    """One of eight pictures that the demo model tells apart."""
    ground, figure, colour = SHAPES[number % len(SHAPES)]
    image = Image.new("RGB", (64, 64), ground)
    getattr(ImageDraw.Draw(image), figure)((12, 12, 52, 52), fill=colour)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner("demo", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def expected(captioner: Captioner) -> Callable[[int], str]:
    @functools.cache
    def answer(number: int) -> str:
        (result,) = captioner.caption(drawing(number), "GENERATE_TAGS", OPTIONS)
        return result.results[0].text

    return lambda number: answer(number % len(SHAPES))


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A server of S3 on this machine, to which all ``s3://`` of this module and its children lead."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else it tells of every request
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield fsspec.filesystem("s3", use_listings_cache=False)
        fsspec.filesystem("s3").clear_instance_cache()
        server.stop()


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    """A bucket of this test alone."""
    name = f"bucket-{abs(hash(request.node.name))}"
    s3.mkdir(name)
    return f"s3://{name}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one: each test is on a machine of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("LOCALAPPDATA", str(folder))
    return folder


def put_album(fs: Any, url: str, count: int = 6) -> None:
    """So many pictures, the last two a folder below, and one that is broken."""
    for number in range(count):
        name = f"{number}.png" if number < count - 2 else f"deep/{number}.png"
        fs.pipe_file(f"{url}/{name}", drawing(number))
    fs.pipe_file(f"{url}/broken.png", drawing(1)[:60])


def content(fs: Any, url: str) -> dict[str, bytes]:
    """All objects below, by their names there; those of the journal and pictures left out."""
    root = fs._strip_protocol(url).rstrip("/")
    found = {name[len(root) + 1 :]: fs.cat_file(name) for name in fs.find(root)}
    return {
        name: data for name, data in found.items() if not name.endswith(".png") and "/." not in f"/{name}"
    }


def run(url: str, captioner: Captioner, *, output: Any = None, **changes: Any) -> RunReport:
    """A run by the Python interface."""
    output = {"columns": (Column("GENERATE_TAGS"),)} | (output or {})
    settings = {"inputs": (url,), "captions": OPTIONS} | changes
    return run_folder(RunOptions(output=OutputOptions(**output), **settings), captioner)


class Ended(NamedTuple):
    """How a run of the command ended."""

    status: int
    stderr: str


@pytest.fixture
def folder(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Runs ``promptgen folder`` in this process."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["promptgen", "folder", *map(str, arguments), *QUICK])
        capfd.readouterr()
        status = 0
        try:
            main()
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else 0
        return Ended(status, capfd.readouterr().err)

    return run


# The same as on a disk ----------------------------------------------------------------------


def test_captions_beside_pictures_in_a_store_are_those_of_a_folder(
    s3: Any, bucket: str, tmp_path: Path, folder: Callable[..., Ended]
) -> None:
    put_album(s3, f"{bucket}/album")
    local = tmp_path / "album"
    put_album(fsspec.filesystem("file", auto_mkdir=True), str(local))
    assert folder(local).status == 1
    ended = folder(f"{bucket}/album")
    assert ended.status == 1, ended.stderr
    assert "6 captioned, 1 failed" in ended.stderr
    assert f"{bucket}/album/errors.jsonl" in ended.stderr
    of_store, of_folder = content(s3, f"{bucket}/album"), content(fsspec.filesystem("file"), str(local))
    error = json.loads(of_store.pop("errors.jsonl"))
    assert (error["name"], error["path"]) == ("broken.png", f"{bucket}/album/broken.png")
    assert error["reason"] == json.loads(of_folder.pop("errors.jsonl"))["reason"]
    assert of_store == of_folder
    assert len(of_store) == 6
    ended = folder(f"{bucket}/album")
    assert "0 captioned, 6 done before, 1 failed before" in ended.stderr


@pytest.mark.parametrize("form", [Form.JSONL, Form.CSV, Form.PARQUET, Form.KOHYA, Form.IMAGEFOLDER])
def test_one_file_in_a_store_is_that_of_a_disk(
    form: Form, s3: Any, bucket: str, tmp_path: Path, captioner: Captioner
) -> None:
    put_album(s3, f"{bucket}/album")
    output = {"forms": (form,), "output_dir": as_place(f"{bucket}/album")}
    report = run(f"{bucket}/album", captioner, output=output)
    assert (report.captioned, report.failed) == (6, 1)
    local = tmp_path / "album"
    put_album(fsspec.filesystem("file", auto_mkdir=True), str(local))
    run(str(local), captioner, output={"forms": (form,), "output_dir": local})
    of_store, of_folder = content(s3, f"{bucket}/album"), content(fsspec.filesystem("file"), str(local))
    del of_store["errors.jsonl"], of_folder["errors.jsonl"]
    if form is Form.KOHYA:  # which names pictures by their full path
        of_folder = {
            name: data.replace(f"{local}/".encode(), b"").replace(b'.png"', b'"')
            for name, data in of_folder.items()
        }
    assert of_store == of_folder
    s3.pipe_file(f"{bucket}/album/7.png", drawing(7))
    assert run(f"{bucket}/album", captioner, output=output).captioned == 1
    (name,) = of_store
    assert content(s3, f"{bucket}/album")[name] != of_store[name]


def test_pictures_of_a_store_may_have_captions_on_a_disk(
    s3: Any, bucket: str, tmp_path: Path, captioner: Captioner, expected: Callable[[int], str]
) -> None:
    put_album(s3, f"{bucket}/album")
    run(f"{bucket}/album", captioner, output={"output_dir": tmp_path / "out"})
    assert (tmp_path / "out" / "deep" / "5.txt").read_text(encoding="utf-8").strip() == expected(5)
    assert content(s3, bucket) == {}


def test_pictures_of_a_disk_may_have_captions_in_a_store(
    s3: Any, bucket: str, tmp_path: Path, captioner: Captioner, expected: Callable[[int], str]
) -> None:
    put_album(fsspec.filesystem("file", auto_mkdir=True), str(tmp_path / "album"))
    run(str(tmp_path / "album"), captioner, output={"output_dir": as_place(f"{bucket}/out")})
    found = content(s3, f"{bucket}/out")
    assert found["deep/5.txt"].decode().strip() == expected(5)
    assert not list((tmp_path / "album").glob("*.txt"))


# What is there already ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("existing", "text"),
    [
        (Existing.SKIP, "mine"),
        (Existing.OVERWRITE, "{}"),
        (Existing.APPEND, "mine, {}"),
        (Existing.PREPEND, "{}, mine"),
    ],
)
def test_captions_of_the_user_count_in_a_store(
    existing: Existing, text: str, s3: Any, bucket: str, captioner: Captioner, expected: Callable[[int], str]
) -> None:
    put_album(s3, f"{bucket}/album", 3)
    s3.pipe_file(f"{bucket}/album/0.txt", b"mine\n")
    for _ in range(2):
        run(f"{bucket}/album", captioner, output={"existing": existing})
    tags = expected(0).rstrip(",") if existing is Existing.PREPEND else expected(0)
    assert content(s3, f"{bucket}/album")["0.txt"].decode().strip() == text.format(tags)


def test_a_caption_that_was_deleted_is_written_again(s3: Any, bucket: str, captioner: Captioner) -> None:
    put_album(s3, f"{bucket}/album", 4)
    run(f"{bucket}/album", captioner)
    before = content(s3, f"{bucket}/album")
    s3.rm_file(f"{bucket}/album/0.txt")
    report = run(f"{bucket}/album", captioner)
    assert (report.captioned, report.rewritten, report.done_before) == (0, 1, 3)
    assert content(s3, f"{bucket}/album") == before


def test_a_foreign_object_is_not_overwritten(s3: Any, bucket: str, captioner: Captioner) -> None:
    put_album(s3, f"{bucket}/album", 3)
    s3.pipe_file(f"{bucket}/out.jsonl", b'{"image": "theirs"}\n')
    place = as_place(f"{bucket}/out.jsonl")
    output = {"forms": (Form.JSONL,), "output": place}
    with pytest.raises(OutputError, match=f"'{bucket}/out.jsonl' is there already"):
        run(f"{bucket}/album", captioner, output=output)
    run(f"{bucket}/album", captioner, output={**output, "existing": Existing.APPEND})
    rows = [json.loads(line) for line in s3.cat_file(f"{bucket}/out.jsonl").splitlines()]
    assert [row["image"] for row in rows] == ["theirs", "0.png", "deep/1.png", "deep/2.png"]


def test_restart_forgets_the_journal_in_the_store(s3: Any, bucket: str, captioner: Captioner) -> None:
    put_album(s3, f"{bucket}/album", 3)
    run(f"{bucket}/album", captioner)
    report = run(f"{bucket}/album", captioner, restart=True, output={"existing": Existing.OVERWRITE})
    assert report.captioned == 3
    assert run(f"{bucket}/album", captioner).done_before == 3


# Kills --------------------------------------------------------------------------------------

ALBUM = 50
STORE_FORMS = (Form.SIDECAR, Form.JSONL, Form.PARQUET, Form.WEBDATASET)


def run_all_forms(bucket: str, captioner: Captioner, on_progress: Callable[[RunProgress], None]) -> RunReport:
    output = OutputOptions(
        columns=(Column("GENERATE_TAGS"),),
        forms=STORE_FORMS,
        output_dir=as_place(f"{bucket}/out"),
        shard_limits=ShardLimits(samples=16),
    )
    return run_folder(RunOptions((f"{bucket}/album",), output, OPTIONS), captioner, on_progress)


def run_until_killed(bucket: str, captions: int) -> None:
    """A run of a process of its own, which gets SIGKILL once it has so many captions."""

    def kill(progress: RunProgress) -> None:
        if progress.captioned >= captions:
            time.sleep(1.1)  # the thread that writes is at the last group, or nearly
            os.kill(os.getpid(), signal.SIGKILL)

    run_all_forms(bucket, Captioner("demo", device="cpu", dtype="fp32", batch_size=4), kill)


# The libraries are loaded once; each run is a child that begins with them, on a machine of its own.
CHILD = """
import os, runpy, sys
import torch, transformers, PIL.Image, s3fs
import promptgen.florence2.model, promptgen.models_cache.manager
run_until_killed = runpy.run_path(sys.argv[1])["run_until_killed"]
for captions, cache in zip(sys.argv[3::2], sys.argv[4::2]):
    child = os.fork()
    if child == 0:
        os.environ["XDG_CACHE_HOME"] = cache
        run_until_killed(sys.argv[2], int(captions))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL and fork")
def test_another_machine_goes_on_after_a_kill(
    s3: Any, bucket: str, captioner: Captioner, tmp_path: Path, expected: Callable[[int], str]
) -> None:
    """Kills two runs; each time the next one knows only what is in the store."""
    put_album(s3, f"{bucket}/album", ALBUM)
    moments = ["33", str(tmp_path / "first"), "12", str(tmp_path / "second")]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, __file__, bucket, *moments], timeout=200, capture_output=True
    )
    assert child.stdout.split() == [b"-9", b"-9"], child.stderr.decode()
    known = in_journal(s3, f"{bucket}/out/.promptgen-run")
    assert known  # a group at least, which is not full on a slow machine
    report = run_all_forms(bucket, captioner, lambda progress: None)
    assert report.captioned == ALBUM - len(known - {"broken.png"})
    texts = {
        f"{number}.png" if number < ALBUM - 2 else f"deep/{number}.png": expected(number)
        for number in range(ALBUM)
    }
    found = content(s3, f"{bucket}/out")
    sidecars = {name[:-4]: data.decode().strip() for name, data in found.items() if name.endswith(".txt")}
    assert sidecars == {name[:-4]: text for name, text in texts.items()}
    rows = [json.loads(line) for line in found["captions.jsonl"].splitlines()]
    assert len(rows) == ALBUM
    assert {row["image"]: row["GENERATE_TAGS"] for row in rows} == texts
    assert rows_of_parquet(found["captions.parquet"]) == texts
    assert samples_of(shards_of(s3, f"{bucket}/out")) == texts
    assert [json.loads(line)["name"] for line in found["errors.jsonl"].splitlines()] == ["broken.png"]
    journal = s3.ls(f"{bucket}/out/.promptgen-run", detail=False)
    assert len(journal) == 1  # one snapshot is left
    assert journal[0].endswith(".sqlite")
    assert run_all_forms(bucket, captioner, lambda progress: None).done_before == ALBUM


@pytest.mark.slow
def test_a_run_may_end_behind_any_request(
    memory: Any, captioner: Captioner, cache: Path, expected: Callable[[int], str], monkeypatch: Any
) -> None:
    """As if the machine had died then: nothing else reaches the store, and its files are gone."""
    monkeypatch.setitem(Behind.__init__.__kwdefaults__, "group", 2)
    put_album(memory, "/album", 4)
    pictures = dict(memory.store)
    requests = dying_after(memory, monkeypatch)
    texts = {("deep/" if number > 1 else "") + f"{number}.png": expected(number) for number in range(4)}
    options = RunOptions(
        ("memory://album",),
        OutputOptions(
            columns=(Column("GENERATE_TAGS"),),
            forms=(Form.SIDECAR, Form.JSONL, Form.WEBDATASET),
            output_dir=as_place("memory://out"),
            shard_limits=ShardLimits(samples=2),
        ),
        OPTIONS,
    )
    moment = 0
    while True:
        moment += 1
        memory.store.clear()
        memory.store.update(pictures)
        shutil.rmtree(cache, ignore_errors=True)
        requests.clear()
        requests.append(moment)
        try:
            run_folder(options, captioner)
        except (JournalError, OutputError):
            requests.clear()
        else:
            break
        shutil.rmtree(cache)
        answered = in_journal(memory, "/out/.promptgen-run") | in_snapshot(memory, cache)
        report = run_folder(options, captioner)
        assert report.captioned == 4 - len(answered - {"broken.png"}), moment
        found = content(memory, "/out")
        assert {
            name[:-4]: data.decode().strip() for name, data in found.items() if name.endswith(".txt")
        } == {name[:-4]: text for name, text in texts.items()}, moment
        rows = [json.loads(line) for line in found["captions.jsonl"].splitlines()]
        assert len(rows) == 4, moment
        assert {row["image"]: row["GENERATE_TAGS"] for row in rows} == texts, moment
        assert samples_of(shards_of(memory, "/out")) == texts, moment
        assert [json.loads(line)["name"] for line in found["errors.jsonl"].splitlines()] == ["broken.png"]
    assert moment > 20


def dying_after(fs: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests that change the store are still answered; empty: all of them."""
    left: list[int] = []
    lock = threading.RLock()

    def counted(request: Callable[..., Any]) -> Callable[..., Any]:
        def answer(*arguments: Any, **options: Any) -> Any:
            with lock:
                if left and left[0] <= 0:
                    raise PermissionError("the machine is dead")
                result = request(*arguments, **options)
                if left:
                    left[0] -= 1
                    if left[0] <= 0:
                        raise PermissionError("the machine dies")
                return result

        return answer

    for name in ("pipe_file", "put_file", "rm_file"):
        monkeypatch.setattr(type(fs), name, counted(getattr(type(fs), name)))
    return left


def in_snapshot(fs: Any, cache: Path) -> set[str]:
    """The pictures whose answers are in the newest snapshot in the store."""
    snapshots = [name for name in fs.ls("/out/.promptgen-run", detail=False) if name.endswith(".sqlite")]
    if not snapshots:
        return set()
    cache.mkdir(exist_ok=True)
    (cache / "snapshot").write_bytes(fs.cat_file(max(snapshots)))
    with sqlite3.connect(cache / "snapshot") as journal:
        return {os.fsdecode(name) for (name,) in journal.execute("SELECT name FROM records")}


def in_journal(fs: Any, url: str) -> set[str]:
    """The pictures whose answers are in segments in the store."""
    names = set()
    for segment in fs.ls(url, detail=False):
        if segment.endswith(".jsonl"):
            entries = map(json.loads, fs.cat_file(segment).splitlines())
            names |= {entry["name"] for entry in entries if "name" in entry}
    return names


def rows_of_parquet(data: bytes) -> dict[str, str]:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(io.BytesIO(data)).to_pylist()
    found = {row["image"]: row["GENERATE_TAGS"] for row in rows}
    assert len(found) == len(rows)
    return found


def shards_of(fs: Any, url: str) -> dict[str, bytes]:
    return {name: data for name, data in content(fs, url).items() if name.endswith(".tar")}


def samples_of(shards: dict[str, bytes]) -> dict[str, str]:
    """The captions in tar shards, by the picture's name; each sample whole, and there once."""
    found = {}
    for data in shards.values():
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name in members:
            stem, _, extension = name.partition(".")
            if extension == "json":
                row = json.loads(members[name])
                assert members[f"{stem}.txt"].decode() == row["GENERATE_TAGS"]
                assert members[f"{stem}.png"].startswith(b"\x89PNG")
                assert row["image"] not in found
                found[row["image"]] = row["GENERATE_TAGS"]
    return found


def test_shards_are_written_anew_when_a_picture_has_changed(
    s3: Any, bucket: str, captioner: Captioner, expected: Callable[[int], str]
) -> None:
    put_album(s3, f"{bucket}/album", 6)
    output = {
        "forms": (Form.WEBDATASET,),
        "output": as_place(f"{bucket}/out"),
        "shard_limits": ShardLimits(4),
    }
    run(f"{bucket}/album", captioner, output=output)
    assert len(samples_of(shards_of(s3, f"{bucket}/out"))) == 6
    s3.pipe_file(f"{bucket}/album/0.png", drawing(7))
    run(f"{bucket}/album", captioner, output=output)
    found = samples_of(shards_of(s3, f"{bucket}/out"))
    assert len(found) == 6
    assert found["0.png"] == expected(7)


def test_shards_made_of_shards_are_written_anew_under_other_settings(
    memory: Any, captioner: Captioner, expected: Callable[[int], str]
) -> None:
    pytest.importorskip("pyarrow.parquet")
    make_inputs(memory, "/base")
    output = {"forms": (Form.WEBDATASET,), "output": as_place("memory://out"), "shard_limits": ShardLimits(2)}
    short = CaptionOptions(GenerationOptions(num_beams=1, max_new_tokens=3))
    assert run("memory://base/shard.tar", captioner, output=output, captions=short).captioned == 3
    before = samples_of(shards_of(memory, "/out"))
    report = run("memory://base/shard.tar", captioner, output=output)
    assert (report.captioned, report.problems) == (3, 0)
    found = samples_of(shards_of(memory, "/out"))
    assert found == {f"shard.tar#{number}.png": expected(number) for number in range(3)}
    assert found.keys() == before.keys()
    assert all(found[name] != before[name] for name in found)


# Two runs at once ---------------------------------------------------------------------------


def test_a_run_that_lives_is_not_disturbed_and_a_dead_one_is(s3: Any, bucket: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hold, "BEAT", 0.2)
        beating = Hold(StorePath(f"{bucket}/beating.json"))
        with pytest.raises(HeldError, match=f"process {os.getpid()} on"):
            Hold(StorePath(f"{bucket}/beating.json"))
        beating.release()
        s3.pipe_file(f"{bucket}/dead.json", b'{"host": "another", "pid": 1, "token": "x", "beat": 7}')
        Hold(StorePath(f"{bucket}/dead.json")).release()
    assert s3.find(bucket) == []


def test_a_run_that_was_away_does_not_write_behind_another(memory: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hold, "BEAT", 0.1)
        for successor in (b'{"host": "another", "pid": 1, "token": "x", "beat": 7}', None):
            away = Hold(StorePath("memory://runs/running.json"))
            away.check()
            if successor is None:
                memory.rm_file("/runs/running.json")
            else:
                memory.pipe_file("/runs/running.json", successor)
            time.sleep(0.5)
            with pytest.raises(HeldError, match="process 1 on 'another'" if successor else "it was at it"):
                away.check()
            away.release()
            assert memory.exists("/runs/running.json") is (successor is not None)
            memory.store.clear()


def test_a_journal_in_use_is_told(s3: Any, bucket: str, captioner: Captioner) -> None:
    put_album(s3, f"{bucket}/album", 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hold, "BEAT", 0.2)
        other = Hold(StorePath(f"{bucket}/album/.promptgen-run/running.json"))
        try:
            with pytest.raises(JournalError, match=r"in use by another run: process \d+ on"):
                run(f"{bucket}/album", captioner)
        finally:
            other.release()


# Where pictures come from -------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[Any]:
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield store
    store.store.clear()


def make_inputs(fs: Any, base: str) -> None:
    """Pictures in folders, and lists, tables and shards of them."""
    for name in ("a/2.png", "a/10.png", "a/B.PNG", "a/deep/3.png", "a/.hidden/4.png", "a/.5.png", "b/6.png"):
        fs.pipe_file(f"{base}/{name}", drawing(len(name)))
    fs.pipe_file(f"{base}/list.lst", b"a/2.png\n./b/../a/deep/3.png\na/none.png\n")
    fs.pipe_file(f"{base}/table.jsonl", b'{"image": "a/2.png"}\n{"image": "b/6.png"}\n')
    rows = io.StringIO()
    csv.writer(rows).writerows([["image"], ["a/10.png"]])
    fs.pipe_file(f"{base}/table.csv", rows.getvalue().encode())
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for number in range(3):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(drawing(number))
            tar.addfile(member, io.BytesIO(drawing(number)))
    fs.pipe_file(f"{base}/shard.tar", shard.getvalue())
    arrow = pytest.importorskip("pyarrow")
    table = io.BytesIO()
    arrow.parquet.write_table(arrow.table({"image": [drawing(number) for number in range(20)]}), table)
    fs.pipe_file(f"{base}/table.parquet", table.getvalue())


@pytest.mark.parametrize(
    "inputs",
    [
        [""],
        ["/a", "/b"],
        ["/a/2.png"],
        ["/a/*.png"],
        ["/**/*.png"],
        ["/*"],
        ["/{a,b}"],
        ["/list.lst"],
        ["/table.jsonl", "/table.csv"],
        ["/table.parquet"],
        ["/shard.tar"],
        ["/a", "/shard.tar", "/list.lst"],
    ],
    ids=" ".join,
)
def test_each_input_gives_the_same_pictures_in_a_store(
    inputs: list[str], memory: Any, tmp_path: Path
) -> None:
    import pyarrow.parquet  # noqa: F401 - before it is used as an attribute

    make_inputs(memory, "/base")
    make_inputs(fsspec.filesystem("file", auto_mkdir=True), str(tmp_path / "base"))

    def found(base: str) -> list[tuple[Any, ...]]:
        problems: list[Any] = []
        items = find_items([base + one for one in inputs], on_problem=lambda *told: problems.append(told))
        return [(item.name, item.relative, opened(item.open)) for item in items]

    assert found("memory://base") == found(str(tmp_path / "base"))


def opened(opener: Callable[[], Any]) -> bytes | str:
    try:
        with opener() as file:
            return bytes(file.read())
    except OSError as error:
        return str(error.strerror and "not there")


def test_a_list_after_at_may_be_an_object_and_name_others(memory: Any) -> None:
    make_inputs(memory, "/base")
    memory.pipe_file("/base/names", b"a/2.png\nmemory://base/b/6.png\n")
    items = list(find_items(["@memory://base/names"], on_problem=lambda *told: None))
    assert [item.name for item in items] == ["a/2.png", "b/6.png"]
    assert [item.url for item in items] == ["memory://base/a/2.png", "memory://base/b/6.png"]


def test_a_picture_that_has_changed_in_a_store_has_another_fingerprint(s3: Any, bucket: str) -> None:
    def fingerprints() -> list[str]:
        inputs = [[f"{bucket}/a"], [f"{bucket}/a/1.png"]]  # one is listed, one asked for
        items = [next(find_items(one, on_problem=lambda *told: None)) for one in inputs]
        return [item.fingerprint for item in items]

    s3.pipe_file(f"{bucket}/a/1.png", drawing(1))
    first = fingerprints()
    assert first[0] == first[1]
    s3.pipe_file(f"{bucket}/a/1.png", drawing(1))
    assert fingerprints() == first  # the same content
    s3.pipe_file(f"{bucket}/a/1.png", drawing(2))
    assert set(fingerprints()).isdisjoint(first)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A server of HTTP with an album."""
    put_album(fsspec.filesystem("file", auto_mkdir=True), str(tmp_path / "site" / "album"))
    handler = functools.partial(_Quiet, directory=str(tmp_path / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_pictures_come_over_http(
    site: str, tmp_path: Path, folder: Callable[..., Ended], expected: Callable[[int], str]
) -> None:
    ended = folder(f"{site}/album/", "--output-dir", tmp_path / "out")
    assert ended.status == 1
    assert "6 captioned, 1 failed" in ended.stderr
    assert (tmp_path / "out" / "deep" / "5.txt").read_text(encoding="utf-8").strip() == expected(5)
    ended = folder(f"{site}/album/0.png", "--output-dir", tmp_path / "single")
    assert (tmp_path / "single" / "0.txt").read_text(encoding="utf-8").strip() == expected(0)


# What can be wrong --------------------------------------------------------------------------


def test_a_server_that_cannot_be_written_to_needs_an_output(site: str, folder: Callable[..., Ended]) -> None:
    ended = folder(f"{site}/album/")
    assert ended.status != 0
    assert "can only be read from" in ended.stderr
    assert "--output-dir" in ended.stderr


def test_a_missing_package_is_named(folder: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # type: ignore[arg-type]
    ended = folder("gs://bucket/photos")
    assert ended.status != 0
    assert "pip install gcsfs" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_fsspec_itself_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"promptgen-tagger\[remote\]"):
        find_items(["s3://bucket/photos"], on_problem=lambda *told: None)


def test_an_unknown_protocol_is_told(folder: Callable[..., Ended]) -> None:
    ended = folder("foo://bucket/photos")
    assert ended.status != 0
    assert "foo" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_store_that_is_not_there_is_told(folder: Callable[..., Ended], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ended = folder(f"http://127.0.0.1:{port}/album/", "--output-dir", tmp_path)
    assert ended.status != 0
    assert f"http://127.0.0.1:{port}/album/" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_is_not_in_the_store_is_told(s3: Any, bucket: str, folder: Callable[..., Ended]) -> None:
    ended = folder(f"{bucket}/none")
    assert ended.status == 2
    assert f"there is no such file or folder: '{bucket}/none'" in ended.stderr


def test_a_dry_run_leaves_the_store_alone(s3: Any, bucket: str, captioner: Captioner) -> None:
    put_album(s3, f"{bucket}/album", 3)
    output = OutputOptions(columns=(Column("GENERATE_TAGS"),))
    options = RunOptions((f"{bucket}/album",), output, OPTIONS)
    before = s3.find(bucket)
    planned = FolderRun(
        options, local_model(captioner, options), lambda _: None, threading.Event(), lambda *_: None
    ).plan()
    assert (planned.to_caption, s3.find(bucket)) == (4, before)
    run(f"{bucket}/album", captioner)
    before = s3.find(bucket)
    planned = FolderRun(
        options, local_model(captioner, options), lambda _: None, threading.Event(), lambda *_: None
    ).plan()
    assert (planned.to_caption, planned.done_before, s3.find(bucket)) == (0, 3, before)
