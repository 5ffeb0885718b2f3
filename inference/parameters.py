"""Putting the tensors of a file into a network that was made without numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .quantised_layers import QuantisedLinear
from .weights import Weights


def read_parameter(weights: Weights, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """One tensor of a file, converted and moved piece by piece, with memory of its own."""
    tensor = torch.empty(weights.shapes[name], device=device, dtype=dtype)
    for rows, piece in weights.pieces(name):
        tensor[rows] = piece
        del piece
    return tensor


def put_parameter(network: nn.Module, name: str, tensor: Tensor) -> None:
    """Have ``tensor`` be the parameter or buffer of that name."""
    path, _, leaf = name.rpartition(".")
    owner = network.get_submodule(path)
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    else:
        owner._buffers[leaf] = tensor


def quantised_owner(network: nn.Module, name: str) -> QuantisedLinear | None:
    """The layer whose weight has that name, if it holds it in fewer bits."""
    path, _, leaf = name.rpartition(".")
    owner = network.get_submodule(path) if leaf == "weight" else None
    return owner if isinstance(owner, QuantisedLinear) else None
