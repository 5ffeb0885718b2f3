"""Which regions of an answer to keep, by their scores."""

from __future__ import annotations

from collections.abc import Sequence

from .regions import Box, Region
from .vision_options import VisionOptions

__all__ = ["best_regions", "box_iou"]


def best_regions(regions: Sequence[Region], options: VisionOptions) -> tuple[Region, ...]:
    """The regions that ``options`` keep, in the order in which they came.

    Of equal scores the first comes first. Two regions are one thing if they have the same label and their
    boxes, which stand for quads and outlines too, have an intersection over union above ``options.nms_iou``.

    Raises:
        ValueError: a region has no score, or no box to compare.
    """
    if not options.chooses:
        return tuple(regions)
    scores = [_score(region) for region in regions]
    least = options.threshold or 0.0
    kept = [place for place, score in enumerate(scores) if score >= least]
    kept.sort(key=lambda place: -scores[place])
    if options.nms_iou is not None:
        kept = _without_doubles(kept, regions, options.nms_iou)
    return tuple(regions[place] for place in sorted(kept[: options.top_k]))


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes (left, top, right, bottom), 0–1; 0 if neither has an area."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / (_area(first) + _area(second) - common)


def _without_doubles(ordered: Sequence[int], regions: Sequence[Region], most: float) -> list[int]:
    """Greedy non-maximum suppression, label by label, of the places ``ordered`` by falling score."""
    kept: list[int] = []
    boxes: dict[str, list[Box]] = {}  # of those that are kept
    for place in ordered:
        region = regions[place]
        if region.box is None:
            raise ValueError(f"the region {region.label!r} has no box to compare")
        rivals = boxes.setdefault(region.label, [])
        if all(box_iou(region.box, rival) <= most for rival in rivals):
            rivals.append(region.box)
            kept.append(place)
    return kept


def _score(region: Region) -> float:
    if region.score is None:
        raise ValueError(f"the region {region.label!r} has no score to choose by")
    return region.score


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
