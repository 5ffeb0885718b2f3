"""PaliGemma, of both generations: reading published checkpoints, transformers' network, generation.

Importing this room loads nothing heavy; torch and transformers come with :class:`PaliGemmaModel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..inference.errors import AdapterError, CheckpointError
from ..inference.options import GeneratedSequence, GenerationOptions
from .configuration import PaliGemmaConfig, is_checkpoint

if TYPE_CHECKING:
    from .image_processing import image_processor
    from .model import PaliGemmaModel

__all__ = [
    "AdapterError",
    "CheckpointError",
    "GeneratedSequence",
    "GenerationOptions",
    "PaliGemmaConfig",
    "PaliGemmaModel",
    "image_processor",
    "is_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name == "PaliGemmaModel":
        from .model import PaliGemmaModel

        return PaliGemmaModel
    if name == "image_processor":
        from .image_processing import image_processor

        return image_processor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
