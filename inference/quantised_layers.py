"""Linear layers whose weights are held in 8 or 4 bits and are quantised while they are read.

A loader makes its network on the meta device, calls :func:`prepare`, and gives each layer of the kind
:class:`QuantisedLinear` its weight with :meth:`~QuantisedLinear.fill_weight`, in the pieces in which a file
is read. So a weight is never whole in memory.

Nor is it on a CPU when it is multiplied: some rows at a time become float32 in the processor's cache, which
is several times as fast as to make a matrix of all of them, write it to memory and read it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .processor import has_bfloat16
from .quantisation import BLOCK, NESTED_BLOCK, bitsandbytes, is_quantised_weight

# Weights that are quantised at a time. On a CPU it takes some 20 bytes for each meanwhile, in pieces that the
# C library puts where others were; larger ones leave holes that what is kept takes up, and memory grows.
_AT_A_TIME_ON_CPU, _AT_A_TIME = 2**16, 2**22
_RANGE = 127.0

_FEW_ROWS = 64  # below, it is the weight that takes the time, not the products
# Weights that are made whole at a time, 8 and 16 MB as float32: what is asked of the C library at once beyond
# 32 MB comes from the system, page by page and every time anew.
_FOR_FEW_ROWS, _FOR_MANY_ROWS = 2**21, 2**22
_PACKED = 64  # it goes out of bounds where inputs are no multiple of its vectors


class QuantisedLinear(nn.Module):
    """A linear layer whose weight has fewer bits. Made on the meta device, without numbers.

    All that it holds are parameters and buffers, so that it is moved, counted and copied as any layer. Bias
    and scales are in ``dtype``, that of what comes in and goes out.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, *, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.dtype = dtype
        numbers = nn.Parameter(torch.empty(out_features, device="meta", dtype=dtype), requires_grad=False)
        self.register_parameter("bias", numbers if bias else None)

    def fill_weight(self, pieces: Iterable[tuple[slice, Tensor]], device: torch.device) -> None:
        """Quantise a weight ``[O, I]`` and keep it on ``device``.

        Args:
            pieces: all its rows in their order, each slice of them with the numbers, of any floating dtype.
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, dtype={self.dtype}"


class Linear8bit(QuantisedLinear):
    """One byte per weight and one scale per output."""

    scale: Tensor  # [O, 1], in the model's dtype: weights are rounded by what it is after its own rounding

    def __init__(self, in_features: int, out_features: int, *, bias: bool, dtype: torch.dtype) -> None:
        super().__init__(in_features, out_features, bias=bias, dtype=dtype)
        weight = torch.empty(out_features, in_features, device="meta", dtype=torch.int8)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", torch.empty(out_features, 1, device="meta", dtype=dtype))

    def fill_weight(self, pieces: Iterable[tuple[slice, Tensor]], device: torch.device) -> None:
        weight = torch.empty(self.out_features, self.in_features, device=device, dtype=torch.int8)
        scale = torch.empty(self.out_features, 1, device=device, dtype=self.dtype)
        smallest = torch.finfo(self.dtype).tiny
        for rows, values in _limited(pieces, _at_a_time(device) // self.in_features):
            numbers = values.to(device=device, dtype=torch.float32)
            largest = numbers.abs().amax(dim=1, keepdim=True)
            scale[rows] = (largest / _RANGE).clamp_min(smallest)
            weight[rows] = (numbers / scale[rows]).round_().clamp_(-_RANGE, _RANGE).to(torch.int8)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = scale

    def forward(self, states: Tensor) -> Tensor:
        """``[..., I]`` to ``[..., O]``."""
        if not _in_parts(states):
            return functional.linear(states, self.weight * self.scale, self.bias)
        if self._is_packed(states):
            rows: Tensor = torch._weight_int8pack_mm(
                states.reshape(-1, self.in_features).contiguous(), self.weight, self.scale.flatten()
            )
            return rows.view(*states.shape[:-1], self.out_features)
        return _multiply(states, self, lambda rows: self.weight[rows].float(), self.scale)

    def _is_packed(self, states: Tensor) -> bool:
        """Whether torch has a product for it that reads the weights as they are, and rounds once."""
        return (
            self.dtype == states.dtype == torch.bfloat16
            and self.bias is None
            and 0 < states.numel() < _FEW_ROWS * self.in_features
            and not self.in_features % _PACKED
            and not self.out_features % _PACKED
            and hasattr(torch, "_weight_int8pack_mm")
        )


class Linear4bit(QuantisedLinear):
    """Nf4 with double quantisation: blocks of weights have a scale of 8 bits, and blocks of those have one.

    Laid out as bitsandbytes does it, the same on every device.
    """

    absmax: Tensor  # a scale per block, uint8
    nested_absmax: Tensor  # a scale per block of those, float32
    offset: Tensor  # what was taken from the scales before they were quantised, float32 []
    code: Tensor  # the values of 4 bits, float32 [16]
    nested_code: Tensor  # the values of 8 bits, float32 [256]

    def __init__(self, in_features: int, out_features: int, *, bias: bool, dtype: torch.dtype) -> None:
        super().__init__(in_features, out_features, bias=bias, dtype=dtype)
        count = in_features * out_features
        blocks = math.ceil(count / BLOCK)
        self.weight = nn.Parameter(
            torch.empty(math.ceil(count / 2), 1, device="meta", dtype=torch.uint8), requires_grad=False
        )
        self.register_buffer("absmax", torch.empty(blocks, device="meta", dtype=torch.uint8))
        self.register_buffer("nested_absmax", torch.empty(math.ceil(blocks / NESTED_BLOCK), device="meta"))
        self.register_buffer("offset", torch.empty((), device="meta"))
        self.register_buffer("code", torch.empty(16, device="meta"))
        self.register_buffer("nested_code", torch.empty(256, device="meta"))

    def fill_weight(self, pieces: Iterable[tuple[slice, Tensor]], device: torch.device) -> None:
        bnb = bitsandbytes().functional
        weight = torch.empty(self.weight.shape, device=device, dtype=torch.uint8)
        scales = torch.empty(self.absmax.shape, device=device, dtype=torch.float32)
        done = 0
        for values in _in_blocks(pieces, _at_a_time(device)):
            packed, state = bnb.quantize_4bit(
                values.to(device), blocksize=BLOCK, quant_type="nf4", compress_statistics=False
            )
            weight[done // 2 : done // 2 + len(packed)] = packed
            scales[done // BLOCK : done // BLOCK + len(state.absmax)] = state.absmax
            self.code = state.code
            done += len(values)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.offset = scales.mean()
        self.absmax, nested = bnb.quantize_blockwise(scales - self.offset, blocksize=NESTED_BLOCK)
        self.nested_absmax, self.nested_code = nested.absmax, nested.code

    def forward(self, states: Tensor) -> Tensor:
        """``[..., I]`` to ``[..., O]``."""
        package = bitsandbytes()
        if _in_parts(states) and not self.in_features % BLOCK:
            return _multiply(states, self, self._rows(package.functional))
        make = package.functional.QuantState
        nested = make(
            absmax=self.nested_absmax, code=self.nested_code, blocksize=NESTED_BLOCK, dtype=torch.float32
        )
        state = make(
            absmax=self.absmax, shape=torch.Size((self.out_features, self.in_features)), code=self.code,
            blocksize=BLOCK, quant_type="nf4", dtype=states.dtype, offset=self.offset, state2=nested,
        )  # fmt: skip
        answer: Tensor = package.matmul_4bit(states, self.weight.t(), quant_state=state, bias=self.bias)
        return answer

    def _rows(self, bnb: Any) -> Callable[[slice], Tensor]:
        """Gives some of the weight's rows as float32."""
        nested = bnb.QuantState(
            absmax=self.nested_absmax, code=self.nested_code, blocksize=NESTED_BLOCK, dtype=torch.float32
        )
        scales = bnb.dequantize_blockwise(self.absmax, nested) + self.offset

        def rows(some: slice) -> Tensor:
            first, last = some.start * self.in_features, some.stop * self.in_features
            state = bnb.QuantState(
                absmax=scales[first // BLOCK : last // BLOCK], code=self.code, blocksize=BLOCK,
                shape=torch.Size((some.stop - some.start, self.in_features)), quant_type="nf4",
                dtype=torch.float32,
            )  # fmt: skip
            weight: Tensor = bnb.dequantize_4bit(self.weight[first // 2 : last // 2], state)
            return weight

        return rows


def _in_parts(states: Tensor) -> bool:
    """Whether weights are better made whole a part at a time: on a CPU, unless it has hardware for what the
    ``states`` are in that float32 does not have. There are no gradients then."""
    if torch.is_grad_enabled() and states.requires_grad:
        return False
    return states.device.type == "cpu" and not (states.dtype == torch.bfloat16 and has_bfloat16())


def _multiply(
    states: Tensor, layer: QuantisedLinear, weight: Callable[[slice], Tensor], scale: Tensor | None = None
) -> Tensor:
    """The layer's answer, computed in float32 and rounded once.

    Args:
        weight: gives some rows of the weight as float32, which are then nobody else's.
        scale: of each of its rows ``[O, 1]``, if they are without it.
    """
    wide = states.reshape(-1, layer.in_features).float()
    answer = states.new_empty(len(wide), layer.out_features)
    few = len(wide) < _FEW_ROWS
    step = max(1, (_FOR_FEW_ROWS if few else _FOR_MANY_ROWS) // layer.in_features)
    for start in range(0, layer.out_features, step):
        some = slice(start, min(start + step, layer.out_features))
        part, there = weight(some), answer[:, some]
        product = there if there.dtype == wide.dtype else wide.new_empty(there.shape)
        bias = None if layer.bias is None else layer.bias[some].float()
        if scale is not None and not few:
            part.mul_(scale[some])
        if few or bias is None:
            torch.mm(wide, part.t(), out=product)
        else:
            torch.addmm(bias, wide, part.t(), out=product)
        if few and scale is not None:  # there are fewer products than weights
            product.mul_(scale[some, 0])
        if few and bias is not None:
            product.add_(bias)
        if product is not there:
            there.copy_(product)
    return answer.view(*states.shape[:-1], layer.out_features)


_LAYERS: dict[str, type[QuantisedLinear]] = {"8": Linear8bit, "4": Linear4bit}


def prepare(network: nn.Module, quantization: str, dtype: torch.dtype) -> None:
    """Put layers for weights of so many bits in the place of those linear ones that are to have them, see
    :func:`.quantisation.is_quantised_weight`.

    Args:
        network: on the meta device; its names are like those of the published checkpoints.
        quantization: ``none`` changes nothing.
        dtype: the model's.
    """
    if quantization == "none":
        return
    layer = _LAYERS[quantization]
    for path, parent in list(network.named_modules()):
        for name, child in list(parent.named_children()):
            full = f"{path}.{name}.weight" if path else f"{name}.weight"
            if isinstance(child, nn.Linear) and is_quantised_weight(full, child.weight.shape):
                bias = child.bias is not None
                setattr(parent, name, layer(child.in_features, child.out_features, bias=bias, dtype=dtype))


def has_quantised_layers(network: nn.Module) -> bool:
    """Whether it has weights of 8 or 4 bits."""
    return any(isinstance(module, QuantisedLinear) for module in network.modules())


def quantised_like(model: QuantisedLinear, linear: nn.Linear) -> QuantisedLinear:
    """An ordinary layer's weight and bias in the form of ``model`` and on its device."""
    layer = type(model)(
        linear.in_features, linear.out_features, bias=linear.bias is not None, dtype=model.dtype
    )
    device = model.weight.device
    layer.fill_weight([(slice(0, linear.out_features), linear.weight.detach())], device)
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.detach().to(device, model.dtype), requires_grad=False)
    return layer.train(model.training)


def _at_a_time(device: torch.device) -> int:
    return _AT_A_TIME_ON_CPU if device.type == "cpu" else _AT_A_TIME


def _limited(pieces: Iterable[tuple[slice, Tensor]], most: int) -> Iterator[tuple[slice, Tensor]]:
    """The same rows, at most so many at a time, but at least one."""
    step = max(1, most)
    for rows, values in pieces:
        for start in range(0, len(values), step):
            part = values[start : start + step]
            first = rows.start + start
            yield slice(first, first + len(part)), part
            del part
        del values


def _in_blocks(pieces: Iterable[tuple[slice, Tensor]], most: int) -> Iterator[Tensor]:
    """The numbers of all rows as vectors, at most so long, each but the last of whole blocks."""
    rest: Tensor | None = None  # of a block whose other numbers are in the next piece
    for _, values in pieces:
        flat = values.reshape(-1)
        if flat.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            flat = flat.float()
        if rest is not None:
            flat = torch.cat([rest, flat])
        whole = len(flat) - len(flat) % BLOCK
        for start in range(0, whole, most):
            yield flat[start : min(start + most, whole)]
        rest = flat[whole:].clone() if whole < len(flat) else None
        del values, flat
    if rest is not None:
        yield rest
