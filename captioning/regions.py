"""Places in a picture: location tokens of an answer as pixels, pixels as location tokens of a question.

(PaliGemma's are another language: see :mod:`.detections`.)

Florence-2 writes a coordinate as ``<loc_0>`` … ``<loc_999>``, x and y in turn, each axis cut into 1 000
bins. A bin's value is its centre, ``(bin + 0.5) / 1000 × size``; a coordinate's bin is found by rounding
down. All pixels are those of the original image, after EXIF rotation, as floats.

An answer is a label followed by its coordinates, again and again. Parsing follows the published
post-processing (transformers' ``Florence2PostProcessor``), which is the same for every answer that is well
formed, and differs from it on purpose where that loses what the model said or makes something else of it:

* Coordinates are bin centres, not rounded down to whole pixels.
* Labels keep characters outside ASCII, ``<`` and line breaks; each run of white space in one is a space.
* Tokens of the markup are no part of a label (``<od>car`` is a car, not ``od>car``), and whatever stands
  between a label and its coordinates, the label keeps them.
* ``<loc_1000>`` and beyond are no coordinates: everything lies within the image.
* The corners of a box are in order: left before right, top before bottom.
* Surplus coordinates, fewer than a place takes, are left out alone; of a text's quads all the others stay,
  and the next label does not begin with them.
* Places with no label get an empty one; those of proposals and outlines keep theirs if there is one.
* A text may have several quads, and quads are kept however small they are.
* Whether a label has boxes or outlines is seen label by label, not once for the whole answer.
* An outline has three points or more; one that stands beside ``<poly>`` … ``</poly>``, not within, is one.
* Phrases that refer to nothing ("it", "the image") are left out as published, unless there are no others.
* Of an answer that was cut off, an outline at its end that nothing closes is left out: its rest is missing,
  and joining its ends would give another shape. Whole outlines of the same object stay.
* Short texts about a region have no location tokens in them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from .errors import InstructionError
from .instructions import AnswerKind

__all__ = [
    "EMPTY_PHRASES",
    "LOCATION_BINS",
    "REGION_KINDS",
    "Placed",
    "Region",
    "box_tokens",
    "parse_placed",
    "parse_regions",
    "read_region",
    "region_box",
    "region_tokens",
    "strip_locations",
]

LOCATION_BINS = 1000

Box = tuple[float, float, float, float]
Points = tuple[float, ...]

_LOCATION = r"<loc_([0-9]{1,3})>"
_TOKEN = re.compile(rf"{_LOCATION}|(<poly>)|(</poly>)|(<sep>)")
# Stand anywhere and mean nothing.
_IGNORED = r"<s>|</s>|<pad>|<ground>|<obj>"
# Markup that the published processor adds to the vocabulary and that is no part of any label.
_OTHER = r"</?(?:od|ocr|cap|ncap|dcap|grounding|seg|region_cap|region_to_desciption|proposal)>|<and>"
_MARKUP = re.compile(f"{_IGNORED}|{_OTHER}")
_PALIGEMMA_TOKEN = re.compile(r"<loc[0-9]{4}>|<seg[0-9]{3}>")  # see `.detections`
_ANY_TOKEN = re.compile(rf"{_LOCATION}|(?P<break><poly>|</poly>|<sep>)|(?P<ignored>{_IGNORED})|{_OTHER}")

# Phrases of a caption that stand for nothing by themselves, as the published checkpoints' configuration has
# them (``banned_grounding_tokens``).
# fmt: off
EMPTY_PHRASES = {
    "it", "I", "me", "mine", "you", "your", "yours", "he", "him", "his", "she", "her", "hers", "they",
    "them", "their", "theirs", "one", "oneself", "we", "us", "our", "ours", "its", "myself", "yourself",
    "himself", "herself", "itself", "ourselves", "yourselves", "themselves", "this", "that", "these",
    "those", "who", "whom", "whose", "which", "what", "all", "another", "any", "anybody", "anyone",
    "anything", "each", "everybody", "everyone", "everything", "few", "many", "nobody", "none", "several",
    "some", "somebody", "someone", "something", "each other", "one another", "the image", "image", "images",
    "the", "a", "an", "a group", "other objects", "lots", "a set",
}
# fmt: on


@dataclass(frozen=True)
class Region:
    """One labelled place, in pixels of the original image, x to the right and y down."""

    label: str
    box: Box | None = None  # left, top, right, bottom; of a quad or polygons the box around them
    quad: Points | None = None  # x0, y0, … x3, y3: the corners of a piece of text, in reading order
    polygons: tuple[Points, ...] | None = None  # outlines x0, y0, x1, y1, …, three points or more each
    score: float | None = None  # 0–1, how sure the model is; None where it was not asked for

    def to_dict(self) -> dict[str, Any]:
        """``label`` and ``box``; ``quad``, ``polygons``, ``score`` where there are any; points flat."""
        result: dict[str, Any] = {"label": self.label, "box": list(self.box) if self.box else None}
        if self.quad is not None:
            result["quad"] = list(self.quad)
        if self.polygons is not None:
            result["polygons"] = [list(polygon) for polygon in self.polygons]
        if self.score is not None:
            result["score"] = self.score
        return result

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Region:
        """The region that :meth:`to_dict` gave, also after JSON.

        Raises:
            ValueError: it is none: a name is missing, or there are not as many numbers as there should be.
        """
        try:
            box, quad, polygons = data["box"], data.get("quad"), data.get("polygons")
            score = data.get("score")
            return cls(
                str(data["label"]),
                None if box is None else _four(_points(box, 4)),
                None if quad is None else _points(quad, 8),
                None if polygons is None else tuple(_points(polygon) for polygon in polygons),
                None if score is None else float(score),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no region: {data!r}") from error


Span = tuple[int, int]  # first character and the one after the last


@dataclass(frozen=True)
class Placed:
    """A region, and which characters of the raw answer it was read from."""

    region: Region
    label: Span  # empty where it has none
    locations: tuple[Span, ...]  # of each of its location tokens, in order


def parse_regions(
    raw: str, kind: AnswerKind, image_size: tuple[int, int], *, truncated: bool = False
) -> tuple[Region, ...]:
    """The regions of an answer, in its order. Any text at all has a reading, if only an empty one.

    Args:
        raw: the decoded answer, location tokens included.
        kind: BOXES, PROPOSALS and PHRASES have four coordinates to a region, OCR_REGIONS eight; POLYGONS has
            outlines; OPEN_VOCABULARY has outlines for the labels with ``<poly>`` and boxes for the others;
            DETECTIONS are PaliGemma's boxes, see :mod:`.detections`.
        image_size: ``(width, height)`` of the original image in pixels.
        truncated: whether the answer was cut off; then an outline at its very end is not whole.

    Raises:
        ValueError: ``kind`` is none that has regions.
    """
    return tuple(placed.region for placed in parse_placed(raw, kind, image_size, truncated=truncated))


def parse_placed(
    raw: str, kind: AnswerKind, image_size: tuple[int, int], *, truncated: bool = False
) -> tuple[Placed, ...]:
    """Like :func:`parse_regions`, with the place in the answer of each."""
    if kind not in REGION_KINDS:
        known = ", ".join(sorted(item.name for item in REGION_KINDS))
        raise ValueError(f"an answer of kind {kind.name} has no regions; those that do are {known}")
    if kind is AnswerKind.DETECTIONS:
        from .detections import placed_detections

        return placed_detections(raw, image_size)
    phrases = _phrases(raw)
    cut = truncated and bool(phrases) and phrases[-1].ends_answer
    placed: list[Placed] = []
    for phrase in phrases:
        if kind is AnswerKind.POLYGONS or (kind is AnswerKind.OPEN_VOCABULARY and phrase.has_polygons):
            placed.extend(_outlined(phrase, image_size, cut=cut and phrase is phrases[-1]))
        else:
            placed.extend(_cornered(phrase, image_size, 8 if kind is AnswerKind.OCR_REGIONS else 4))
    if kind is AnswerKind.PHRASES:
        placed = [one for one in placed if one.region.label not in EMPTY_PHRASES] or placed
    return tuple(placed)


def strip_locations(raw: str) -> str:
    """An answer's text without location tokens and other markup of either family, for people."""
    return _PALIGEMMA_TOKEN.sub("", _MARKUP.sub("", _TOKEN.sub("", raw))).strip()


