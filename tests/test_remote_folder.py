"""``promptgen remote folder``: the safety of local runs, with a server that may be busy, go or come back."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from promptgen.captioning.runs.places import JOURNAL

from .command_line import Ended, Promptgen
from .serving_host import ServerProcess, picture, serving_here, serving_process, wait_until
from .test_remote import TEXT, free_port

pytest.importorskip("fastapi")

REFERENCE = Path(__file__).parent / "data" / "florence2-tiny-original"
QUICK = ("--num-beams", "1", "--max-new-tokens", "12")
LOCAL = ("--model", "demo", "--device", "cpu")
posix = pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")


def make_album(folder: Path, count: int = 8) -> Path:
    """Pictures that differ, some of them a folder below."""
    for number in range(count):
        path = folder / ("deep" if number % 3 == 2 else ".") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            picture(("circle", "square")[number % 2], ("red", "blue")[number // 2 % 2], 64 + number)
        )
    return folder


@pytest.fixture
def album(tmp_path: Path) -> Path:
    return make_album(tmp_path / "album")


@pytest.fixture
def here(promptgen: Promptgen) -> Callable[..., Ended]:
    return lambda *arguments: promptgen("folder", *QUICK, *LOCAL, *arguments)


@pytest.fixture
def there(promptgen: Promptgen, demo_server: ServerProcess) -> Callable[..., Ended]:
    return lambda *arguments: promptgen("remote", "folder", *QUICK, "--url", demo_server.url, *arguments)


def files_of(folder: Path) -> dict[str, bytes]:
    """All that a run has written, the journals apart."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".sqlite", ".png")
    }


def without_time(ended: Ended) -> list[str]:
    """What was told, less how long it took."""
    return [
        line.partition(" In ")[0] for line in ended.stderr.splitlines() if "waited for images" not in line
    ]


# The same as here ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        ("-i", "GENERATE_TAGS:tags,CAPTION:txt", "--prefix", "ü"),
        ("-i", "OD,CAPTION", "--format", "jsonl", "--details", "--scores"),
        ("--format", "csv", "--format", "kohya"),
        ("-i", "OD", "--format", "coco", "--format", "yolo"),
        ("--format", "webdataset"),
        ("--format", "parquet", "--shard", "1/2"),
    ],
    ids=["sidecars", "jsonl", "csv", "coco", "webdataset", "parquet"],
)
def test_files_are_those_of_the_local_command(
    tmp_path: Path, here: Callable[..., Ended], there: Callable[..., Ended], asked: tuple[str, ...]
) -> None:
    if "parquet" in asked:
        pytest.importorskip("pyarrow")
    made = []
    for number, run in enumerate((here, there)):
        place = tmp_path / "place"  # the same one, since some forms name it
        album = make_album(place / "album")
        (album / "3.png").write_bytes(TEXT)
        ended = run(album, "--output-dir", place / "out", *asked)
        assert ended.status == 1
        made.append((files_of(place), without_time(ended)))
        place.rename(tmp_path / f"done-{number}")
    (files, told), (remote_files, remote_told) = made
    assert remote_files == files
    assert len(files) > 1
    assert remote_told == told


def test_shards_of_tar_and_lists_are_sent_as_bytes(
    album: Path, tmp_path: Path, here: Callable[..., Ended], there: Callable[..., Ended]
) -> None:
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as tar:
        for path in sorted(album.rglob("*.png")):
            tar.add(path, path.name)
        broken = tarfile.TarInfo("broken.png")
        broken.size = len(TEXT)
        tar.addfile(broken, io.BytesIO(TEXT))
    for name, run in (("here", here), ("there", there)):
        assert run(shard, "--output", tmp_path / name / "captions.jsonl").status == 1
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


def test_runs_here_and_there_go_on_with_each_other(
    album: Path, here: Callable[..., Ended], there: Callable[..., Ended]
) -> None:
    assert "8 captioned" in there(album).stderr
    assert "0 captioned, 8 done before" in here(album).stderr
    (album / "0.txt").unlink()
    assert "0 captioned, 1 written again" in there(album).stderr
    (album / "1.png").write_bytes(picture("square", "green", 99))
    assert "1 captioned, 7 done before" in here(album).stderr
    assert "0 captioned, 8 done before" in there(album).stderr
    assert "8 captioned" in there(album, "--prefix", "other").stderr


def test_what_does_not_go_with_the_text_input_fails_alone_as_here(
    album: Path, tmp_path: Path, here: Callable[..., Ended], there: Callable[..., Ended]
) -> None:
    asked = ("-i", "REGION_TO_CATEGORY", "--text-input", "10,10,68,68")  # beyond the smaller ones
    told = []
    for run in (here, there):
        ended = run(album, *asked)
        assert ended.status == 1
        told.append((without_time(ended), files_of(album)))
        for path in [*album.rglob("*.txt"), album / "errors.jsonl", album / JOURNAL]:
            path.unlink()
    assert told[1] == told[0]
    assert "Images: 4 captioned, 4 failed." in told[0][0]


