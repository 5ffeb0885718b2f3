"""The regions that overlapping tiles show, as the regions of the whole picture.

What lies in the overlap of tiles is found several times, and what a tile's border cuts is found in pieces:

1. Pieces that continue each other become one: of one label, cut by facing borders, both there all across the
   tiles' overlap and side by side in it. Boxes become the box around both; outlines are cut in the middle of
   the overlap and kept together; texts become one line, put together where their ends say the same.
2. Of two regions from different tiles that are the same thing one stays: what no border cuts before what is
   put together of pieces and pieces, the larger before the smaller. The same thing are boxes of one label
   whose intersection over union is 0.5 or more, or of which one has 80 % of the other within it, or 70 % of a
   piece; texts of which one lies in others for the most part, or in one by half if both say nearly the same.

The whole picture is a tile like others, which cuts nothing. Its boxes go before those put together, as they
are no guesses; its texts after them, as it has the coarsest view. What one tile found twice stays twice: that
is for non-maximum suppression.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import chain, product

from .clipping import area_of, box_overlap, clip_along, convex_hull, convex_overlap
from .regions import Box, Points, Region

__all__ = ["join_texts", "merge_lines", "merge_regions", "similar_texts"]

_TOUCHING = 0.02  # of a tile's side: how far from its border what it cuts may end
_PIECE_WITHIN = 0.7  # of a piece's area
_SAME_IOU = 0.5
_SAME_IOU_UNNAMED = 0.7  # where labels are descriptions, which differ from view to view
_SAME_WITHIN = 0.8  # of the smaller's area
_TEXT_COVERED = 0.7  # of a text's area, by other texts
_COARSE_COVERED = 0.5  # of a text that the whole picture showed, by those of tiles
_TEXT_SHARED = 0.4  # of the smaller text's area, where both say nearly the same
_SIMILAR = 0.75  # texts, as SequenceMatcher compares them
_SIDE_BY_SIDE = 0.6  # of the shorter piece's extent along the border
_LINE_OFFSET = 0.5  # of a line's height: how far the middles of two pieces of it may be apart

_Sides = tuple[bool, bool, bool, bool]


@dataclass(frozen=True, eq=False)
class _Find:
    """A region as a view shows it, or what several views show of it."""

    region: Region
    box: Box  # the region's
    view: Box
    views: frozenset[int]
    cut: _Sides  # by the view's border: left, top, right, bottom
    whole: bool  # whether the view is the whole picture
    order: tuple[int, int]

    @property
    def is_cut(self) -> bool:
        return any(self.cut)

    @property
    def is_joined(self) -> bool:
        return len(self.views) > 1


def merge_regions(
    views: Sequence[tuple[Box, Sequence[Region]]],
    image_size: tuple[int, int],
    *,
    texts: bool = False,
    named: bool = True,
) -> list[Region]:
    """The regions of all views, each thing once, in the order of the views.

    Args:
        views: what of the picture was looked at (left, top, right, bottom), and the regions found there, both
            in pixels of the picture.
        image_size: ``(width, height)`` of the picture in pixels.
        texts: the regions are pieces of text, their labels what is written.
        named: labels are names, equal for equal things; else they are compared nowhere.
    """
    finds = _finds(views, image_size)
    same = _same_text if texts else _same_named if named else _same_place
    pieces = [find for find in finds if find.is_cut]
    others = [find for find in finds if not find.is_cut]
    for axis in (0, 1):
        pieces = _join_along(axis, pieces, texts=texts, named=named)
    if texts:
        closer = [find for find in [*others, *pieces] if not find.whole and not _is_cut_lengthwise(find)]
        others = [find for find in others if not (find.whole and _is_covered(find, closer, _COARSE_COVERED))]
    kept: dict[Box, list[_Find]] = {}  # by view, since what lies in another is no rival
    for find in sorted([*others, *pieces], key=_text_rank if texts else _box_rank):
        near = chain.from_iterable(those for view, those in kept.items() if _touch(find.box, view))
        rivals = [other for other in near if other.views.isdisjoint(find.views)]
        if not same(find, rivals):
            kept.setdefault(find.view, []).append(find)
    placeless = [region for _, regions in views for region in regions if region.box is None]
    return [
        *(find.region for find in sorted(chain.from_iterable(kept.values()), key=lambda find: find.order)),
        *placeless,
    ]


def merge_lines(views: Sequence[tuple[Box, str]]) -> list[str]:
    """Lines of text that came without a place: each once where views that overlap have it, too.

    Of lines that are nearly the same, or of which one holds the other, the longer stays.
    """
    lines = [
        (number, box, " ".join(line.split()))
        for number, (box, text) in enumerate(views)
        for line in text.splitlines()
        if line.strip()
    ]
    kept: list[tuple[int, int]] = []  # view, line
    for place in sorted(range(len(lines)), key=lambda place: -len(lines[place][2])):
        number, box, line = lines[place]
        rivals = (
            lines[other][2] for view, other in kept if view != number and box_overlap(box, views[view][0]) > 0
        )
        if not any(_holds(rival, line) for rival in rivals):
            kept.append((number, place))
    return [lines[place][2] for place in sorted(place for _, place in kept)]


def similar_texts(first: str, second: str) -> bool:
    """Whether two readings may be of the same words; case, spaces and punctuation count nothing."""
    first, second = _bare(first), _bare(second)
    return first == second or SequenceMatcher(None, first, second, autojunk=False).ratio() >= _SIMILAR


def join_texts(first: str, second: str, shared: tuple[float, float]) -> str:
    """Two pieces of a line that overlap as one text.

    They are put together at the longest run of characters that they share about where they overlap, so that a
    word that the border cut is taken from where it is whole. If there is no such run, each gives half of what
    both show, by the lengths, up to the nearest space.

    Args:
        first, second: in reading order.
        shared: which part of the length of each, 0–1, the other shows as well.
    """
    if min(shared) <= 0 or not first or not second:
        return f"{first} {second}".strip()
    common = round((len(first) * shared[0] + len(second) * shared[1]) / 2)  # characters
    slack = 2 + common // 3  # letters are not equally wide, and of one that is cut several may be made
    runs = []
    for shift in range(-slack, slack + 1):
        offset = len(first) - common + shift  # where the second begins within the first
        size, end = _longest_run(first, second, offset)
        runs.append((size - 2 * abs(shift), size, end, offset))  # "the the the" fits in many places
    _, size, end, offset = max(runs)
    if size >= max(2, 0.3 * common):
        return first[:end] + second[end - offset :]
    end = _at_space(first, round(len(first) * (1 - shared[0] / 2)))
    start = _at_space(second, round(len(second) * shared[1] / 2))
    return f"{first[:end].rstrip()} {second[start:].lstrip()}".strip()


def _longest_run(first: str, second: str, offset: int) -> tuple[int, int]:
    """The most equal characters in a row if ``second`` begins at ``offset`` of ``first``, and their end."""
    best = (0, 0)
    size = 0
    for place in range(max(0, offset), min(len(first), offset + len(second))):
        size = size + 1 if first[place] == second[place - offset] else 0
        best = max(best, (size, place + 1))
    return best


def _finds(views: Sequence[tuple[Box, Sequence[Region]]], image_size: tuple[int, int]) -> list[_Find]:
    image = (0.0, 0.0, float(image_size[0]), float(image_size[1]))
    return [
        _Find(
            region,
            region.box,
            view,
            frozenset([number]),
            _cut_sides(region.box, view, image),
            view == image,
            (number, place),
        )
        for number, (view, regions) in enumerate(views)
        for place, region in enumerate(regions)
        if region.box is not None
    ]


def _cut_sides(box: Box, view: Box, image: Box) -> _Sides:
    """Which borders of the view, but for those of the picture, the box reaches."""
    across, down = _TOUCHING * (view[2] - view[0]), _TOUCHING * (view[3] - view[1])
    return (
        view[0] > image[0] and box[0] <= view[0] + across,
        view[1] > image[1] and box[1] <= view[1] + down,
        view[2] < image[2] and box[2] >= view[2] - across,
        view[3] < image[3] and box[3] >= view[3] - down,
    )


# What goes first


def _box_rank(find: _Find) -> tuple[int, float]:
    rank = 3 if find.is_cut else 2 if find.is_joined else 1 if find.whole else 0
    return rank, -_area(find.box)


def _text_rank(find: _Find) -> tuple[int, float]:
    rank = 3 if find.is_cut else 2 if find.whole else 1 if find.is_joined else 0
    return rank, -_area(find.box)


# What is the same


def _same_named(find: _Find, rivals: Iterable[_Find]) -> bool:
    """Whether ``find`` is what one of those that go before it is already."""
    for rival in rivals:
        common = box_overlap(find.box, rival.box)
        if find.region.label != rival.region.label:
            continue
        if _iou(find, rival, common) >= _SAME_IOU or _is_speck_in(find, rival):
            return True
        if common > 0 and common >= (_PIECE_WITHIN if find.is_cut else _SAME_WITHIN) * _area(find.box):
            return True
    return False


def _same_place(find: _Find, rivals: Iterable[_Find]) -> bool:
    """The same where labels are descriptions: a part has its own, so lying within says little."""
    for rival in rivals:
        common = box_overlap(find.box, rival.box)
        if _iou(find, rival, common) >= _SAME_IOU_UNNAMED:
            return True
        if find.is_cut and not rival.whole and 0 < _PIECE_WITHIN * _area(find.box) <= common:
            return True
    return False


def _iou(find: _Find, rival: _Find, common: float) -> float:
    return common / (_area(find.box) + _area(rival.box) - common) if common else 0.0


def _is_speck_in(find: _Find, rival: _Find) -> bool:
    return not _area(find.box) and _is_at(_middle(find.box), rival.box)


def _same_text(find: _Find, rivals: Iterable[_Find]) -> bool:
    rivals = [rival for rival in rivals if _touch(find.box, rival.box)]
    if _is_covered(find, rivals, _TEXT_COVERED):
        return True
    shape = _hull(find.region)
    for rival in rivals:
        other = _hull(rival.region)
        least = _TEXT_SHARED * min(area_of(shape), area_of(other))
        if convex_overlap(shape, other) > least and similar_texts(find.region.label, rival.region.label):
            return True
    return False


def _is_covered(find: _Find, rivals: Iterable[_Find], least: float) -> bool:
    """Whether the given part of a text's area lies in others."""
    shape = _hull(find.region)
    area = area_of(shape)
    if not area:
        return any(_is_speck_in(find, rival) for rival in rivals)
    covered = (convex_overlap(shape, _hull(rival.region)) for rival in rivals if _touch(find.box, rival.box))
    return sum(covered) >= least * area


