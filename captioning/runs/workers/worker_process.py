"""A worker process from without: how it is started, spoken with, and how it ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ..records import Item
from .child import SIGNALS, work
from .messages import Flush, FromWorker, Stop, Task
from .travelling import UNPORTABLE, in_memory

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_SPAWN = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA

_DYING = 5.0  # seconds that the system may take to end a process
_CHUNK = 1 << 16  # bytes
_LONGEST_LINE = 2000  # characters


class WorkerProcess:
    """One process, which has begun to load its model. Used by one thread alone."""

    def __init__(self, task: Task) -> None:
        self.device = task.device
        self.held: dict[str, Item] = {}  # pictures that it has been given and has not answered, by name
        self.wanted = 0  # pictures that it can take
        self.is_ready = False
        self.is_alone = False  # with one picture, and is to get no other before that is answered
        self.last_words = ""  # the last line that it has printed
        self._flushed = True
        self._line = b""
        self.connection, theirs = _SPAWN.Pipe()
        self.text: Connection | None = None
        text: Connection | None = None
        if os.name != "nt":  # where no such pipe can be made the output of a process that runs
            self.text, text = _SPAWN.Pipe(duplex=False)
        self._process = _SPAWN.Process(
            target=work, args=(task, theirs, text), name=f"promptgen-worker-{task.device}"
        )
        with _signals_held_back():
            self._process.start()
        for end in (theirs, text):  # so that only the worker has them, and its end is theirs
            if end is not None:
                end.close()
        self.pid = self._process.pid

    def give(self, item: Item) -> None:
        """Have a picture captioned."""
        self.held[item.name] = item
        self.wanted -= 1
        self._flushed = False
        try:
            self._send(item)
        except UNPORTABLE:  # before anything was sent
            self._send(in_memory(item))

    def give_alone(self, item: Item) -> None:
        """Have a picture captioned by itself; for a worker that has no other."""
        self.is_alone = True
        self.give(item)
        self.flush()

    def flush(self) -> None:
        """Have captioned what was given so far."""
        if not self._flushed:
            self._flushed = True
            self._send(Flush())

    def stop(self) -> None:
        """Have it finish the batch in flight."""
        self._send(Stop())

    def receive(self) -> FromWorker | None:
        """What it says, waiting for it; ``None`` if it has ended, and all that it said has been received."""
        try:
            message: FromWorker = self.connection.recv()
        except (EOFError, OSError):
            return None
        return message

    def read_text(self) -> Iterator[str]:
        """The lines that it has printed since the last time, or some of them where there are many."""
        if self.text is None or self.text.closed or not self.text.poll():
            return
        chunk = os.read(self.text.fileno(), _CHUNK)
        if not chunk:  # nobody is left who could print
            self.text.close()
        *lines, self._line = (self._line + chunk).replace(b"\r", b"\n").split(b"\n")
        if self._line and (not chunk or len(self._line) > _LONGEST_LINE):
            lines.append(self._line)
            self._line = b""
        for line in lines:
            told = line.decode("utf-8", "backslashreplace").rstrip()[:_LONGEST_LINE]
            if told:
                self.last_words = told
                yield told

    def wait(self) -> str:
        """Wait for the end of a process that says no more; how it ended."""
        self._process.join(_DYING)
        if self._process.exitcode is None:
            self.kill()
        return _ending(self._process.exitcode) + (
            f"; it last said: {self.last_words}" if self.last_words else ""
        )

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.join(_DYING)

    def close(self) -> None:
        """Give back what the system holds for a process that has ended."""
        self.connection.close()
        if self.text is not None:
            self.text.close()
        with suppress(ValueError):  # it has not ended: a driver holds it
            self._process.close()

    def _send(self, message: Item | Flush | Stop) -> None:
        with suppress(OSError):  # it has ended, which is noticed where it is listened to
            self.connection.send(message)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """A process started within meets no signal before it has said what it thinks of signals."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # which lets signals through when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ending(status: int | None) -> str:
    if status is None:
        return "it cannot be ended"
    if status >= 0:
        return f"it ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    more = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"it was killed by {name}{more}"
