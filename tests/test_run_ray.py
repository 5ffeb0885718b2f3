"""Folder runs on a local Ray cluster with two workers, with the demo model."""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from promptgen.captioning import Captioner, CaptionOptions, GenerationOptions
from promptgen.captioning.runs.outputs import Column, Form, OutputOptions
from promptgen.captioning.runs.records import Item
from promptgen.captioning.runs.run import RunOptions, RunProgress, RunReport, run_folder
from promptgen.captioning.runs.workers import ClusterError, RayOptions, RayWorkers

pytest.importorskip("ray", reason="Ray is not installed: pip install 'promptgen-tagger[ray]'")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")

QUICK = ("--model", "demo", "--device", "cpu", "--dtype", "fp32", "--num-beams", "1", "--max-new-tokens", "8")
OPTIONS = CaptionOptions(GenerationOptions(num_beams=1, max_new_tokens=8))
WORKER = "ray::MapWorker(MapBatches(Captioning))"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of this machine, which the runs of this process use."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner("demo", device="cpu", dtype="fp32")


def draw(folder: Path, count: int) -> Path:
    """A folder of pictures that the demo model tells apart."""
    folder.mkdir()
    for number in range(count):
        image = Image.new("RGB", (64, 64), ("white", "cyan")[number % 2])
        figure = ("ellipse", "rectangle")[number // 2 % 2]
        getattr(ImageDraw.Draw(image), figure)((12, 12, 52, 52), fill=("red", "blue")[number // 4 % 2])
        image.save(folder / f"{number:03}.png")
    return folder


def captions(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.txt")}


def lines_of(file: Path) -> list[str]:
    return sorted(file.read_text(encoding="utf-8").splitlines())


def on_ray(workers: int) -> RayWorkers:
    return RayWorkers(
        Captioner("demo", device="cpu", dtype="fp32", batch_size=4),
        ["GENERATE_TAGS"],
        OPTIONS,
        RayOptions(workers=workers),
        offline=True,
    )


def run(
    album: Path,
    captioner: Captioner,
    workers: RayWorkers | None,
    on_progress: Callable[[RunProgress], None] = lambda progress: None,
    stop: threading.Event | None = None,
    **output: Any,
) -> RunReport:
    options = RunOptions((str(album),), OutputOptions((Column("GENERATE_TAGS"),), **output), OPTIONS)
    return run_folder(options, captioner, on_progress, stop, workers=workers)


def descendants(process: int) -> dict[int, str]:
    """The processes below one, and what they are called."""
    found = {}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        try:
            number = int(entry.name)
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            name = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (ValueError, OSError):
            continue
        children.setdefault(parent, []).append(number)
        found[number] = name
    below, last = {}, [process]
    while last:
        last = [child for number in last for child in children.get(number, [])]
        below |= {number: found[number] for number in last}
    return below


def runs(process: int) -> bool:
    """Whether it is there, and has not ended."""
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return False


def workers_now() -> list[int]:
    return [number for number, name in descendants(os.getpid()).items() if name.startswith(WORKER)]


# What comes out -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_files_are_those_of_a_run_in_one_process_though_a_worker_is_killed(
    tmp_path: Path, captioner: Captioner, cluster: None
) -> None:
    album, twin = draw(tmp_path / "album", 60), draw(tmp_path / "twin", 60)
    for folder in (album, twin):
        (folder / "bad.png").write_bytes(b"no picture")
        (folder / "gone.png").symlink_to(tmp_path / "nothing")
    killed: list[int] = []

    def kill_one(progress: RunProgress) -> None:
        if progress.captioned >= 8 and not killed:
            killed.append(workers_now()[0])
            os.kill(killed[0], signal.SIGKILL)

    places = {"forms": (Form.SIDECAR, Form.JSONL)}
    report = run(album, captioner, on_ray(2), kill_one, output=album / "captions.jsonl", **places)
    assert killed
    expected = run(twin, captioner, None, output=twin / "captions.jsonl", **places)
    assert (report.captioned, report.failed) == (expected.captioned, expected.failed) == (60, 2)
    assert captions(album) == captions(twin)
    assert lines_of(album / "captions.jsonl") == lines_of(twin / "captions.jsonl")
    assert [line.replace(str(twin), str(album)) for line in lines_of(expected.errors)] == lines_of(
        report.errors
    )
    again = run(album, captioner, on_ray(2), output=album / "captions.jsonl", **places)
    assert (again.captioned, again.done_before, again.failed_before) == (0, 60, 2)


@pytest.mark.slow
def test_a_stopped_run_keeps_what_it_has_and_leaves_no_worker(
    tmp_path: Path, captioner: Captioner, cluster: None
) -> None:
    album = draw(tmp_path / "album", 200)
    stop = threading.Event()

    def watch(progress: RunProgress) -> None:
        if progress.captioned >= 4:
            stop.set()

    report = run(album, captioner, on_ray(1), watch, stop)
    assert report.stopped
    assert 4 <= report.captioned < 100
    assert len(captions(album)) == report.captioned
    deadline = time.monotonic() + 30
    while workers_now() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers_now()
    report = run(album, captioner, None)
    assert report.captioned + report.done_before == 200


@pytest.mark.slow
def test_a_picture_that_kills_its_workers_is_named_and_the_others_are_captioned(
    tmp_path: Path, cluster: None
) -> None:
    album = draw(tmp_path / "album", 3)
    items = [
        Item(path.name, Path(path.name), path, "", functools.partial(open, path, "rb"))
        for path in sorted(album.iterdir())
    ]
    deadly = functools.partial(exec, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    items.insert(1, Item("deadly.png", Path("deadly.png"), None, "", deadly))  # type: ignore[arg-type]
    records = [record for record in on_ray(1).answer(iter(items), lambda: False) if record is not None]
    errors = {record.name: record.error for record in records}
    assert errors.pop("deadly.png") == "3 worker processes have died with it"
    assert errors == {"000.png": None, "001.png": None, "002.png": None}


# What cannot be done ------------------------------------------------------------------------


def test_another_version_on_a_worker_is_told(
    tmp_path: Path, captioner: Captioner, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("promptgen._version.__version__", "99.0")
    album = draw(tmp_path / "album", 2)
    with pytest.raises(ClusterError, match=r"but the run was started with 99\.0"):
        run(album, captioner, on_ray(1))
    assert not captions(album)


def test_a_missing_package_is_told(
    tmp_path: Path, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"pip install 'promptgen-tagger\[ray\]'"):
        run(draw(tmp_path / "album", 1), captioner, on_ray(1))


# The command --------------------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_c_ends_the_command_and_its_cluster(tmp_path: Path) -> None:
    album = draw(tmp_path / "album", 400)
    command = [sys.executable, "-m", "promptgen.cli", "folder", str(album), *QUICK, "--ray-workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [*command, "--batch-size", "1"], env=environment, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not captions(album):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        cluster = set(descendants(process.pid))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    told = stderr.decode()
    assert process.returncode == 130, told
    assert "Ctrl-C again" in told
    assert "Traceback" not in told
    assert "logging.cc" not in told
    assert len(captions(album)) < 400
    deadline = time.monotonic() + 10
    while (left := {number for number in cluster if runs(number)}) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
