"""Distances from outlines, for what is drawn along them: lines, and shapes made larger or smaller.

Distances are true ones, from the middle of a pixel to the nearest point of an outline, whatever its
direction; corners that grow become round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .coverage import Window, cover, pairs_across

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Bools = NDArray[np.bool_]

__all__ = ["cover_resized", "outer_segments", "segments_of", "stroke"]

_DIAGONAL = 0.75  # from a pixel's middle to its corner, and a little more
_STRETCH = 64  # slanted segments are taken in parts of so many pixels: the box around each stays small
_MOST_TESTS = 1 << 21  # points against edges, at once


def segments_of(polygons: Sequence[Floats]) -> Floats:
    """The edges of polygons ``[n, 2]`` as ``[m, 4]``: x0, y0, x1, y1."""
    import numpy as np

    parts = [np.concatenate([points, np.roll(points, -1, axis=0)], axis=1) for points in polygons]
    return np.concatenate([*parts, np.empty((0, 4))])


def cover_resized(polygons: Sequence[Floats], segments: Floats, grow: float, window: Window) -> Floats:
    """As :func:`~.coverage.cover`, with all within ``grow`` pixels of the outline added; if < 0, taken away.

    Args:
        polygons: ``[n, 2]`` each, united.
        segments: their outline: any edges of theirs if ``grow`` > 0, :func:`outer_segments` if < 0.
        grow: in pixels.
        window: which pixels.

    Returns:
        ``[height, width]`` float32 from 0 to 1.
    """
    import numpy as np

    covered = cover(polygons, window)
    if not grow or not covered.size:
        return covered
    distance, nx, ny = _nearest(segments, window, abs(grow) + _DIAGONAL)
    near = np.isfinite(distance)
    before = covered[near]
    outward = np.where(before >= 0.5, -distance[near], distance[near])
    resized = _half_plane(grow - outward, nx[near], ny[near])
    covered[near] = np.maximum(before, resized) if grow > 0 else np.minimum(before, resized)
    return covered


def stroke(segments: Floats, width: float, window: Window) -> Floats:
    """What a line with round ends covers of each pixel: ``[height, width]`` float32 from 0 to 1."""
    import numpy as np

    distance, nx, ny = _nearest(segments, window, width / 2 + _DIAGONAL)
    near = np.isfinite(distance)
    distance, nx, ny = distance[near], nx[near], ny[near]
    covered = np.zeros(near.shape, np.float32)
    # On this side of the far edge and on that side of the near one: a thin line may lie within one pixel.
    covered[near] = _half_plane(width / 2 - distance, nx, ny) + _half_plane(width / 2 + distance, nx, ny) - 1
    return covered


def outer_segments(polygons: Sequence[Floats]) -> Floats:
    """The outline of all polygons together: their edges without what lies in, or between, other polygons."""
    import numpy as np

    parts = _cut(segments_of(polygons))
    dx, dy = (parts[:, 2:] - parts[:, :2]).T
    length = np.hypot(dx, dy)
    parts, dx, dy, length = (values[length > 1e-9] for values in (parts, dx, dy, length))
    aside = 1e-4 * np.stack([-dy, dx], axis=1) / length[:, None]
    middle = (parts[:, :2] + parts[:, 2:]) / 2
    return parts[_within(polygons, middle + aside) != _within(polygons, middle - aside)]


def _cut(segments: Floats) -> Floats:
    """The segments in parts that meet others only at their ends."""
    import numpy as np

    start, along = segments[:, :2], segments[:, 2:] - segments[:, :2]
    low, high = (pick(segments[:, 1], segments[:, 3]) for pick in (np.minimum, np.maximum))
    owners: list[Any] = [np.arange(len(segments))] * 2
    places: list[Any] = [np.zeros(len(segments)), np.ones(len(segments))]
    for a, b in pairs_across(low, high):
        for one, other in ((a, b), (b, a)):
            # Where the line through the other meets this one; and where the other's ends lie, if on one line.
            between = start[other] - start[one]
            cross = along[one][:, 0] * along[other][:, 1] - along[one][:, 1] * along[other][:, 0]
            square = np.maximum((along[one] ** 2).sum(1), 1e-18)
            with np.errstate(divide="ignore", invalid="ignore"):
                here = (between[:, 0] * along[other][:, 1] - between[:, 1] * along[other][:, 0]) / cross
                there = (between[:, 0] * along[one][:, 1] - between[:, 1] * along[one][:, 0]) / cross
            met = (here > 0) & (here < 1) & (there >= -1e-9) & (there <= 1 + 1e-9)
            owners.append(one[met])
            places.append(here[met])
            level = np.abs(cross) <= 1e-9 * square
            for end in (between, between + along[other]):
                place = (end * along[one]).sum(1) / square
                on_it = level & (place > 0) & (place < 1)
                owners.append(one[on_it])
                places.append(place[on_it])
    owner, place = np.concatenate(owners), np.concatenate(places)
    order = np.lexsort((place, owner))
    owner, place = owner[order], place[order]
    same = owner[:-1] == owner[1:]
    points = start[owner] + place[:, None] * along[owner]
    return np.concatenate([points[:-1][same], points[1:][same]], axis=1)


def _within(polygons: Sequence[Floats], points: Floats) -> Bools:
    """Which points any of the polygons winds around."""
    import numpy as np

    inside = np.zeros(len(points), bool)
    for polygon in polygons:
        following = np.roll(polygon, -1, axis=0)
        rows = max(_MOST_TESTS // max(len(polygon), 1), 1)
        for first in range(0, len(points), rows):
            x, y = points[first : first + rows, :, None].transpose(1, 0, 2)  # [rows, 1]
            (xa, ya), (xb, yb) = polygon.T, following.T
            left = (xb - xa) * (y - ya) - (x - xa) * (yb - ya)  # > 0: left of the edge, as y goes down
            winding = ((ya <= y) & (yb > y) & (left > 0)).sum(1) - ((ya > y) & (yb <= y) & (left < 0)).sum(1)
            inside[first : first + rows] |= winding != 0
    return inside


def _nearest(segments: Floats, window: Window, reach: float) -> tuple[Floats, Floats, Floats]:
    """Each pixel's distance from the nearest segment, and the direction to it.

    Returns:
        The distance, infinite where it is more than ``reach``, and x and y of the direction, of length 1:
        ``[height, width]`` float32 each.
    """
    import numpy as np

    width, height = window.size
    distance = np.full((height, width), np.inf, np.float32)
    directions = np.ones((2, height, width), np.float32)
    for x0, y0, x1, y1 in _stretches(segments, window, reach).tolist():
        rows = _pixels(y0, y1, reach, window.top, window.bottom)
        columns = _pixels(x0, x1, reach, window.left, window.right)
        y = np.arange(rows.start, rows.stop)[:, None] + (window.top + 0.5)
        x = np.arange(columns.start, columns.stop)[None] + (window.left + 0.5)
        dx, dy = x1 - x0, y1 - y0
        length = dx * dx + dy * dy
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / length, 0, 1) if length else 0.0
        to_x, to_y = x - (x0 + along * dx), y - (y0 + along * dy)
        here = np.sqrt(to_x * to_x + to_y * to_y)
        nearer = (here < distance[rows, columns]) & (here <= reach)
        on_it = here < 1e-6  # no direction to a point that one is at: take the one across the line
        across = (length**0.5) or 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            unit_x = np.where(on_it, -dy / across if length else 1.0, to_x / here)
            unit_y = np.where(on_it, dx / across, to_y / here)
        for field, values in ((distance, here), (directions[0], unit_x), (directions[1], unit_y)):
            field[rows, columns] = np.where(nearer, values, field[rows, columns])
    return distance, directions[0], directions[1]


def _pixels(a: float, b: float, reach: float, first: int, last: int) -> slice:
    """The pixels, counted from ``first``, that are within reach of what lies between a and b."""
    low = max(int(max(min(a, b) - reach, first - 1.0)), first)
    high = min(int(min(max(a, b) + reach, last + 1.0)) + 1, last)
    return slice(low - first, max(high, low) - first)


def _stretches(segments: Floats, window: Window, reach: float) -> Floats:
    """What of the segments may be within reach of the window, the slanted ones in short parts."""
    import numpy as np

    parts = []
    low, high = np.minimum(segments[:, :2], segments[:, 2:]), np.maximum(segments[:, :2], segments[:, 2:])
    start, end = np.array(window[:2]) - reach, np.array(window[2:]) + reach
    segments = segments[((high >= start) & (low <= end)).all(1)]
    for segment in segments:
        span = np.abs(segment[2:] - segment[:2])
        if span.min() <= _STRETCH:
            parts.append(segment[None])
            continue
        inside = _clip(segment, start, end)
        if inside is None:
            continue
        count = int(np.ceil(np.abs(inside[2:] - inside[:2]).max() / _STRETCH)) or 1
        points = np.linspace(inside[:2], inside[2:], count + 1)
        parts.append(np.concatenate([points[:-1], points[1:]], axis=1))
    return np.concatenate([*parts, np.empty((0, 4))])


def _clip(segment: Floats, low: Floats, high: Floats) -> Floats | None:
    """The part of a slanted segment that is between two corners, if any."""
    import numpy as np

    start, along = segment[:2], segment[2:] - segment[:2]
    ends = np.sort(np.stack([(low - start) / along, (high - start) / along]), axis=0)
    first, last = max(ends[0].max(), 0.0), min(ends[1].min(), 1.0)
    return np.concatenate([start + first * along, start + last * along]) if first <= last else None


def _half_plane(depth: Floats, nx: Floats, ny: Floats) -> Floats:
    """How much of a pixel lies on one side of a line, its middle ``depth`` inside of it; n has length 1."""
    import numpy as np

    nx, ny = np.abs(nx), np.abs(ny)
    long, short = np.maximum(nx, ny), np.minimum(nx, ny)
    half, flat = (long + short) / 2, (long - short) / 2
    inner = np.minimum(np.abs(depth), half)
    corner = (half - inner) ** 2 / np.maximum(2 * long * short, 1e-12)
    area = np.where(inner <= flat, 0.5 + inner / long, 1 - corner)
    return np.where(depth >= 0, area, 1 - area).astype(np.float32)
