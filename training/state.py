"""Where a run stands: what a checkpoint keeps besides weights, optimiser and schedule."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import TrainingError

FORMAT = 1


@dataclass
class Progress:
    """How far a run has come, and what it has seen of itself."""

    step: int = 0  # optimiser steps made; from it follows the place in the data
    examples: int = 0  # seen
    tokens: int = 0  # target tokens seen
    best_step: int | None = None  # of the checkpoint with the lowest evaluation loss
    best_loss: float | None = None
    evaluated_step: int | None = None  # the last one with an evaluation
    evaluated_loss: float | None = None
    interval: dict[str, float] = field(default_factory=dict)  # sums since the last entry of the log
    fingerprint: dict[str, Any] = field(default_factory=dict)  # what the course of the run depends on

    def write(self, path: Path) -> None:
        """As JSON; floats keep all their bits."""
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Progress:
        """What :meth:`write` wrote.

        Raises:
            TrainingError: it is not there or not ours.
        """
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept.pop("format") != FORMAT:
                raise TrainingError(f"{path} is of another version of this trainer; go on with that one.")
            return cls(**kept)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, TrainingError):
                raise
            raise TrainingError(f"{path} cannot be read, so the run cannot be resumed: {error}") from error


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each setting of a fingerprint that is no longer what it was."""
    before = json.loads(json.dumps(before))
    now = json.loads(json.dumps(now))
    return [
        f"{name}: was {before.get(name)!r}, is {now.get(name)!r}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


def random_states() -> dict[str, Any]:
    """Those of Python, numpy, torch and its devices, in this process, in a form that ``torch.save`` writes
    and that is read with ``weights_only``."""
    version, numbers, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": {**numpy_state, "state": _plain(numpy_state["state"])},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,  # of this process's GPU
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Go on with the random numbers where :func:`random_states` was asked."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    numpy_state = states["numpy"]
    key = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state({**numpy_state, "state": {**numpy_state["state"], "key": key}})
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    if states["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


def _plain(state: Any) -> dict[str, Any]:
    """Numpy's generator, without arrays."""
    return {"key": state["key"].tolist(), "pos": int(state["pos"])}