def _touch(first: Box, second: Box) -> bool:
    """Whether two boxes have a point in common."""
    across = first[0] <= second[2] and second[0] <= first[2]
    return across and first[1] <= second[3] and second[1] <= first[3]


def _is_cut_lengthwise(find: _Find) -> bool:
    """Whether a border runs along a line of text, so that what was read is not what is written."""
    across, down = map(abs, _text_line(find.region).direction)
    return any(find.cut[1::2]) if across > down else any(find.cut[::2])


def _holds(text: str, part: str) -> bool:
    bare = _bare(part)
    return similar_texts(text, part) or (len(bare) >= 3 and bare in _bare(text))


# What continues


def _join_along(axis: int, pieces: list[_Find], *, texts: bool, named: bool) -> list[_Find]:
    """Pieces that borders across ``axis`` (0: x) cut, put together where they continue each other."""
    fits = []
    for first, second in _adjoining(axis, pieces):
        if named and not texts and pieces[first].region.label != pieces[second].region.label:
            continue
        if (fit := _fit(axis, pieces[first], pieces[second], texts)) is not None:
            fits.append((fit, first, second))
    after: dict[int, int] = {}
    before: dict[int, int] = {}
    for _, first, second in sorted(fits, key=lambda one: -one[0]):
        if first not in after and second not in before:
            after[first], before[second] = second, first
    joined = []
    for place, piece in enumerate(pieces):
        if place in before:
            continue
        while place in after:
            place = after[place]
            piece = _join(axis, piece, pieces[place], texts=texts)
        joined.append(piece)
    return joined


