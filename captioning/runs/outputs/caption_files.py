"""Caption files wherever they lie: on a disk, or as objects of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from ..stores.objects import in_parallel, put, read
from ..stores.paths import Place, StorePath
from .disk import Disk, place_for, temporary_of
from .existing import Found, State, judge, look_at

__all__ = ["each", "glance_at", "look_at_caption", "settle", "write_caption"]

Thing = TypeVar("Thing")
Value = TypeVar("Value")


def look_at_caption(path: Place) -> Found:
    """Read a caption file, if there is one, and judge it.

    Raises:
        OSError: its folder cannot be looked into; the store cannot be asked.
    """
    if not isinstance(path, StorePath):
        return look_at(path)
    try:
        return judge(read(path.url))
    except FileNotFoundError:
        return Found(State.MISSING)


def glance_at(path: Place) -> Found:
    """As :func:`look_at_caption`, but an object that is newer than the listing of its folder is missing."""
    if isinstance(path, StorePath) and not path.exists():
        return Found(State.MISSING)
    return look_at_caption(path)


def write_caption(path: Place, content: bytes, disk: Disk) -> None:
    """Make a caption file hold ``content``; whoever reads it sees the old content or the new one.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(path, StorePath):
        put(path.url, content)
        return
    disk.make_folder(path.parent)
    disk.write_whole(path, content)


def settle(path: Place) -> None:
    """Clear away what a kill may have left of the writing of a file that is complete."""
    if not isinstance(path, StorePath):
        temporary_of(place_for(path)).unlink(missing_ok=True)


def each(work: Callable[[Thing], Value], things: Iterable[Thing], *, remote: bool) -> list[Value]:
    """What ``work`` returns for each, in order; with a store, where most of the time is spent on the way,
    several at once.
    """
    return in_parallel(work, things) if remote else [work(thing) for thing in things]
