"""Areas of shapes that are cut: by a line along an axis, or by one another."""

from __future__ import annotations

from itertools import pairwise

from .regions import Box, Points

__all__ = ["area_of", "box_overlap", "clip_along", "convex_hull", "convex_overlap"]

_Point = tuple[float, float]


def area_of(points: Points) -> float:
    """The area within a ring of points x0, y0, x1, y1, …, whichever way around it goes."""
    return abs(_turning_area(_pairs(points)))


def box_overlap(first: Box, second: Box) -> float:
    """The area that two boxes (left, top, right, bottom) share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return width * height if width > 0 and height > 0 else 0.0


def clip_along(points: Points, axis: int, at: float, *, below: bool) -> Points:
    """What of a polygon lies to one side of a line across an axis; empty if nothing does.

    Of a polygon that comes apart the parts stay joined by edges along the line, which hold no area.

    Args:
        points: x0, y0, x1, y1, ….
        axis: 0 for the line x = ``at``, 1 for y = ``at``.
        at: where the line is.
        below: whether to keep the part with the smaller coordinates.
    """
    sign = -1.0 if below else 1.0
    normal = (sign, 0.0) if axis == 0 else (0.0, sign)
    return tuple(value for point in _clip(_pairs(points), normal, sign * at) for value in point)


def convex_hull(points: Points) -> Points:
    """The corners of the smallest convex shape around points, in turn; two or one if it has no area."""
    ordered = sorted(set(_pairs(points)))
    if len(ordered) < 3:
        return tuple(value for point in ordered for value in point)
    halves: list[list[_Point]] = []
    for run in (ordered, ordered[::-1]):
        half: list[_Point] = []
        for point in run:
            while len(half) >= 2 and _cross(half[-2], half[-1], point) <= 0:
                half.pop()
            half.append(point)
        halves.append(half[:-1])
    return tuple(value for half in halves for point in half for value in point)


def convex_overlap(first: Points, second: Points) -> float:
    """The area that two convex hulls (see :func:`convex_hull`) share."""
    shape, other = _pairs(first), _pairs(second)
    if len(shape) < 3 or len(other) < 3:
        return 0.0
    for (x0, y0), (x1, y1) in pairwise([*other, other[0]]):
        normal = (y0 - y1, x1 - x0)  # to the inside
        shape = _clip(shape, normal, normal[0] * x0 + normal[1] * y0)
        if not shape:
            return 0.0
    return abs(_turning_area(shape))


def _clip(ring: list[_Point], normal: _Point, least: float) -> list[_Point]:
    """The part of a ring where ``normal · point >= least`` (Sutherland and Hodgman's clipping)."""
    if not ring:
        return []
    kept: list[_Point] = []
    depths = [normal[0] * x + normal[1] * y - least for x, y in ring]
    for place, (point, depth) in enumerate(zip(ring, depths, strict=True)):
        before, depth_before = ring[place - 1], depths[place - 1]
        if (depth > 0 > depth_before) or (depth < 0 < depth_before):
            part = depth_before / (depth_before - depth)
            kept.append(
                (before[0] + part * (point[0] - before[0]), before[1] + part * (point[1] - before[1]))
            )
        if depth >= 0:
            kept.append(point)
    return kept if len(kept) >= 3 else []


def _turning_area(ring: list[_Point]) -> float:
    """Positive if the ring turns as x turns towards y."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise([*ring, *ring[:1]])) / 2


def _cross(origin: _Point, first: _Point, second: _Point) -> float:
    return (first[0] - origin[0]) * (second[1] - origin[1]) - (first[1] - origin[1]) * (second[0] - origin[0])


def _pairs(points: Points) -> list[_Point]:
    return list(zip(points[::2], points[1::2], strict=True))
