"""Keys of configuration files: what the published trainer calls things, and what comes of it here.

Florence-2ner's keys are either options of the same name, or in the tables below: those that say something
that is said otherwise here, those that have no effect because there is no need, and those that are refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .errors import ConfigError

__all__ = ["FIELD_OF_KEY", "NESTED_NAMES", "nearest_key", "nearest_nested_key", "translate"]

OnNote = Callable[[str], None]

FIELD_OF_KEY = {
    "dataset_config": "sources",
    "eval_dataset_config": "eval_sources",
    "attn_implementation": "attention",
}
"""Keys whose options have another name in code."""

_NO_COLLECTION = "emptying the GPU's cache makes steps slow, and frees only what the next one needs again"

_NO_EFFECT = {
    "filtering_processes": "captions are checked as fast without processes of their own",
    "filtering_processes_per_thread": "captions are checked as fast without processes of their own",
    "filtering_batch_size": "captions are checked as fast without batches of their own",
    "garbage_collection": _NO_COLLECTION,
    "do_gc": _NO_COLLECTION,
    "gpu_limit_mb": "it belongs to hybrid offloading of activations",
    "offload_gpu_limit_mb": "it belongs to hybrid offloading of activations",
    "offload_cpu_limit_mb": "it belongs to hybrid offloading of activations",
    "offload_limit_mb": "it belongs to partial offloading of activations",
    "offload_threshold_mb": "it belongs to partial offloading of activations",
    "debug": "what it printed is in metrics.jsonl",
}

_PARTS = ("vision", "language", "other")

_FREEZE = tuple(f"freeze_{part}" for part in _PARTS)
_PUBLISHED = ("use_bf16", "dataset_path", "task_prompt", "eval_split_ratio", *_FREEZE)
"""Keys of the published trainer that become others."""

# What other trainers (transformers, sd-scripts, ai-toolkit) and hasty people write for a key.
_OTHERS_NAMES = {
    "batch_size": "train_batch_size",
    "per_device_train_batch_size": "train_batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "lr": "learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "lr_warmup_steps": "warmup_steps",
    "warmup_ratio": "warmup_steps",
    "num_train_epochs": "epochs",
    "max_train_epochs": "epochs",
    "max_train_steps": "max_steps",
    "steps": "max_steps",
    "max_grad_norm": "clip_grad_norm",
    "optimizer_type": "optimizer",
    "optim": "optimizer",
    "optimizer_params": "optimizer_args",
    "gradient_accumulation": "gradient_accumulation_steps",
    "save_every_n_steps": "save_steps",
    "save_every": "save_steps",
    "max_step_saves_to_keep": "save_total_limit",
    "pretrained_model_name_or_path": "model_name",
    "name_or_path": "model_name",
    "model": "model_name",
    "output_name": "run_name",
    "name": "run_name",
    "output": "output_dir",
    "train_data_dir": "dataset_config",
    "datasets": "dataset_config",
    "folder_path": "dataset_config",
    "network_dim": "lora",
    "lora_rank": "lora",
    "lora_r": "lora",
    "network_alpha": "lora",
    "lora_alpha": "lora",
    "bf16": "mixed_precision",
    "fp16": "mixed_precision",
    "dtype": "mixed_precision",
    "max_data_loader_n_workers": "dataloader_workers",
    "dataloader_num_workers": "dataloader_workers",
    "num_workers": "dataloader_workers",
}

NESTED_NAMES = {
    "folder_path": "path",
    "image_dir": "path",
    "image_folder": "path",
    "num_repeats": "repeats",
    "caption_extension": "extensions",
    "caption_ext": "extensions",
    "r": "rank",
    "dim": "rank",
    "network_dim": "rank",
    "network_alpha": "alpha",
}
"""The same, of keys within dataset_config and lora."""


def translate(raw: Mapping[str, Any], on_note: OnNote) -> tuple[dict[str, Any], list[str]]:
    """From the keys of a file to those of options; what is unknown is left as it is.

    Args:
        on_note: told of keys that have no effect, and why.

    Returns:
        The keys, and a line for each that asks for what there is not, or contradicts another.
    """
    keys = {key: value for key, value in raw.items() if key not in _NO_EFFECT}
    for key in raw:
        if key in _NO_EFFECT and raw[key] not in (None, False):
            on_note(f"{key} has no effect: {_NO_EFFECT[key]}.")
    wrong: list[str] = []
    for take in (_precision, _frozen_parts, _checkpointing, _offloading, _dataset, _eval_split):
        try:
            take(keys)
        except ConfigError as error:
            wrong.append(str(error))
    return keys, wrong


def nearest_key(key: str, known: Iterable[str]) -> str:
    """A hint which key of a file was meant: ``; did you mean epochs?``, or nothing."""
    return _hint(key, [*known, *_PUBLISHED], _OTHERS_NAMES)


def nearest_nested_key(key: str, known: Iterable[str]) -> str:
    """The same, of a key in a group of options."""
    return _hint(key, [*known], NESTED_NAMES)


def _hint(key: str, known: Sequence[str], others: Mapping[str, str]) -> str:
    if others.get(key) in known:
        return f"; here it is {others[key]}"
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _precision(keys: dict[str, Any]) -> None:
    """``use_bf16`` (else fp16); and YAML reads ``mixed_precision: no`` as false."""
    use_bf16 = keys.pop("use_bf16", None)
    if keys.get("mixed_precision") is False:
        keys["mixed_precision"] = "no"
    if use_bf16 is None:
        return
    _require_bool("use_bf16", use_bf16)
    if keys.get("mixed_precision") is not None:
        raise ConfigError("use_bf16, mixed_precision: give one of them")
    keys["mixed_precision"] = "bf16" if use_bf16 else "fp16"


def _frozen_parts(keys: dict[str, Any]) -> None:
    """``freeze_vision`` and its sisters go before the patterns of ``freeze``, which may say otherwise."""
    given = {part: keys.pop(f"freeze_{part}", None) for part in _PARTS}
    for part, value in given.items():
        if value is not None:
            _require_bool(f"freeze_{part}", value)
    frozen = [part for part, value in given.items() if value]
    if not frozen:
        return
    others = keys.get("freeze") or []
    keys["freeze"] = [*frozen, *([others] if isinstance(others, str) else others)]


def _checkpointing(keys: dict[str, Any]) -> None:
    """Blank in the published example, and so off."""
    if keys.get("gradient_checkpointing", False) is None:
        keys["gradient_checkpointing"] = False


def _offloading(keys: dict[str, Any]) -> None:
    """``cpu``, ``disk`` or ``hybrid`` as published; here true or false."""
    if "cpu_offload_activations" in keys:
        keys.setdefault("activation_offloading", keys.pop("cpu_offload_activations"))
    value = keys.get("activation_offloading")
    if value in ("disk", "hybrid"):
        del keys["activation_offloading"]
        raise ConfigError(
            f"activation_offloading: {value} is refused: steps that wait for a disk take minutes. Use cpu, "
            "gradient_checkpointing, or a smaller train_batch_size with more gradient_accumulation_steps"
        )
    if value == "cpu":
        keys["activation_offloading"] = True


def _dataset(keys: dict[str, Any]) -> None:
    """``dataset_path`` and ``task_prompt``, of which the first published configurations consist."""
    path, prompt = keys.pop("dataset_path", None), keys.pop("task_prompt", None)
    if path is None and prompt is None:
        return
    if path is None:
        raise ConfigError("task_prompt: it belongs to dataset_path; in dataset_config it is instruction")
    if keys.get("dataset_config") is not None:
        raise ConfigError("dataset_path, dataset_config: give one of them")
    keys["dataset_config"] = [{"path": path} if prompt is None else {"path": path, "instruction": prompt}]


def _eval_split(keys: dict[str, Any]) -> None:
    ratio = keys.pop("eval_split_ratio", None)
    if ratio is None:
        return
    if keys.get("eval_split") is not None:
        raise ConfigError("eval_split_ratio, eval_split: give one of them")
    if isinstance(ratio, (int, float)) and ratio >= 1:
        raise ConfigError(
            f"eval_split_ratio: {ratio:g} is not below 1; to hold out a number of images, use eval_split"
        )
    keys["eval_split"] = ratio


def _require_bool(key: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{key}: {value!r} is neither true nor false")
