"""Shell completion of values that our tables know. Loads plain data only."""

from __future__ import annotations


def complete_model(incomplete: str) -> list[str]:
    """Catalogue names that begin with ``incomplete``, in any case."""
    from ..models_cache.catalogue import catalogue

    return [name for name in catalogue() if name.lower().startswith(incomplete.lower())]


def complete_instruction(incomplete: str) -> list[str]:
    """Completions of the last of several comma separated instructions."""
    from ..captioning.instructions import INSTRUCTIONS

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in INSTRUCTIONS if name.startswith(last.upper())]
