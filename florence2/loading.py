"""From weight names in a file to a network in memory, and back.

Two formats are read. *Original*: Microsoft's, and every fine-tune's. *Converted*: transformers' own class
since 4.56 (``florence-community/Florence-2-*``). The network is made on the meta device and the file's
tensors are put into it one by one, so that the weights exist once.

With 8 or 4 bits it is the large matrices of the language model's layers that have them, and nothing else; see
:mod:`..inference.quantisation`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from timm.models.davit import checkpoint_filter_fn
from torch import Tensor

from ..inference.errors import CheckpointError
from ..inference.parameters import put_parameter, quantised_owner, read_parameter
from ..inference.quantised_layers import has_quantised_layers, prepare
from ..inference.weights import Weights, open_weights
from .configuration import Florence2Config
from .network import Florence2Network, sinusoid_table, tie_embeddings
from .products import CpuLinear

# One matrix under four names, in the order in which we look for it.
TIED = (
    "language_model.model.shared.weight",
    "language_model.lm_head.weight",
    "language_model.model.encoder.embed_tokens.weight",
    "language_model.model.decoder.embed_tokens.weight",
)
LOGITS_BIAS = "language_model.final_logits_bias"
TEMPORAL = "visual_temporal_embed.pos_idx_to_embed"


def load_network(
    folder: Path,
    config: Florence2Config,
    device: torch.device,
    dtype: torch.dtype,
    quantization: str = "none",
) -> Florence2Network:
    """The network of a checkpoint folder, in evaluation mode, its weights on ``device`` in ``dtype``; those
    that are to have fewer bits are quantised as they are read.

    Raises:
        CheckpointError: a missing, surplus or misshapen tensor (names and shapes are listed), or a file that
            cannot be read.
    """
    weights = open_weights(folder)
    with torch.device("meta"):
        network = Florence2Network(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    names = translate(weights.shapes)  # file's name -> ours
    _check_tensors(folder, config, wanted, {names[name]: shape for name, shape in weights.shapes.items()})
    prepare(network, quantization, dtype)

    tied = sorted((name for name in names if names[name] in TIED), key=lambda name: TIED.index(names[name]))
    for name in [*(name for name in names if name not in tied), *tied[:1]]:
        if (layer := quantised_owner(network, names[name])) is not None:
            layer.fill_weight(weights.pieces(name), device)
            continue
        tensor = read_parameter(weights, name, device, dtype)
        put_parameter(network, TIED[0] if name in tied else names[name], _oriented(name, tensor))
    for name in tied[1:]:
        _check_tied(network, weights, name, tied[0])
    tie_embeddings(network.language_model)
    if TEMPORAL not in names.values():
        put_parameter(network, TEMPORAL, sinusoid_table(*wanted[TEMPORAL]).to(device, dtype))
    if LOGITS_BIAS not in names.values():
        put_parameter(network, LOGITS_BIAS, torch.zeros(wanted[LOGITS_BIAS], device=device, dtype=dtype))
    left = [name for name, tensor in network.named_parameters() if tensor.is_meta]
    left += [name for name, tensor in network.named_buffers() if tensor.is_meta]
    if left:
        raise CheckpointError(f"{folder}: no weights were found for {', '.join(left)}.")
    return network.eval().requires_grad_(False)


def translate(names: Iterable[str]) -> dict[str, str]:
    """Map the weight names of a file, of either format, to the names of :class:`Florence2Network`.

    Names that neither format knows are mapped to themselves; the check that follows reports them.
    """
    original = {name: _to_original(name) for name in names}
    towers = {name: name for name in original.values() if name.startswith("vision_tower.")}
    # timm's own converter, run on names instead of tensors: {timm's name: original name}
    timm_names = {old: new for new, old in checkpoint_filter_fn(towers, None).items()} if towers else {}
    return {
        name: f"vision_tower.{timm_names[old]}" if old in timm_names else old
        for name, old in original.items()
    }


def translate_some(names: Iterable[str], config: Florence2Config) -> dict[str, str]:
    """As :func:`translate`, for names that need not be those of a whole checkpoint."""
    towers = {old: ours for ours, old in _original_names(config).items()}
    original = {name: _to_original(name) for name in names}
    return {name: towers.get(old, old) for name, old in original.items()}


def published_names(names: Iterable[str], config: Florence2Config) -> dict[str, str]:
    """Our names of parameters, to those of the original format."""
    towers = _original_names(config)
    return {name: towers.get(name, name) for name in names}


def is_transposed(name: str) -> bool:
    """Whether a file's matrix of that name is the other way round than our network's."""
    return name == _CONVERTED_PROJECTION


def read_parameters(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Some of a checkpoint's tensors, by our names, each as float32 on the CPU.

    Raises:
        CheckpointError: a file cannot be read, or lacks a tensor.
    """
    weights = open_weights(folder)
    files = {ours: name for name, ours in reversed(translate(weights.shapes).items())}
    for name in names:
        known = [file for file in (TIED if name in TIED else (name,)) if file in files]
        if not known:
            raise CheckpointError(f"{folder} has no weights for {name}. Fetch the checkpoint again.")
        file = files[known[0]]
        yield name, _oriented(file, read_parameter(weights, file, torch.device("cpu"), torch.float32))


def original_state_dict(network: Florence2Network) -> dict[str, Tensor]:
    """The network's tensors under the names of the original format, the tied matrix under one of them.

    Raises:
        ValueError: weights are in a form that only this CPU reads, or in fewer bits.
    """
    if has_quantised_layers(network):
        raise ValueError("The weights are quantised; load the checkpoint with quantization none.")
    if any(isinstance(module, CpuLinear) for module in network.modules()):
        raise ValueError("The weights were rearranged for this CPU; unpack the network, or load it again.")
    return in_original_names(network.state_dict(), network.config)


