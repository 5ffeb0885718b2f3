"""What the checkpoint that is trained is called where everybody finds it."""

from __future__ import annotations

from pathlib import Path

from ..models_cache import find_entry
from ..models_cache.catalogue import HUB_ID


def base_model_id(name: str) -> str | None:
    """The Hub id of a checkpoint, by any of its names; None of a folder, and of what is not on the Hub."""
    entry = find_entry(name)
    if entry is not None and entry.name.casefold() == name.strip().casefold():
        return entry.hub_id
    if Path(name).expanduser().exists():  # before all other names, as wherever models are named
        return None
    if entry is not None:
        return entry.hub_id
    return name if HUB_ID.fullmatch(name) else None