def region_tokens(region: str, image_size: tuple[int, int] | None = None) -> str:
    """A region given by a user as the tokens that the model reads.

    ``region`` is either location tokens, at least four, which are passed on as they are; or a box
    ``x0,y0,x1,y1`` (left, top, right, bottom; commas or spaces between, brackets around allowed). If no
    number exceeds 1 they are fractions of the image, otherwise pixels of the original image, after EXIF
    rotation; with ``px`` behind the last they are pixels in any case.

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
    return box_tokens(box, _measure(region, box, image_size))


def region_box(region: str, image_size: tuple[int, int]) -> Box:
    """A region given by a user as a box in pixels of the original image; see :func:`region_tokens`."""
    box = read_region(region)
    if not isinstance(box, str):
        width, height = image_size
        unit = _measure(region, box, image_size)
        return (
            box[0] * width / unit[0], box[1] * height / unit[1],
            box[2] * width / unit[0], box[3] * height / unit[1],
        )  # fmt: skip
    bins = [int(number) for number in re.findall(_LOCATION, box)]
    points = tuple(_centre(number, image_size[i % 2]) for i, number in enumerate(bins[: len(bins) // 2 * 2]))
    return _bounds(points)


def _measure(region: str, box: Box, image_size: tuple[int, int] | None) -> tuple[int, int]:
    """What the numbers of a box are parts of: 1 and 1 of fractions, else the size of the image.

    Raises:
        InstructionError: see :func:`region_tokens`.
    """
    if max(box) <= 1 and not _PIXELS.search(region):
        size, said = (1, 1), "fractions go from 0 to 1"
    elif image_size is not None:
        size, said = image_size, f"the image is {image_size[0]} × {image_size[1]} pixels"
    else:
        raise InstructionError(f"the region {region!r} is in pixels, and the size of the image is not known")
    if box[2] > size[0] or box[3] > size[1]:
        raise InstructionError(
            f"the region {region!r} (left, top, right, bottom) is not in the image: {said}"
        )
    return size


def box_tokens(box: Box, size: tuple[int, int]) -> str:
    """The four location tokens of a box; what is outside of ``size`` (width, height) goes to its edge."""
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
            + ("" if box is None else ". Nothing is below 0, left is less than right, top less than bottom.")
        )
    return box


# Answers of these kinds have regions.
REGION_KINDS = frozenset(
    [
        AnswerKind.BOXES,
        AnswerKind.PROPOSALS,
        AnswerKind.PHRASES,
        AnswerKind.OCR_REGIONS,
        AnswerKind.POLYGONS,
        AnswerKind.OPEN_VOCABULARY,
        AnswerKind.DETECTIONS,
    ]
)


@dataclass(frozen=True)
class _Token:
    """A location token, or with ``bin`` None whatever else may stand among those of a label."""

    bin: int | None
    text: str
    span: Span


@dataclass
class _Phrase:
    """A label and what follows it."""

    label: str
    span: Span
    tokens: list[_Token]
    ends_answer: bool = False  # its last token is a location, and nothing at all comes after it

    @property
    def has_polygons(self) -> bool:
        return any(token.text == "<poly>" for token in self.tokens)

    def objects(self) -> list[list[list[_Token]]]:
        """Location tokens as runs that nothing breaks, a list of runs for each object.

        An object is what stands between ``<poly>`` and ``</poly>``, or else all; ``<sep>`` is between runs.
        """
        objects: list[list[list[_Token]]] = [[[]]]
        for token in self.tokens:
            if token.bin is not None:
                objects[-1][-1].append(token)
            elif token.text in ("<poly>", "</poly>"):
                objects.append([[]])
            else:
                objects[-1].append([])
        whole = [[run for run in runs if run] for runs in objects]
        return [runs for runs in whole if runs]


def _phrases(raw: str) -> list[_Phrase]:
    """Labels with the tokens after them. A label that nothing follows has no place and is left out."""
    phrases: list[_Phrase] = []
    label, start, end = "", 0, 0  # of what is to be the next label: its text, and where it stands
    at = 0
    for match in _ANY_TOKEN.finditer(raw):
        if match.start() > at:
            start = start if label else at
            label, end = label + raw[at : match.start()], match.start()
        at = match.end()
        if match["ignored"]:
            continue
        if not match[1] and not match["break"] and (label or not phrases):
            label = label and label + " "
            continue
        if label or not phrases:
            span = (start, end) if label else (match.start(), match.start())
            phrases.append(_Phrase(" ".join(label.split()), span, []))
            label = ""
        bin_number = int(match[1]) if match[1] else None
        phrases[-1].tokens.append(_Token(bin_number, match.group(), match.span()))
    if phrases and not label.strip() and not raw[at:].strip():
        phrases[-1].ends_answer = phrases[-1].tokens[-1].bin is not None
    return phrases


def _cornered(phrase: _Phrase, image_size: tuple[int, int], length: int) -> list[Placed]:
    """Boxes (``length`` 4) or quads (8): as many as there are coordinates for in a row."""
    placed = []
    for run in (run for runs in phrase.objects() for run in runs):
        for first in range(0, len(run) - length + 1, length):
            tokens = run[first : first + length]
            points = _to_pixels(tokens, image_size)
            region = Region(phrase.label, _bounds(points), quad=points if length == 8 else None)
            placed.append(_place(region, phrase, tokens))
    return placed


def _outlined(phrase: _Phrase, image_size: tuple[int, int], *, cut: bool) -> list[Placed]:
    """One region for each object, of all its outlines; with ``cut`` the last outline is not whole."""
    objects = phrase.objects()
    if cut:
        objects[-1].pop()
    placed = []
    for runs in objects:
        outlines = [run[: len(run) // 2 * 2] for run in runs if len(run) >= 6]
        if outlines:
            polygons = tuple(_to_pixels(outline, image_size) for outline in outlines)
            box = _bounds(tuple(chain.from_iterable(polygons)))
            region = Region(phrase.label, box, polygons=polygons)
            placed.append(_place(region, phrase, chain.from_iterable(outlines)))
    return placed


def _place(region: Region, phrase: _Phrase, tokens: Iterable[_Token]) -> Placed:
    return Placed(region, phrase.span, tuple(token.span for token in tokens))


def _to_pixels(tokens: Sequence[_Token], image_size: tuple[int, int]) -> Points:
    """Bin centres; x and y in turn."""
    bins = [token.bin or 0 for token in tokens]
    return tuple(_centre(number, image_size[axis % 2]) for axis, number in enumerate(bins))


def _centre(number: int, size: int) -> float:
    return (2 * number + 1) * size / (2 * LOCATION_BINS)


def _to_bin(value: float, size: int) -> int:
    bin_number = math.floor(round(value * LOCATION_BINS / size, 9))  # 0.57 × 1000 is 569.999… in floats
    return min(max(bin_number, 0), LOCATION_BINS - 1)


def _bounds(points: Points) -> Box:
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def _points(values: Sequence[Any], count: int | None = None) -> Points:
    """Finite coordinates: ``count`` of them, or else those of three points or more.

    Raises:
        ValueError: they are not.
    """
    points = tuple(map(float, values))
    wrong = len(points) != count if count else len(points) < 6 or len(points) % 2
    if wrong or not all(map(math.isfinite, points)):
        raise ValueError(f"no coordinates: {values!r}")
    return points


def _four(points: Points) -> Box:
    return points[0], points[1], points[2], points[3]


_PIXELS = re.compile(r"\s*px\s*(?=[)\]}\s]*\Z)")  # behind the last number
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def _numbers(text: str) -> Box | None:
    """Four finite numbers, or None."""
    text = _PIXELS.sub("", text).strip("()[]{} ")
    parts = re.split(r"\s*,\s*|\s+", text)
    if len(parts) != 4 or not all(map(_NUMBER.fullmatch, parts)):
        return None
    left, top, right, bottom = map(float, parts)
    box = (left, top, right, bottom)
    return box if all(map(math.isfinite, box)) else None
