"""A network that differs from another in some weights and has everything else in common with it.

Modules that are the same in both are the same objects. So the other network may be rearranged for a CPU or
moved to a device as always: what is in common need be done once and is held once, and is never changed by
what is not.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..inference.quantised_layers import QuantisedLinear, quantised_like
from .network import Florence2Network
from .products import CpuLinear, EvenInt8Linear, PackedLinear


class DerivedNetwork:
    """``network`` is ``base`` but for the parameters that are given.

    Args:
        base: stays as it is; must live as long as this does.
        own: parameters by their names in ``base``, in its dtype. Of a layer in a form that only a CPU reads,
            its weight and, if it has one, its bias; as float32 where those are of 8 or 4 bits.
    """

    @torch.inference_mode(False)
    def __init__(self, base: Florence2Network, own: Mapping[str, Tensor]) -> None:
        self._base = base
        self._layers: dict[str, nn.Module] = {}  # linear layers of our own, by path
        self._parameters: dict[str, dict[str, nn.Parameter]] = {}  # of other modules, by path and name
        shared: dict[int, nn.Parameter] = {}  # what is one tensor stays one
        for name, tensor in own.items():
            path, _, leaf = name.rpartition(".")
            parameter = shared.setdefault(id(tensor), nn.Parameter(tensor, requires_grad=False))
            self._parameters.setdefault(path, {})[leaf] = parameter
        for path, parameters in list(self._parameters.items()):
            module = base.get_submodule(path)
            if isinstance(module, (nn.Linear, CpuLinear, QuantisedLinear)):
                self._layers[path] = _layer_like(module, _linear(module, parameters))
                del self._parameters[path]
        paths = [*self._layers, *self._parameters]
        self._twins = {
            part: copy.copy(base.get_submodule(part))
            for path in paths
            for part in _ancestors(path)
            if part not in self._layers
        }
        self.network: Florence2Network = self._twins[""]  # type: ignore[assignment]
        self.follow()

    @property
    def own(self) -> list[nn.Module | nn.Parameter]:
        """What it does not have in common with the base."""
        return [
            *self._layers.values(),
            *(parameter for parameters in self._parameters.values() for parameter in parameters.values()),
        ]

    @torch.inference_mode(False)
    def follow(self) -> None:
        """Do with our own weights as was done with the base's: where they are and in which form."""
        for path, layer in self._layers.items():
            self._layers[path] = _layer_like(self._base.get_submodule(path), layer)
        for path, twin in self._twins.items():
            model = self._base.get_submodule(path)
            state: dict[str, Any] = twin.__dict__
            own = self._parameters.get(path, {})
            for leaf, parameter in own.items():
                parameter.data = parameter.data.to(model._parameters[leaf].device)  # type: ignore[union-attr]
            state["_parameters"] = {**model._parameters, **own}
            state["_buffers"] = dict(model._buffers)
            state["_modules"] = {
                name: self._child(f"{path}.{name}" if path else name, child)
                for name, child in model._modules.items()
            }

    def _child(self, path: str, child: nn.Module | None) -> nn.Module | None:
        if path in self._layers:
            return self._layers[path]
        return self._twins.get(path, child)


def _ancestors(path: str) -> list[str]:
    """``a.b`` to ``["", "a", "a.b"]``"""
    parts = path.split(".") if path else []
    return [".".join(parts[:count]) for count in range(len(parts) + 1)]


def _linear(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> nn.Linear:
    """An ordinary layer with these parameters; what is not given is ``model``'s."""
    given: dict[str, nn.Parameter | None] = {**model._parameters, **parameters}
    weight, bias = given["weight"], given.get("bias")
    if weight is None:
        raise ValueError("A linear layer needs a weight.")
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = weight
    linear.bias = bias  # type: ignore[assignment]
    return linear.eval()


def _layer_like(model: nn.Module, layer: nn.Module) -> nn.Module:
    """``layer`` in the form of ``model`` and on its device."""
    if type(model) is type(layer):
        if isinstance(layer, (nn.Linear, QuantisedLinear)):
            layer.to(model.weight.device)  # type: ignore[arg-type]
        return layer
    if isinstance(model, QuantisedLinear) and isinstance(layer, nn.Linear):
        return quantised_like(model, layer)
    if isinstance(layer, PackedLinear):
        layer = layer.unpacked()
    if isinstance(layer, nn.Linear) and not isinstance(model, nn.Linear):
        dtype = None if model.bias is None else model.bias.dtype
        if isinstance(model, (PackedLinear, EvenInt8Linear)):
            layer = type(model)(layer.to("cpu"), gelu=model.gelu)
        else:
            layer = type(model)(layer.to("cpu"))
        if dtype is not None and layer.bias is not None:
            layer.bias.data = layer.bias.data.to(dtype)  # type: ignore[arg-type]
        return layer.eval()
    return _layer_like(model, layer)
