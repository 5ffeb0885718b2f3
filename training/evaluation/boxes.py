"""Average precision of boxes, as COCO measures it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...captioning.regions import Region

__all__ = ["BoxScores", "average_precision"]


@dataclass(frozen=True)
class BoxScores:
    """0 to 1; None where no picture has a true box."""

    ap: float | None  # on average over the overlaps 0.50, 0.55, … 0.95 from which a box is right
    ap50: float | None  # from an intersection over union of 0.5
    ap75: float | None
    recall: float | None  # of at most 100 boxes of a picture, on average over the same overlaps


def average_precision(
    pictures: Sequence[tuple[Sequence[Region], Sequence[Region]]], *, labelled: bool
) -> BoxScores:
    """Measure by ``pycocotools``.

    Args:
        pictures: of each the true regions and those found, of which the surer count first; one without a
            score counts as quite sure.
        labelled: whether a box must also have the label, in any case, of the true one, and the averages are
            taken over labels. Without, all boxes are of one kind.
    """
    classes: dict[str, int] = {}

    def category(region: Region) -> int:
        name = " ".join(region.label.casefold().split()) if labelled else ""
        return classes.setdefault(name, len(classes) + 1)

    truth = [
        _annotation(number, category(region), region)
        for number, (true, _) in enumerate(pictures, start=1)
        for region in true
        if region.box is not None
    ]
    found = [
        _annotation(number, category(region), region)
        for number, (_, answered) in enumerate(pictures, start=1)
        for region in answered
        if region.box is not None
    ]
    if not truth:
        return BoxScores(None, None, None, None)
    if not found:
        return BoxScores(0.0, 0.0, 0.0, 0.0)
    stats = _evaluate(len(pictures), classes.values(), truth, found)
    return BoxScores(*(float(stats[place]) for place in (0, 1, 2, 8)))


def _annotation(image: int, category: int, region: Region) -> dict[str, Any]:
    left, top, right, bottom = region.box or (0.0, 0.0, 0.0, 0.0)
    box = [left, top, right - left, bottom - top]
    score = 1.0 if region.score is None else region.score
    return {"image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "score": score}


def _evaluate(pictures: int, classes: Any, truth: list[dict[str, Any]], found: list[dict[str, Any]]) -> Any:
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        evaluation = COCOeval(_coco(pictures, classes, truth), _coco(pictures, classes, found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def _coco(pictures: int, classes: Any, annotations: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(1, pictures + 1)],
        "categories": [{"id": number} for number in classes],
        "annotations": [
            one | {"id": number, "iscrowd": 0} for number, one in enumerate(annotations, start=1)
        ],
    }
    coco.createIndex()
    return coco
