"""A network's linear layers in the forms that a CPU reads fast, and back."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from ..inference.processor import has_bfloat16
from .network import Florence2Network
from .products import CpuLinear, EvenInt8Linear, Int8Linear, PackedLinear

_AFTER_NORM = {"qkv", "fc1"}  # layers of the vision tower that follow a layer norm


class _Done(nn.Identity):
    """In the place of an activation function that the layer before it has taken over."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = [original]  # in a list, so that it is no part of the network


@torch.inference_mode(False)
def pack(network: Florence2Network) -> None:
    """Rearrange the weights of all linear layers for this CPU, one by one, so that they exist once.

    The head keeps its plain matrix as well, since that is also the embedding.
    """
    for parent, name, linear in _linears(network):
        _replace(parent, name, linear, PackedLinear)


@torch.inference_mode(False)
def unpack(network: Florence2Network) -> None:
    """Undo :func:`pack`. The head is tied again by whoever ties it; :func:`.network.tie_embeddings`."""
    for parent in _parents(network):
        for name, child in list(parent.named_children()):
            if isinstance(child, PackedLinear):
                setattr(parent, name, child.unpacked())
            elif isinstance(child, _Done):
                setattr(parent, name, child.original[0])


@torch.inference_mode(False)
def quantise(network: Florence2Network) -> None:
    """Replace all linear layers by such with int8 weights, for good. The embedding stays as it is.

    Between them the vision tower goes on in bfloat16 where the CPU has that, since there most of the time is
    spent; encoder and decoder stay as they were.
    """
    for parent, name, linear in _linears(network.vision_tower):
        if name in _AFTER_NORM:
            _replace(parent, name, linear, EvenInt8Linear)
        else:
            setattr(parent, name, Int8Linear(linear))
    for parent, name, linear in _linears(network.language_model):
        setattr(parent, name, Int8Linear(linear))
    if has_bfloat16():
        network.vision_tower.to(torch.bfloat16)


def is_arranged(network: Florence2Network) -> bool:
    """Whether :func:`pack` or :func:`quantise` was here."""
    return isinstance(network.language_model.lm_head, CpuLinear)


def is_quantised(network: Florence2Network) -> bool:
    """Whether :func:`quantise` was here."""
    return isinstance(network.language_model.lm_head, Int8Linear)


def _parents(network: nn.Module) -> list[nn.Module]:
    """All modules that may have others, the head's last: by it one sees that all is done.

    Linear layers are none of them, so that each is let go as soon as another stands in its place.
    """
    parents = [module for module in network.modules() if not isinstance(module, (nn.Linear, CpuLinear))]
    return sorted(parents, key=lambda module: "lm_head" in module._modules)


def _linears(network: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Every linear layer with its parent and its name there."""
    for parent in _parents(network):
        for name in list(parent._modules):
            child = parent._modules[name]
            if isinstance(child, nn.Linear):
                yield parent, name, child


def _replace(
    parent: nn.Module, name: str, linear: nn.Linear, kind: type[PackedLinear] | type[EvenInt8Linear]
) -> None:
    """Put a layer of ``kind`` in the place of ``linear`` and of the GELU that follows it, if one does."""
    activation = _gelu_after(parent, name)
    replacement = kind(linear, gelu=activation is not None)
    if activation is not None and not isinstance(getattr(parent, activation), _Done):
        setattr(parent, activation, _Done(getattr(parent, activation)))
    setattr(parent, name, replacement)


def _gelu_after(parent: nn.Module, name: str) -> str | None:
    """The name of the activation that follows a layer, if it is GELU: timm's ``Mlp`` and BART's layers."""
    if name != "fc1":
        return None
    for activation in ("act", "activation_fn"):
        function = getattr(parent, activation, None)
        exact = isinstance(function, nn.GELU) and function.approximate == "none"
        # transformers wraps the same function; an interrupted attempt leaves it already taken over
        wrapped = isinstance(function, _Done) or getattr(function, "act", None) is functional.gelu
        if exact or wrapped:
            return activation
    return None
