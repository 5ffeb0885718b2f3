"""Everything that shapes an answer, as one frozen record that travels whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..inference import GenerationOptions
from .cleaning import CleaningOptions
from .images import DEFAULT_BACKGROUND, Background
from .retries import RetryOptions
from .tags import TagOptions
from .vision_options import VisionOptions

__all__ = ["CaptionOptions"]


@dataclass(frozen=True)
class CaptionOptions:
    """Everything that shapes an answer besides the picture, the instruction and the checkpoint."""

    generation: GenerationOptions = field(default_factory=GenerationOptions)
    tags: TagOptions = field(default_factory=TagOptions)
    text_input: str | None = None  # for instructions that need a phrase or regions (several: ";" between)
    background: Background = DEFAULT_BACKGROUND  # behind transparent pixels: a name, #rrggbb or (r, g, b)
    vision: VisionOptions = field(default_factory=VisionOptions)  # for instructions that find regions
    language: str | None = None  # of captions, such as "de", for families that have several; None: English
    cleaning: CleaningOptions = field(default_factory=CleaningOptions)  # before what `tags` asks for
    retries: RetryOptions = field(default_factory=RetryOptions)  # for answers that fall short
