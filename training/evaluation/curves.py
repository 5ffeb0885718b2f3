"""How a training run went, as it has noted in ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError

__all__ = ["Curve", "read_curves", "smoothed"]

_TRAINING, _HELD_OUT = "training", "held out"


@dataclass(frozen=True)
class Curve:
    """A loss by step; steps rise."""

    name: str
    points: tuple[tuple[int, float], ...]
    lost: tuple[int, ...] = ()  # steps at which it was no finite number


def read_curves(path: Path) -> list[Curve]:
    """The losses of a run, by name: of training, of what is held out, and of that for each instruction.

    Where a run was resumed, what was noted after the place at which it went on is left out. A last line that
    is not whole is a run's that goes on, or was killed.

    Raises:
        DataError: it cannot be read, or is no such file.
    """
    curves: dict[str, dict[int, float]] = {}
    trained = 0  # up to this step
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            step = int(entry["step"])
            noted = _losses(entry)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines) and number > 1:
                break
            raise DataError(f"{path}, line {number}: no note of a training run: {error}") from error
        if _TRAINING in noted:
            # Of all curves: a run that was resumed may end before it is evaluated again.
            for points in curves.values() if step <= trained else ():
                _take_back(points, step)
            trained = step
        for name, value in noted.items():
            points = curves.setdefault(name, {})
            _take_back(points, step)
            points[step] = value
    return [
        _curve(name, points) for name, points in curves.items() if any(map(math.isfinite, points.values()))
    ]


def _take_back(points: dict[int, float], step: int) -> None:
    """All from a step on."""
    while points and next(reversed(points)) >= step:
        points.popitem()


def _curve(name: str, points: dict[int, float]) -> Curve:
    finite = tuple((step, value) for step, value in points.items() if math.isfinite(value))
    lost = tuple(step for step, value in points.items() if not math.isfinite(value))
    return Curve(name, finite, lost)


def _losses(entry: Any) -> dict[str, float]:
    found: dict[str, Any] = {_TRAINING: entry.get("loss"), _HELD_OUT: entry.get("evaluation_loss")}
    by_instruction = entry.get("by_instruction") or {}
    if len(by_instruction) > 1:  # of one it is the same
        found |= {f"{_HELD_OUT}, {name}": value for name, value in by_instruction.items()}
    return {name: float(value) for name, value in found.items() if isinstance(value, (int, float))}


def smoothed(points: tuple[tuple[int, float], ...], weight: float = 0.9) -> tuple[tuple[int, float], ...]:
    """The exponential moving average, without the bias towards its start (as TensorBoard shows it)."""
    average, least = 0.0, 1.0
    found = []
    for step, value in points:
        average = weight * average + (1 - weight) * value
        least *= weight
        found.append((step, average / (1 - least)))
    return tuple(found)
