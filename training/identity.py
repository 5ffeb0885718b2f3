"""What the course of a run depends on, so that it is only resumed as what it was."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from .config_files import config_mapping
from .errors import TrainingError
from .state import changed_settings

if TYPE_CHECKING:
    from pathlib import Path

    from .config import TrainConfig
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


def run_fingerprint(
    config: TrainConfig, examples: Dataset, *, steps: int, processes: int, mixed_precision: str
) -> dict[str, Any]:
    """By name, what must be the same when a run is resumed."""
    settings = {name: value for name, value in config_mapping(config).items() if name not in _FREE}
    return settings | {
        "mixed_precision": mixed_precision,
        "optimiser steps": steps,
        "processes": processes,
        "training examples": f"{len(examples)} ({_digest(examples)})",
    }


def check_fingerprint(before: dict[str, Any], now: dict[str, Any], checkpoint: Path) -> None:
    """See that a run is what it was.

    Raises:
        TrainingError: it is not; every difference is named.
    """
    changed = changed_settings(before, now)
    if changed:
        raise TrainingError(
            "the run cannot be resumed, since it would become another one:\n  "
            + "\n  ".join(changed)
            + f"\nPut these back, or begin a new run from its weights, with model_name: {checkpoint}."
        )


def _digest(examples: Dataset) -> str:
    digest = hashlib.sha256()
    for example in examples:
        row = [example.image.name, example.instruction, example.text_input, example.target]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:12]
