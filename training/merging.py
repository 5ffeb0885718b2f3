"""A whole checkpoint from one and adapters for it, whoever trained them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..florence2 import Florence2Model
from ..florence2.loading import TIED
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
    model = Florence2Model.load(base, device="cpu", dtype="fp32").with_adapters(adapters)
    state = model.network.state_dict()
    if any(state[name].data_ptr() != state[TIED[0]].data_ptr() for name in TIED):
        raise TrainingError(
            "An adapter changes the head or an embedding, which are one matrix in a checkpoint and would be "
            "several. Use it as an adapter."
        )
    save_checkpoint(model, folder, options or SaveOptions(), state)
