"""``NAME@4``: a checkpoint with quantised weights, where a command takes several checkpoints."""

from __future__ import annotations

from pathlib import Path

from .choices import Quantization
from .reporting import UsageError

__all__ = ["split_quantization"]


def split_quantization(given: str, usual: Quantization) -> tuple[str, Quantization]:
    """The checkpoint and its quantization, which is the ``usual`` one where none stands behind the name.

    A checkpoint may be called so, and is then meant.

    Raises:
        UsageError: there are no weights of so many bits.
    """
    name, at, bits = given.rpartition("@")
    if not at or not name or Path(given).is_dir():
        return given, usual
    try:
        return name, Quantization(bits.strip().lower())
    except ValueError:
        if bits.strip().isdecimal() and _names_one(name) and not _is_known(given):
            known = ", ".join(quantization.value for quantization in Quantization)
            raise UsageError(
                f"{given!r}: there are no weights of {bits.strip()} bits, nor a checkpoint of that name. "
                f"Behind @ goes one of {known}."
            ) from None
        return given, usual


def _names_one(given: str) -> bool:
    """Whether it is meant as a checkpoint, perhaps with adapters: it is known, could be on the Hub, or is a
    path."""
    from ..models_cache.folders import looks_like_path

    model = given.partition("+")[0]
    return looks_like_path(model) or _is_known(model)


def _is_known(model: str) -> bool:
    from ..models_cache import ModelNotFoundError, entry_of

    try:
        entry_of(model)
    except ModelNotFoundError:
        return False
    return True
