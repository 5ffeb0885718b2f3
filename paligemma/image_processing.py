"""How a PaliGemma wants its pictures, known without its weights."""

from __future__ import annotations

from pathlib import Path

from ..inference import image_processing
from ..inference.image_processing import ImageProcessor
from .configuration import IMAGE_DEFAULTS


def image_processor(folder: Path) -> ImageProcessor:
    """That of the checkpoint in ``folder``, of which only the settings are read.

    Raises:
        CheckpointError: they are not there or cannot be read.
    """
    return image_processing.image_processor(folder, IMAGE_DEFAULTS)
