"""promptgen-tagger: tags, captions and Flux prompts for images with Florence-2 PromptGen.

Importing this package defines things and loads nothing: torch, transformers, timm and Pillow come at first
use. The engine's face is :mod:`promptgen.captioning`.
"""

from ._version import __version__

__all__ = ["__version__"]