def _adjoining(axis: int, pieces: Sequence[_Find]) -> Iterator[tuple[int, int]]:
    """Pairs of pieces, by their places, that facing borders of views cut and that lie side by side there."""
    across = 1 - axis
    ends: dict[Box, list[int]] = {}
    starts: dict[Box, list[int]] = {}
    for place, piece in enumerate(pieces):
        if piece.cut[axis + 2]:
            ends.setdefault(piece.view, []).append(place)
        if piece.cut[axis]:
            starts.setdefault(piece.view, []).append(place)
    for view, other in product(ends, starts):
        if not (view[axis] < other[axis] <= view[axis + 2] < other[axis + 2]):
            continue
        for first, second in product(ends[view], starts[other]):
            box, follower = pieces[first].box, pieces[second].box
            if box[across] <= follower[across + 2] and follower[across] <= box[across + 2]:
                yield first, second


def _fit(axis: int, first: _Find, second: _Find, texts: bool) -> float | None:
    """How well two pieces go on into each other, 0–1; None if they do not."""
    border, start = first.view[axis + 2], second.view[axis]
    if not first.views.isdisjoint(second.views):
        return None
    slack = [_TOUCHING * (find.view[axis + 2] - find.view[axis]) for find in (first, second)]
    if first.box[axis] > start + slack[1] or second.box[axis + 2] < border - slack[0]:
        return None  # one of them ends within the overlap, where both views would have seen it end
    if texts:
        return _line_fit(axis, first.region, second.region, (start + border) / 2)
    across = 1 - axis
    low = max(first.box[across], second.box[across])
    high = min(first.box[across + 2], second.box[across + 2])
    shorter = min(find.box[across + 2] - find.box[across] for find in (first, second))
    if (first.region.polygons is None) != (second.region.polygons is None):
        return None
    part = 1.0 if shorter <= 0 and high >= low else (high - low) / (shorter or 1)
    return part if part >= _SIDE_BY_SIDE else None


