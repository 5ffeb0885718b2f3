"""What a run writes into a checkpoint: the model, and beside it what it was made from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.utils import DistributedType

from ..models_cache import entry_of, write_trained_entry
from .card import DataFacts, write_card
from .folder import CONFIG, SPLIT
from .metrics import METRICS, read_metrics
from .saving import CONVERTED, MERGED, save_model

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from .config import TrainConfig
    from .network import TrainableModel


class ModelWriter:
    """Writes the model of a run as it is now. All processes call it; one writes.

    Args:
        prepared: ``model`` as ``accelerator`` prepared it.
        data: for the model card.
        prompts: literal prompts by instruction that replace the usual ones.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        prepared: nn.Module,
        model: TrainableModel,
        config: TrainConfig,
        data: DataFacts,
        prompts: Mapping[str, str],
    ) -> None:
        self._accelerator = accelerator
        self._prepared = prepared
        self._model = model
        self._config = config
        self._data = data
        self._prompts = prompts

    def __call__(self, folder: Path) -> None:
        """Model, model card, configuration, split and metrics.

        Raises:
            TrainingError: weights cannot be saved.
            OSError: it cannot be written.
        """
        self.write_model(folder)
        if not self._accelerator.is_main_process:
            return
        run = self._config.run.folder
        for name in (CONFIG, SPLIT, METRICS):
            shutil.copyfile(run / name, folder / name)
        write_card(folder, self._config, self._data, read_metrics(run / METRICS), self._model.folder)
        # All of it is to be asked as it was trained.
        trained = {name: prompt for name, prompt in self._prompts.items() if name in self._data.examples}
        for place in (folder, folder / CONVERTED, folder / MERGED, folder / MERGED / CONVERTED):
            if (place / "config.json").is_file():  # a whole checkpoint
                write_trained_entry(place, self._instructions(), self._prompts)
            elif (place / "adapter_config.json").is_file():
                write_trained_entry(place, list(self._data.examples), trained)

    def _instructions(self) -> tuple[str, ...]:
        """What the checkpoint knows now; none if nobody knows what it knew before."""
        entry = entry_of(self._config.checkpoint.model_name)
        known = () if entry is None else entry.instructions
        return tuple(dict.fromkeys([*known, *self._data.examples])) if known else ()

    def write_model(self, folder: Path) -> None:
        """The model alone."""
        state = None
        if self._accelerator.distributed_type == DistributedType.FSDP:  # whose parts are everywhere
            state = self._accelerator.get_state_dict(self._prepared)
        if self._accelerator.is_main_process:
            base = self._config.checkpoint.model_name
            save_model(self._model, folder, self._config.saving, base_model=base, state=state)
