"""Who captions the pictures of a run: this process, several, or a cluster."""

from __future__ import annotations

from .base import Workers
from .errors import ModelGoneError, WorkerError
from .in_process import InProcess
from .processes import WorkerProcesses
from .ray_data import ClusterError, RayOptions, RayWorkers
from .waiting import Waiting

__all__ = [
    "ClusterError",
    "InProcess",
    "ModelGoneError",
    "RayOptions",
    "RayWorkers",
    "Waiting",
    "WorkerError",
    "WorkerProcesses",
    "Workers",
]
