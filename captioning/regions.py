"""Places in a picture: location tokens of an answer as pixels, pixels as location tokens of a question.

Florence-2 writes a coordinate as ``<loc_0>`` … ``<loc_999>``, x and y in turn, each axis cut into 1 000
bins. A bin's value is its centre, ``(bin + 0.5) / 1000 × size``; a coordinate's bin is found by rounding
down. All pixels are those of the original image, after EXIF rotation, as floats.

An answer is a label followed by its coordinates, again and again. Parsing follows the published
post-processing (transformers' ``Florence2PostProcessor``) and differs from it on purpose where that loses
what the model said:

* coordinates are not rounded down to whole pixels, and labels keep characters outside ASCII and ``<``;
* a surplus coordinate drops only its own point (box, quad), not the label's other places;
* coordinates with no label get an empty one; proposals keep a label if there is one;
* whether a label has boxes or polygons is seen label by label, not once for the whole answer;
* a polygon of fewer than three points is none.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from .errors import InstructionError
from .instructions import AnswerKind

__all__ = ["LOCATION_BINS", "Region", "parse_regions", "read_region", "region_tokens", "strip_locations"]

LOCATION_BINS = 1000

Box = tuple[float, float, float, float]
Points = tuple[float, ...]

_LOCATION = r"<loc_([0-9]{1,3})>"
_TOKEN = re.compile(rf"{_LOCATION}|(<poly>)|(</poly>)|(<sep>)")
# Markup that the published processor adds to the vocabulary and that is no part of any label.
_MARKUP = re.compile(
    r"</?(?:s|od|ocr|cap|ncap|dcap|grounding|seg|region_cap|region_to_desciption|proposal)>|<and>|<pad>|<ground>|<obj>"
)


@dataclass(frozen=True)
class Region:
    """One labelled place, in pixels of the original image, x to the right and y down."""

    label: str
    box: Box | None = None  # left, top, right, bottom; of a quad or polygons the box around them
    quad: Points | None = None  # x0, y0, … x3, y3: the corners of a piece of text, in reading order
    polygons: tuple[Points, ...] | None = None  # outlines x0, y0, x1, y1, …, three points or more each

    def to_dict(self) -> dict[str, Any]:
        """``label`` and ``box``, and ``quad`` or ``polygons`` where there are any; numbers as flat lists."""
        result: dict[str, Any] = {"label": self.label, "box": list(self.box) if self.box else None}
        if self.quad is not None:
            result["quad"] = list(self.quad)
        if self.polygons is not None:
            result["polygons"] = [list(polygon) for polygon in self.polygons]
        return result


def parse_regions(raw: str, kind: AnswerKind, image_size: tuple[int, int]) -> tuple[Region, ...]:
    """The regions of an answer, in its order. Any text at all has a reading, if only an empty one.

    Args:
        raw: the decoded answer, location tokens included.
        kind: BOXES, PROPOSALS and PHRASES have four coordinates to a region, OCR_REGIONS eight; POLYGONS has
            outlines; OPEN_VOCABULARY has outlines for the labels with ``<poly>`` and boxes for the others.
        image_size: ``(width, height)`` of the original image in pixels.

    Raises:
        ValueError: ``kind`` is none that has regions.
    """
    if kind not in _REGION_KINDS:
        known = ", ".join(sorted(item.name for item in _REGION_KINDS))
        raise ValueError(f"an answer of kind {kind.name} has no regions; those that do are {known}")
    regions: list[Region] = []
    for phrase in _phrases(raw):
        outlined = kind is AnswerKind.POLYGONS or (kind is AnswerKind.OPEN_VOCABULARY and phrase.has_polygons)
        if outlined:
            regions.extend(_outlined(phrase, image_size))
        else:
            length = 8 if kind is AnswerKind.OCR_REGIONS else 4
            bins = [number for ring in phrase.rings() for number in ring]
            for start in range(0, len(bins) - length + 1, length):
                points = _to_pixels(bins[start : start + length], image_size)
                if length == 4:
                    regions.append(Region(phrase.label, (points[0], points[1], points[2], points[3])))
                else:
                    regions.append(Region(phrase.label, _bounds(points), quad=points))
    return tuple(regions)


def strip_locations(raw: str) -> str:
    """An answer's text without location tokens and other markup, for people."""
    return _MARKUP.sub("", _TOKEN.sub("", raw)).strip()


