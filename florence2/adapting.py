"""The parameters that adapters make other ones, from those that a network has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..inference.errors import AdapterError
from ..inference.quantised_layers import QuantisedLinear
from .layout import is_quantised
from .loading import TIED, read_parameters
from .lora import Change, apply_changes
from .network import Florence2Network
from .products import CpuLinear, PackedLinear


def parameter_shapes(network: Florence2Network) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters of a network of that kind, also of one that is arranged for a CPU."""
    with torch.device("meta"):
        plain = Florence2Network(network.config)
    return {name: tuple(part.shape) for name, part in plain.named_parameters(remove_duplicate=False)}


def changed_parameters(
    network: Florence2Network, folder: Path, changes: Mapping[str, Sequence[tuple[Change, float]]]
) -> dict[str, Tensor]:
    """New parameters, by name, as :class:`.derived.DerivedNetwork` takes them. ``network`` is only read.

    Args:
        folder: the checkpoint of ``network``; read again where the weights in memory have 8 or 4 bits.
        changes: what is done to each, in which strength.

    Raises:
        AdapterError: what comes out are no numbers.
        CheckpointError: the checkpoint cannot be read.
    """
    made: dict[tuple[object, ...], Tensor] = {}  # one matrix that is changed in one way stays one
    changed: dict[str, Tensor] = {}
    for name, original in _originals(network, folder, list(changes)):
        effective = [(change, strength) for change, strength in changes[name] if not change.is_none(original)]
        if effective:
            key = (_source(name), *((id(change), strength) for change, strength in effective))
            if key not in made:
                made[key] = _changed(name, original, effective, _dtype(network, name, original))
            changed[name] = made[key]
    rest = [part for part in _parts_of_layers(network, changed) if part not in changed]
    for name, original in _originals(network, folder, rest):
        changed[name] = original.clone()
    return changed


def _changed(
    name: str, original: Tensor, changes: Sequence[tuple[Change, float]], dtype: torch.dtype
) -> Tensor:
    changed = apply_changes(original, changes).to(dtype).contiguous()
    if not torch.isfinite(changed).all() and torch.isfinite(original).all():
        kind = str(dtype).removeprefix("torch.")
        raise AdapterError(
            f"With these LoRA adapters {name} gets values that {kind} cannot hold. "
            "Choose smaller strengths; if they are small, the adapter does not belong to this model."
        )
    return changed


def _originals(network: Florence2Network, folder: Path, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Each parameter as it is; what is of 8 or 4 bits as float32, from the checkpoint."""
    if is_quantised(network):
        yield from read_parameters(folder, names)
        return
    quantised = [name for name in names if isinstance(_layer(network, name), QuantisedLinear)]
    if quantised:
        yield from read_parameters(folder, quantised)
        names = [name for name in names if name not in set(quantised)]
    for name in names:
        path, _, leaf = _source(name).rpartition(".")
        module = network.get_submodule(path)
        if leaf == "weight" and isinstance(module, PackedLinear):
            yield name, module.packed.to_dense()
        else:
            yield name, network.get_parameter(_source(name)).detach()


def _source(name: str) -> str:
    """The name by which a parameter is held: four names stand for one matrix."""
    return TIED[0] if name in TIED else name


def _layer(network: Florence2Network, name: str) -> nn.Module:
    return network.get_submodule(name.rpartition(".")[0])


def _dtype(network: Florence2Network, name: str, original: Tensor) -> torch.dtype:
    if isinstance(_layer(network, name), (CpuLinear, QuantisedLinear)):
        return original.dtype
    return network.get_parameter(name).dtype


def _parts_of_layers(network: Florence2Network, names: Mapping[str, Tensor]) -> list[str]:
    """What it takes to make anew those layers among ``names`` that are in a form that only a CPU reads, or
    have fewer bits."""
    parts = []
    for name in names:
        layer, path = _layer(network, name), name.rpartition(".")[0]
        if isinstance(layer, (CpuLinear, QuantisedLinear)):
            parts += [f"{path}.weight", *([f"{path}.bias"] if layer.bias is not None else [])]
    return list(dict.fromkeys(parts))
