"""From anything that holds a picture to an upright RGB image of 8 bits per channel.

What is done, in this order: the first frame is decoded; it is turned as its EXIF orientation says;
16-bit, 32-bit and float samples are scaled to 8 bits; transparent pixels are laid on a background; the
rest is Pillow's conversion to RGB. Colour profiles are left alone: pixel values are taken to be sRGB, as
the models' own processors do.

Nothing here changes a setting of Pillow's, so several threads may open images at once.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Union

from .errors import ImageError

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

__all__ = [
    "DEFAULT_BACKGROUND",
    "ImageError",
    "ImageSource",
    "as_rgb",
    "image_extensions",
    "open_image",
    "open_with_opacity",
    "parse_background",
    "stored_size",
]

Background = str | tuple[int, int, int]

ImageSource = Union[str, "os.PathLike[str]", bytes, BinaryIO, "Image", "numpy.ndarray"]
"""A path, the bytes of an image file, an open file, a Pillow image or an array ``[H, W, C]``."""

DEFAULT_BACKGROUND = (255, 255, 255)

logger = logging.getLogger(__name__)

# What Pillow's decoders raise on files that are damaged or made to do harm. RuntimeError is libavif's and
# libwebp's, AssertionError and UnboundLocalError some of the older plugins'.
_DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, NameError,
    RuntimeError, AssertionError, EOFError, MemoryError, struct.error, zlib.error,
)  # fmt: skip

# What Pillow registers but cannot decode by itself; for PostScript it starts another program.
_UNREADABLE = frozenset(["BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"])

_LARGE_TILE = (
    1 << 22
)  # pixels; writers' usual tiles are far smaller, also where the whole image is yet smaller

_VALUES_AT_A_TIME = 1 << 16  # of an array, in the processor's cache


def open_image(source: ImageSource, *, background: Background = DEFAULT_BACKGROUND) -> Image:
    """Read a picture: a path, the bytes of an image file, an open binary file, or what :func:`as_rgb` takes.

    An open file is read from where it stands and not closed.

    Args:
        source: where the picture is.
        background: what shows through transparent pixels: a colour's name, ``#rrggbb``, or ``(r, g, b)``.

    Returns:
        An RGB image. Its ``size`` is that of the original, after the EXIF orientation.

    Raises:
        ImageError: it cannot be read; the message names the file and the reason, in one line.
        ValueError: the background is no colour.
    """
    colour = parse_background(background)
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        with _open_file(path) as file:
            return _decode(file, _readable(path), colour)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), f"image of {len(source)} bytes", colour)
    if hasattr(source, "read"):
        name = _name_of(source)
        return _decode(_seekable(source, name), name, colour)
    return as_rgb(source, background=colour)


def open_with_opacity(
    file: BinaryIO, *, background: Background = DEFAULT_BACKGROUND
) -> tuple[Image, Image | None]:
    """Read an open file as :func:`open_image` does, and how opaque each pixel is.

    Returns:
        The RGB image, and one of mode ``L`` and the same size, 0 where it is transparent and 255 where it is
        opaque; None if the picture has no such thing.

    Raises:
        ImageError: it cannot be read.
        ValueError: the background is no colour.
    """
    colour = parse_background(background)
    name = _name_of(file)
    image = _load(_seekable(file, name), name)
    with _decoding(name):
        upright = _upright(image, name)
        return _flatten(upright, colour), _opacity(upright)


def read_whole(source: str | os.PathLike[str] | Any) -> bytes:
    """All that is in the file at a path, or left in an open one, undecoded.

    Raises:
        ImageError: it cannot be read; the message is that of :func:`open_image`.
    """
    if isinstance(source, (str, os.PathLike)):
        with _open_file(os.fspath(source)) as file:
            return read_whole(file)
    try:
        return source.read()
    except ImageError:
        raise
    except _DECODING_ERRORS as error:
        raise ImageError(f"{_name_of(source)}: cannot be read: {_one_line(error)}") from error


def stored_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height in pixels as an open image file states them at its beginning, before it is turned.

    Raises:
        ImageError: it is no image, or too large to be decoded.
    """
    name = _name_of(file)
    return _load(_seekable(file, name), name, pixels=False).size


