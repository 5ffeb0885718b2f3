"""``NAME@4``: a checkpoint with quantised weights, where a command takes several checkpoints."""

from __future__ import annotations

from pathlib import Path

from .choices import Quantization

__all__ = ["split_quantization"]


def split_quantization(given: str, usual: Quantization) -> tuple[str, Quantization]:
    """The checkpoint and its quantization, which is the ``usual`` one where none stands behind the name.

    A folder may be called so, and is then meant.
    """
    name, at, bits = given.rpartition("@")
    if not at or not name or Path(given).is_dir():
        return given, usual
    try:
        return name, Quantization(bits.strip().lower())
    except ValueError:
        return given, usual
