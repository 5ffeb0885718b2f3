"""Ctrl-C in two steps: the first asks a run to end in order, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from .reporting import STOPPED
from .streams import leave_at_once

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


@contextmanager
def stop_on_signals(stop: threading.Event, first: str) -> Iterator[None]:
    """While inside, Ctrl-C, and what schedulers and closing terminals send, set ``stop``.

    Signals that our parent has told us to ignore (``nohup``) stay ignored.

    Args:
        first: what to say when the first one comes.
    """

    def heed(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            leave_at_once(STOPPED)
        stop.set()
        _say_now(first)

    before: dict[int, Any] = {}
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, heed)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_now(message: str) -> None:
    """Write a line past Python's buffers, whose owner may be in the middle of a write."""
    with suppress(OSError, ValueError, AttributeError):  # closed or missing: nobody to tell
        os.write(sys.stderr.fileno(), f"\n{message}\n".encode())