def in_original_names(state: Mapping[str, Tensor], config: Florence2Config) -> dict[str, Tensor]:
    """Tensors by our names, under those of the original format, the tied matrix under one of them."""
    names = published_names([name for name in state if name not in TIED[1:]], config)
    return {published: state[name].detach() for name, published in names.items()}


_ATTENTION = {"spatial": "window_attn", "channel": "channel_attn"}

# transformers' names -> the original ones; first match wins
_CONVERTED: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^model\.vision_tower\.convs\.(\d+)\.conv\.", r"vision_tower.convs.\1.proj."),
    (r"^model\.vision_tower\.convs\.(\d+)\.norm\.", r"vision_tower.convs.\1.norm."),
    (
        r"^model\.vision_tower\.blocks\.(\d+\.\d+\.\w+_block)\.conv(\d)\.",
        r"vision_tower.blocks.\1.conv\2.fn.dw.",
    ),
    (
        r"^model\.vision_tower\.blocks\.(\d+\.\d+)\.(spatial|channel)_block\.norm1\.",
        lambda m: f"vision_tower.blocks.{m[1]}.{m[2]}_block.{_ATTENTION[m[2]]}.norm.",
    ),
    (
        r"^model\.vision_tower\.blocks\.(\d+\.\d+)\.(spatial|channel)_block\.(?:window|channel)_attn\.",
        lambda m: f"vision_tower.blocks.{m[1]}.{m[2]}_block.{_ATTENTION[m[2]]}.fn.",
    ),
    (r"^model\.vision_tower\.blocks\.(\d+\.\d+\.\w+_block)\.norm2\.", r"vision_tower.blocks.\1.ffn.norm."),
    (r"^model\.vision_tower\.blocks\.(\d+\.\d+\.\w+_block)\.ffn\.", r"vision_tower.blocks.\1.ffn.fn.net."),
    (r"^model\.multi_modal_projector\.image_projection\.weight$", "image_projection"),
    (r"^model\.multi_modal_projector\.image_proj_norm\.", "image_proj_norm."),
    (r"^model\.multi_modal_projector\.image_position_embed\.", "image_pos_embed."),
    (r"^model\.multi_modal_projector\.visual_temporal_embed\.", "visual_temporal_embed."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^final_logits_bias$", LOGITS_BIAS),
)
_CONVERTED_PROJECTION = "model.multi_modal_projector.image_projection.weight"


def _to_original(name: str) -> str:
    for pattern, replacement in _CONVERTED:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return name


def _original_names(config: Florence2Config) -> Mapping[str, str]:
    """Our names of the vision tower's tensors, to those of the original format."""
    return _names_of_tower(config.vision.depths)


@functools.lru_cache(maxsize=8)
def _names_of_tower(depths: tuple[int, ...]) -> Mapping[str, str]:
    """By the blocks of each stage. It takes a while, and is asked for name by name."""
    names = []
    for stage, depth in enumerate(depths):
        conv = f"vision_tower.convs.{stage}"
        names += [f"{conv}.{part}.{kind}" for part in ("proj", "norm") for kind in ("weight", "bias")]
        for block in range(depth):
            for kind, attention in _ATTENTION.items():
                prefix = f"vision_tower.blocks.{stage}.{block}.{kind}_block"
                parts = [
                    "conv1.fn.dw", f"{attention}.norm", f"{attention}.fn.qkv", f"{attention}.fn.proj",
                    "conv2.fn.dw", "ffn.norm", "ffn.fn.net.fc1", "ffn.fn.net.fc2",
                ]  # fmt: skip
                names += [f"{prefix}.{part}.{end}" for part in parts for end in ("weight", "bias")]
    return MappingProxyType({ours: old for old, ours in translate(names).items()})


def _oriented(name: str, tensor: Tensor) -> Tensor:
    """The converted format keeps the projection as a linear layer does, ``[D, C]``; ours is ``[C, D]``."""
    return tensor.T.contiguous() if is_transposed(name) else tensor


def _check_tensors(
    folder: Path,
    config: Florence2Config,
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
) -> None:
    """Compare shapes by our names, and report by the original format's."""
    published = _original_names(config)
    optional = {*TIED, TEMPORAL, LOGITS_BIAS}
    lines = [
        f"missing: {published.get(name, name)} {list(shape)}"
        for name, shape in wanted.items()
        if name not in found and name not in optional
    ]
    if not any(name in found for name in TIED):
        lines.append(f"missing: {TIED[0]} {list(wanted[TIED[0]])} (or one of its tied names)")
    lines += [f"surplus: {name} {list(shape)}" for name, shape in found.items() if name not in wanted]
    for name, shape in found.items():
        expected = wanted.get(name, shape)
        if shape != expected and not (name == "image_projection" and shape == expected[::-1]):
            lines.append(
                f"misshapen: {published.get(name, name)} is {list(shape)}, config.json says {list(expected)}"
            )
    if lines:
        raise CheckpointError(
            f"The weights in {folder} do not fit its config.json, {len(lines)} tensors differ:\n  "
            + "\n  ".join(lines)
        )


def _check_tied(network: Florence2Network, weights: Weights, name: str, first: str) -> None:
    shared = network.language_model.model.shared.weight
    for rows, piece in weights.pieces(name):
        if not torch.equal(piece.to(shared), shared[rows]):
            raise CheckpointError(
                f"{name} and {first} are one matrix in Florence-2, but this checkpoint holds two different "
                "ones. It was not saved by a Florence-2 trainer."
            )
        del piece
