"""LoRA adapters of the real peft library, on modules that are called as those of a published checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from promptgen.florence2 import Florence2Model
from promptgen.inference.weights import open_weights
from safetensors.torch import save_file
from torch import nn

from .checkpoints import REFERENCE, copy_reference

State = dict[str, torch.Tensor]
ATTENTION = ["q_proj", "v_proj"]
_EMBEDDINGS = ("embed_tokens", "shared", "embed_positions", "row_embeddings", "column_embeddings")


def state_of(folder: Path) -> State:
    """A checkpoint's weights in fp32, each with memory of its own."""
    weights = open_weights(folder)
    names = list(weights.shapes)
    return {name: torch.cat([piece.float() for _, piece in weights.pieces(name)]) for name in names}


def published(state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Modules with these weights under these names. They do nothing; peft looks at names and kinds."""
    root = nn.Module()
    leaves: dict[str, State] = {}
    for name, tensor in state.items():
        path, _, leaf = name.rpartition(".")
        leaves.setdefault(path, {})[leaf] = tensor
    for path in sorted(leaves, key=lambda path: path.count(".")):
        parts = leaves[path]
        module = _module(path, parts) if set(parts) <= {"weight", "bias"} else nn.Module()
        for leaf, tensor in parts.items():
            module.register_parameter(leaf, nn.Parameter(tensor.clone()))
        if path:
            _set(root, path, module)
        else:
            for leaf, parameter in module.named_parameters():
                root.register_parameter(leaf, nn.Parameter(parameter))
    return root


def _module(path: str, parts: State) -> nn.Module:
    weight = parts["weight"]
    bias = "bias" in parts
    if weight.dim() == 2 and path.endswith(_EMBEDDINGS):
        return nn.Embedding(*weight.shape)
    if weight.dim() == 2:
        return nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    if weight.dim() == 4:
        groups = weight.shape[0] if weight.shape[1] == 1 else 1
        size = (weight.shape[2], weight.shape[3])
        return nn.Conv2d(weight.shape[1] * groups, weight.shape[0], size, groups=groups, bias=bias)
    return nn.LayerNorm(weight.shape[0])


def _set(root: nn.Module, path: str, module: nn.Module) -> None:
    parent = root
    *above, last = path.split(".")
    for name in above:
        if name not in parent._modules:
            parent.add_module(name, nn.Module())
        parent = parent.get_submodule(name)
    parent.add_module(last, module)


def with_adapter(base: Path = REFERENCE, *, seed: int = 0, size: float = 0.05, **settings: Any) -> Any:
    """peft's model of the checkpoint in ``base`` with a new adapter, as if trained: nothing in it is zero."""
    settings = {"target_modules": ATTENTION, "r": 4, "lora_alpha": 8, **settings}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # peft draws, too
        model = peft.get_peft_model(published(state_of(base)), peft.LoraConfig(**settings))
    train(model, seed=seed, size=size)
    return model


def train(model: Any, adapter: str = "default", *, seed: int = 0, size: float = 0.05) -> None:
    """Change all that training changes, at random."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator) * size
        if "magnitude" in name:
            parameter.data *= 1 + noise
        elif f".{adapter}" in name or (parameter.requires_grad and "lora_" not in name):
            parameter.data += noise


def save_adapter(folder: Path, base: Path = REFERENCE, **settings: Any) -> Path:
    """The folder of a new adapter for the checkpoint in ``base``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with_adapter(base, **settings).save_pretrained(folder)
    return folder


def merged_checkpoint(folder: Path, model: Any) -> Path:
    """The checkpoint that peft makes of base and adapters."""
    copy_reference(folder)
    state = model.merge_and_unload(safe_merge=True).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder


def parameters(model: Florence2Model) -> State:
    """All parameters by all of their names."""
    return dict(model.network.named_parameters(remove_duplicate=False))


def seen_and_said(
    theirs: Any, ours: Florence2Model, pixel_values: torch.Tensor, config: Any
) -> tuple[Any, Any]:
    """What transformers' own class with peft's adapter makes of a picture ``[1, 3, H, W]``: its features, and
    the tokens of its answer to one prompt.

    Args:
        ours: tokenizes the prompt.
        config: of the checkpoint as it was written.
    """
    prompt = ours.text.encode("What does the image describe?")
    ids = torch.tensor([[config.text.vocab_size] * config.num_image_tokens + prompt])
    with torch.inference_mode():
        output = theirs.base_model.model.get_image_features(pixel_values)
        row = theirs.generate(
            input_ids=ids, pixel_values=pixel_values, attention_mask=torch.ones_like(ids), num_beams=3,
            max_new_tokens=24, do_sample=False, no_repeat_ngram_size=3, forced_bos_token_id=0,
            forced_eos_token_id=2,
        )  # fmt: skip
    return getattr(output, "pooler_output", output), row[0].tolist()
