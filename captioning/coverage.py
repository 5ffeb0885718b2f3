"""How much of each pixel polygons cover: the exact areas, not samples of them.

Pillow's own polygons have whole-pixel corners (fractions are cut off) and fill the pixels of both edges, so
that even a picture drawn many times as large has areas that are off by a part of its pixels. Here a pixel's
value is the area of it that is covered, up to rounding in floats: polygons are cut into slabs at each row of
pixels, each corner and each crossing; within a slab edges do not cross, so that their order from left to
right tells which of them bound the covered area; and the area to the right of a piece of an edge is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Integers = NDArray[np.integer[Any]]

__all__ = ["BAND_PIXELS", "Window", "bands", "cover", "pairs_across"]

BAND_PIXELS = 1 << 20  # rows are worked on together up to so many pixels: some 30 MB at once
_MOST_PIECES = 1 << 20  # of edges in slabs, at once
_MOST_PAIRS = 1 << 20  # of edges that may cross, at once


class Window(NamedTuple):
    """Whole pixels: left and top are in it, right and bottom are not."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height; 0 where there is nothing in it."""
        return max(self.right - self.left, 0), max(self.bottom - self.top, 0)

    def __and__(self, other: Window) -> Window:
        return Window(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )


def bands(window: Window, pixels: int = BAND_PIXELS) -> Iterator[Window]:
    """The window in slices of whole rows, from top to bottom, of about so many pixels each."""
    width, _ = window.size
    rows = max(pixels // max(width, 1), 1)
    for top in range(window.top, window.bottom, rows):
        yield window._replace(top=top, bottom=min(top + rows, window.bottom))


def cover(polygons: Sequence[Floats], window: Window) -> Floats:
    """The covered part of each pixel of the window.

    Polygons are united. Within one that crosses itself all is covered that it winds around (the nonzero
    rule), so that a wobbly outline has no holes.

    Args:
        polygons: ``[n, 2]`` each, x and y of the corners in pixels; the last is joined to the first.
        window: which pixels. The memory in use grows with it: see :func:`bands`.

    Returns:
        ``[height, width]`` float32 from 0 to 1.
    """
    import numpy as np

    width, height = window.size
    edges = _Edges.of(polygons, window)
    if not (width and height and len(edges.x0)):
        return np.zeros((height, width), np.float32)
    events = edges.events(window)
    first = np.searchsorted(events, np.maximum(edges.y0, window.top))
    last = np.searchsorted(events, np.minimum(edges.y1, window.bottom))
    if (last - first).sum() > _MOST_PIECES and height > 1:
        middle = (window.top + window.bottom) // 2
        halves = window._replace(bottom=middle), window._replace(top=middle)
        return np.concatenate([cover(polygons, half) for half in halves])
    pieces = _outer(edges, events, first, last)
    return _sum_areas(pieces, window)


class _Edges(NamedTuple):
    """Edges of polygons, from top to bottom; the level ones bound nothing between the rows."""

    x0: Floats
    y0: Floats
    x1: Floats
    y1: Floats
    sign: Integers  # +1 where the polygon goes down along the edge, otherwise -1
    polygon: Integers

    @classmethod
    def of(cls, polygons: Sequence[Floats], window: Window) -> _Edges:
        import numpy as np

        starts = [np.asarray(polygon, np.float64) for polygon in polygons]
        number = np.repeat(np.arange(len(starts)), [len(points) for points in starts])
        start = np.concatenate([*starts, np.empty((0, 2))])
        end = np.concatenate([*(np.roll(points, -1, axis=0) for points in starts), np.empty((0, 2))])
        down = start[:, 1] < end[:, 1]
        upper, lower = np.where(down[:, None], start, end), np.where(down[:, None], end, start)
        used = (upper[:, 1] < lower[:, 1]) & (lower[:, 1] > window.top) & (upper[:, 1] < window.bottom)
        sign = np.where(down, 1, -1)
        (x0, y0), (x1, y1) = upper[used].T, lower[used].T
        return cls(x0, y0, x1, y1, sign[used], number[used])

    def x_at(self, edge: Integers, y: Floats) -> Floats:
        import numpy as np

        x0, y0, x1, y1 = self.x0[edge], self.y0[edge], self.x1[edge], self.y1[edge]
        return x0 + (x1 - x0) * np.clip((y - y0) / (y1 - y0), 0, 1)

    def events(self, window: Window) -> Floats:
        """Where slabs end: rows of pixels, corners and crossings, from the window's top to its bottom."""
        import numpy as np

        rows = np.arange(window.top, window.bottom + 1, dtype=np.float64)
        events = np.unique(np.concatenate([rows, self.y0, self.y1, *self._crossings(window)]))
        return events[(events >= window.top) & (events <= window.bottom)]

    def _crossings(self, window: Window) -> Iterator[Floats]:
        """Where two edges change their order, in bunches."""
        import numpy as np

        top, bottom = np.maximum(self.y0, window.top), np.minimum(self.y1, window.bottom)
        for a, b in pairs_across(top, bottom):
            upper, lower = np.maximum(top[a], top[b]), np.minimum(bottom[a], bottom[b])
            above = self.x_at(a, upper) - self.x_at(b, upper)
            below = self.x_at(a, lower) - self.x_at(b, lower)
            crossed = above * below < 0
            above, below, upper, lower = above[crossed], below[crossed], upper[crossed], lower[crossed]
            yield upper + (lower - upper) * above / (above - below)


def pairs_across(low: Floats, high: Floats) -> Iterator[tuple[Integers, Integers]]:
    """Which of the intervals from ``low`` to ``high`` overlap, two at a time, in bunches of bounded size."""
    import numpy as np

    order = np.argsort(low, kind="stable")
    partners = np.searchsorted(low[order], high[order], side="right") - np.arange(len(low)) - 1
    partners = np.maximum(partners, 0)  # an interval that ends before it begins has none
    start = 0
    while start < len(low):
        ahead = np.cumsum(partners[start:])
        stop = start + max(int(np.searchsorted(ahead, _MOST_PAIRS, side="right")), 1)
        counts = partners[start:stop]
        first = np.repeat(np.arange(start, stop), counts)
        yield order[first], order[first + 1 + _count_up(counts)]
        start = stop


def _count_up(counts: Integers) -> Integers:
    """0, 1, … for each count: of 2, 0, 3 it is 0, 1, 0, 1, 2."""
    import numpy as np

    ends = np.cumsum(counts)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - counts, counts)


