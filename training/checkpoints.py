"""The checkpoints of a run: written whole or not at all, the newest kept and the best.

Each is a folder ``checkpoint-120`` that any tool can load as a model, with ``training_state/`` in it, from
which the run goes on to the bit.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .atomic import begin_folder, finish_folder, remove_folder, remove_unfinished, unfinished_name
from .errors import TrainingError
from .state import Progress, random_states, set_random_states

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

STATE = "training_state"
_NAME = re.compile(r"checkpoint-(\d+)")
_PROGRESS = "progress.json"
_WEIGHTS = "weights.safetensors"


def find_checkpoints(folder: Path) -> dict[int, Path]:
    """The whole checkpoints of a run, by step, the oldest first."""
    entries = folder.iterdir() if folder.is_dir() else ()
    found = {int(name[1]): entry for entry in entries if (name := _NAME.fullmatch(entry.name))}
    return {step: found[step] for step in sorted(found)}


class Checkpoints:
    """Writes and reads the checkpoints of a run. All processes call the same methods at the same time.

    Args:
        folder: of the run.
        save_model: writes a model that can be loaded into an empty folder; every process calls it.
        limit: how many of the newest are kept; None keeps all.
        state: what is kept besides weights and optimiser, such as the schedule.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        save_model: Callable[[Path], None],
        *,
        limit: int | None = 3,
        keep_best: bool = True,
        state: tuple[Any, ...] = (),
    ) -> None:
        self.folder = folder
        self._accelerator = accelerator
        self._save_model = save_model
        self._limit = limit
        self._keep_best = keep_best
        accelerator.register_for_checkpointing(*state)
        if accelerator.distributed_type.value in ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU"):
            accelerator.register_save_state_pre_hook(_save_trained(accelerator))
            accelerator.register_load_state_pre_hook(_load_trained(accelerator))

    def prepare(self) -> None:
        """Make the folder; take away what a kill has left half written in it.

        Raises:
            TrainingError: that cannot be done.
        """
        if self._accelerator.is_main_process:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                remove_unfinished(self.folder)
            except OSError as error:
                raise TrainingError(f"{self.folder} cannot be written to: {error.strerror}.") from error
        self._accelerator.wait_for_everyone()

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step stands, or would."""
        return self.folder / f"checkpoint-{step}"

    def save(self, progress: Progress) -> Path:
        """Write the checkpoint of ``progress.step``, then take away those beyond the limit.

        Raises:
            TrainingError: it cannot be written; the older ones are as they were.
        """
        target = self.path(progress.step)
        if target.exists():  # of this very step, so there is nothing to add
            return target
        try:
            self._write(target, progress)
        except (
            OSError,
            RuntimeError,
            SafetensorError,
        ) as error:  # torch's and safetensors' words for a full disk
            raise TrainingError(self._failed(target, error)) from error
        if self._accelerator.is_main_process:
            self._prune(progress.best_step)
        self._accelerator.wait_for_everyone()
        return target

    def _write(self, target: Path, progress: Progress) -> None:
        main = self._accelerator.is_main_process
        unfinished = begin_folder(target) if main else unfinished_name(target)
        self._accelerator.wait_for_everyone()
        try:
            state = unfinished / STATE
            self._accelerator.save_state(str(state))
            torch.save(random_states(), state / f"random_{self._accelerator.process_index}.pt")
            self._save_model(unfinished)
            if main:
                progress.write(state / _PROGRESS)
            self._accelerator.wait_for_everyone()
            if main:
                finish_folder(unfinished, target)
        except BaseException:
            if main:
                shutil.rmtree(unfinished, ignore_errors=True)  # a full disk needs the room
            raise
        self._accelerator.wait_for_everyone()

    def load_latest(self) -> Progress | None:
        """Have model, optimiser, schedule and random numbers as they were at the newest checkpoint.

        Raises:
            TrainingError: it is of another version or another number of processes.
        """
        found = find_checkpoints(self.folder)
        return self.load(found[max(found)]) if found else None

    def load(self, checkpoint: Path) -> Progress:
        """The same for one that is named."""
        state = checkpoint / STATE
        progress = Progress.read(state / _PROGRESS)
        self._accelerator.load_state(str(state))
        own = state / f"random_{self._accelerator.process_index}.pt"
        # accelerate keeps random numbers, too, but goes on without a word where it cannot restore them
        set_random_states(torch.load(own, weights_only=True))
        return progress

    def _prune(self, best: int | None) -> None:
        found = find_checkpoints(self.folder)
        if self._limit is None:
            return
        newest = list(found)[-self._limit :]
        for step, path in found.items():
            if step not in newest and not (self._keep_best and step == best):
                remove_folder(path)

    def _failed(self, target: Path, error: Exception) -> str:
        reason = (isinstance(error, OSError) and error.strerror) or str(error).partition("\n")[0]
        if "unexpected pos" in reason:  # torch's words for that
            reason = "the disk is full"
        found = find_checkpoints(self.folder)
        kept = f"The last one that is whole is {found[max(found)]}" if found else "There is none before it"
        return (
            f"{target} could not be written: {reason}. {kept}. Make room, or make the folder writable, and "
            "go on with --resume."
        )


def read_progress(checkpoint: Path) -> Progress:
    """How far a run had come at a checkpoint.

    Raises:
        TrainingError: it cannot be read.
    """
    return Progress.read(checkpoint / STATE / _PROGRESS)


def _save_trained(accelerator: Accelerator) -> Callable[..., None]:
    """Write what training changes instead of all weights: of a LoRA run, the adapter alone."""

    def save(models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        weights.clear()
        if accelerator.is_main_process:
            trained = _trained(accelerator.unwrap_model(models[0]))
            save_file(
                {name: part.detach().cpu().contiguous() for name, part in trained.items()},
                Path(folder, _WEIGHTS),
            )

    return save


def _load_trained(accelerator: Accelerator) -> Callable[..., None]:
    def load(models: list[nn.Module], folder: str) -> None:
        model = accelerator.unwrap_model(models.pop())
        kept, trained = load_file(Path(folder, _WEIGHTS)), _trained(model)
        other = sorted(kept.keys() ^ trained.keys())
        if other:
            raise TrainingError(
                f"{Path(folder).parent} was written while other weights were trained ({other[0]} and "
                f"{len(other) - 1} more). Train the same ones, or begin a new run."
            )
        with torch.no_grad():
            for name, part in trained.items():
                part.copy_(kept[name])

    return load


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """By name: the parameters that are trained, a tied one once, and the buffers that are kept."""
    parts: dict[str, Tensor] = {name: part for name, part in model.named_parameters() if part.requires_grad}
    kept = model.state_dict().keys()
    return parts | {name: part for name, part in model.named_buffers() if name in kept}