def _line_fit(axis: int, first: Region, second: Region, at: float) -> float | None:
    """The same for text: it runs along the axis, and both pieces lie on one line where they meet."""
    lines = [_text_line(region) for region in (first, second)]
    for line in lines:
        run = line.direction
        if abs(run[axis]) <= abs(run[1 - axis]):
            return None  # cut lengthwise
    if lines[0].direction[axis] * lines[1].direction[axis] < 0:
        return None
    heights = sorted(line.height for line in lines)
    if not heights[0] or heights[1] > 2 * heights[0]:
        return None
    offset = abs(lines[0].across_at(axis, at) - lines[1].across_at(axis, at)) / heights[0]
    return 1 - offset if offset <= _LINE_OFFSET else None


def _join(axis: int, first: _Find, second: _Find, *, texts: bool) -> _Find:
    """Two pieces as one."""
    seam = (first.view[axis + 2] + second.view[axis]) / 2
    larger = first if _area(first.box) >= _area(second.box) else second
    scores = [find.region.score for find in (first, second) if find.region.score is not None]
    region = dataclasses.replace(
        larger.region, box=_around(first.box, second.box), score=min(scores) if len(scores) == 2 else None
    )
    if first.region.polygons is not None and second.region.polygons is not None:
        parts = chain(
            (clip_along(polygon, axis, seam, below=True) for polygon in first.region.polygons),
            (clip_along(polygon, axis, seam, below=False) for polygon in second.region.polygons),
        )
        region = dataclasses.replace(region, polygons=tuple(filter(None, parts)) or region.polygons)
    if texts:
        region = _join_lines(axis, first, second, region)
    cut = [one or other for one, other in zip(first.cut, second.cut, strict=True)]
    cut[axis], cut[axis + 2] = first.cut[axis], second.cut[axis + 2]
    return _Find(
        region,
        region.box or larger.box,
        _around(first.view, second.view),
        first.views | second.views,
        (cut[0], cut[1], cut[2], cut[3]),
        whole=False,
        order=min(first.order, second.order),
    )


def _join_lines(axis: int, first: _Find, second: _Find, region: Region) -> Region:
    """``region`` with the text and the corners of a line of which two pieces were found."""
    overlap = max(0.0, first.view[axis + 2] - second.view[axis])
    shared = [min(1.0, overlap / ((find.box[axis + 2] - find.box[axis]) or 1)) for find in (first, second)]
    if _text_line(first.region).direction[axis] < 0:  # upside down: what is right is read first
        first, second = second, first
        shared.reverse()
    label = join_texts(first.region.label, second.region.label, (shared[0], shared[1]))
    region = dataclasses.replace(region, label=label)
    if first.region.quad is None or second.region.quad is None:
        return region
    begin, end = first.region.quad, second.region.quad
    quad = (*begin[:2], *end[2:6], *begin[6:])
    return dataclasses.replace(region, quad=quad)


@dataclass(frozen=True)
class _TextLine:
    """The line through the middle of a piece of text."""

    start: tuple[float, float]
    end: tuple[float, float]
    height: float

    @property
    def direction(self) -> tuple[float, float]:
        return self.end[0] - self.start[0], self.end[1] - self.start[1]

    def across_at(self, axis: int, at: float) -> float:
        """The other coordinate where the one along ``axis``, in which the line runs, is ``at``."""
        part = (at - self.start[axis]) / self.direction[axis]
        return self.start[1 - axis] + part * self.direction[1 - axis]


def _text_line(region: Region) -> _TextLine:
    quad = _corners(region)
    start = ((quad[0] + quad[6]) / 2, (quad[1] + quad[7]) / 2)
    end = ((quad[2] + quad[4]) / 2, (quad[3] + quad[5]) / 2)
    height = (math.dist(quad[:2], quad[6:]) + math.dist(quad[2:4], quad[4:6])) / 2
    return _TextLine(start, end, height)


def _corners(region: Region) -> Points:
    """From the start of the text on its upper side, in turn."""
    if region.quad is not None:
        return region.quad
    left, top, right, bottom = region.box or (0.0, 0.0, 0.0, 0.0)
    return left, top, right, top, right, bottom, left, bottom


def _hull(region: Region) -> Points:
    return convex_hull(_corners(region))


def _around(first: Box, second: Box) -> Box:
    return (
        min(first[0], second[0]), min(first[1], second[1]),
        max(first[2], second[2]), max(first[3], second[3]),
    )  # fmt: skip


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _is_at(point: tuple[float, float], box: Box) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _bare(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold() or "".join(text.split())


def _at_space(text: str, place: int) -> int:
    """The space nearest to a place in a text; the place itself where none is within four characters."""
    spaces = (match.start() for match in re.finditer(r"\s", text))
    nearest = min(spaces, key=lambda space: abs(space - place), default=place)
    return nearest if abs(nearest - place) <= 4 else place
