"""JSON of our own, and CSV: a record for each result, a row for each region."""

from __future__ import annotations

import csv
import json
from typing import Any, TextIO

from .entries import AnyResult, box_of, outlines_of, record_of, regions_of

__all__ = ["CsvWriter", "JsonLinesWriter", "JsonWriter"]

COLUMNS = (
    "image", "width", "height", "instruction", "region", "label", "score", "left", "top", "right", "bottom",
    "shape", "points",
)  # fmt: skip


def _record(image: str, size: tuple[int, int], result: AnyResult) -> dict[str, Any]:
    return {"image": image, "width": size[0], "height": size[1], **record_of(result)}


class JsonWriter:
    """One array with an object for each result: ``image``, ``width``, ``height`` and ``Result.to_dict()``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._before = "[\n"

    def write(self, image: str, size: tuple[int, int], result: AnyResult) -> None:
        """Add a result of a picture that has ``size`` (width, height) pixels."""
        self._stream.write(self._before + json.dumps(_record(image, size, result), ensure_ascii=False))
        self._before = ",\n"

    def close(self) -> None:
        """End the array."""
        self._stream.write("[]\n" if self._before == "[\n" else "\n]\n")


class JsonLinesWriter:
    """The same objects, each on a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, image: str, size: tuple[int, int], result: AnyResult) -> None:
        """Add a result of a picture that has ``size`` (width, height) pixels."""
        self._stream.write(json.dumps(_record(image, size, result), ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Each line stands alone."""


class CsvWriter:
    """A row for each region, with a header.

    ``region`` counts from 0 within the answer; ``shape`` is box, quad or polygon; ``points`` has the corners
    of quads and polygons, ``x0 y0 x1 y1 …``, with ``;`` between the polygons of one region.
    """

    def __init__(self, stream: TextIO) -> None:
        self._rows = csv.writer(stream, lineterminator="\n")
        self._rows.writerow(COLUMNS)

    def write(self, image: str, size: tuple[int, int], result: AnyResult) -> None:
        """Add the regions of an answer about a picture that has ``size`` (width, height) pixels."""
        instruction = record_of(result)["instruction"]
        for number, region in enumerate(regions_of(result)):
            shape = "polygon" if region.polygons else "quad" if region.quad else "box"
            points = ";".join(" ".join(map(_short, outline)) for outline in outlines_of(region))
            self._rows.writerow(
                [
                    image, *size, instruction, number, region.label,
                    "" if region.score is None else f"{region.score:.6g}",
                    *map(_short, box_of(region)), shape, "" if shape == "box" else points,
                ]
            )  # fmt: skip

    def close(self) -> None:
        """Each row stands alone."""


def _short(pixels: float) -> str:
    return f"{pixels:.2f}".rstrip("0").rstrip(".")
