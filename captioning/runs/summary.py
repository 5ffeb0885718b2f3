"""How a run ended, in words: the same on a terminal and on a node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .run import RunReport

__all__ = ["duration", "speed", "summary"]

_MUCH = 0.1  # share of the time that the model waited for images, from which on it is told


def summary(report: RunReport) -> Iterator[str]:
    """Sentences about what came out, one to a line; counts first."""
    rate = report.captioned / report.seconds if report.seconds else 0.0
    yield f"{_counts(report)} In {duration(report.seconds)}{f', {speed(rate)}' if rate else ''}."
    if report.unmet:
        yield f"Answers kept though they fail the conditions: {report.unmet}."
    if report.problems:
        yield (
            f"Other problems: {report.problems}, such as folders that cannot be read and caption files that "
            "are damaged or cannot be written."
        )
    if report.waited is not None and report.waited >= _MUCH:
        share = f"{100 * report.waited:.0f} %"
        yield f"The model waited for images {share} of the time: reading them is what takes long."


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def speed(rate: float) -> str:
    """``12.5 images/s``; slow ones with the digits that they have: ``0.043 images/s``."""
    return f"{rate:.1f} images/s" if rate >= 1 else f"{rate:.2g} images/s"


def _counts(report: RunReport) -> str:
    counts = {
        "captioned": report.captioned,
        "written again": report.rewritten,
        "failed": report.failed,
        "done before": report.done_before,
        "failed before": report.failed_before,
        "had captions": report.kept,
        "left out for another of the same name": report.same_stem,
    }
    told = [f"{count} {what}" for what, count in counts.items() if count or what == "captioned"]
    return f"Images: {', '.join(told)}."
