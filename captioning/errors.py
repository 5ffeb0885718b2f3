"""What can go wrong in captioning for reasons the caller can mend."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["ImageError", "InstructionError", "without_tracebacks"]

_Error = TypeVar("_Error", bound=Exception)


class InstructionError(ValueError):
    """An instruction is unknown, or the text or region that it needs is missing or cannot be read."""


class ImageError(ValueError):
    """An image cannot be used. The message says which one and why, in one line."""


def without_tracebacks(error: _Error) -> _Error:
    """``error`` for a result that may be kept: the frames of its tracebacks hold pictures and files."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__context__
    return error
