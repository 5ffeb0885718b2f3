"""What the checkpoint that is trained is called where everybody finds it, and what it may be used for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..captioning.instructions import FAMILY_NAMES, FLORENCE2
from ..models_cache import family_of_model, find_entry
from ..models_cache.catalogue import HUB_ID
from .errors import TrainingError

_LICENCES = {"MIT": "mit", "Apache-2.0": "apache-2.0"}  # the catalogue's names, to the Hub's
_LICENCE_KEYS = ("license", "license_name", "license_link")  # of model cards


def check_family(name: str) -> None:
    """See that a checkpoint is of the family that can be trained, and written, here.

    Raises:
        TrainingError: it is of another, as far as can be told without fetching it.
        ModelNotFoundError: the name stands for nothing.
    """
    family = family_of_model(name)
    if family != FLORENCE2:
        raise TrainingError(
            f"{name} is a {FAMILY_NAMES.get(family, family)} checkpoint; only those of Florence-2 can be"
            " trained and exported here. Name one of them, such as microsoft/Florence-2-base-ft or"
            " MiaoshouAI/Florence-2-base-PromptGen-v2.0; 'promptgen models list' lists them."
        )


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


def base_licence(name: str, folder: Path | None) -> dict[str, str]:
    """What a model card says of the licence, by its keys: as the checkpoint's own card says, which is in its
    ``folder``, or else the catalogue. Empty where neither says it."""
    card = _card_of(folder / "README.md") if folder is not None else {}
    told = {key: str(card[key]) for key in _LICENCE_KEYS if isinstance(card.get(key), str)}
    hub_id = base_model_id(name)
    entry = find_entry(hub_id) if hub_id is not None else None
    if not told and entry is not None and entry.licence in _LICENCES:
        return {"license": _LICENCES[entry.licence]}
    return told


def _card_of(path: Path) -> dict[str, Any]:
    """What stands at the head of a model card, as far as it can be read."""
    import yaml
    from huggingface_hub import metadata_load

    try:
        return metadata_load(path) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