def test_a_dry_run_writes_nothing(
    album: Path, here: Callable[..., Ended], there: Callable[..., Ended]
) -> None:
    planned = there(album, "--dry-run")
    assert planned.status == 0
    assert "8 to caption" in planned.stdout
    assert planned == here(album, "--dry-run")
    assert files_of(album) == {}


def test_captions_that_are_there_are_kept_and_a_report_is_written(
    album: Path, tmp_path: Path, there: Callable[..., Ended], demo_server: ServerProcess
) -> None:
    (album / "0.txt").write_text("mine")
    page = tmp_path / "report.html"
    ended = there(album, "--report", page)
    assert "7 captioned, 1 had captions" in ended.stderr
    assert (album / "0.txt").read_text() == "mine"
    assert demo_server.url in page.read_text(encoding="utf-8")
    assert there(album, "--restart", "--existing", "overwrite").status == 0
    assert (album / "0.txt").read_text() != "mine"


def test_errors_are_listed_and_tried_again_when_told(album: Path, there: Callable[..., Ended]) -> None:
    (album / "3.png").write_bytes(TEXT)
    ended = there(album)
    assert ended.status == 1
    assert not (album / "3.txt").exists()
    (error,) = [json.loads(line) for line in (album / "errors.jsonl").read_text().splitlines()]
    assert (error["name"], error["reason"]) == ("3.png", "a text file, not an image")
    assert "1 failed before" in there(album).stderr
    assert "1 failed" in there(album, "--retry-errors").stderr


def test_too_many_errors_end_the_run(album: Path, there: Callable[..., Ended]) -> None:
    for path in album.rglob("*.png"):
        path.write_bytes(TEXT)
    ended = there(album, "--max-errors", "2")
    assert ended.status == 1
    assert "--max-errors" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--shard", "3/2"], ["--output", "x.nope"], ["-i", "NO_SUCH"], ["--num-beams", "0"], ["--tiles-only"]],
)
def test_wrong_usage_is_told_as_here(
    album: Path, here: Callable[..., Ended], there: Callable[..., Ended], arguments: list[str]
) -> None:
    told = there(album, *arguments)
    assert told.status == 2
    assert told == here(album, *arguments)


# Servers that are busy, go, and come back ----------------------------------------------------


def start(album: Path, url: str, *arguments: object, log: Path) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "promptgen.cli", "remote", "folder", str(album), "--url", url]
    with open(log, "wb") as file:
        return subprocess.Popen([*command, *map(str, arguments)], stdin=subprocess.DEVNULL, stderr=file)


def captions(album: Path) -> dict[str, str]:
    return {str(path.relative_to(album)): path.read_text(encoding="utf-8") for path in album.rglob("*.txt")}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_album(tmp_path_factory.mktemp("many"), 100)


@pytest.fixture
def long(many: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(many, tmp_path / "long"))


