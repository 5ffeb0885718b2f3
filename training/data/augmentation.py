"""Changes of training images after which captions are still true: light, contrast, and what files do."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["AugmentOptions", "augment"]

_QUALITIES = (40, 95)
_BLURRED_SIDE = 512  # pixels; blur is given for an image of this shorter side
_MOST = {"brightness": 0.5, "contrast": 0.5, "jpeg": 1.0, "blur": 4.0, "noise": 32.0}


@dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """How strongly images are changed; each change is off at 0.

    Nothing turns, mirrors, crops or colours: captions tell left from right and name colours, text is read,
    boxes have places.
    """

    brightness: float = 0.0  # a factor from 1 - this to 1 + this
    contrast: float = 0.0  # the same
    jpeg: float = 0.0  # share of images that are compressed, with a quality from 40 to 95
    blur: float = 0.0  # up to this radius, in pixels of an image whose shorter side is 512
    noise: float = 0.0  # up to this standard deviation, in 255ths

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise ConfigError(f"{name}: {value} is not between 0 and {most:g}")

    @property
    def is_off(self) -> bool:
        """Whether images stay as they are."""
        return not any(getattr(self, name) for name in _MOST)


def augment(image: Image, options: AugmentOptions, random_numbers: random.Random) -> Image:
    """A changed copy, of the same size; the image itself where all is off.

    Args:
        image: RGB.
        random_numbers: decide how strongly; the same state gives the same picture. As many are drawn whatever
            the options, so that one option does not change what another does.
    """
    light, contrast, share, quality, blur, noise, grain = (random_numbers.random() for _ in range(7))
    if options.brightness or options.contrast:
        image = _relit(image, _factor(options.brightness, light), _factor(options.contrast, contrast))
    if options.blur:
        image = _blurred(image, options.blur * blur)
    if options.noise:
        image = _noisy(image, options.noise * noise, seed=int(grain * 2**32))
    if share < options.jpeg:
        image = _compressed(image, round(_QUALITIES[0] + quality * (_QUALITIES[1] - _QUALITIES[0])))
    return image


def _factor(strength: float, position: float) -> float:
    """From ``1 - strength`` to ``1 + strength``."""
    return 1 + strength * (2 * position - 1)


def _relit(image: Image, brightness: float, contrast: float) -> Image:
    from PIL import ImageEnhance

    brighter = ImageEnhance.Brightness(image).enhance(brightness)
    return ImageEnhance.Contrast(brighter).enhance(contrast)


def _blurred(image: Image, radius: float) -> Image:
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur(radius * min(image.size) / _BLURRED_SIDE))


def _noisy(image: Image, deviation: float, seed: int) -> Image:
    import numpy as np
    from PIL import Image as Images

    pixels = np.asarray(image, dtype=np.float32)  # [H, W, 3], 0 to 255
    noise = np.random.default_rng(seed).normal(0.0, deviation, pixels.shape).astype(np.float32)
    return Images.fromarray(np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8))


def _compressed(image: Image, quality: int) -> Image:
    from PIL import Image as Images

    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Images.open(stream).convert("RGB")
