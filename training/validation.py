"""The loss on held-out images, per target token, over all and by instruction."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

import torch

from .errors import CALMER, DivergedError
from .loss import forward
from .order import Order, WindowKey
from .state import random_states, set_random_states

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from accelerate import Accelerator
    from torch import nn

    from .batches import Batch, Key
    from .data.examples import Dataset


@dataclass(frozen=True)
class EvaluationLoss:
    """Cross-entropy per target token."""

    loss: float
    by_instruction: dict[str, float] = field(default_factory=dict)
    tokens: int = 0


class HeldOut:
    """The held-out examples of a run, in batches of one instruction each, shared among the processes."""

    def __init__(self, examples: Dataset, batch_size: int, processes: int) -> None:
        places: dict[str, list[int]] = defaultdict(list)
        for index, example in enumerate(examples):
            places[example.instruction].append(index)
        self.instructions = tuple(sorted(places))
        self._batches = [
            (instruction, [tuple(indices[place] for place in part) for part in parts])
            for instruction in self.instructions
            for indices in [places[instruction]]
            for order in [Order(len(indices), batch_size, 1, processes, shuffled=False)]
            for window in range(order.windows)
            for parts in order.window(WindowKey(0, window))
        ]

    def instructions_of_batches(self) -> list[str]:
        """In order, the same on each process."""
        return [instruction for instruction, _ in self._batches]

    def keys(self, process: int) -> list[Key]:
        """What one process reads, in order."""
        return [(0, parts[process]) for _, parts in self._batches]


def evaluate(
    accelerator: Accelerator, model: nn.Module, held_out: HeldOut, batches: Iterable[Batch], stop: Event
) -> EvaluationLoss | None:
    """The loss of ``batches``, those of ``held_out`` for this process; None if ``stop`` was set meanwhile.

    Training goes on as if nothing had been. Several processes do not heed ``stop``: they must stay in step.

    Raises:
        DivergedError: the loss is not finite.
    """
    names = held_out.instructions
    sums = torch.zeros(len(names), 2, dtype=torch.float64)  # on the CPU: not every device knows float64
    with _evaluating(model):
        for instruction, batch in zip(held_out.instructions_of_batches(), batches, strict=True):
            if stop.is_set() and accelerator.num_processes == 1:
                return None
            loss = _loss_of(accelerator, model, batch)
            sums[names.index(instruction)] += torch.tensor([loss, batch.tokens], dtype=torch.float64)
    return _result(names, _over_processes(accelerator, sums))


def _loss_of(accelerator: Accelerator, model: nn.Module, batch: Batch) -> float:
    """Summed over the batch's target tokens."""
    from ..models_cache import is_out_of_memory

    try:
        return float(forward(model, batch, accelerator.device).loss)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DivergedError(
            f"out of memory with a held-out batch of {', '.join(batch.names)}. Make eval_batch_size smaller "
            f"than {len(batch.names)}. The result is the same."
        ) from error


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and gradients, and leaving the random numbers of training alone."""
    states, training = random_states(), model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
        set_random_states(states)


def _over_processes(accelerator: Accelerator, sums: torch.Tensor) -> torch.Tensor:
    if accelerator.num_processes == 1:
        return sums
    # two float32 hold what a float64 does, where the device has none
    high = sums.float()
    low = (sums - high.double()).float()
    both = accelerator.gather(torch.stack([high, low])[None].to(accelerator.device)).cpu().double()
    return both.sum(dim=(0, 1))


def _result(names: Sequence[str], sums: torch.Tensor) -> EvaluationLoss:
    by_instruction = {
        name: (loss / tokens).item() for name, (loss, tokens) in zip(names, sums, strict=True) if tokens > 0
    }
    loss, tokens = sums.sum(dim=0).tolist()
    if not torch.isfinite(sums).all():
        bad = ", ".join(name for name, value in by_instruction.items() if not math.isfinite(value))
        raise DivergedError(f"the loss on held-out images is not finite ({bad}). {CALMER}")
    return EvaluationLoss(loss / max(1, tokens), by_instruction, int(tokens))
