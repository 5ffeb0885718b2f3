"""One run at a time on what is kept in a store: an object that says who is at it, renewed while it lasts."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import threading
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .objects import StoreError, put, read, remove
from .paths import StorePath

__all__ = ["HeldError", "Hold"]

logger = logging.getLogger(__name__)

BEAT = 10.0  # seconds between two renewals
PATIENCE = 3.5  # beats without one, after which a run on another machine is taken for dead

_HERE: set[object] = set()  # tokens of what this process holds


class HeldError(Exception):
    """Another run is at it. The message says which."""


class Hold:
    """Holds the object ``place`` from when it is made until it is released or the process ends.

    As good as a store allows: two runs that begin in the same moment may both believe that it is theirs. One
    that a dead run has left is taken over: at once if that ran on this machine, else when it has not been
    renewed for a while. Who was away for so long, on a machine that slept, must see by :meth:`check` whether
    it is still theirs before they write.

    Raises:
        HeldError: another run holds it.
        StoreError: the store cannot be used.
    """

    def __init__(self, place: StorePath) -> None:
        self._place = place
        self._own = {
            "host": platform.node(),
            "pid": os.getpid(),
            "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "processes": _processes(),
            "token": uuid.uuid4().hex,
        }
        _HERE.add(self._own["token"])
        self._beats = 0
        self._released = threading.Event()
        self._renewed = 0.0
        self._lost_to: dict[str, Any] | None = None  # empty: it was taken over and released
        try:
            self._take()
        except BaseException:
            _HERE.discard(self._own["token"])
            raise
        self._thread = threading.Thread(target=self._renew, name="promptgen-hold", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """See that it is still held.

        Raises:
            HeldError: another run has taken it over.
            StoreError: it was not renewed for long, and the store cannot be asked.
        """
        if self._lost_to is None and time.time() - self._renewed > BEAT * (PATIENCE - 1):
            self._look()
        if self._lost_to is not None:
            raise HeldError(_told(self._lost_to))

    def release(self) -> None:
        """Let others in."""
        self._released.set()
        self._thread.join()
        _HERE.discard(self._own["token"])
        if self._lost_to is not None:
            return
        with contextlib.suppress(OSError):  # if it stays, it is taken over by the next run
            remove([self._place.url])

    def _take(self) -> None:
        other = self._read()
        if other is not None and not _is_dead(other):
            logger.warning(
                "%s is held by process %s on %s; waiting to see whether that still runs.",
                self._place, other.get("pid"), other.get("host"),
            )  # fmt: skip
            deadline = time.monotonic() + BEAT * PATIENCE
            while time.monotonic() < deadline:
                time.sleep(BEAT / 4)
                now = self._read()
                if now is None:
                    break
                if now != other:
                    raise HeldError(_told(now))
        self._write()
        written = self._read()
        if written is not None and written.get("token") != self._own["token"]:
            raise HeldError(_told(written))

    def _read(self) -> dict[str, Any] | None:
        try:
            held = json.loads(read(self._place.url))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return held if isinstance(held, dict) else {}

    def _write(self) -> None:
        put(self._place.url, json.dumps({**self._own, "beat": self._beats}).encode())
        self._beats += 1
        self._renewed = time.time()  # also goes on while a machine sleeps

    def _look(self) -> None:
        """Note who has taken it over."""
        other = self._read()
        if other is None or other.get("token") not in (None, self._own["token"]):
            self._lost_to = other or {}

    def _renew(self) -> None:
        while not self._released.wait(BEAT) and self._lost_to is None:
            try:
                self._look()
                if self._lost_to is None:
                    self._write()
            except StoreError as error:  # the run itself will meet it
                logger.info("The hold on %s could not be renewed: %s", self._place, error)


def _told(holder: dict[str, Any]) -> str:
    if not holder:
        return (
            "it was at it while this one could not say that it still runs. Start again to go on, or give "
            "each run a part of the pictures with --shard"
        )
    return (
        f"process {holder.get('pid')} on {holder.get('host')!r} is at it since {holder.get('since')}. Wait "
        "for that to end, or give each run a part of the pictures with --shard"
    )


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether a holder is known to run no more, as only one of this machine can be."""
    if os.name == "nt" or holder.get("processes") != _processes():
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, KeyError, TypeError, ValueError):
        return False
    return holder["pid"] == os.getpid() and holder.get("token") not in _HERE


def _processes() -> str:
    """Equal where numbers of processes mean the same: on one machine, in one container, since its start."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()
