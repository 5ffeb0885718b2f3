"""A server in a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import multiprocessing
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

_LISTENING = re.compile(r"Listening on http://([\d.]+):(\d+)")


class ServerProcess:
    """``promptgen serve`` on a free port, until the end of a ``with`` block."""

    def __init__(self, arguments: Sequence[str]) -> None:
        script = str(Path(__file__).with_name("run_serving.py"))
        command = [sys.executable, script, "promptgen", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
        self.said: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := _LISTENING.search(line):
                self.host, self.port = found[1], int(found[2])
                break
        else:
            raise RuntimeError(f"The server did not start: {''.join(self.said)}")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def resident(self) -> int:
        """Bytes of memory now."""
        import psutil

        return int(psutil.Process(self.process.pid).memory_info().rss)

    def end(self) -> int:
        """Ask it to end, and wait; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(600)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said = [*self.said[-200:], line]


class HealthProbe:
    """Asks ``/health`` ten times a second, by a process of its own, for the length of a ``with`` block."""

    def __init__(self, host: str, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._results: Any = context.SimpleQueue()
        arguments = (host, port, self._stop, self._results)
        self._process = context.Process(target=_probe, args=arguments, daemon=True)
        self.seconds: list[float] = []  # of each answer, at the end; infinite for none

    def __enter__(self) -> HealthProbe:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self.seconds = self._results.get()
        self._process.join()


def _probe(host: str, port: int, stop: Event, results: Any) -> None:
    import http.client

    seconds: list[float] = []
    while not stop.wait(0.1):
        began = time.perf_counter()
        try:
            connection = http.client.HTTPConnection(host, port, timeout=10)
            connection.request("GET", "/health")
            is_well = connection.getresponse().status == 200
            connection.close()
        except OSError:
            is_well = False
        seconds.append(time.perf_counter() - began if is_well else float("inf"))
    results.put(seconds)
