"""All options of a training run, in groups. Files of them are read by :mod:`.config_files`.

A file has the fields of all groups side by side, under the names that they have here; those that the
published trainer, Florence-2ner, knows have its names and mean the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from ..captioning.images import parse_background
from .data.augmentation import AugmentOptions
from .data.options import DataOptions
from .errors import ConfigError
from .model_options import LoraOptions, ModelOptions

__all__ = [
    "AugmentOptions",
    "BatchOptions",
    "CheckpointOptions",
    "ConfigError",
    "EvaluationOptions",
    "LogOptions",
    "LoraOptions",
    "ModelOptions",
    "OptimizerOptions",
    "RunOptions",
    "SaveOptions",
    "TrainConfig",
]

_MOST_SEED = 2**32 - 1  # numpy's


def _at_least(options: Any, least: float, *names: str) -> None:
    """See that fields, where they are not None, are no less than ``least``."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not least <= value < math.inf:
            raise ConfigError(f"{name}: {value} is not a number from {least} on")


def _within(options: Any, least: float, most: float, *names: str) -> None:
    """See that fields, where they are not None, are numbers from ``least`` to ``most``."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not least <= value <= most:
            raise ConfigError(f"{name}: {value} is not between {least} and {most}")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How long a run is, where it goes, and what makes it repeat."""

    run_name: str
    output_dir: Path | None = None  # of this run; None: checkpoints/<run_name>, as published
    epochs: int = 2
    max_steps: int | None = None  # optimiser steps, if they come before the last epoch's end
    seed: int = 42  # of the split, the order of examples, dropout, augmentation and new adapters
    deterministic: bool = False  # only kernels that repeat bit for bit on a GPU; slower

    def __post_init__(self) -> None:
        forbidden = any(letter in '/\\:*?"<>|' or not letter.isprintable() for letter in self.run_name)
        if not self.run_name.strip(". ") or forbidden:
            raise ConfigError(f"run_name: {self.run_name!r} cannot be the name of a folder")
        _at_least(self, 1, "epochs", "max_steps")
        if not 0 <= self.seed <= _MOST_SEED:
            raise ConfigError(f"seed: {self.seed} is not between 0 and {_MOST_SEED}")

    @property
    def folder(self) -> Path:
        """Where everything of the run is written."""
        return self.output_dir or Path("checkpoints", self.run_name)


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Which checkpoint is trained, and how the machine computes it."""

    model_name: str  # a catalogue name, a Hub id, or a folder
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"  # auto: bf16 on GPUs that have it
    activation_offloading: bool = False  # keep activations in the CPU's memory until they are needed

    def __post_init__(self) -> None:
        if not self.model_name.strip():
            raise ConfigError("model_name: name a checkpoint or a folder, such as microsoft/Florence-2-base")


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """The optimiser, its learning rate over the run, and clipping."""

    optimizer: str = "AdamW"  # a name of torch.optim or of pytorch-optimizer, in any case
    optimizer_args: Mapping[str, Any] = field(default_factory=dict)  # that the optimiser takes besides
    learning_rate: float = 1e-5  # the highest
    min_learning_rate: float = 0.0  # at the end of the schedule
    lr_scheduler: str = "cosine"  # a name of .schedules, of torch's or of pytorch-optimizer's, in any case
    lr_scheduler_args: Mapping[str, Any] = field(default_factory=dict)  # that it takes besides
    warmup_steps: float = 0  # below 1 a fraction of all steps, else a count
    weight_decay: float = 0.01
    clip_grad_norm: float | None = 1.0  # None or 0: gradients are not clipped

    def __post_init__(self) -> None:
        if not self.optimizer.strip():
            raise ConfigError("optimizer: name one, such as AdamW or CAME")
        _at_least(self, 0, "min_learning_rate", "warmup_steps", "weight_decay", "clip_grad_norm")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate: {self.learning_rate} must be above 0")
        if self.min_learning_rate > self.learning_rate:
            raise ConfigError(
                f"min_learning_rate: {self.min_learning_rate} is above learning_rate, {self.learning_rate}"
            )
        if self.warmup_steps >= 1 and self.warmup_steps != int(self.warmup_steps):
            raise ConfigError(f"warmup_steps: {self.warmup_steps} is neither a count nor a fraction below 1")


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """What is computed at a time, and how it is made ready."""

    train_batch_size: int = 4  # examples on each device
    group_by_length: bool = False  # batches hold answers of similar length, so that little is padding
    gradient_accumulation_steps: int = 1  # batches for one optimiser step
    dataloader_workers: int = 2  # processes that read images, for each device; 0: none of their own
    persistent_workers: bool = True
    dataloader_prefetch_factor: int = 2  # batches that each of them reads ahead
    background: str = "white"  # behind transparent pixels: a colour's name or #rrggbb
    augment: AugmentOptions = AugmentOptions()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        _at_least(self, 1, "train_batch_size", "gradient_accumulation_steps", "dataloader_prefetch_factor")
        _at_least(self, 0, "dataloader_workers")
        try:
            parse_background(self.background)
        except ValueError as error:
            raise ConfigError(f"background: {error}") from error


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What is measured on held-out images in the course of the run."""

    eval_batch_size: int | None = None  # None: train_batch_size
    eval_steps: int | None = None  # optimiser steps between evaluations; None: at the end of each epoch
    eval_before_training: bool = False
    do_extra_eval: bool = False  # also generate captions and score them
    print_first_batch_predictions: bool = False  # show the captions of the first few held-out images
    extra_eval_images: int | None = None  # how many images are captioned for scores; None: all held-out ones
    eval_num_beams: int | None = None  # None, as below: what the checkpoint's generation settings say
    eval_max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        _at_least(
            self, 1, "eval_batch_size", "eval_steps", "extra_eval_images", "eval_num_beams",
            "eval_max_new_tokens",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SaveOptions:
    """When checkpoints are written, how many are kept, and how they look."""

    save_steps: int | None = None  # optimiser steps between checkpoints; None: at the end of each epoch
    save_on_epoch_too: bool = False
    save_total_limit: int | None = 3  # the newest that are kept, besides the best; None: all
    save_best: bool = True  # keep the one with the lowest evaluation loss
    save_format: Literal["original", "converted", "both"] = "original"
    save_dtype: Literal["checkpoint", "fp32", "fp16", "bf16"] = "checkpoint"  # checkpoint: as it was loaded

    def __post_init__(self) -> None:
        _at_least(self, 1, "save_steps", "save_total_limit")


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Where the course of the run can be watched; metrics.jsonl is always written."""

    log_steps: int = 1  # optimiser steps between entries
    tensorboard: bool = False
    wandb: bool | None = None  # Weights & Biases; None: if a project is named and the package is installed
    wandb_project_name: str | None = None
    wandb_x_stats_sampling_interval: float | None = None  # seconds between entries about the machine

    def __post_init__(self) -> None:
        _at_least(self, 1, "log_steps")
        if self.wandb and not self.wandb_project_name:
            raise ConfigError("wandb_project_name: name the project that wandb is to log to")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that makes a run what it is."""

    run: RunOptions
    checkpoint: CheckpointOptions
    data: DataOptions
    model: ModelOptions = ModelOptions()  # noqa: RUF009 - frozen
    optimizer: OptimizerOptions = OptimizerOptions()
    batches: BatchOptions = BatchOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    saving: SaveOptions = SaveOptions()
    logging: LogOptions = LogOptions()

    @property
    def eval_batch_size(self) -> int:
        """Examples on each device while evaluating."""
        return self.evaluation.eval_batch_size or self.batches.train_batch_size


def group_fields() -> dict[str, str]:
    """For each option, the name of the group that it belongs to."""
    hints = get_type_hints(TrainConfig)
    return {one.name: group for group, kind in hints.items() for one in fields(kind)}
