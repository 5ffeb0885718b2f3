"""What the course of a run depends on, so that it is only resumed as what it was."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from .config_files import config_mapping
from .errors import TrainingError
from .schedules import has_closed_form, rate_factor
from .state import changed_settings

if TYPE_CHECKING:
    from pathlib import Path

    from .config import OptimizerOptions, TrainConfig
    from .data.examples import Dataset

# What may change between a run and its continuation: where things are, how often they are looked at or
# written, and what makes no difference to the numbers. Of the data, the examples themselves count.
_FREE = frozenset(
    {
        "output_dir", "run_name", "dataset_config", "eval_dataset_config", "eval_split", "split_file",
        "max_problems", "long_captions", "max_target_tokens", "duplicates", "check_images",
        "dataloader_workers", "persistent_workers", "dataloader_prefetch_factor", "activation_offloading",
        "gradient_checkpointing", "eval_batch_size", "eval_steps", "eval_before_training", "do_extra_eval",
        "print_first_batch_predictions", "extra_eval_images", "eval_num_beams", "eval_max_new_tokens",
        "save_steps", "save_on_epoch_too", "save_total_limit", "save_best", "save_format", "save_dtype",
        "log_steps", "tensorboard", "wandb", "wandb_project_name", "wandb_x_stats_sampling_interval",
    }
)  # fmt: skip

_STEPS = "optimiser steps"
_LENGTH = {"epochs", "max_steps", _STEPS}


def run_fingerprint(
    config: TrainConfig, examples: Dataset, *, steps: int, processes: int, mixed_precision: str
) -> dict[str, Any]:
    """By name, what must be the same when a run is resumed."""
    settings = {name: value for name, value in config_mapping(config).items() if name not in _FREE}
    return settings | {
        "mixed_precision": mixed_precision,
        _STEPS: steps,
        "processes": processes,
        "training examples": f"{len(examples)} ({_digest(examples)})",
    }


def check_fingerprint(
    before: dict[str, Any], now: dict[str, Any], checkpoint: Path, options: OptimizerOptions, done: int
) -> None:
    """See that a run is what it was, or is only longer or shorter without that having made a difference.

    Args:
        options: of the run as it is to be resumed.
        done: steps that were made at ``checkpoint``.

    Raises:
        TrainingError: it is not; every difference is named.
    """
    changed = changed_settings(before, now)
    if not changed:
        return
    hint = ""
    if {line.partition(":")[0] for line in changed} <= _LENGTH:
        if _same_rates(options, before[_STEPS], now[_STEPS], done):
            return
        hint = " The learning rates so far went by the run's length; those of lr_scheduler: constant do not."
    raise TrainingError(
        "the run cannot be resumed, since it would become another one:\n  "
        + "\n  ".join(changed)
        + f"\nPut these back, or begin a new run from its weights, with model_name: {checkpoint}.{hint}"
    )


def _same_rates(options: OptimizerOptions, before: int, now: int, done: int) -> bool:
    """Whether the rates of the updates made, and of the next one, are those of a run of ``now`` updates."""
    if not has_closed_form(options) or now < done:
        return False
    return all(
        rate_factor(options, before, update) == rate_factor(options, now, update)
        for update in range(done + 1)
    )


def _digest(examples: Dataset) -> str:
    digest = hashlib.sha256()
    for example in examples:
        row = [example.image.name, example.instruction, example.text_input, example.target]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:12]