def as_rgb(
    image: Image | numpy.ndarray | Any,
    *,
    background: Background = DEFAULT_BACKGROUND,
    name: str | None = None,
) -> Image:
    """An upright RGB image from a Pillow image or an array; see the module's description.

    Args:
        image: a Pillow image in any mode; or an array or tensor ``[H, W]`` or ``[H, W, C]`` with C = 1
            (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA), as bool, uint8, uint16, or float from 0 to 1.
        background: what shows through transparent pixels.
        name: what to call it in an error.

    Raises:
        ImageError: it is empty or cannot be decoded, or the array has another shape or type.
        ValueError: the background is no colour.
    """
    from PIL import Image as PILImage

    colour = parse_background(background)
    if not isinstance(image, PILImage.Image):
        return _flatten(_from_array(image, name or "array"), colour)
    name = name or _readable(str(getattr(image, "filename", "") or "image"))
    _check_size(image, name)
    try:
        image.load()
    except _DECODING_ERRORS as error:
        raise ImageError(f"{name}: {_reason(error)}") from error
    return _convert(image, name, colour)


def parse_background(background: Background) -> tuple[int, int, int]:
    """A colour as ``(r, g, b)`` from 0 to 255, from a name, ``#rrggbb``, or such a tuple.

    Raises:
        ValueError: it is none of these.
    """
    problem = (
        f"the background {background!r} is no colour; write a name (white), #rrggbb, or three numbers 0–255"
    )
    if isinstance(background, str):
        from PIL import ImageColor

        try:
            red, green, blue = ImageColor.getrgb(background.strip())[:3]
        except ValueError as error:
            raise ValueError(problem) from error
        return red, green, blue
    channels = tuple(background)
    if len(channels) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in channels):
        raise ValueError(problem)
    return channels[0], channels[1], channels[2]


@functools.cache
def image_extensions() -> frozenset[str]:
    """File extensions that are taken for images in a folder: ``.jpg``, ``.webp``, …, lower case with the dot.

    Those that Pillow, with whatever plugins are registered by now, can decode by itself.
    """
    from PIL import Image as PILImage

    registered = PILImage.registered_extensions()
    return frozenset(
        ext for ext, form in registered.items() if form in PILImage.OPEN and form not in _UNREADABLE
    )


def _formats() -> list[str]:
    """What Pillow decodes by itself, with whatever plugins are registered by now."""
    from PIL import Image as PILImage

    PILImage.init()
    return [form for form in PILImage.ID if form not in _UNREADABLE]


def _readable(name: str) -> str:
    """A file's name in one line that can be printed; what cannot, such as a line break in it, is escaped."""
    return name if name.isprintable() else repr(name)


def _name_of(file: Any) -> str:
    return _readable(str(getattr(file, "name", "") or "image from an open file"))


def _open_file(path: str) -> BinaryIO:
    name = _readable(path)
    try:
        if Path(path).is_dir():
            raise ImageError(f"{name}: this is a folder, not an image file")
        return open(path, "rb")
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except PermissionError as error:
        raise ImageError(f"{name}: permission to read the file is denied") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name}: the file cannot be opened: {_one_line(error)}") from error


def _seekable(file: Any, name: str) -> BinaryIO:
    """The file itself, or what is left in a stream that cannot go back."""
    try:
        if getattr(file, "seekable", lambda: False)():
            return file
    except _DECODING_ERRORS as error:
        raise ImageError(f"{name}: cannot be read: {_one_line(error)}") from error
    return io.BytesIO(read_whole(file))


def _decode(file: BinaryIO, name: str, colour: tuple[int, int, int]) -> Image:
    return _convert(_load(file, name), name, colour)


