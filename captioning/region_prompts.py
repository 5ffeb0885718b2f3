"""Regions that a user asks about: written by hand, from a mask, or from an earlier result; one or several.

All of them become one text (``CaptionOptions.text_input``), so that every client takes them alike. An
instruction that takes a region is asked once for each, and its answers become one result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from .errors import InstructionError
from .instructions import AnswerKind, Instruction
from .regions import REGION_KINDS, Box, Points, Region, read_region, region_box
from .results import RegionCaption, RegionOcrText, Regions, Result, text_of_regions

__all__ = ["NoRegionsError", "boxes_text", "join_region_answers", "region_boxes", "split_regions"]

# Moves a box of an earlier result whose sides are in one bin apart, without leaving that bin.
_LEAST_SIDE = 1e-6


class NoRegionsError(InstructionError):
    """A text input can be read, and holds no region: an earlier result in which nothing was found."""


def split_regions(text: str) -> tuple[str, ...]:
    """The regions that a text input holds, each as :func:`~.regions.region_tokens` reads it.

    The text is one of

    * one region, or several with ``;`` or line breaks between them: ``10,20,200,300; 0.1,0.2,0.5,0.9``;
    * JSON: a box ``[10, 20, 200, 300]``, a list of boxes, or an earlier result as it was written, of which
      every region's ``box`` is taken, in pixels.

    Raises:
        InstructionError: a region cannot be read.
        NoRegionsError: there is none.
    """
    try:
        read_region(text)
    except InstructionError:
        pass
    else:
        return (text.strip(),)
    try:
        parts = tuple(_from_json(json.loads(text), text))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InstructionError):
            raise
        parts = tuple(part.strip() for part in re.split(r"[;\n]", text) if part.strip())
    if not parts:
        raise NoRegionsError(f"the text input {_shorten(text)!r} holds no region.")
    for part in parts:
        read_region(part)
    return parts


def region_boxes(text: str, image_size: tuple[int, int]) -> tuple[Box, ...]:
    """The boxes that a text input holds, in pixels of the original image.

    Args:
        text: see :func:`split_regions`.
        image_size: ``(width, height)`` of the original image in pixels.

    Raises:
        InstructionError: a region cannot be read or is not within the image.
        NoRegionsError: there is none.
    """
    return tuple(region_box(part, image_size) for part in split_regions(text))


def boxes_text(boxes: Iterable[Sequence[float]]) -> str:
    """Boxes (left, top, right, bottom) in pixels as the text input that stands for them."""
    return "; ".join(_box_text(box) for box in boxes)


def join_region_answers(instruction: Instruction, answers: Sequence[Result], boxes: Sequence[Box]) -> Result:
    """One result of the answers about each region, in their order.

    The regions of :class:`RegionCaption` and :class:`RegionOcrText` are those that were asked about, with the
    answers as labels; those with text have a quad, as all pieces of text have. ``text`` and ``raw`` have a
    line for each. Outlines are put together. Of no answers the result has no regions.
    """
    raw = "\n".join(answer.raw for answer in answers)
    truncated = any(answer.truncated for answer in answers)
    common: dict[str, Any] = {"instruction": instruction.name, "raw": raw, "truncated": truncated}
    if instruction.answer in REGION_KINDS:
        regions = tuple(chain.from_iterable(getattr(answer, "regions") for answer in answers))  # noqa: B009
        told = "\n".join(answer.text for answer in answers if answer.text)  # where there is no region
        text = text_of_regions(regions, instruction.answer, raw) if regions else told
        return Regions(text=text, regions=regions, **common)
    text = "\n".join(answer.text for answer in answers)
    is_text = instruction.answer is AnswerKind.OCR
    asked = tuple(
        Region(answer.text, box, quad=_corners(box) if is_text else None)
        for answer, box in zip(answers, boxes, strict=True)
    )
    return (RegionOcrText if is_text else RegionCaption)(text=text, regions=asked, **common)


def _corners(box: Box) -> Points:
    left, top, right, bottom = box
    return left, top, right, top, right, bottom, left, bottom


def _from_json(data: Any, text: str) -> Iterator[str]:
    """The regions of a JSON value, whatever holds them."""
    if isinstance(data, list) and len(data) == 4 and all(isinstance(number, (int, float)) for number in data):
        yield ",".join(map(repr, data))
    elif isinstance(data, list):
        for item in data:
            yield from _from_json(item, text)
    elif isinstance(data, Mapping) and isinstance(data.get("box"), list):
        try:
            yield _box_text(data["box"])
        except (TypeError, ValueError) as error:
            raise InstructionError(f"the region {_shorten(str(data))!r} has no box") from error
    elif isinstance(data, Mapping) and any(isinstance(data.get(name), list) for name in _HOLDERS):
        for name in _HOLDERS:
            yield from _from_json(data.get(name, []), text)
    else:
        raise InstructionError(
            f"the text input {_shorten(text)!r} is JSON, but neither boxes [left, top, right, bottom] nor a "
            "result with regions."
        )


_HOLDERS = ("regions", "results")


def _box_text(box: Sequence[float]) -> str:
    left, top, right, bottom = map(float, box)
    right, bottom = max(right, left + _LEAST_SIDE), max(bottom, top + _LEAST_SIDE)
    return f"{left!r},{top!r},{right!r},{bottom!r}px"


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
