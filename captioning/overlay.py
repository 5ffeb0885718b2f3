"""A picture with what was found in it: outlines, translucent fills and labels.

Line widths and letters follow the picture's size. Boxes have whole-pixel edges, so that they are crisp;
polygons and quads are antialiased. Every line has a dark rim, so that it is seen on any ground. Larger
regions lie below smaller ones, and fills do not add up where they overlap.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .coverage import Window, bands, cover
from .fonts import FontBook, TextLine, open_fonts
from .label_colours import RGB, label_colours, text_colour
from .label_places import place_labels
from .masks import region_shape, window_around
from .outlines import outer_segments, stroke
from .regions import Region

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Floats = NDArray[np.floating[Any]]

__all__ = ["draw_overlay"]

_LINE = 0.003  # of the picture's size, which is the square root of its area
_LETTERS = 0.02
_SMALLEST_LETTERS = 11  # pixels
_SMALLEST_OCR_LETTERS = 9  # text that was read may be small, and is labelled in its own size
_LEGIBLE = 6  # a picture that has no room for such letters has no labels
_FILL_POLYGON = 0.4  # opacity
_FILL_BOX = 0.15  # of quads too: what is within them is to be seen
_RIM = 0.5
_CROWDED = 0.25  # of the picture may be under labels; of more labels the letters become smaller
_BAND_PIXELS = 1 << 17  # some 4 MB at once, which stay in the processor's cache


def draw_overlay(
    image: Image,
    regions: Sequence[Region],
    *,
    fill: bool = True,
    font: str | os.PathLike[str] | None = None,
) -> Image:
    """A copy of the picture with the regions drawn on it.

    A label has the same colour in all pictures, unless another label of the same picture has that colour (see
    :mod:`.label_colours`). It is followed by the score if there is one; a region with neither has its outline
    only, and one without a place has nothing. A label that is wider than the picture ends in ``…``.

    Args:
        image: of any mode; drawn on as RGB.
        regions: in pixels of the image.
        fill: whether to tint what is within the outlines.
        font: a font file for the labels; by default ``$PROMPTGEN_FONT``, and for letters that it lacks
            Pillow's own font and those of the system.

    Raises:
        ValueError: the font cannot be used, or a region has a coordinate that is not finite.
    """
    canvas = image.convert("RGB") if image.mode != "RGB" else image.copy()
    fonts = open_fonts(font)
    colours = label_colours(region.label for region in regions)
    style = _Style.of(canvas.size)
    drawn = [_Drawn.of(region, colours[region.label], style, canvas.size) for region in regions]
    drawn = [item for item in drawn if min(item.window.size) > 0]
    _draw_shapes(canvas, sorted(drawn, key=lambda item: -item.area), style, fill)
    _draw_labels(canvas, drawn, style, fonts)
    return canvas


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels."""

    line: int
    rim: int
    letters: int

    @classmethod
    def of(cls, image_size: tuple[int, int]) -> _Style:
        size, room = math.sqrt(image_size[0] * image_size[1]), min(image_size)
        line = max(min(round(size * _LINE), room // 8), 1)
        letters = min(max(round(size * _LETTERS), _SMALLEST_LETTERS), int(room * 0.7))
        return cls(line, max(round(line / 3), 1), letters)


@dataclass(frozen=True)
class _Drawn:
    """A region as it is drawn."""

    region: Region
    colour: RGB
    shape: list[Floats]
    segments: Floats | None  # the outline; None of a box
    line: int  # its width in pixels
    window: Window  # where it is, with its line
    area: int

    @classmethod
    def of(cls, region: Region, colour: RGB, style: _Style, image_size: tuple[int, int]) -> _Drawn:
        shape = region_shape(region)
        inner = window_around(shape, 0, image_size).size
        is_box = region.polygons is None and region.quad is None
        segments = None if is_box else outer_segments(shape)
        line = round(min(style.line, max(_quad_height(region) / 12, 1)))
        window = window_around(shape, style.line / 2 + style.rim + 1, image_size)
        return cls(region, colour, shape, segments, line, window, inner[0] * inner[1])

    @property
    def opacity(self) -> float:
        return _FILL_BOX if self.region.polygons is None else _FILL_POLYGON

    def frame(self, image_size: tuple[int, int], line: int) -> Window:
        """Outer edges of a box's line: around the box, but within the image and no thinner than a line."""
        assert self.region.box is not None
        edges = []
        for axis in (0, 1):
            low, high = sorted((self.region.box[axis], self.region.box[axis + 2]))
            start = min(max(round(max(low, -line) - line / 2), 0), max(image_size[axis] - line, 0))
            end = round(min(high, image_size[axis] + line) + line / 2)
            edges.append((start, min(max(end, start + line), image_size[axis])))
        (left, right), (top, bottom) = edges
        return Window(left, top, right, bottom)

    def bounds(self, style: _Style) -> tuple[float, float, float, float]:
        """With its line: what the label is put at."""
        rim = style.rim + 1
        left, top, right, bottom = self.window
        return left + rim, top + rim, right - rim, bottom - rim

    def letters(self, style: _Style) -> int:
        """The size of the label's letters: of text that was read its own, if that is smaller."""
        wanted = min(_quad_height(self.region) * 0.8, style.letters)
        return max(round(wanted), min(_SMALLEST_OCR_LETTERS, style.letters))


def _quad_height(region: Region) -> float:
    """How high the letters of a text that was read may be, in pixels; infinite where there is no quad."""
    quad = region.quad
    if quad is None or region.polygons is not None:
        return math.inf
    return min(math.dist(quad[0:2], quad[6:8]), math.dist(quad[2:4], quad[4:6]))


def _draw_shapes(canvas: Image, drawn: list[_Drawn], style: _Style, fill: bool) -> None:
    """In bands, so that a large picture takes little more memory than itself."""
    import numpy as np
    from PIL import Image as PILImage

    for band in bands(Window(0, 0, *canvas.size), _BAND_PIXELS):
        here = [item for item in drawn if min((item.window & band).size) > 0]
        if not here:
            continue
        pixels = np.asarray(canvas.crop(band)).astype(np.float32)
        if fill:
            _tint(pixels, here, band, canvas.size)
        for item in here:
            _outline(pixels, item, band, style, canvas.size)
        canvas.paste(PILImage.fromarray(np.rint(pixels).astype(np.uint8)), (band.left, band.top))


def _tint(pixels: Floats, drawn: list[_Drawn], band: Window, image_size: tuple[int, int]) -> None:
    """Lay one translucent layer over the pixels, in which the later regions replace the earlier ones."""
    import numpy as np

    layer = np.zeros((*pixels.shape[:2], 4), np.float32)  # red, green, blue, opacity
    for item in drawn:
        paint = np.array([*item.colour, item.opacity], np.float32)
        if item.segments is None:
            rows, columns = _slices(item.frame(image_size, 1) & band, band)
            layer[rows, columns] = paint
            continue
        window = item.window & band
        covered = cover(item.shape, window)[..., None]
        part = layer[_slices(window, band)]
        # Where there was nothing before, the colour is not mixed with its black: only the opacity grows.
        part[..., :3] += (paint[:3] - part[..., :3]) * np.where(part[..., 3:] > 0, covered, covered > 0)
        part[..., 3:] += (paint[3:] - part[..., 3:]) * covered
    pixels += (layer[..., :3] - pixels) * layer[..., 3:]


def _outline(pixels: Floats, item: _Drawn, band: Window, style: _Style, image_size: tuple[int, int]) -> None:
    import numpy as np

    if item.segments is None:
        frame = item.frame(image_size, style.line)
        around = Window(
            *(value + step * style.rim for value, step in zip(frame, (-1, -1, 1, 1), strict=True))
        )
        for window, line in ((around, style.line + 2 * style.rim), (frame, style.line)):
            for side in _sides(window, line):
                part = pixels[_slices(side & band, band)]
                if window is frame:
                    part[...] = item.colour
                else:
                    part *= 1 - _RIM
        return
    window = item.window & band
    part = pixels[_slices(window, band)]
    part *= 1 - _RIM * stroke(item.segments, item.line + 2 * style.rim, window)[..., None]
    part += (np.array(item.colour, np.float32) - part) * stroke(item.segments, item.line, window)[..., None]


def _sides(frame: Window, line: int) -> list[Window]:
    """The four sides of a frame as rectangles that do not overlap."""
    left, top, right, bottom = frame
    upper, lower = min(top + line, bottom), max(bottom - line, min(top + line, bottom))
    inner = min(left + line, right), max(right - line, min(left + line, right))
    return [
        Window(left, top, right, upper),
        Window(left, lower, right, bottom),
        Window(left, upper, inner[0], lower),
        Window(inner[1], upper, right, lower),
    ]


def _slices(window: Window, band: Window) -> tuple[slice, slice]:
    """Rows and columns of a window in the band that it is a part of; none of an empty one."""
    width, height = window.size
    if not (width and height):
        return slice(0, 0), slice(0, 0)
    top, left = window.top - band.top, window.left - band.left
    return slice(top, top + height), slice(left, left + width)


@dataclass(frozen=True)
class _Label:
    line: TextLine
    padding: int

    @property
    def size(self) -> tuple[int, int]:
        width = math.ceil(self.line.width) + 2 * self.padding
        return width, self.line.ascent + self.line.descent + self.padding


def _draw_labels(canvas: Image, drawn: list[_Drawn], style: _Style, fonts: FontBook) -> None:
    from PIL import ImageDraw

    shown = _labels(drawn, style, canvas.size, fonts)
    share = sum(math.prod(label.size) for _, label in shown) / math.prod(canvas.size)
    if share > _CROWDED and style.letters > _SMALLEST_LETTERS:
        letters = max(round(style.letters * math.sqrt(_CROWDED / share)), _SMALLEST_LETTERS)
        shown = _labels(drawn, replace(style, letters=letters), canvas.size, fonts)
    places = place_labels(
        [label.size for _, label in shown], [item.bounds(style) for item, _ in shown], canvas.size
    )
    pen = ImageDraw.Draw(canvas)
    for (item, label), (left, top) in zip(shown, places, strict=True):
        width, height = label.size
        pen.rectangle((left, top, left + width - 1, top + height - 1), fill=item.colour)
        baseline = top + label.padding // 2 + label.line.ascent
        label.line.draw(pen, left + label.padding, baseline, text_colour(item.colour))


def _labels(
    drawn: list[_Drawn], style: _Style, image_size: tuple[int, int], fonts: FontBook
) -> list[tuple[_Drawn, _Label]]:
    labelled = [(item, _label(item, style, image_size, fonts)) for item in drawn]
    return [(item, label) for item, label in labelled if label is not None]


def _label(item: _Drawn, style: _Style, image_size: tuple[int, int], fonts: FontBook) -> _Label | None:
    """None where there is nothing to say or no room to say it."""
    score = item.region.score
    text = " ".join(part for part in (item.region.label, f"{score:.2f}" if score is not None else "") if part)
    letters = item.letters(style)
    while text and letters >= _LEGIBLE:
        padding = max(letters // 6, 1)
        label = _Label(fonts.line(text, letters, image_size[0] - 2 * padding - 1), padding)
        width, height = label.size
        if width <= image_size[0] and height <= image_size[1]:
            return label if label.line.parts else None
        letters -= 1
    return None
