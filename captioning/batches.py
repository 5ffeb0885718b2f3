"""How much goes through the device at a time: as much as its memory takes, and less once that ran out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ..models_cache import free_bytes, is_out_of_memory, return_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

# The share of the free memory that we take; the rest is for others, for gaps and for what is not counted.
_SHARE = {"cpu": 0.5}
_SHARE_ELSEWHERE = 0.8

logger = logging.getLogger(__name__)


class OutOfMemoryError(torch.cuda.OutOfMemoryError):
    """Not even one fits. Of torch's own kind, since hosts make room when they meet that."""


def fitting(device: torch.device, bytes_each: int, most: int) -> int:
    """How many things of ``bytes_each`` the free memory of ``device`` takes.

    A power of two from 1 to ``most``, so that the same few sizes come again and again. A device that does not
    tell its free memory takes ``most``.
    """
    if most <= 1 or (free := free_bytes(device)) is None:
        return max(1, most)
    room = int(free * _SHARE.get(device.type, _SHARE_ELSEWHERE)) // max(1, bytes_each)
    return 1 << max(1, min(room, most)).bit_length() - 1


class BackOff:
    """Works in batches whose size is halved, for as long as this lives, when memory runs out.

    Args:
        things: what is in a batch, in the plural, for messages.
    """

    def __init__(self, things: str) -> None:
        self.things = things
        self._proven: int | None = None

    def limit(self, size: int) -> int:
        """``size``, or what is left of it after memory ran out."""
        return size if self._proven is None else min(size, self._proven)

    def run(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        items: Sequence[Item],
        size: int,
        device: torch.device,
    ) -> list[Result]:
        """The results of ``work`` for all ``items``, in order; only what failed is done again.

        Args:
            work: from a batch to its results, on ``device``.
            size: the largest batch.

        Raises:
            OutOfMemoryError: there is not enough memory for one item.
            Exception: what else ``work`` raised.
        """
        results: list[Result] = []
        last_try = False
        while len(results) < len(items):
            part = items[len(results) : len(results) + self.limit(size)]
            try:
                results += work(part)
                last_try = False
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
                if last_try:
                    raise OutOfMemoryError(_out_of_memory(device, reason)) from error
            # Not within the handler: the error's frames held what the batch had taken.
            return_memory()
            if len(part) == 1:
                last_try = True  # now that what was kept from before has been given back
                continue
            self._proven = len(part) // 2
            logger.warning(
                "%s ran out of memory with %d %s at a time; going on with %d. To begin with that, set "
                "batch_size (--batch-size) to %d. (%s)",
                device, len(part), self.things, self._proven, self._proven, reason,
            )  # fmt: skip
        return results


def _out_of_memory(device: torch.device, reason: str) -> str:
    bits = "8" if device.type == "mps" else "8 or 4"
    ways_out = f"a smaller model, quantization {bits}, fewer beams (num_beams) or shorter answers "
    ways_out += "(max_new_tokens)"
    if device.type == "cpu":
        ways_out = f"Close other programs, or choose {ways_out}."
    else:
        ways_out = f"Choose dtype auto where it is fp32, {ways_out}, or the device cpu."
    return f"{device} has not enough memory even for one picture at a time. {ways_out} ({reason})"