def region_tokens(region: str, image_size: tuple[int, int] | None = None) -> str:
    """A region given by a user as the tokens that the model reads.

    ``region`` is either location tokens, at least four, which are passed on as they are; or a box
    ``x0,y0,x1,y1`` (left, top, right, bottom; commas or spaces between, brackets around allowed). If no
    number exceeds 1 they are fractions of the image, otherwise pixels of the original image, after EXIF
    rotation.

    Args:
        region: what the user wrote.
        image_size: ``(width, height)`` of the original image in pixels; needed for a box in pixels.

    Raises:
        InstructionError: the region cannot be read, is not within the image, or is in pixels of an image
            whose size is not given.
    """
    box = read_region(region)
    if isinstance(box, str):
        return box
    if max(box) <= 1:
        size, said = (1, 1), "fractions go from 0 to 1"
    elif image_size is not None:
        size, said = image_size, f"the image is {image_size[0]} × {image_size[1]} pixels"
    else:
        raise InstructionError(f"the region {region!r} is in pixels, and the size of the image is not known")
    if box[2] > size[0] or box[3] > size[1]:
        raise InstructionError(
            f"the region {region!r} (left, top, right, bottom) is not in the image: {said}"
        )
    return "".join(f"<loc_{_to_bin(value, size[axis % 2])}>" for axis, value in enumerate(box))


def read_region(region: str) -> str | Box:
    """Location tokens, or the numbers of a box, which may still be outside of the image.

    Raises:
        InstructionError: it is neither, or the box has no width or height or begins below 0.
    """
    text = region.strip()
    if re.fullmatch(rf"(?:{_LOCATION}\s*){{4,}}", text):
        return "".join(text.split())
    box = _numbers(text)
    if box is None or not (0 <= box[0] < box[2] and 0 <= box[1] < box[3]):
        shown = text if len(text) <= 60 else text[:59] + "…"
        raise InstructionError(
            f"the region {shown!r} cannot be read; write a box as left,top,right,bottom in pixels"
            " (10,20,200,300) or in fractions of the image (0.1,0.2,0.5,0.9), or as location tokens"
            " (<loc_100><loc_200><loc_500><loc_900>)"
        )
    return box


_REGION_KINDS = frozenset(
    [
        AnswerKind.BOXES,
        AnswerKind.PROPOSALS,
        AnswerKind.PHRASES,
        AnswerKind.OCR_REGIONS,
        AnswerKind.POLYGONS,
        AnswerKind.OPEN_VOCABULARY,
    ]
)


@dataclass
class _Phrase:
    """A label and what follows it: bins, and the tokens ``<poly>``, ``</poly>`` and ``<sep>``."""

    label: str
    tokens: list[int | str]

    @property
    def has_polygons(self) -> bool:
        return "<poly>" in self.tokens

    def groups(self) -> list[list[int | str]]:
        """The tokens of each object: what stands between ``<poly>`` and ``</poly>``, or else all."""
        groups: list[list[int | str]] = [[]]
        for token in self.tokens:
            if token in ("<poly>", "</poly>"):
                groups.append([])
            else:
                groups[-1].append(token)
        return [group for group in groups if group]

    def rings(self) -> list[list[int]]:
        """Bins without any breaks between them, over all objects."""
        return [ring for group in self.groups() for ring in _rings(group)]


def _rings(tokens: list[int | str]) -> list[list[int]]:
    rings: list[list[int]] = [[]]
    for token in tokens:
        if isinstance(token, int):
            rings[-1].append(token)
        else:
            rings.append([])
    return [ring for ring in rings if ring]


def _phrases(raw: str) -> list[_Phrase]:
    """Labels with the tokens after them. A label that nothing follows has no place and is left out."""
    text = _MARKUP.sub("", raw)
    phrases: list[_Phrase] = []
    end = 0
    for match in _TOKEN.finditer(text):
        label = text[end : match.start()]
        if label or not phrases:
            phrases.append(_Phrase(" ".join(label.split()), []))
        phrases[-1].tokens.append(int(match[1]) if match[1] else match.group())
        end = match.end()
    return phrases


def _outlined(phrase: _Phrase, image_size: tuple[int, int]) -> list[Region]:
    regions = []
    for group in phrase.groups():
        polygons = tuple(
            _to_pixels(ring[: len(ring) // 2 * 2], image_size) for ring in _rings(group) if len(ring) >= 6
        )
        if polygons:
            regions.append(Region(phrase.label, _bounds(sum(polygons, ())), polygons=polygons))
    return regions


def _to_pixels(bins: list[int], image_size: tuple[int, int]) -> Points:
    """Bin centres; x and y in turn."""
    return tuple((2 * number + 1) * image_size[i % 2] / (2 * LOCATION_BINS) for i, number in enumerate(bins))


def _to_bin(value: float, size: int) -> int:
    bin_number = math.floor(round(value * LOCATION_BINS / size, 9))  # 0.57 × 1000 is 569.999… in floats
    return min(max(bin_number, 0), LOCATION_BINS - 1)


def _bounds(points: Points) -> Box:
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def _numbers(text: str) -> Box | None:
    """Four finite numbers, or None."""
    parts = re.split(r"\s*,\s*|\s+", text.strip("()[]{} "))
    if len(parts) != 4 or not all(map(_NUMBER.fullmatch, parts)):
        return None
    left, top, right, bottom = map(float, parts)
    box = (left, top, right, bottom)
    return box if all(map(math.isfinite, box)) else None
