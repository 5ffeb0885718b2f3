"""What a run and its worker processes say to each other. Pictures go to a worker as they are: items."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..records import Record

if TYPE_CHECKING:
    from ...captioner import CaptionOptions


@dataclass(frozen=True)
class Task:
    """All that a worker process is told at its start."""

    model: str
    device: str
    dtype: str
    batch_size: int | None
    instructions: tuple[str, ...]  # canonical names, in order
    options: CaptionOptions
    cpu_workers: int  # how many there are that compute on the CPU, among whom its cores are divided
    levels: Mapping[str, int]  # of the loggers that the run has set, by name
    loras: tuple[tuple[str, float], ...] = ()
    quantization: str = "none"


# ---- to the worker


@dataclass(frozen=True)
class Flush:
    """Nothing comes for now: caption what there is, also if that fills no batch."""


@dataclass(frozen=True)
class Stop:
    """Finish the batch in flight, and begin nothing else."""


# ---- from the worker


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""


@dataclass(frozen=True)
class Wanted:
    """So many pictures more can be taken."""

    count: int


@dataclass(frozen=True)
class Answered:
    """One picture is done. The record does not say how to open it: the run knows."""

    record: Record


@dataclass(frozen=True)
class Logged:
    """To be logged in the process of the run."""

    record: logging.LogRecord


@dataclass(frozen=True)
class Stopped:
    """After :class:`Stop`: all that was begun has been answered."""


@dataclass(frozen=True)
class Failed:
    """The worker ends with this error, whose notes hold its traceback."""

    error: Exception
    of_device: bool  # another device may do better
    of_process: bool  # another process on the same device may do better


FromWorker = Ready | Wanted | Answered | Logged | Stopped | Failed
