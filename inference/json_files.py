"""Reading the JSON files of a checkpoint folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        CheckpointError: the file is missing, unreadable or holds something else.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:  # some editors put a mark before the first character
            raw = json.load(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; a checkpoint folder needs it.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        kinds = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "a truth value"}
        raise CheckpointError(
            f"{path} holds {kinds.get(type(raw), 'null')}, not a JSON object. Fetch the file again from "
            "where it was published."
        )
    return raw


def states_model_type(folder: Path, model_type: str) -> bool:
    """Whether ``folder/config.json`` says that this is a checkpoint of that type; no other is read."""
    try:
        return read_json(folder / "config.json").get("model_type") == model_type
    except CheckpointError:
        return False
