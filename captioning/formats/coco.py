"""COCO's JSON for detection and segmentation: images, annotations, categories."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any, TextIO

from ..regions import Points, Region
from .entries import TEXT, AnyResult, Classes, box_of, class_of, outlines_of, regions_of

__all__ = ["CocoWriter"]


class CocoWriter:
    """One dataset that ``pycocotools`` and the tools that build on it read.

    Numbers (``id``) of images, annotations and categories count from 1 in the order in which they come: the
    same input gives the same numbers, and ``classes`` that are given keep theirs whatever is found.
    Annotations have ``score`` where there is one, so that the list of them also is what ``COCO.loadRes``
    takes as results. A box's segmentation is its rectangle, as pycocotools itself would add it. A piece of
    text is of the category ``text`` and has its words in ``text``; what has no label is an ``object``.

    Annotations lie in a temporary file until the end.
    """

    def __init__(self, stream: TextIO, classes: Iterable[str] = ()) -> None:
        self._stream = stream
        self._classes = Classes(classes)
        self._annotations = tempfile.TemporaryFile(  # noqa: SIM115 - closed by close
            "w+", encoding="utf-8", errors="backslashreplace", newline="\n"
        )
        self._image: str | None = None
        self._images = self._regions = 0
        info = {"description": "Regions found by promptgen-tagger"}
        self._stream.write(f'{{"info": {_json(info)}, "licenses": [],\n"images": [')

    def write(self, image: str, size: tuple[int, int], result: AnyResult) -> None:
        """Add an answer about a picture that has ``size`` (width, height) pixels."""
        regions = regions_of(result)
        if image != self._image:
            self._image = image
            self._images += 1
            entry = {"id": self._images, "file_name": image, "width": size[0], "height": size[1]}
            self._stream.write(("," if self._images > 1 else "") + "\n" + _json(entry))
        for region in regions:
            self._regions += 1
            text = _json(self._annotation(region))
            self._annotations.write(("," if self._regions > 1 else "") + "\n" + text)

    def close(self) -> None:
        """Write annotations and categories."""
        categories = [
            {"id": number, "name": name, "supercategory": ""}
            for number, name in enumerate(self._classes.names, start=1)
        ]
        self._stream.write('\n],\n"annotations": [')
        with self._annotations:
            self._annotations.seek(0)
            shutil.copyfileobj(self._annotations, self._stream)
        lines = ",\n".join(map(_json, categories))
        self._stream.write(f'\n],\n"categories": [\n{lines}\n]}}\n')

    def _annotation(self, region: Region) -> dict[str, Any]:
        left, top, right, bottom = box_of(region)
        outlines = outlines_of(region)
        boxed = region.polygons is None and region.quad is None
        area = (right - left) * (bottom - top) if boxed else sum(map(_area, outlines))
        annotation: dict[str, Any] = {
            "id": self._regions,
            "image_id": self._images,
            "category_id": self._classes.number(class_of(region)) + 1,
            "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
            "area": round(area, 2),
            "segmentation": [[round(value, 2) for value in outline] for outline in outlines],
            "iscrowd": 0,
        }
        if region.score is not None:
            annotation["score"] = region.score
        if class_of(region) == TEXT and region.quad is not None:
            annotation["text"] = region.label
        return annotation


def _area(outline: Points) -> float:
    """Of a polygon, by the shoelace formula."""
    xs, ys = outline[::2], outline[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
