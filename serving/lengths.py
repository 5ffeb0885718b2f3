"""How long answers are, by what is asked: a batch goes on until its longest answer is there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..captioning import Result

_SMOOTHING = 0.1  # how much the last answer counts


class AnswerLengths:
    """Learns from the answers that are given. For one thread."""

    def __init__(self) -> None:
        self._characters: dict[tuple[str, str], float] = {}  # of a model's answers to an instruction

    def saw(self, model: str, results: Sequence[Result]) -> None:
        """There are answers of ``model``."""
        for result in results:
            key, length = (model, result.instruction), float(1 + len(result.raw))
            before = self._characters.get(key, length)
            self._characters[key] = before + _SMOOTHING * (length - before)

    def unlikeness(self, model: str, one: Iterable[str], other: Iterable[str]) -> int:
        """By how many doublings the longest answers to two sets of instructions differ; 0 if not known."""
        lengths = self._longest(model, one), self._longest(model, other)
        if None in lengths:
            return 0
        return round(abs(math.log2(lengths[0]) - math.log2(lengths[1])))  # type: ignore[arg-type]

    def _longest(self, model: str, instructions: Iterable[str]) -> float | None:
        known = [self._characters.get((model, instruction)) for instruction in instructions]
        return None if None in known else max(known, default=None)  # type: ignore[type-var]
