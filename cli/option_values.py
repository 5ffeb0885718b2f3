"""Values of options that are more than a word: lists, replacements, colours."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .reporting import UsageError


def split_commas(values: Iterable[str]) -> list[str]:
    """``["a, b", "c"]`` to ``["a", "b", "c"]``; empty parts are dropped."""
    return [part for value in values for part in map(str.strip, value.split(",")) if part]


# Known without Pillow, so that the default does not load it before the command line has been checked.
_USUAL_COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0)}


def parse_colour(text: str) -> tuple[int, int, int]:
    """A colour name, ``#RGB``, ``#RRGGBB`` or ``R,G,B`` as three numbers from 0 to 255.

    Raises:
        UsageError: it is none of these.
    """
    if text in _USUAL_COLOURS:
        return _USUAL_COLOURS[text]
    from PIL import ImageColor

    numbers = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", text)
    if numbers:
        red, green, blue = (int(number) for number in numbers.groups())
        if max(red, green, blue) <= 255:
            return red, green, blue
    else:
        try:
            return ImageColor.getrgb(text)[:3]
        except ValueError:
            pass
    raise UsageError(
        f"--background {text!r} is no colour. Give a name such as 'white', '#RRGGBB', "
        "or 'R,G,B' with numbers from 0 to 255."
    )
