"""Who captions the pictures of a run: this process, several, or a cluster."""

from __future__ import annotations

from .base import Workers
from .errors import WorkerError
from .in_process import InProcess
from .processes import WorkerProcesses
from .waiting import Waiting

__all__ = ["InProcess", "Waiting", "WorkerError", "WorkerProcesses", "Workers"]
