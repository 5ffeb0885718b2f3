"""Large pictures in overlapping tiles, so that the model sees what is small in them.

A checkpoint scales each picture to its own input, 768 × 768 pixels as published: a line of text 30 pixels
high on a page of 6 000 becomes 4 pixels there. So the picture is cut into tiles, each is asked about like a
picture of its own, and the answers are put together in pixels of the original
(:mod:`promptgen.captioning.tile_answers`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import InstructionError
from .instructions import INSTRUCTIONS, AnswerKind, Instruction
from .regions import REGION_KINDS

__all__ = [
    "MOST_TILES",
    "TILEABLE",
    "TileBox",
    "TileOptions",
    "check_tiles",
    "is_tileable",
    "tile_boxes",
]

TileBox = tuple[int, int, int, int]  # left, top, right, bottom in whole pixels of the original

SMALLEST_TILE = 32  # pixels per side
LARGEST_OVERLAP = 0.75  # of a tile's side
MOST_TILES = 1000  # of one picture: all are held in the checkpoint's size, 1.8 MB each as published

_AUTO_SCALE = 2  # sides of the model's input that a tile's side has: text of 20 pixels gets 10
_AUTO_MOST_PER_SIDE = 8  # beyond this tiles become larger
_AUTO_SLACK = 1.25  # what is so little larger than a tile is not cut


@dataclass(frozen=True)
class TileOptions:
    """How large pictures are cut.

    Raises:
        ValueError: a value is outside its range; the message names the setting, the value and the range.
    """

    # Pixels of the original per side. None: twice the side of what the checkpoint sees, which is 1536 for
    # the published ones, and more where that would be more than eight tiles along a side.
    size: int | None = None
    # The least part of a tile's side that it shares with its neighbour. What is smaller is whole in one tile.
    overlap: float = 0.25
    whole: bool = True  # look at the whole picture as well, which finds what is larger than a tile

    def __post_init__(self) -> None:
        if self.size is not None and not (type(self.size) is int and self.size >= SMALLEST_TILE):
            raise ValueError(
                f"tile size is {self.size!r}; it takes a whole number of pixels of at least {SMALLEST_TILE}."
            )
        if isinstance(self.overlap, bool) or not (
            isinstance(self.overlap, (int, float)) and 0 <= self.overlap <= LARGEST_OVERLAP
        ):
            raise ValueError(
                f"tile overlap is {self.overlap!r}; it takes a number from 0 to {LARGEST_OVERLAP}."
            )


def is_tileable(instruction: Instruction) -> bool:
    """Whether the answer about a part of the picture is a part of the answer.

    It is where things or words are found, but not where the picture is described, nor where a region is
    given, which says where to look.
    """
    found = instruction.answer in REGION_KINDS or instruction.answer is AnswerKind.OCR
    return found and instruction.input != "region"


TILEABLE = tuple(name for name, instruction in INSTRUCTIONS.items() if is_tileable(instruction))


def check_tiles(instructions: Iterable[Instruction]) -> None:
    """Check before any picture is opened that there is something to ask about tiles.

    Raises:
        InstructionError: none of the instructions can be asked about a part of the picture.
    """
    instructions = tuple(instructions)
    if any(is_tileable(instruction) for instruction in instructions):
        return
    names = ", ".join(instruction.name for instruction in instructions)
    raise InstructionError(
        f"tiles have no use: {names} is about the whole picture or a region of it. Leave them out, or ask for"
        f" one of {', '.join(TILEABLE)}."
    )


def tile_boxes(
    image_size: tuple[int, int], options: TileOptions, input_size: tuple[int, int]
) -> tuple[TileBox, ...]:
    """The tiles of a picture, row by row from the top left; empty for one that need not be cut.

    All have the same size and are spread evenly, so that the overlap is what was asked for or more. A side
    of the picture that is no longer than a tile is not cut.

    Args:
        image_size: ``(width, height)`` of the original in pixels.
        options: how to cut.
        input_size: ``(width, height)`` of what the checkpoint sees.

    Raises:
        InstructionError: there are more than :data:`MOST_TILES`.
    """
    if options.size is None:
        side = _auto_side(max(image_size), _AUTO_SCALE * max(input_size), options.overlap)
    else:
        side = options.size
    counts = [_count(length, side, options.overlap) for length in image_size]
    if math.prod(counts) == 1:
        return ()
    if math.prod(counts) > MOST_TILES:
        raise InstructionError(
            f"tiles of {side} pixels would cut the picture of {image_size[0]} × {image_size[1]} pixels into"
            f" {math.prod(counts)}; {MOST_TILES} is the limit. Choose larger tiles or less overlap."
        )
    columns, rows = (
        _stretches(length, side, count) for length, count in zip(image_size, counts, strict=True)
    )
    return tuple((left, top, right, bottom) for top, bottom in rows for left, right in columns)


def _auto_side(longest: int, usual: int, overlap: float) -> int:
    """A tile's side by the picture's longer one."""
    if longest <= usual * _AUTO_SLACK:
        return longest
    most = _AUTO_MOST_PER_SIDE
    return max(usual, math.ceil(longest / (most - (most - 1) * overlap)))


def _count(length: int, side: int, overlap: float) -> int:
    """How many tiles cover ``length`` pixels."""
    if length <= side:
        return 1
    shared = math.ceil(side * overlap)
    return math.ceil((length - shared) / (side - shared))


def _stretches(length: int, side: int, count: int) -> list[tuple[int, int]]:
    """First pixel of each tile along one axis, and the one after the last."""
    if count == 1:
        return [(0, length)]
    starts = [number * (length - side) // (count - 1) for number in range(count)]
    return [(start, start + side) for start in starts]
