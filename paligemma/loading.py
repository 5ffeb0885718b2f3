"""From weight names in a file to a network in memory.

The network is made on the meta device and the file's tensors are put into it one by one, so that the weights
exist once. With 8 or 4 bits it is the large matrices of the language model's layers that have them, and
nothing else; see :mod:`..inference.quantisation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..inference.errors import CheckpointError
from ..inference.parameters import put_parameter, quantised_owner, read_parameter
from ..inference.quantised_layers import prepare
from ..inference.weights import Weights, open_weights
from .configuration import PaliGemmaConfig
from .names import EMBEDDING, HEAD, is_unused, our_name, published_name
from .network import PaliGemmaNetwork


def load_network(
    folder: Path,
    config: PaliGemmaConfig,
    device: torch.device,
    dtype: torch.dtype,
    quantization: str = "none",
) -> PaliGemmaNetwork:
    """The network of a checkpoint folder, in evaluation mode, its weights on ``device`` in ``dtype``.

    Those of ``quantization`` 8 or 4 have so many bits, and are quantised as they are read.

    Raises:
        CheckpointError: a missing, surplus or misshapen tensor (names and shapes are listed), or a file that
            cannot be read.
    """
    weights = open_weights(folder)
    try:
        network = PaliGemmaNetwork(config)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    # the parameters' own names are those of this transformers release
    places = {our_name(name): name for name, _ in network.named_parameters()}
    wanted = {our_name(name): tuple(parameter.shape) for name, parameter in network.named_parameters()}
    names = {name: our_name(name) for name in weights.shapes if not is_unused(our_name(name))}  # of the file
    _check_tensors(folder, wanted, names, weights)
    prepare(network, quantization, dtype)

    heads = [name for name, ours in names.items() if ours == HEAD]
    only_head = heads if EMBEDDING not in names.values() else []
    for name, ours in names.items():
        if ours == HEAD and name not in only_head:
            continue
        place = places[EMBEDDING if ours == HEAD else ours]
        if (layer := quantised_owner(network, place)) is not None:
            layer.fill_weight(weights.pieces(name), device)
        else:
            put_parameter(network, place, read_parameter(weights, name, device, dtype))
    for name in heads:
        if name not in only_head:
            _check_tied(folder, network, weights, name)
    network.to(device)  # the tables that no file holds
    return network.eval().requires_grad_(False)


def _check_tensors(
    folder: Path, wanted: Mapping[str, tuple[int, ...]], names: dict[str, str], weights: Weights
) -> None:
    """Compare shapes by our names, and report by those of published files."""
    found = {ours: weights.shapes[name] for name, ours in names.items()}
    if HEAD in found:
        found.setdefault(EMBEDDING, found[HEAD])
    missing = [name for name in wanted if name not in found]
    lines = [f"missing: {published_name(name)} {list(wanted[name])}" for name in missing]
    for name, ours in names.items():
        shape, expected = weights.shapes[name], wanted.get(EMBEDDING if ours == HEAD else ours)
        if expected is None:
            lines.append(f"surplus: {name} {list(shape)}")
        elif shape != expected:
            lines.append(f"misshapen: {name} is {list(shape)}, config.json says {list(expected)}")
    first = {ours: name for name, ours in reversed(names.items())}
    lines += [f"twice: {name} and {first[ours]}" for name, ours in names.items() if first[ours] != name]
    if lines:
        raise CheckpointError(
            f"The weights in {folder} do not fit its config.json, {len(lines)} tensors differ:\n  "
            + "\n  ".join(lines)
        )


def _check_tied(folder: Path, network: PaliGemmaNetwork, weights: Weights, name: str) -> None:
    """See that what a file holds twice is the same."""
    for rows, piece in weights.pieces(name):
        if not torch.equal(piece.to(network.embedding), network.embedding[rows]):
            raise CheckpointError(
                f"{name} and {published_name(EMBEDDING)} are one matrix in PaliGemma, but the checkpoint in "
                f"{folder} holds two different ones. It was not saved by a PaliGemma trainer."
            )
        del piece
