"""Boxes in PaliGemma's answers to ``detect A ; B``.

An answer is ``<loc0256><loc0128><loc0768><loc0512> cat ; <loc…><loc…><loc…><loc…> dog``: top, left, bottom
and right, then the label, with ``;`` before the next. A coordinate is one of 1 024 bins; the first is the
image's edge and the last the edge opposite: ``bin / 1023 × size``, as the published trainer and evaluator
write and read them (google-research/big_vision, ``pp/proj/paligemma/segmentation.py`` and
``evaluators/proj/paligemma/transfers/segmentation.py``). An outline (``segment A``) stands between the box
and the label as sixteen ``<seg…>`` codewords of a network that is no part of the checkpoint: its box is read.

Of a damaged answer what is sure is read:

* Coordinates count in fours, in a row; fewer or surplus ones are left out, and so are those beyond the last
  bin. Several fours in a row are boxes of one label.
* A label ends at ``;`` or at the next coordinate. A box without one has an empty label, unless a text that
  belongs to no other box stands before it.
* The corners of a box are in order: left before right, top before bottom.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from .regions import Box, Placed, Region, Span

__all__ = ["DETECTION_BINS", "placed_detections"]

DETECTION_BINS = 1024

_COORDINATES = 4
_TOKEN = re.compile(r"<loc([0-9]{4})>|<seg[0-9]{3}>|(;)")


def placed_detections(raw: str, image_size: tuple[int, int]) -> tuple[Placed, ...]:
    """The boxes of an answer, in its order, with the place in it of each. Any text at all has a reading.

    Args:
        raw: the decoded answer, location tokens included.
        image_size: ``(width, height)`` of the original image in pixels.
    """
    return tuple(placed for thing in _things(raw) for placed in _boxes(thing, raw, image_size))


@dataclass
class _Thing:
    """Coordinates in a row, and the text that names them."""

    runs: list[list[tuple[int, Span]]] = field(default_factory=lambda: [[]])
    label: Span = (0, 0)


def _things(raw: str) -> list[_Thing]:
    things: list[_Thing] = []
    open_thing: _Thing | None = None  # whose label is still to come
    before: Span | None = None  # a text within this entry that names nothing yet
    at = 0
    for match in (*_TOKEN.finditer(raw), None):
        text = _trimmed(raw, (at, match.start() if match else len(raw)))
        if text[0] < text[1]:
            if open_thing is not None and any(open_thing.runs):
                open_thing.label, open_thing = text, None
            else:
                before = text
        if match is None:
            break
        at = match.end()
        if match[2]:
            open_thing = before = None
        elif match[1]:
            if open_thing is None:
                open_thing = _Thing(label=before or (match.start(), match.start()))
                things.append(open_thing)
                before = None
            number = int(match[1])
            if number < DETECTION_BINS:
                open_thing.runs[-1].append((number, match.span()))
            else:
                open_thing.runs.append([])
    return things


def _trimmed(raw: str, span: Span) -> Span:
    """The span without the white space at its ends."""
    text = raw[slice(*span)]
    start = span[0] + len(text) - len(text.lstrip())
    return start, start + len(text.strip())


def _boxes(thing: _Thing, raw: str, image_size: tuple[int, int]) -> Iterator[Placed]:
    label = " ".join(raw[slice(*thing.label)].split())
    for run in thing.runs:
        for first in range(0, len(run) - _COORDINATES + 1, _COORDINATES):
            corners = run[first : first + _COORDINATES]
            box = _to_pixels([number for number, _ in corners], image_size)
            yield Placed(Region(label, box), thing.label, tuple(span for _, span in corners))


def _to_pixels(bins: list[int], image_size: tuple[int, int]) -> Box:
    """Top, left, bottom and right in bins to left, top, right and bottom in pixels."""
    width, height = image_size
    ys, xs = sorted(bins[::2]), sorted(bins[1::2])
    last = DETECTION_BINS - 1
    return xs[0] * width / last, ys[0] * height / last, xs[1] * width / last, ys[1] * height / last
