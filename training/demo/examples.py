"""The pictures in `examples/`: drawn scenes in the file formats that people have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .scenes import Scene, draw_scene

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image


@dataclass(frozen=True)
class Example:
    """One picture: the file's name and the seed of its scene."""

    name: str
    seed: int

    def write(self, folder: Path) -> Path:
        """Write the file into `folder`.

        `…-turned.jpg` lies on its side, with an EXIF note that says so; WebP is transparent where the
        paper is white.
        """
        picture, _ = draw_scene(self.seed)
        path = folder / self.name
        if path.suffix == ".jpg":
            exif = picture.getexif()
            if "-turned" in self.name:
                exif[0x0112] = 6  # show turned by 90 degrees clockwise
                picture = picture.rotate(90, expand=True)
            picture.save(path, quality=92, exif=exif)
        elif path.suffix == ".webp":
            _without_white(picture).save(path, lossless=True)
        else:
            picture.save(path, optimize=True)
        return path

    @property
    def scene(self) -> Scene:
        """What it shows."""
        return draw_scene(self.seed)[1]


EXAMPLES = (
    Example("circle-heart-square.png", 1_100_015),
    Example("stop.png", 1_100_100),
    Example("one-ring.png", 1_100_011),
    Example("news.png", 1_100_048),
    Example("star-and-heart.jpg", 1_100_098),
    Example("triangle-heart-turned.jpg", 1_100_086),
    Example("play-transparent.webp", 1_100_204),
)


def _without_white(picture: Image.Image) -> Image.Image:
    """White made transparent, in mode RGBA."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(picture)
    alpha = np.where(pixels.min(axis=2) > 225, 0, 255).astype(np.uint8)
    return Image.fromarray(np.dstack([pixels, alpha]), "RGBA")
