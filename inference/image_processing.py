"""From a picture to ``pixel_values``, as CLIP's image processor does it for the published checkpoints.

In two steps, because they have different places: Pillow resizes, which threads may do beforehand; the
arithmetic that follows is the device's, which so gets a quarter of the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import CheckpointError
from .image_settings import ImageProcessingConfig, image_settings


@dataclass(frozen=True)
class ImageProcessor:
    """Both steps for one checkpoint, without its weights: to be kept, compared and used by any thread."""

    config: ImageProcessingConfig

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of what the checkpoint sees."""
        return self.config.width, self.config.height

    def resize(self, image: Image.Image) -> Tensor:
        """The pixels of an RGB picture in the checkpoint's size (aspect not kept, antialiased as Pillow
        does it): ``[H, W, 3]`` uint8, on the CPU.

        Raises:
            ValueError: the picture is not RGB.
            CheckpointError: it has another size, and the checkpoint does not resize.
        """
        size = self.size
        if image.mode != "RGB":
            raise ValueError(f"Pictures must be RGB, got mode {image.mode!r}.")
        if self.config.do_resize and image.size != size:
            image = image.resize(size, resample=Image.Resampling(self.config.resample))
        if image.size != size:
            raise CheckpointError(
                "The checkpoint's preprocessor_config.json says do_resize false: pictures must be "
                f"{size[0]}x{size[1]} pixels, not {image.width}x{image.height}. Set it to true there, or "
                "give pictures of that size."
            )
        return torch.from_numpy(np.array(image))

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scaled and normalised pixels.

        Args:
            pixels: ``[B, H, W, 3]`` uint8, as :meth:`resize` gives them, on any device.

        Returns:
            ``pixel_values`` ``[B, 3, H, W]``, float32, on that device; the same to the bit on each.
        """
        planes = pixels.permute(0, 3, 1, 2)
        values = planes.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        if self.config.do_rescale:
            values *= self._float32(self.config.rescale_factor, values)
        if self.config.do_normalize:
            values -= self._float32(self.config.image_mean, values)[:, None, None]
            values /= self._float32(self.config.image_std, values)[:, None, None]
        return values

    @staticmethod
    def _float32(numbers: float | Sequence[float], like: Tensor) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float32, device=like.device)


def preprocess_images(images: Sequence[Image.Image], config: ImageProcessingConfig) -> Tensor:
    """RGB pictures of any size to ``pixel_values`` ``[B, 3, height, width]``, float32, on the CPU."""
    processor = ImageProcessor(config)
    if not images:
        return torch.empty(0, 3, config.height, config.width)
    return processor.normalise(torch.stack([processor.resize(image) for image in images]))


def image_processor(folder: Path, defaults: Mapping[str, Any] | None = None) -> ImageProcessor:
    """That of the checkpoint in ``folder``, of which only the settings are read.

    Args:
        defaults: see :func:`.image_settings.image_settings`.

    Raises:
        CheckpointError: they are not there or cannot be read.
    """
    return ImageProcessor(image_settings(folder, defaults))
