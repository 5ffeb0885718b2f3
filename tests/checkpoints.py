"""The reference checkpoint, and other layouts of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

REFERENCE = Path(__file__).parent / "data" / "florence2-tiny-original"
TIED = (
    "language_model.model.shared.weight",
    "language_model.lm_head.weight",
    "language_model.model.encoder.embed_tokens.weight",
    "language_model.model.decoder.embed_tokens.weight",
)
State = dict[str, torch.Tensor]


@lru_cache
def expected() -> dict[str, Any]:
    """What the published code answers: prompts, cases, training."""
    return json.loads((REFERENCE / "expected.json").read_text(encoding="utf-8"))


@lru_cache
def expected_tensors() -> dict[str, torch.Tensor]:
    """Pixel values, features, encoder states and logits of the published code."""
    return load_file(REFERENCE / "expected.safetensors")


def reference_state() -> State:
    """The reference weights as the ``.bin`` holds them, each tensor with memory of its own."""
    state = torch.load(REFERENCE / "pytorch_model.bin", weights_only=True)
    return {name: tensor.clone() for name, tensor in state.items()}


def copy_reference(folder: Path, *, weights: bool = False) -> Path:
    """The reference folder's small files, and its ``.bin`` on request."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in REFERENCE.glob("*.json"):
        if file.name != "expected.json":
            shutil.copy(file, folder)
    if weights:
        shutil.copy(REFERENCE / "pytorch_model.bin", folder)
    return folder


def edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    edit(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_sharded(folder: Path, state: Mapping[str, torch.Tensor], shards: int, kind: str) -> None:
    """Shards with an index, as transformers writes them. ``kind`` is ``safetensors`` or ``bin``."""
    stem = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    weight_map = {}
    names = list(state)
    for number in range(shards):
        file = f"{stem}-{number + 1:05}-of-{shards:05}.{kind}"
        part = {name: state[name] for name in names[number::shards]}
        weight_map |= dict.fromkeys(part, file)
        if kind == "safetensors":
            save_file(part, folder / file)
        else:
            torch.save(part, folder / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index), encoding="utf-8")


def without(state: State, *names: str) -> State:
    return {name: tensor for name, tensor in state.items() if name not in names}


def only_tied(*kept: str) -> Callable[[State], State]:
    return lambda state: without(state, *[name for name in TIED if name not in kept])


def _single(edit: Callable[[State], State] = lambda state: state) -> Callable[[Path, State], None]:
    return lambda folder, state: save_file(edit(state), folder / "model.safetensors")


def _cast(dtype: torch.dtype) -> Callable[[State], State]:
    return lambda state: {name: tensor.to(dtype) for name, tensor in state.items()}


def _legacy_bin(folder: Path, state: State) -> None:
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


LAYOUTS: dict[str, Callable[[Path, State], None]] = {
    "bin": lambda folder, state: torch.save(state, folder / "pytorch_model.bin"),
    "bin before torch 1.6": _legacy_bin,
    "bin, sharded": lambda folder, state: write_sharded(folder, state, 3, "bin"),
    "safetensors": _single(),
    "safetensors, sharded": lambda folder, state: write_sharded(folder, state, 4, "safetensors"),
    "safetensors, fp32": _single(_cast(torch.float32)),
    "no bias, no temporal table": _single(
        lambda state: without(
            state, "language_model.final_logits_bias", "visual_temporal_embed.pos_idx_to_embed"
        )
    ),
    "only shared": _single(only_tied(TIED[0])),
    "only lm_head": _single(only_tied(TIED[1])),
    "only encoder.embed_tokens": _single(only_tied(TIED[2])),
    "only decoder.embed_tokens": _single(only_tied(TIED[3])),
    "shared and lm_head": _single(only_tied(TIED[0], TIED[1])),
    "both embed_tokens": _single(only_tied(TIED[2], TIED[3])),
    "all but shared": _single(only_tied(*TIED[1:])),
}


def make_layout(folder: Path, layout: str) -> Path:
    """The reference checkpoint with its weights laid out in another way (a key of ``LAYOUTS``)."""
    copy_reference(folder)
    LAYOUTS[layout](folder, reference_state())
    return folder
