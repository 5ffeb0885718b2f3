"""Runs by several worker processes: the same captions, whatever becomes of one of them."""

from __future__ import annotations

import functools
import io
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from promptgen.captioning import Captioner, CaptionOptions, GenerationOptions
from promptgen.captioning.runs.outputs import Column, Form, OutputOptions
from promptgen.captioning.runs.records import Item, Record
from promptgen.captioning.runs.run import RunOptions, RunProgress, RunReport, run_folder
from promptgen.captioning.runs.sources import find_items
from promptgen.captioning.runs.sources.patient import bytes_as_file
from promptgen.captioning.runs.workers import WorkerProcesses, Workers
from promptgen.cli import main
from promptgen.models_cache import DamagedCheckpointError, find_checkpoint

posix = pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")

OPTIONS = CaptionOptions(GenerationOptions(num_beams=1, max_new_tokens=8))
ASKED = ["GENERATE_TAGS", "REGION_PROPOSAL"]  # the latter is one that the demo model warns of


@pytest.fixture(scope="module", autouse=True)
def one_thread_each() -> Iterator[None]:
    """Workers are told by the environment how many threads they may use."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        yield


def drawing(number: int) -> bytes:
    """A picture unlike the others, as a file."""
    image = Image.new("RGB", (64, 64), ("white", "cyan", "yellow")[number % 3])
    figure = getattr(ImageDraw.Draw(image), ("ellipse", "rectangle")[number // 3 % 2])
    figure((12, 12, 52, 52), fill=("red", "blue")[number // 6 % 2])
    image.putpixel((0, 0), (number, 0, 0))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.png").write_bytes(drawing(number))
    (folder / "broken.png").write_bytes(b"nonsense")
    return folder


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner("demo", device="cpu", dtype="fp32")


def workers(*devices: str, model: str = "demo", options: CaptionOptions = OPTIONS) -> WorkerProcesses:
    return WorkerProcesses(
        devices or ("cpu", "cpu"),
        model,
        ["GENERATE_TAGS", "REGION_PROPOSAL"],
        options,
        dtype="fp32",
        batch_size=4,
    )


def item(number: int, opener: Callable[[], Any] | None = None) -> Item:
    """A picture that is held in memory, unless an opener says otherwise."""
    name = f"{number:02}.png"
    held = functools.partial(bytes_as_file, drawing(number), name)
    return Item(name, Path(name), None, "", opener or held)


def answers(workers: Workers, items: Iterable[Item | None]) -> list[Record]:
    return [record for record in workers.answer(iter(items), lambda: False) if record is not None]


def run(
    album: Path,
    out: Path,
    captioner: Captioner,
    workers: Workers | None = None,
    on_progress: Callable[[RunProgress], None] = lambda progress: None,
) -> RunReport:
    columns = (Column("GENERATE_TAGS", "tags"), Column("REGION_PROPOSAL", "txt"))
    output = OutputOptions(columns=columns, forms=(Form.SIDECAR, Form.JSONL), output_dir=out)
    options = RunOptions((str(album),), output, OPTIONS)
    return run_folder(options, captioner, on_progress, workers=workers)


def files(folder: Path) -> dict[str, list[bytes]]:
    """The lines of all files but the journal; of the one that all pictures share, in any order."""
    found = {}
    for path in folder.iterdir():
        if ".sqlite" not in path.name:
            lines = path.read_bytes().splitlines(keepends=True)
            found[path.name] = sorted(lines) if path.suffix == ".jsonl" else lines
    return found


# What comes out -----------------------------------------------------------------------------


@posix
@pytest.mark.slow
def test_the_files_are_those_of_one_process_also_when_a_worker_is_killed(
    album: Path, tmp_path: Path, captioner: Captioner, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(album, one, captioner).captioned == 40
    caplog.clear()
    killed: list[Any] = []

    def kill_one(progress: RunProgress) -> None:
        children = multiprocessing.active_children()
        if progress.captioned >= 5 and not killed:
            assert len(children) == 2
            killed.append(random.Random(0).choice(children))
            killed[0].kill()

    report = run(album, two, captioner, workers(), kill_one)
    assert killed
    assert (report.captioned, report.failed) == (40, 1)
    assert len(files(one)) == 82
    assert files(two) == files(one)
    assert caplog.text.count("has died: it was killed by SIGKILL") == 1
    assert caplog.text.count("was not trained on REGION_PROPOSAL") == 1  # though each of the three said so
    assert not multiprocessing.active_children()
    report = run(album, two, captioner, workers(model="nowhere"))  # nothing to do: none is started
    assert (report.captioned, report.done_before, report.failed_before) == (0, 40, 1)


def test_pictures_that_only_the_run_can_open_are_read_there(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    table = tmp_path / "pictures.parquet"
    parquet.write_table(arrow.table({"image": [drawing(number) for number in range(3)] + [b"none"]}), table)
    items = list(find_items([str(table)], on_problem=lambda *problem: pytest.fail(str(problem))))
    records = {record.name: record for record in answers(workers("cpu"), items)}
    assert [bool(records[one.name].results) for one in items] == [True, True, True, False]
    alone = {record.name: record for record in answers(workers("cpu"), [item(number) for number in range(3)])}
    assert [records[one.name].results for one in items[:3]] == [
        alone[f"{number:02}.png"].results for number in range(3)
    ]


def test_nothing_to_do_starts_no_process() -> None:
    given = list(workers(model="nowhere").answer(iter([None, None]), lambda: False))
    assert given == [None, None]


@posix
@pytest.mark.slow
def test_a_picture_that_kills_workers_is_named_and_kills_no_run(
    captioner: Captioner, caplog: pytest.LogCaptureFixture
) -> None:
    items = [item(number) for number in range(20)]
    items[3] = item(3, functools.partial(signal.raise_signal, signal.SIGSEGV))
    noise = Image.frombytes("RGB", (1200, 900), random.Random(1).randbytes(1200 * 900 * 3))
    stream = io.BytesIO()
    noise.save(stream, "PNG")  # more than fits the pipe to a worker
    items[7] = item(7, functools.partial(bytes_as_file, stream.getvalue(), "noise"))
    records = {record.name: record for record in answers(workers(), items)}
    assert set(records) == {one.name for one in items}
    failed = {name: record.error for name, record in records.items() if record.error}
    assert set(failed) == {"03.png"}
    assert "3 worker processes" in str(failed["03.png"])
    assert "SIGSEGV" in str(failed["03.png"])
    assert records["03.png"].open is items[3].open
    (expected,) = captioner.caption(drawing(8), ASKED, OPTIONS)
    assert records["08.png"].results == tuple(result.to_dict() for result in expected.results)
    assert caplog.text.count("has died") == 3


# What goes wrong ----------------------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_loaded_is_told_as_in_one_process(tmp_path: Path) -> None:
    demo = find_checkpoint("demo")
    assert demo is not None
    damaged = Path(shutil.copytree(demo, tmp_path / "damaged"))
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(DamagedCheckpointError, match=r"model\.safetensors") as caught:
        answers(workers("cpu", model=str(damaged)), [item(0)])
    (note,) = caught.value.__notes__  # type: ignore[attr-defined]
    assert "In the worker process on cpu" in note
    assert "Traceback" in note
    assert not multiprocessing.active_children()


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of another process is limited as on Linux")
def test_a_device_without_memory_leaves_its_pictures_to_the_others(caplog: pytest.LogCaptureFixture) -> None:
    import resource

    records: dict[str, str | None] = {}
    for record in workers().answer(iter([item(number) for number in range(80)]), lambda: False):
        if record is None:
            continue
        records[record.name] = record.error
        if len(records) == 1:
            child = multiprocessing.active_children()[0]
            held = int(Path(f"/proc/{child.pid}/statm").read_text(encoding="ascii").split()[0])
            less = held * resource.getpagesize() - 10**8
            resource.prlimit(child.pid, resource.RLIMIT_AS, (less, less))
    assert records == {f"{number:02}.png": None for number in range(80)}
    # A library below may not survive that, instead of telling; one that is still starting has no pictures to
    # leave, and may end when all is done.
    ends = ("cannot go on, and leaves its pictures", "has died", "MemoryError")
    assert any(end in caplog.text for end in ends)


def test_a_wrong_setting_is_told_as_in_one_process(capfd: pytest.CaptureFixture[str]) -> None:
    options = CaptionOptions(GenerationOptions(num_beams=1, max_new_tokens=100_000))
    with pytest.raises(ValueError, match="max_new_tokens"):  # more than the demo model has room for
        answers(workers("cpu", options=options), [item(0)])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--devices", "cpu,tpu"], "'tpu' is unknown"),
        (["--devices", "cuda:77"], "'cuda:77' is not there"),
        (["--devices", ", "], "--devices is empty"),
        (["--devices", "cpu", "--device", "cpu"], "--device and --devices"),
    ],
)
def test_wrong_devices_are_told_before_anything_is_done(
    album: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["promptgen", "folder", str(album), "--model", "demo", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert told in " ".join(capfd.readouterr().err.split())


# Signals ------------------------------------------------------------------------------------


def start(code: Sequence[str]) -> subprocess.Popen[str]:
    """A Python of its own, in a session of its own, as a terminal has one."""
    return subprocess.Popen(
        [sys.executable, *code], encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def session(leader: int) -> list[str]:
    """What runs in the session of a process."""
    listed = subprocess.run(
        ["ps", "-eo", "sid=,stat=,args="], capture_output=True, encoding="utf-8", check=True
    )
    rows = [row.split(None, 2) for row in listed.stdout.splitlines()]
    return [args for sid, state, args in rows if sid == str(leader) and not state.startswith("Z")]


@posix
@pytest.mark.slow
def test_the_command_by_two_workers_is_stopped_killed_and_goes_on(
    tmp_path: Path, captioner: Captioner
) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for number in range(150):
        (album / f"{number:03}.png").write_bytes(drawing(number))
    command = [
        "-m", "promptgen.cli", "folder", str(album), "--devices", "cpu,cpu", "--model", "demo",
        "--dtype", "fp32", "--num-beams", "2", "--min-new-tokens", "60", "--max-new-tokens", "64",
        "--batch-size", "2",
    ]  # fmt: skip

    def captions() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in album.glob("*.txt")}

    process = start(command)
    wait_for(captions, 120)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert "KeyboardInterrupt" not in told
    assert "died" not in told
    stopped = captions()
    assert 0 < len(stopped) < 150
    assert f"{len(stopped)} captioned" in told
    assert not session(process.pid)

    process = start(command)
    wait_for(lambda: len(captions()) > len(stopped), 120)
    assert len(session(process.pid)) >= 3
    process.kill()
    process.wait()
    wait_for(lambda: not session(process.pid), 3)
    process.communicate()
    killed = captions()
    assert len(killed) < 150
    assert {name: killed[name] for name in stopped} == stopped

    options = CaptionOptions(GenerationOptions(num_beams=2, min_new_tokens=60, max_new_tokens=64))
    asked = RunOptions((str(album),), OutputOptions((Column("GENERATE_TAGS"),)), options)
    report = run_folder(asked, captioner)
    assert report.complete
    assert report.captioned + report.rewritten <= 150 - len(stopped)
    assert len(captions()) == 150
    assert {name: captions()[name] for name in stopped} == stopped


@posix
def test_a_worker_that_waits_for_a_disk_ends_with_its_run() -> None:
    code = """
import functools, json, sys, time
from pathlib import Path
from promptgen.captioning import CaptionOptions
from promptgen.captioning.runs.records import Item
from promptgen.captioning.runs.workers import WorkerProcesses
if __name__ == "__main__":
    slow = Item("slow", Path("slow"), None, "", functools.partial(time.sleep, 1000))
    broken = Item("broken", Path("broken"), None, "", functools.partial(open, "/dev/null", "rb"))
    workers = WorkerProcesses(["cpu"], "demo", ["CAPTION"], CaptionOptions(), batch_size=1)
    for record in workers.answer(iter([broken, slow]), lambda: False):
        if record is not None:
            print(record.name, flush=True)
"""
    process = start(["-c", code])
    assert process.stdout is not None
    assert process.stdout.readline() == "broken\n"
    time.sleep(0.3)
    process.kill()
    process.wait()
    wait_for(lambda: not session(process.pid), 3)
    process.communicate()
