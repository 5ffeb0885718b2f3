"""Caption servers for tests: the command in a process of its own, or the same in a thread of this one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # conftest imports this file, also where the extra "server" is not installed
    import httpx
    from promptgen.models_cache import ModelManager
    from promptgen.serving.metrics import Metrics
    from promptgen.serving.scheduler import Scheduler
    from promptgen.serving.settings import ServerSettings

START_SECONDS = 120
END_SECONDS = 60


@dataclass
class ServerProcess:
    """``promptgen serve`` as a user starts it."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)  # lines of standard error
    url: str = ""  # once it listens
    _reader: threading.Thread | None = None

    def signal(self, name: str = "SIGTERM") -> None:
        self.process.send_signal(getattr(signal, name))

    def wait(self) -> int:
        """Its exit status, once it has said all."""
        status = self.process.wait(END_SECONDS)
        if self._reader is not None:
            self._reader.join(END_SECONDS)
        return status

    def listen(self) -> None:
        """Wait until it tells its address, and keep reading what it says from then on."""
        listening = threading.Event()

        def read() -> None:
            assert self.process.stderr is not None
            for line in self.process.stderr:
                self.said.append(line.rstrip("\n"))
                if found := re.match(r"Listening on (\S+)", line):
                    self.url = self.url or found[1]
                    listening.set()
            listening.set()

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        assert listening.wait(START_SECONDS), self.said
        assert self.url, f"It ended with status {self.wait()}: {self.said}"


@contextmanager
def serving_process(
    *arguments: object, model: str = "demo", environment: Mapping[str, str] | None = None
) -> Iterator[ServerProcess]:
    """A server on a free port of 127.0.0.1 for the length of a ``with`` block."""
    command = [sys.executable, "-m", "promptgen.cli", "serve", "--port", "0", "--model", model]
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1", "PROMPTGEN_API_KEY": "", **(environment or {})},
    )
    server = ServerProcess(process)
    try:
        server.listen()
        yield server
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def demo_server() -> Iterator[ServerProcess]:
    """One for all tests that leave it as they found it: the demo model, and every setting as by default."""
    with serving_process() as server:
        yield server


@dataclass
class LocalServer:
    """A server in a thread of this process."""

    url: str
    scheduler: Scheduler
    metrics: Metrics
    stop: threading.Event
    thread: threading.Thread

    def end(self) -> None:
        """Stop it in order, and wait for that."""
        self.stop.set()
        self.thread.join(END_SECONDS)
        assert not self.thread.is_alive()


@contextmanager
def serving_here(
    settings: ServerSettings | None = None,
    *,
    models: Sequence[str] = ("demo",),
    manager: ModelManager | None = None,
) -> Iterator[LocalServer]:
    """One with any settings, on a free port of their host, for the length of a ``with`` block.

    Args:
        manager: where the models live; the process's shared one, whose models other tests use, by default.
    """
    from promptgen.captioning import Captioner
    from promptgen.models_cache import shared_manager
    from promptgen.serving.listening import bind, urls
    from promptgen.serving.metrics import Metrics
    from promptgen.serving.models import ServedModel, ServedModels
    from promptgen.serving.run import run
    from promptgen.serving.scheduler import Scheduler
    from promptgen.serving.settings import ServerSettings

    settings = settings or ServerSettings()
    manager = manager or shared_manager()
    served = ServedModels(ServedModel.of(Captioner(name, manager=manager)) for name in models)
    metrics = Metrics()
    scheduler = Scheduler(served, settings.limits, manager, metrics)
    sockets = bind(settings.host, 0)
    listening, stop = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=run, args=(settings, scheduler, metrics, sockets, stop, listening.set), daemon=True
    )
    server = LocalServer(urls(sockets)[0], scheduler, metrics, stop, thread)
    thread.start()
    try:
        assert listening.wait(START_SECONDS)
        yield server
    finally:
        server.end()


def picture(shape: str = "circle", colour: str = "red", size: int = 96, form: str = "PNG") -> bytes:
    """A file with a figure that the demo model knows, on white."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (size, size), "white")
    box = (size // 4, size // 4, size * 3 // 4, size * 3 // 4)
    draw = ImageDraw.Draw(image)
    draw.ellipse(box, fill=colour) if shape == "circle" else draw.rectangle(box, fill=colour)
    stream = BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def check_failure(answer: httpx.Response, status: int, code: str) -> str:
    """That it is in the one form; returns what it says."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    body = answer.json()
    assert body["code"] == code
    assert body["detail"] == body["error"]
    assert "\n" not in body["detail"]
    said: str = body["detail"]
    return said


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Until ``condition()`` holds; fails if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "It did not happen in time."
        time.sleep(0.02)
