"""The loss of an optimiser step: summed over all target tokens of its window, divided by their number.

Every token so weighs the same, in whichever batch, on whichever process it is: one window of four batches
gives the gradients of one batch four times as large.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from .errors import DivergedError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from .batches import Batch


class SummedLoss(Protocol):
    """What a model to train gives back: cross-entropies, not yet divided."""

    @property
    def loss(self) -> Tensor:
        """The sum over the batch's target tokens, ``[]``, float32."""


@dataclass(frozen=True)
class WindowLoss:
    """What a window came to, over all processes."""

    loss: float  # per target token
    tokens: int
    stop: bool  # some process was asked to


class BatchError(Exception):
    """A batch could not be computed; the cause is chained."""

    def __init__(self, place: int) -> None:
        super().__init__(f"batch {place} of the window")
        self.place = place


def backward_window(
    accelerator: Accelerator, model: torch.nn.Module, batches: Sequence[Batch], *, stop: bool = False
) -> WindowLoss:
    """Put the gradients of a window's loss into the parameters, to which gradients of before are added.

    Args:
        model: as ``accelerator`` prepared it; it takes a batch's tensors and gives a :class:`SummedLoss`.
        batches: of this process. Each process has as many.
        stop: whether this process was asked to stop, so that all learn it.

    Raises:
        NotANumberError: some batch has no finite loss, on whichever process. All processes raise it.
        BatchError: a batch failed on this process.
    """
    device = accelerator.device
    own = torch.tensor([batch.tokens for batch in batches], device=device).sum()
    tokens = max(1, int(accelerator.reduce(own, reduction="sum")))
    losses = []
    for place, batch in enumerate(batches):
        last = place == len(batches) - 1
        with nullcontext() if last else accelerator.no_sync(model):
            try:
                summed = forward(model, batch, device).loss
                # processes' gradients are averaged, which would divide by their number once more
                accelerator.backward(summed * (accelerator.num_processes / tokens))
            except (RuntimeError, MemoryError) as error:
                raise BatchError(place) from error
        losses.append(summed.detach().float())
    return _gathered(accelerator, torch.stack(losses), tokens, stop)


def forward(model: torch.nn.Module, batch: Batch, device: torch.device) -> Any:
    """What ``model`` says of a batch, whose tensors go to the device on the way."""
    return model(**batch.inputs(device))


class NotANumberError(DivergedError):
    """The loss of some batches is not finite."""

    def __init__(self, places: Sequence[tuple[int, int]]) -> None:
        super().__init__("the loss is not finite")
        self.places = places  # process and batch of each


def _gathered(accelerator: Accelerator, losses: Tensor, tokens: int, stop: bool) -> WindowLoss:
    flag = losses.new_tensor([float(stop)])
    rows = accelerator.gather(torch.cat([losses, flag])).reshape(accelerator.num_processes, -1).cpu()
    sums, flags = rows[:, :-1], rows[:, -1]
    if not torch.isfinite(sums).all():
        bad = (~torch.isfinite(sums)).nonzero().tolist()
        raise NotANumberError([(process, place) for process, place in bad])
    return WindowLoss(float(sums.double().sum()) / tokens, tokens, bool(flags.any()))
