"""promptgen-tagger: tags, captions and Flux prompts for images with Florence-2 PromptGen and PaliGemma.

Importing this package defines things and loads nothing: torch, transformers, timm and Pillow come at first
use. The engine's face is :mod:`promptgen.captioning`. ComfyUI imports this folder as a node pack and calls
:func:`comfy_entrypoint`.
"""

from __future__ import annotations

from ._version import __version__

TYPE_CHECKING = False  # type checkers take it for true; importing typing for it would be most of our import
if TYPE_CHECKING:
    from .nodes.extension import PromptGenExtension

__all__ = ["WEB_DIRECTORY", "__version__", "comfy_entrypoint"]

WEB_DIRECTORY = "./web"
"""What the browser gets, relative to this folder."""


async def comfy_entrypoint() -> PromptGenExtension:
    """The node pack; called by ComfyUI, within which alone it works."""
    from .nodes.extension import PromptGenExtension

    return PromptGenExtension()
