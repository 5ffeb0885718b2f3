"""The course of a run in numbers: ``metrics.jsonl`` always, TensorBoard and Weights & Biases if wanted."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import write_text
from .config_files import config_mapping
from .errors import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .config import LogOptions, TrainConfig

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"

Entry = Mapping[str, Any]
"""With ``step``, and either numbers of training (``loss``, ``learning_rate``, ``tokens``, ``gradient_norm``,
``epoch``) or of held-out images (``evaluation_loss``, ``by_instruction`` and other measures)."""


class MetricsFile:
    """One JSON object per line. What came after the step at which the run goes on is taken out."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= step] if step else []
        write_text(path, "".join(f"{line}\n" for line in kept))
        self._path = path
        self._file = open(path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115 - closed by close()

    def add(self, entry: Entry) -> None:
        """Write it at once, so that whoever watches the file sees it.

        Raises:
            TrainingError: it cannot be written.
        """
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            raise TrainingError(
                f"{self._path} could not be written: {error.strerror or error}. Make room, and go on with "
                "--resume."
            ) from error

    def sync(self) -> None:
        """Have all of it on the disk, before a checkpoint relies on it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        with suppress(OSError):  # what could not be written was told of then
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The entries of a run's file, in order."""
    return [json.loads(line) for line in _lines(path)]


def _lines(path: Path) -> list[str]:
    """The whole lines; a kill may have cut the last one."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return whole.split("\n") if whole else []


def wanted_trackers(options: LogOptions) -> list[str]:
    """Those that the options ask for, by accelerate's names.

    Raises:
        TrainingError: one is asked for that is not installed.
    """
    wandb = options.wandb
    if wandb is None:
        wandb = options.wandb_project_name is not None and _is_installed("wandb")
    wanted = [name for name, asked in (("tensorboard", options.tensorboard), ("wandb", wandb)) if asked]
    for name in wanted:
        if not _is_installed(name):
            raise TrainingError(f"{name} is asked for and not installed. Do: pip install {name}")
    return wanted


def start_trackers(accelerator: Accelerator, config: TrainConfig, step: int) -> None:
    """Begin, or after a resume go on with, the logs of :func:`wanted_trackers`."""
    options, name = config.logging, config.run.run_name
    wandb = {"name": name, "id": _wandb_id(name), "resume": "allow", "config": config_mapping(config)}
    if options.wandb_x_stats_sampling_interval is not None and _is_installed("wandb"):
        from wandb import Settings  # type: ignore[import-not-found,unused-ignore]

        wandb["settings"] = Settings(x_stats_sampling_interval=options.wandb_x_stats_sampling_interval)
    tensorboard = {"purge_step": step + 1} if step else {}
    accelerator.init_trackers(
        options.wandb_project_name or TENSORBOARD,
        init_kwargs={"tensorboard": tensorboard, "wandb": wandb},
    )


def log_to_trackers(accelerator: Accelerator, entry: Entry) -> None:
    """Give an entry to all of them, under names that they group."""
    kind = "evaluation" if "evaluation_loss" in entry else "train"
    rest = {name.removeprefix("evaluation_"): value for name, value in entry.items() if name != "step"}
    accelerator.log(_flat(rest, kind), step=entry["step"])


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """All numbers, under names with slashes."""
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            numbers |= _flat(value, f"{prefix}/{name}")
        elif isinstance(value, (int, float)):
            numbers[f"{prefix}/{name}"] = value
    return numbers


def _wandb_id(run_name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in run_name)


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
