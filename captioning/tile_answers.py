"""What is asked about the tiles of a picture, and one result of all answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import chain
from typing import Any

from .choosing import best_regions
from .instructions import INSTRUCTIONS, AnswerKind, Instruction
from .reading_order import reading_order
from .regions import Points, Region
from .results import OcrText, Regions, Result, text_of_regions
from .tile_merging import merge_lines, merge_regions
from .tiles import TileBox
from .vision_options import VisionOptions

__all__ = ["join_tile_answers", "tile_instruction", "tile_vision"]

_PLACED_OCR = "OCR_WITH_REGION"


def tile_instruction(instruction: Instruction, known: Sequence[str] = ()) -> Instruction:
    """What is asked about a tile.

    For ``OCR`` it is ``OCR_WITH_REGION``, since words are put in order by their places.

    Args:
        instruction: what is asked about the picture.
        known: the instructions that the checkpoint was trained on; empty if that is not known. One that knows
            ``OCR`` alone is asked that, and so is one of a family that has nothing else.
    """
    placed = INSTRUCTIONS[_PLACED_OCR]
    if instruction.answer is not AnswerKind.OCR or instruction.family not in placed.families:
        return instruction
    return placed if "OCR" not in known or _PLACED_OCR in known else instruction


def tile_vision(options: VisionOptions) -> VisionOptions:
    """What is chosen among the regions of a tile: what scores too little goes before anything is compared."""
    return dataclasses.replace(options, top_k=None, nms_iou=None)


def join_tile_answers(
    instruction: Instruction,
    answers: Sequence[tuple[TileBox, Result]],
    image_size: tuple[int, int],
    options: VisionOptions,
) -> Result:
    """One result of the answers about each tile, and about the whole picture where it was looked at.

    Regions are those of the picture, see :mod:`~.tile_merging`; texts stand in reading order, see
    :mod:`~.reading_order`. ``raw`` has a line for each answer, with the locations within its tile; ``tiles``
    is how many tiles there were, the whole picture not counted.

    Args:
        instruction: what was asked about the picture.
        answers: the tile (left, top, right, bottom), and what was answered about it in pixels of the tile.
        image_size: ``(width, height)`` of the picture in pixels.
        options: which regions to keep; none of OCR, which has no scores.
    """
    whole = (0, 0, *image_size)
    common: dict[str, Any] = {
        "instruction": instruction.name,
        "raw": "\n".join(answer.raw for _, answer in answers),
        "truncated": any(answer.truncated for _, answer in answers),
        "tiles": sum(box != whole for box, _ in answers),
    }
    if not all(isinstance(answer, Regions) for _, answer in answers):
        lines = merge_lines([(box, answer.text) for box, answer in answers])
        return OcrText(text="\n".join(lines), **common)
    is_text = instruction.answer in (AnswerKind.OCR, AnswerKind.OCR_REGIONS)
    found = merge_regions(
        [(box, [_shifted(one, box) for one in getattr(answer, "regions")]) for box, answer in answers],  # noqa: B009
        image_size,
        texts=is_text,
        named=instruction.name != "DENSE_REGION_CAPTION",
    )
    placed = tuple(reading_order(found) if is_text else found)
    if instruction.answer is AnswerKind.OCR:
        return OcrText(text="\n".join(one.label for one in placed) or _told(answers), **common)
    regions = best_regions(placed, options)
    if regions:
        text = text_of_regions(regions, instruction.answer, "")
    else:  # of what is left out not even the name
        text = "" if placed else _told(answers)
    return Regions(text=text, regions=regions, **common)


def _told(answers: Sequence[tuple[TileBox, Result]]) -> str:
    """What was said where no place was found: each thing once."""
    return "\n".join(dict.fromkeys(answer.text for _, answer in answers if answer.text))


def _shifted(region: Region, tile: TileBox) -> Region:
    """A region of a tile in pixels of the picture."""
    left, top = tile[:2]

    def shift(points: Points) -> Points:
        moved = zip(points[::2], points[1::2], strict=True)
        return tuple(chain.from_iterable((x + left, y + top) for x, y in moved))

    box = region.box and (
        region.box[0] + left, region.box[1] + top, region.box[2] + left, region.box[3] + top,
    )  # fmt: skip
    return dataclasses.replace(
        region,
        box=box,
        quad=None if region.quad is None else shift(region.quad),
        polygons=None if region.polygons is None else tuple(map(shift, region.polygons)),
    )
