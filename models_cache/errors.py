"""What can go wrong between a model's name and its files, and how each of it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ProblemKind = Literal["missing", "damaged", "unfinished", "differs", "unchecked"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one file of a checkpoint.

    ``missing``: not there. ``damaged``: cut off, empty, or not the bytes that were verified. ``unfinished``:
    a download stopped in the middle. ``differs``: whole, but not the Hub's copy. ``unchecked``: there was
    nothing to compare it with.
    """

    file: str
    kind: ProblemKind
    detail: str

    def __str__(self) -> str:
        return f"{self.file}: {self.detail}"


class ModelFilesError(RuntimeError):
    """A checkpoint's files are not usable. ``problems`` says which, the message also what to do."""

    def __init__(self, message: str, *, model: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.model = model
        self.problems = tuple(problems)


class ModelNotFoundError(ModelFilesError):
    """Nothing of that name is known, on this computer or on the Hub."""


class DamagedCheckpointError(ModelFilesError):
    """The files are there but incomplete or damaged, and nothing says where to fetch them again."""


class DownloadError(ModelFilesError):
    """Files are missing and could not be fetched: no network, no access, no disk, or wrong bytes."""
