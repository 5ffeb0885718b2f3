"""Pieces of text in the order in which a page is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from .regions import Box, Region

__all__ = ["reading_order"]

_COLUMN_GAP = 1.0  # between columns, in heights of a line
_COLUMN_LINES = 2  # the least number of lines that make a column


def reading_order(regions: Sequence[Region]) -> list[Region]:
    """The regions from top to bottom and from left to right, column by column.

    A page is cut again and again: where a gap as wide as a line is high goes through it from top to bottom,
    with two lines or more to each side, into columns, the left one first; otherwise at the widest gap across,
    the upper part first. What no gap divides is taken line by line. Regions without a box come last.
    """
    placed = [region for region in regions if region.box is not None]
    ordered: list[Region] = []
    blocks = [placed] if placed else []
    while blocks:
        block = blocks.pop()
        parts = _columns(block) or _halves(block)
        if parts:
            blocks += reversed(parts)
        else:
            ordered += _by_lines(block)
    return [*ordered, *(region for region in regions if region.box is None)]


def _columns(block: list[Region]) -> list[list[Region]] | None:
    least = _COLUMN_GAP * _line_height(block)
    for gap, parts in _cuts(block, axis=0):
        if gap < least:
            return None
        if all(_lines(part) >= _COLUMN_LINES for part in parts):
            return parts
    return None


def _halves(block: list[Region]) -> list[list[Region]] | None:
    return next((parts for _, parts in _cuts(block, axis=1)), None)


def _cuts(block: list[Region], axis: int) -> Iterator[tuple[float, list[list[Region]]]]:
    """Where nothing is: how wide, and what is before and after; the widest first."""
    ordered = sorted(block, key=lambda region: _box(region)[axis])
    found = []
    reached = _box(ordered[0])[axis + 2]
    for place, region in enumerate(ordered):
        start, end = _box(region)[axis], _box(region)[axis + 2]
        if place and start >= reached:
            found.append((start - reached, place))
        reached = max(reached, end)
    found.sort(key=lambda cut: -cut[0])
    return ((gap, [ordered[:place], ordered[place:]]) for gap, place in found)


def _lines(block: list[Region]) -> int:
    """How many lines there are, told by their middles."""
    count, reached = 0, float("-inf")
    for region in sorted(block, key=_middle):
        if _middle(region) > reached:
            count += 1
            reached = _box(region)[3]
    return count


def _by_lines(block: list[Region]) -> list[Region]:
    """From top to bottom; what begins before the middle of a line's height has passed belongs to it."""
    ordered: list[Region] = []
    line: list[Region] = []
    for region in sorted(block, key=_middle):
        if line and _middle(region) > _box(line[0])[3]:
            ordered += sorted(line, key=lambda one: _box(one)[0])
            line = []
        line.append(region)
    return ordered + sorted(line, key=lambda one: _box(one)[0])


def _line_height(block: list[Region]) -> float:
    return median(
        min(_box(region)[3] - _box(region)[1], _box(region)[2] - _box(region)[0]) for region in block
    )


def _middle(region: Region) -> float:
    return (_box(region)[1] + _box(region)[3]) / 2


def _box(region: Region) -> Box:
    assert region.box is not None  # looked for in the beginning
    return region.box
