"""What comes out of a run: caption files, tables, shards and captions within the pictures."""

from __future__ import annotations

from .base import Mark, OnProblem, Output, OutputError, PictureError, SaveMark
from .collisions import Collision, Targets, refuse
from .disk import Fsync
from .existing import Existing
from .options import Drawn, Form, OutputOptions, make_outputs
from .sidecar import SameStem
from .texts import Column, columns_of
from .webdataset import ShardLimits

__all__ = [
    "Collision",
    "Column",
    "Drawn",
    "Existing",
    "Form",
    "Fsync",
    "Mark",
    "OnProblem",
    "Output",
    "OutputError",
    "OutputOptions",
    "PictureError",
    "SameStem",
    "SaveMark",
    "ShardLimits",
    "Targets",
    "columns_of",
    "make_outputs",
    "refuse",
]
