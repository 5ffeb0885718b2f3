"""What can go wrong in captioning for reasons the caller can mend."""

from __future__ import annotations

__all__ = ["ImageError", "InstructionError"]


class InstructionError(ValueError):
    """An instruction is unknown, or the text or region that it needs is missing or cannot be read."""


class ImageError(ValueError):
    """An image cannot be used. The message says which one and why, in one line."""
