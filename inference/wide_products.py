"""Products of bfloat16 on CPUs that do not multiply it in hardware."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .processor import has_bfloat16

_MANY_ROWS = 4  # from so many on, the product takes longer than to make the matrix wider
# Weights that are made wider at a time, 16 MB: they stay in the processor's cache until they are multiplied.
# What is asked of the C library at once beyond 32 MB comes from the system, page by page and every time anew.
_AT_A_TIME = 2**22


@contextmanager
def wide_products(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """For the length of a block, on such a CPU, multiply many rows of bfloat16 as float32.

    Without the hardware, torch takes some three times as long over bfloat16 as over float32 where there are
    many rows, as in a vision tower, a prompt or a batch of answers. With a single row it is the other way
    round: there the time goes into reading the matrix, which is half as large.

    Weights stay as they are; a part of one matrix at a time is made wider.
    """
    if dtype != torch.bfloat16 or device.type != "cpu" or has_bfloat16():
        yield
        return
    with _WideProducts():
        yield


class _WideProducts(TorchFunctionMode):
    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is functional.linear and not kwargs:
            states, weight = args[0], args[1]
            if _is_worth_it(states, weight):
                return _wide(states, weight, args[2] if len(args) > 2 else None)
        return function(*args, **(kwargs or {}))


def _is_worth_it(states: Tensor, weight: Tensor) -> bool:
    rows = states.numel() // states.shape[-1]
    return states.dtype == weight.dtype == torch.bfloat16 and rows >= _MANY_ROWS


def _wide(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product in float32, rounded once."""
    wide = states.float()
    rows = max(1, _AT_A_TIME // weight.shape[1])
    answer = states.new_empty(*states.shape[:-1], len(weight))
    for start in range(0, len(weight), rows):
        some = slice(start, start + rows)
        part = None if bias is None else bias[some].float()
        answer[..., some] = functional.linear(wide, weight[some].float(), part)
    return answer
