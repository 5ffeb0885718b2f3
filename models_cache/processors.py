"""How a checkpoint wants its pictures, known without its weights."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from .families import ImageProcessor, image_processor_of
from .files import ensure_checkpoint
from .memory import fingerprint


def image_processor(model: str) -> ImageProcessor:
    """The processor of ``model``, whose weights stay where they are; downloaded first if need be.

    Args:
        model: catalogue name, Hub id or folder.

    Raises:
        ModelFilesError: the files are not to be had.
        ValueError: unknown family, or a checkpoint whose settings cannot be read.
    """
    folder = ensure_checkpoint(model)
    return _of_folder(folder, fingerprint(folder))


@lru_cache(maxsize=32)
def _of_folder(folder: Path, _fingerprint: str) -> ImageProcessor:
    return image_processor_of(folder)
