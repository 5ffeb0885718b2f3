"""A colour for each label: the same in every picture and process, and apart for people who see fewer colours.

The colours are those of Okabe and Ito (*Color Universal Design*, 2008) without black, and each of them darker
and lighter: among these, too, two of one hue differ in lightness, which everybody sees. A label's colour
comes from a hash of it. Where two labels of one picture would have the same one, the label whose hash is the
greater takes the next of its own list; so a label's colour depends on other labels only where they collide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

__all__ = ["PALETTE", "RGB", "label_colours", "text_colour"]

RGB = tuple[int, int, int]

_OKABE_ITO: tuple[RGB, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermilion
    (204, 121, 167),  # reddish purple
)


def _mixed(colour: RGB, other: int, part: float) -> RGB:
    red, green, blue = (round(value + (other - value) * part) for value in colour)
    return red, green, blue


PALETTE: tuple[RGB, ...] = (
    *_OKABE_ITO,
    *(_mixed(colour, 0, 0.45) for colour in _OKABE_ITO),
    *(_mixed(colour, 255, 0.55) for colour in _OKABE_ITO),
)


def label_colours(labels: Iterable[str]) -> dict[str, RGB]:
    """The colour of each label of one picture; labels that differ in case or white space only share one.

    All are different as long as there are no more labels than :data:`PALETTE` has colours.
    """
    names = {label: " ".join(label.casefold().split()) for label in labels}
    taken: dict[int, str] = {}
    for name in sorted(set(names.values()), key=_hash):
        wishes = _wishes(name)
        place = next((wish for wish in wishes if wish not in taken), None)
        if place is None:
            break
        taken[place] = name
    places = {name: place for place, name in taken.items()}
    return {label: PALETTE[places.get(name, _wishes(name)[0])] for label, name in names.items()}


def text_colour(ground: RGB) -> RGB:
    """Black or white, whichever is read better on the colour (contrast as WCAG 2 defines it)."""
    light = _luminance(ground)
    return (0, 0, 0) if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else (255, 255, 255)


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def _wishes(name: str) -> list[int]:
    """All places of the palette in the order in which the label wants them; the plain colours come first."""
    digest = _hash(name)
    plain = len(_OKABE_ITO)
    first, second = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
    order = [(first + step) % plain for step in range(plain)]
    order += [plain + (second + step) % (len(PALETTE) - plain) for step in range(len(PALETTE) - plain)]
    return order


def _luminance(colour: RGB) -> float:
    parts = [value / 255 for value in colour]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
