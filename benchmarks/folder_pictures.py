"""Folders of pictures, no two of which are alike."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Generator = np.random.Generator
else:
    Generator = Any

PHOTOGRAPH_SIZE = (2464, 1632)  # width and height in pixels: 4.02 megapixels

_SMALL = (48, 160)  # from and to: width and height of small pictures, in pixels


def make_small_pictures(folder: Path, count: int, broken: float = 0.0) -> int:
    """Make JPEGs of about 100 pixels, 1000 to a folder.

    Args:
        broken: share of them, 0 to 1, evenly spread, that cannot be read: cut off, empty, or no pictures.

    Returns:
        How many of them cannot be read.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    spoilt = 0
    for number in range(count):
        content = _small_picture(generator)
        if int((number + 1) * broken) > int(number * broken):
            content = (content[: len(content) // 2], b"", b"no picture")[spoilt % 3]
            spoilt += 1
        file = folder / f"{number // 1000:04d}" / f"{number:07d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return spoilt


def _small_picture(generator: Generator) -> bytes:
    from PIL import Image

    width, height = generator.integers(*_SMALL, 2)
    image = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype="uint8"))
    return _jpeg(image.resize((width, height), Image.Resampling.BICUBIC), 85)


def make_photographs(folder: Path, count: int) -> int:
    """Make JPEGs of 4 megapixels as a camera does, that are on the disk and not in its cache.

    Returns:
        Bytes of all files.
    """
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    nbytes = 0
    for number in range(count):
        content = _jpeg(_photograph(generator), 92)
        nbytes += len(content)
        _write_uncached(folder / f"{number:07d}.jpg", content)
    return nbytes


def _photograph(generator: Generator) -> Any:
    """Shapes of all sizes, the larger the stronger, as in pictures of the world; and a sensor's noise."""
    import numpy as np
    from PIL import Image

    width, height = PHOTOGRAPH_SIZE
    sizes = ((width >> shift, height >> shift) for shift in (9, 7, 5, 3, 2, 1))
    strengths = (100, 60, 36, 16, 10, 8)
    pixels = np.full((height, width, 3), 127, np.float32)
    for (columns, rows), strength in zip(sizes, strengths, strict=True):
        noise = Image.fromarray(generator.integers(0, 256, (rows, columns, 3), dtype=np.uint8))
        layer = np.asarray(noise.resize((width, height), Image.Resampling.BILINEAR), np.float32)
        pixels += (layer - 127) * (strength / 127)
    pixels += 8 * generator.standard_normal((height, width, 1), np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _jpeg(image: Any, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _write_uncached(file: Path, content: bytes) -> None:
    """Where the system allows it, the next reader waits for the disk."""
    with open(file, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
