"""From a picture to ``pixel_values``, as CLIP's image processor does it for the published checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .configuration import ImageProcessingConfig


def preprocess_images(images: Sequence[Image.Image], config: ImageProcessingConfig) -> Tensor:
    """Resize (aspect not kept, antialiased as Pillow does it), scale and normalise.

    Args:
        images: RGB pictures of any size.

    Returns:
        ``pixel_values`` ``[B, 3, height, width]``, float32, on the CPU.
    """
    batch = torch.empty(len(images), 3, config.height, config.width)
    mean = np.asarray(config.image_mean, dtype=np.float32)
    std = np.asarray(config.image_std, dtype=np.float32)
    size = (config.width, config.height)
    for row, image in zip(batch, images, strict=True):
        if image.mode != "RGB":
            raise ValueError(f"preprocess_images takes RGB pictures, got mode {image.mode!r}.")
        if config.do_resize and image.size != size:
            image = image.resize(size, resample=Image.Resampling(config.resample))
        if image.size != size:
            raise ValueError(f"The checkpoint does not resize: pictures must be {size[0]}x{size[1]} pixels.")
        pixels = np.asarray(image, dtype=np.float32)
        if config.do_rescale:
            pixels = pixels * np.float32(config.rescale_factor)
        if config.do_normalize:
            pixels = (pixels - mean) / std
        row.copy_(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))
    return batch
