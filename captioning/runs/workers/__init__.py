"""Who captions the pictures of a run: this process, several, or a cluster."""

from __future__ import annotations

from .base import Workers
from .in_process import InProcess
from .waiting import Waiting

__all__ = ["InProcess", "Waiting", "Workers"]
