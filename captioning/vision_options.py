"""What is asked about the regions of an answer: how sure the model is, which to keep, how closely to look."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .errors import InstructionError
from .instructions import INSTRUCTIONS, Instruction
from .regions import REGION_KINDS
from .tiles import TileOptions, check_tiles

__all__ = ["DEFAULT_REGION_MODEL", "VisionOptions", "check_vision"]

DEFAULT_REGION_MODEL = "Florence-2-base-ft"
"""The checkpoint for regions, by catalogue name; the one for captions was not trained to find any."""


@dataclass(frozen=True)
class VisionOptions:
    """Scores of regions, which regions of each answer are kept, and whether large pictures are cut.

    What is below the threshold goes first, then what non-maximum suppression finds twice, then all but the
    ``top_k``. Any of the three gives the regions their scores, too.

    Raises:
        ValueError: a value is outside its range; the message names the setting, the value and the range.
    """

    scores: bool = False  # say how sure the model is of each region
    threshold: float | None = None  # the least score, 0–1
    top_k: int | None = None  # the most regions, those of the highest scores
    # Of two regions of one label whose boxes have an intersection over union above this, 0–1, the surer one.
    nms_iou: float | None = None
    tile: TileOptions | None = None  # ask about overlapping tiles of large pictures

    def __post_init__(self) -> None:
        for name in ("threshold", "nms_iou"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 <= value <= 1):
                raise ValueError(f"{name} is {value!r}; it takes a number from 0 to 1.")
        if self.top_k is not None and not (type(self.top_k) is int and self.top_k >= 1):
            raise ValueError(f"top_k is {self.top_k!r}; it takes a whole number of at least 1.")
        if not (self.tile is None or isinstance(self.tile, TileOptions)):
            raise ValueError(f"tile is {self.tile!r}; it takes TileOptions or None.")

    @property
    def with_scores(self) -> bool:
        """Whether regions get scores, which choosing among them needs."""
        return self.scores or self.chooses

    @property
    def chooses(self) -> bool:
        """Whether regions may be left out."""
        return not (self.threshold is None and self.top_k is None and self.nms_iou is None)


def check_vision(instructions: Iterable[Instruction], options: VisionOptions) -> None:
    """Check before any image is opened that what is asked about regions has any to be about.

    Raises:
        InstructionError: scores are asked for, or a choice among regions, and no instruction gives regions;
            or tiles, and none can be asked about them.
    """
    instructions = tuple(instructions)
    if options.tile is not None:
        check_tiles(instructions)
    if not options.with_scores or any(instruction.answer in REGION_KINDS for instruction in instructions):
        return
    names = ", ".join(instruction.name for instruction in instructions)
    able = ", ".join(name for name, one in INSTRUCTIONS.items() if one.answer in REGION_KINDS)
    raise InstructionError(
        f"scores of regions, and choosing by them, have no use: {names} finds no regions. Leave them out, or"
        f" ask for one of {able}."
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