def _load(file: BinaryIO, name: str, *, pixels: bool = True) -> Image:
    """The image in a file as it is stored; without its pixels if they are not needed."""
    from PIL import Image as PILImage

    try:
        start = file.tell()
        head = file.read(4096)
        file.seek(start)
    except _DECODING_ERRORS as error:
        raise ImageError(f"{name}: cannot be read: {_one_line(error)}") from error
    if not isinstance(head, bytes):
        raise ImageError(f"{name}: the file is open as text; open it with mode 'rb'")
    if not head:
        raise ImageError(f"{name}: the file is empty")
    if start:  # Pillow's plugins seek from the beginning of the file
        file = io.BytesIO(file.read())
    try:
        image = PILImage.open(file, formats=_formats())
        _check_size(image, name)
        if pixels:
            image.load()
    except ImageError:
        raise
    except (PILImage.DecompressionBombError, PILImage.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: {_too_large(_one_line(error))}") from error
    except PILImage.UnidentifiedImageError as error:
        raise ImageError(f"{name}: {_what_it_is(head)}") from error
    except _DECODING_ERRORS as error:
        raise ImageError(f"{name}: {_reason(error)}") from error
    return image


def _convert(image: Image, name: str, colour: tuple[int, int, int]) -> Image:
    """A decoded image upright and in RGB."""
    with _decoding(name):
        return _flatten(_upright(image, name), colour)


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, MemoryError) as error:
        raise ImageError(f"{name}: {_reason(error)}") from error


def _check_size(image: Image, name: str) -> None:
    from PIL import Image as PILImage

    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: the image is empty, {width} × {height} pixels")
    if PILImage.MAX_IMAGE_PIXELS is None:
        return
    limit = 2 * PILImage.MAX_IMAGE_PIXELS  # as Pillow itself: between the two it warns, cameras reach that
    if width * height > limit:
        raise ImageError(
            f"{name}: {_too_large(f'{width} × {height} = {width * height} pixels, limit {limit}')}"
        )
    tile_width, tile_height = _tile_size(image)
    if tile_width * tile_height > max(4 * width * height, _LARGE_TILE):
        numbers = f"{width} × {height} pixels, in tiles of {tile_width} × {tile_height}"
        raise ImageError(f"{name}: {_too_large(numbers)}")


def _tile_size(image: Image) -> tuple[int, int]:
    """Width and height of the tiles of a TIFF, each of which is decoded whole; 0 and 0 of all else."""
    tags = getattr(image, "tag_v2", {})
    width, height = tags.get(322, 0), tags.get(323, 0)
    return (width, height) if isinstance(width, int) and isinstance(height, int) else (0, 0)


def _too_large(numbers: str) -> str:
    return (
        f"too large, perhaps a decompression bomb: {numbers.rstrip('.')}. If you trust the file, make it"
        " smaller, or raise PIL.Image.MAX_IMAGE_PIXELS"
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    said = _one_line(error)
    if "truncated" in said or "broken data stream" in said or isinstance(error, EOFError):
        return f"the file is damaged or cut off: {said}"
    return f"the image cannot be decoded: {said}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _what_it_is(head: bytes) -> str:
    """Why Pillow does not know a file, from how it begins."""
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return (
            "HEIC, which Pillow cannot read by itself; convert it to JPEG or PNG, or install pillow-heif and"
            " call pillow_heif.register_heif_opener() first"
        )
    if (
        re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:\?xml|svg|!--|!DOCTYPE svg)", head, re.IGNORECASE)
        and b"<svg" in head.lower()
    ):
        return "an SVG drawing, which has no pixels; convert it to PNG first"
    if head[:4] == b"%!PS":
        return "a PostScript drawing, which has no pixels; convert it to PNG first"
    if head[:5] == b"%PDF-":
        return "a PDF document, not an image; export its pages as PNG first"
    try:
        text = head.decode("utf-8") if b"\0" not in head else ""
    except UnicodeDecodeError as error:
        text = head[: error.start].decode("utf-8") if error.start > len(head) - 4 else ""
    if text and all(char.isprintable() or char.isspace() for char in text):
        return "a text file, not an image"
    return "not an image, or damaged at its beginning, or in a format that Pillow does not read"


