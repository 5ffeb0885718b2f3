"""Florence-2: reading both published checkpoint formats, the network, generation.

Importing this room loads nothing heavy; torch, timm and transformers come with :class:`Florence2Model`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..inference.errors import AdapterError, CheckpointError
from ..inference.options import GeneratedSequence, GenerationOptions
from .configuration import Florence2Config, is_checkpoint

if TYPE_CHECKING:
    from ..inference.image_processing import image_processor
    from .model import Florence2Model

__all__ = [
    "AdapterError",
    "CheckpointError",
    "Florence2Config",
    "Florence2Model",
    "GeneratedSequence",
    "GenerationOptions",
    "image_processor",
    "is_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name == "Florence2Model":
        from .model import Florence2Model

        return Florence2Model
    if name == "image_processor":
        from ..inference.image_processing import image_processor

        return image_processor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
