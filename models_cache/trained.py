"""What a checkpoint folder says of itself: the instructions and literal prompts that it was trained with.

``promptgen train`` writes ``promptgen.json`` beside the weights, in the form of an entry of the user's
catalogue, so that a checkpoint is asked what it was trained on, wherever it goes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from .catalogue import CheckpointEntry, read_entry

FILE = "promptgen.json"


def trained_entry(folder: Path) -> CheckpointEntry | None:
    """The entry that the checkpoint in ``folder`` brings, called as the folder; None if it brings none.

    Raises:
        CatalogueError: the file cannot be understood.
    """
    path = folder / FILE
    try:
        status = path.stat()
    except OSError:
        return None
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=32)  # time and size are part of the key, so that an edit is seen
def _read(path: Path, _mtime_ns: int, _size: int) -> CheckpointEntry:
    return read_entry(path)


def write_trained_entry(folder: Path, instructions: Sequence[str], prompts: Mapping[str, str]) -> None:
    """Have the checkpoint in ``folder`` say what it was trained on.

    Args:
        instructions: all that it knows; none if nobody knows.
        prompts: literal prompts by instruction, where they are not the usual ones.
    """
    facts = {"instructions": list(instructions), "prompts": dict(prompts)}
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")