@pytest.fixture(scope="module")
def expected(
    many: Path, demo_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What a run that nothing happens to writes."""
    folder = Path(shutil.copytree(many, tmp_path_factory.mktemp("expected") / "album"))
    done = start(folder, demo_server.url, log=folder.parent / "log")
    assert done.wait(200) == 0
    return captions(folder)


def test_a_server_with_a_tiny_queue_is_not_overrun(long: Path, promptgen: Promptgen, expected: Any) -> None:
    from promptgen.serving.settings import Limits, ServerSettings

    with serving_here(ServerSettings(limits=Limits(queued=2))) as server:
        ended = promptgen("remote", "folder", long, "--url", server.url, "--quiet")
    assert (ended.status, ended.stderr) == (0, "")
    assert captions(long) == expected
    assert not (long / "errors.jsonl").exists()


@posix
@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_is_waited_for(
    long: Path, tmp_path: Path, expected: Any
) -> None:
    port = free_port()
    with serving_process("--port", port) as server:
        run = start(long, server.url, "--patience", "100", log=tmp_path / "log")
        wait_until(lambda: len(captions(long)) > 10, 100)
        server.process.kill()
        server.process.wait()
    assert len(captions(long)) < len(expected)
    time.sleep(1)
    assert run.poll() is None
    with serving_process("--port", port):
        assert run.wait(200) == 0, (tmp_path / "log").read_text()
    log = (tmp_path / "log").read_text()
    assert "Trying again" in log
    assert f"{len(expected)} captioned" in log
    assert captions(long) == expected
    assert not (long / "errors.jsonl").exists()


@posix
@pytest.mark.slow
def test_a_server_that_stays_away_ends_the_run_in_order(
    long: Path, tmp_path: Path, expected: Any, there: Callable[..., Ended], demo_server: ServerProcess
) -> None:
    with serving_process() as server:
        run = start(long, server.url, "--patience", "2", log=tmp_path / "log")
        wait_until(lambda: len(captions(long)) > 10, 100)
        server.process.kill()
        server.process.wait()
        assert run.wait(60) == 1
    log = (tmp_path / "log").read_text()
    assert "error: " in log
    assert "Check that" in log
    assert "All that is done is kept. To go on: promptgen remote folder" in log
    assert "captioned. In" in log  # and none has failed
    assert not (long / "errors.jsonl").exists()
    done = captions(long)
    assert 10 < len(done) < len(expected)
    run = start(long, demo_server.url, log=tmp_path / "log")
    assert run.wait(200) == 0
    assert f"{len(done)} done before" in (tmp_path / "log").read_text()
    assert captions(long) == expected


@posix
@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_comes_back_with_another_checkpoint_is_not_asked(
    end: signal.Signals, long: Path, tmp_path: Path, expected: Any
) -> None:
    port = free_port()
    with serving_process("--port", port) as server:
        run = start(long, server.url, "--patience", "100", log=tmp_path / "log")
        wait_until(lambda: len(captions(long)) > 10, 100)
        server.process.send_signal(end)
        server.process.wait()
    with serving_process("--port", port, model=str(REFERENCE)):
        assert run.wait(100) == 1
    assert "has come back with another checkpoint" in (tmp_path / "log").read_text()
    assert captions(long).items() < expected.items()


@posix
@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(
    long: Path, tmp_path: Path, demo_server: ServerProcess, expected: Any
) -> None:
    kept: dict[str, int] = {}
    for wanted in (10, 40):
        run = start(long, demo_server.url, log=tmp_path / "log")
        wait_until(lambda least=wanted: len(captions(long)) >= least, 100)
        run.kill()
        run.wait()
        for name, text in captions(long).items():
            assert text == expected[name]
        now = {str(path): path.stat().st_mtime_ns for path in long.rglob("*.txt")}
        finished = {name for name, when in kept.items() if now[name] == when}
        assert len(kept) - len(finished) <= 64  # what was on its way to the disk may be written once more
        kept = now
    run = start(long, demo_server.url, log=tmp_path / "log")
    assert run.wait(100) == 0
    assert captions(long) == expected
    assert not (long / "errors.jsonl").exists()


@posix
def test_ctrl_c_ends_it_in_order(
    long: Path, tmp_path: Path, demo_server: ServerProcess, expected: Any
) -> None:
    run = start(long, demo_server.url, "--api-key", "secret", log=tmp_path / "log")
    wait_until(lambda: len(captions(long)) > 10, 100)
    run.send_signal(signal.SIGINT)
    assert run.wait(30) == 130
    log = (tmp_path / "log").read_text()
    assert "Stopping after the images at hand" in log
    assert "To go on: promptgen remote folder" in log
    assert "secret" not in log
    assert captions(long).items() < expected.items()


def test_a_server_that_was_never_there_leaves_nothing(album: Path, promptgen: Promptgen) -> None:
    ended = promptgen("remote", "folder", album, "--url", f"127.0.0.1:{free_port()}")
    assert ended.status == 1
    assert ended.stderr.count("\n") == 1
    assert "Nobody can be reached" in ended.stderr
    assert files_of(album) == {}
    assert not (album / JOURNAL).exists()


def test_a_wrong_key_leaves_nothing(album: Path, promptgen: Promptgen) -> None:
    from promptgen.serving.settings import ServerSettings

    with serving_here(ServerSettings(api_keys=("right",))) as server:
        ended = promptgen("remote", "folder", album, "--url", server.url, "--api-key", "wrong")
        assert ended.status == 1
        assert "--api-key" in ended.stderr
        assert not (album / JOURNAL).exists()
        assert promptgen("remote", "folder", album, "--url", server.url, "--api-key", "right").status == 0


def test_a_picture_that_the_server_finds_too_large_fails_alone(album: Path, promptgen: Promptgen) -> None:
    from promptgen.serving.settings import Limits, ServerSettings

    (album / "large.png").write_bytes(picture() + b"0" * 300_000)
    with serving_here(ServerSettings(limits=Limits(body_bytes=100_000))) as server:
        ended = promptgen("remote", "folder", album, "--url", server.url)
    assert ended.status == 1
    assert "8 captioned, 1 failed" in ended.stderr
    (error,) = [json.loads(line) for line in (album / "errors.jsonl").read_text().splitlines()]
    assert error["name"] == "large.png"
