"""A whole checkpoint from one and adapters for it, whoever trained them; or the same in another format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..florence2 import Florence2Model
from ..florence2.loading import TIED
from ..models_cache import CheckpointEntry, adapter_entry, entry_of, own_prompts, write_trained_entry
from .atomic import atomic_folder
from .base_model import check_family
from .config import SaveOptions
from .errors import TrainingError
from .saving import save_checkpoint


def merge_adapters(
    base: Path, adapters: Sequence[tuple[Path, float]], folder: Path, options: SaveOptions | None = None
) -> None:
    """Write into ``folder`` the checkpoint in ``base`` with the adapters in its weights, added up in float32.

    Args:
        adapters: folders as ``peft`` saves them, each with its strength, as the engine takes them.
        options: format and number format of what is written; those of ``base`` by default, but for the
            format, which is the original one.

    Raises:
        AdapterError: one cannot be read, or does not fit the checkpoint.
        CheckpointError: ``base`` is no whole checkpoint, or the converted format has no place for it.
        TrainingError: an adapter makes several matrices of the tied one.
        OSError: it cannot be written.
    """
    model = Florence2Model.load(base, device="cpu", dtype="fp32")
    if adapters:
        model = model.with_adapters(adapters)
    state = model.network.state_dict()
    if any(state[name].data_ptr() != state[TIED[0]].data_ptr() for name in TIED):
        raise TrainingError(
            "An adapter changes the head or an embedding, which are one matrix in a checkpoint and would be "
            "several. Use it as an adapter."
        )
    save_checkpoint(model, folder, options or SaveOptions(), state)


class Adapter(NamedTuple):
    """One that goes into a checkpoint's weights."""

    name: str  # as it was named, so that it is known what it was trained on
    folder: Path
    strength: float


def export_checkpoint(
    model: str, base: Path, adapters: Sequence[Adapter], folder: Path, options: SaveOptions
) -> None:
    """:func:`merge_adapters` into a new folder, which is there whole or not at all, and says how it is asked.

    Args:
        model: what ``base`` is called, so that it is known what it was trained on.

    Raises:
        FileExistsError: there is something at ``folder``.
        TrainingError: the checkpoint is of another family than Florence-2.
    """
    check_family(model)
    if folder.exists():
        raise FileExistsError(f"{folder} is there already.")
    entries = [entry_of(model), *(adapter_entry(one.name) for one in adapters if one.strength)]
    prompts = own_prompts(model, [(one.name, one.strength) for one in adapters])
    with atomic_folder(folder) as unfinished:
        merge_adapters(base, [(one.folder, one.strength) for one in adapters], unfinished, options)
        if any(entries):
            write_trained_entry(unfinished, _instructions(entries), prompts)


def _instructions(entries: Sequence[CheckpointEntry | None]) -> list[str]:
    """What a checkpoint and its adapters were trained on; none if nobody knows that of the checkpoint."""
    if entries[0] is None or not entries[0].instructions:
        return []
    return list(dict.fromkeys(name for entry in entries if entry for name in entry.instructions))
