"""What a request asks, whichever face it came through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..captioning import CaptionOptions


@dataclass(frozen=True)
class Ask:
    """The same instructions and options for every picture of a request."""

    model: str | None  # a name of one of the server's models; None: its first
    instructions: tuple[str, ...]  # names in any case, with or without brackets; none: the model's default
    options: CaptionOptions
    seconds: float | None = None  # to have the answer in; None or more than the server's limit: that
