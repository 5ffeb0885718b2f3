"""What the engine is meant to reach, the measurements that tell, and whether it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .case import Case
from .results import Results


@dataclass(frozen=True)
class Plan:
    """What to measure under one set of settings."""

    size: str
    new_tokens: int
    num_beams: int
    rows: tuple[str, ...] = ()
    phases: tuple[str, ...] = ()  # roles
    instructions: tuple[str, ...] = ()  # roles
    agreement: tuple[str, ...] = ()  # roles
    images: int | None = None  # another number than the run's


PLANS: dict[str, tuple[Plan, ...]] = {
    "cpu": (
        Plan(
            "base", 64, 3,
            rows=("transformers", "exact", "exact-stream", "auto-stream", "fast", "fast-stream"),
            phases=("exact", "fast"),
            instructions=("exact", "fast"),
            agreement=("fast",),
        ),
    ),
    "cuda": (
        Plan(
            "base", 128, 3,
            rows=("transformers", "transformers-batched", "exact", "exact-stream"),
            phases=("exact",),
            instructions=("exact",),
        ),
        Plan("large", 32, 3, rows=("exact",), phases=("exact",)),
        Plan("base", 256, 3, rows=("exact",), images=1),
    ),
}  # fmt: skip

Value = Callable[[Results, Case], "float | None"]


@dataclass(frozen=True)
class Target:
    """A number to reach on a kind of device."""

    title: str
    device: str  # cpu or cuda
    size: str
    new_tokens: int
    num_beams: int
    unit: str
    bound: float
    at_least: bool  # or at most
    value: Value

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


def _best_ratio(*rows: str) -> Value:
    def value(results: Results, case: Case) -> float | None:
        ratios = [results.ratio(case, row) for row in rows]
        return max((ratio for ratio in ratios if ratio is not None), default=None)

    return value


def _of_row(row: str, key: str, scale: float = 1.0) -> Value:
    def value(results: Results, case: Case) -> float | None:
        median = results.median(case, "row", row, key)
        return None if median is None else scale * median

    return value


def _worst_instructions(results: Results, case: Case) -> float | None:
    ratios = [
        results.median(case, "instructions", role, "ratio") for role in results.names(case, "instructions")
    ]
    return max((ratio for ratio in ratios if ratio is not None), default=None)


def _fast_agreement(results: Results, case: Case) -> float | None:
    return results.median(case, "agreement", "fast", "share")


_VERSUS = "times transformers one by one"
TARGETS = (
    Target("exact", "cpu", "base", 64, 3, _VERSUS, 1.8, True, _best_ratio("exact", "exact-stream")),
    Target("fast", "cpu", "base", 64, 3, _VERSUS, 4.0, True, _best_ratio("fast", "fast-stream")),
    Target(
        "fast, captions of the demo model equal to exact's", "cpu", "base", 64, 3, "of all", 0.99, True,
        _fast_agreement,
    ),
    Target("four instructions", "cpu", "base", 64, 3, "times one", 1.6, False, _worst_instructions),
    Target("four instructions", "cuda", "base", 128, 3, "times one", 1.6, False, _worst_instructions),
    Target(
        "one picture", "cuda", "large", 32, 3, "ms", 60.0, False,
        _of_row("exact", "first_caption_seconds", 1000.0),
    ),
    Target(
        "stream", "cuda", "base", 128, 3, "images/s", 100.0, True,
        _of_row("exact-stream", "images_per_second"),
    ),
    Target("stream", "cuda", "base", 128, 3, _VERSUS, 50.0, True, _best_ratio("exact-stream")),
    Target(
        "peak memory, one picture", "cuda", "base", 256, 3, "GB", 1.1, False,
        _of_row("exact", "peak_bytes", 1e-9),
    ),
)  # fmt: skip


def judge(results: Results) -> list[dict[str, Any]]:
    """Each target that this run has measured."""
    judged = []
    for target in TARGETS:
        settings = (target.size, target.new_tokens, target.num_beams)
        for case in results.cases():
            on = case.device.startswith(target.device)
            if not on or (case.size, case.new_tokens, case.num_beams) != settings:
                continue
            value = target.value(results, case)
            if value is not None:
                judged.append(
                    {
                        "target": f"{target.title} ({case.title})",
                        "value": value,
                        "bound": target.bound,
                        "at_least": target.at_least,
                        "unit": target.unit,
                        "met": target.is_met(value),
                    }
                )
    return judged