def _upright(image: Image, name: str) -> Image:
    """The decoded image turned as its EXIF orientation says; one without a readable orientation as it is."""
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(0x0112)
    except _DECODING_ERRORS as error:
        logger.warning("%s: the EXIF data are damaged, so it is not turned: %s", name, _one_line(error))
        return image
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _to_bytes(values: numpy.ndarray) -> numpy.ndarray:
    """0 to 1 as 0 to 255, a few rows at a time: what is made in between of a large picture stays small, which
    is several times faster. No number is 0."""
    import numpy as np

    done = np.empty(values.shape, np.uint8)
    rows = max(1, _VALUES_AT_A_TIME // values[0].size)
    for start in range(0, len(values), rows):
        part = np.clip(values[start : start + rows], 0, 1)
        part[np.isnan(part)] = 0
        part *= 255
        done[start : start + rows] = np.rint(part, out=part)
    return done


def _flatten(image: Image, colour: tuple[int, int, int]) -> Image:
    """A decoded, upright image in any mode as RGB, on the background colour where it is transparent."""
    from PIL import Image as PILImage

    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    image = _in_common_mode(image)
    if _has_opacity(image):
        ground = PILImage.new("RGBA", image.size, (*colour, 255))
        return PILImage.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _opacity(image: Image) -> Image | None:
    """How opaque a decoded, upright image is, as ``L``; None where it has no such channel or colour."""
    image = _in_common_mode(image)
    return image.convert("RGBA").getchannel("A") if _has_opacity(image) else None


def _in_common_mode(image: Image) -> Image:
    """Samples of 8 bits, opacity not multiplied in."""
    if image.mode.startswith(("I", "F")):
        return _to_grey(image)
    if image.mode in ("La", "RGBa"):
        return image.convert("LA" if image.mode == "La" else "RGBA")
    return image


def _has_opacity(image: Image) -> bool:
    return image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info


def _to_grey(image: Image) -> Image:
    """16-bit, 32-bit and float samples as 8 bits, nothing clipped; ``LA`` where one value is transparent.

    16-bit samples lose their lower byte. 32-bit integers are taken as 16-bit if they fit (as Pillow reads
    16-bit PGM), as 8-bit if they fit into that and the format is not known to mean 16. Floats are taken
    as 0–1 or 0–255 if they fit. Whatever fits none of these is stretched from its lowest to its highest
    value.
    """
    import numpy as np
    from PIL import Image as PILImage

    values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0, posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I;16"):
        scaled = values // 256
    elif image.mode == "I" and low >= 0 and high <= 65535:
        eight_bits = high <= 255 and image.format not in ("PNG", "PPM")
        scaled = values if eight_bits else values // 256
    elif image.mode == "F" and low >= 0 and high <= 255:
        scaled = values * 255 if high <= 1 else values
    else:
        scaled = (values - low) / ((high - low) or 1) * 255
    grey = PILImage.fromarray(np.rint(scaled).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(PILImage.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _from_array(array: Any, name: str) -> Image:
    """A Pillow image from ``[H, W]`` or ``[H, W, C]``."""
    import numpy as np
    from PIL import Image as PILImage

    expected = (
        "an array is [H, W] or [H, W, C] with 1 to 4 channels, as bool, uint8, uint16, or float from 0 to 1;"
        " a picture is that, a Pillow image, a path, bytes or an open file"
    )
    try:
        if hasattr(array, "detach"):  # a tensor; numpy has no bfloat16
            array = array.detach().cpu()
            array = array.float() if array.is_floating_point() else array
        values = np.asarray(array)
    except _DECODING_ERRORS as error:
        raise ImageError(f"{name}: {type(array).__name__} is no picture; {expected}") from error
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or not 1 <= channels <= 4 or values.dtype.kind not in "buf":
        raise ImageError(
            f"{name}: {type(array).__name__} of shape {values.shape}, {values.dtype}; {expected}"
        )
    if 0 in values.shape:
        raise ImageError(f"{name}: the image is empty, {values.shape[1]} × {values.shape[0]} pixels")
    if values.dtype.kind == "f":
        values = _to_bytes(values)
    elif values.dtype.kind == "b":
        values = values.astype(np.uint8) * 255
    elif values.dtype == np.uint16:
        values = (values >> 8).astype(np.uint8)
    elif values.dtype != np.uint8:
        raise ImageError(f"{name}: {type(array).__name__} of {values.dtype}; {expected}")
    values = np.ascontiguousarray(values.reshape(values.shape[:2]) if channels == 1 else values)
    return PILImage.fromarray(values)  # uint8: L, LA, RGB or RGBA by the number of channels