class _Pieces(NamedTuple):
    """Parts of edges, each within one row of pixels."""

    row: Integers
    height: Floats  # how much of its row it spans; negative where what is covered ends at it
    xa: Floats  # at its left end
    xb: Floats  # at its right end


def _outer(edges: _Edges, events: Floats, first: Integers, last: Integers) -> _Pieces:
    """The parts of edges on one side of which all polygons are, and on the other none."""
    import numpy as np

    counts = np.maximum(last - first, 0)
    edge = np.repeat(np.arange(len(counts)), counts)
    slab = np.repeat(first, counts) + _count_up(counts)
    middle = edges.x_at(edge, (events[slab] + events[slab + 1]) / 2)

    # In a slab a polygon's windings add up to none, so that one running sum goes through all of them.
    order = np.lexsort((middle, edges.polygon[edge], slab))
    edge, slab, middle = edge[order], slab[order], middle[order]
    step = _steps(edges.sign[edge])
    edge, slab, middle, step = (values[step != 0] for values in (edge, slab, middle, step))

    order = np.lexsort((middle, slab))
    edge, slab, step = edge[order], slab[order], step[order]
    step = _steps(step)
    edge, slab, step = (values[step != 0] for values in (edge, slab, step))

    above, below = events[slab], events[slab + 1]
    ends = edges.x_at(edge, above), edges.x_at(edge, below)
    row = np.floor((above + below) / 2).astype(np.int64)
    return _Pieces(row, step * (below - above), np.minimum(*ends), np.maximum(*ends))


def _steps(turns: Integers) -> Integers:
    """+1 where a running sum leaves 0, -1 where it comes back to it, 0 elsewhere."""
    import numpy as np

    total = np.cumsum(turns)
    return (total != 0).astype(np.int64) - (total - turns != 0).astype(np.int64)


def _sum_areas(pieces: _Pieces, window: Window) -> Floats:
    """What lies to the right of each piece, summed up with its sign."""
    import numpy as np

    width, height = window.size
    xa, xb = pieces.xa - window.left, pieces.xb - window.left
    left = np.clip(np.floor(xa), -1, width).astype(np.int64)  # -1 and width stand for all beside the window
    right = np.clip(np.ceil(xb) - 1, left, width).astype(np.int64)
    counts = right - left + 1
    column = np.repeat(left, counts) + _count_up(counts)
    xa, xb, share = (np.repeat(values, counts) for values in (xa, xb, pieces.height))
    row = np.repeat(pieces.row - window.top, counts)

    start = np.where(column < 0, xa, np.maximum(xa, column))
    end = np.where(column >= width, xb, np.minimum(xb, column + 1))
    slanted = xb > xa
    share = share * np.where(slanted, (end - start) / np.where(slanted, xb - xa, 1), 1)
    inner = (start + end) / 2 - column  # the mean distance of this part from its pixel's left edge
    inner = np.where(column < 0, 0, inner)
    cell = row * (width + 2) + np.maximum(column, 0)
    seen = column < width
    cell, share, inner = cell[seen], share[seen], inner[seen]
    size = height * (width + 2)
    areas = np.bincount(cell, share * (1 - inner), size) + np.bincount(cell + 1, share * inner, size)
    covered = np.cumsum(areas.reshape(height, width + 2), axis=1)[:, :width]
    return np.clip(covered, 0, 1).astype(np.float32)
