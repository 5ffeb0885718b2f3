"""Curves as SVG within a page. They take their looks from :data:`CHART_STYLE`, by the classes ``curve``,
``curve-N`` (colour) and ``dash-N``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...captioning.pages.text import shown
from .curves import Curve, smoothed

__all__ = ["CHART_STYLE", "line_chart"]

# In units of the view box.
_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 40
_TICKS = 6  # along an axis, about
_MOST_POINTS = 1_000  # of a line; more cannot be told apart
_SPAN = 100  # a smoothed curve averages over about a hundredth of its points, or ten
_SMOOTHED = 50  # points; a curve of more is also shown smoothed
_COLOURS = 6
_DASHES = ("none", "7 3", "2 3", "10 3 2 3", "4 4")  # for who cannot tell colours apart

CHART_STYLE = (
    """
:root { --c0: #2f6fbb; --c1: #c2571a; --c2: #3d8b37; --c3: #8b4fa8; --c4: #a8862a; --c5: #2b8f94; }
@media (prefers-color-scheme: dark) { :root { --c0: #6aa5e8; --c1: #f0955a; --c2: #7cc576; --c3: #c795df;
  --c4: #d9b65b; --c5: #66c5ca; } }
.chart { display: block; width: 100%; min-width: 28rem; max-width: 56rem; }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; } .curve.raw { stroke-width: 1; opacity: .35; }
.grid { stroke: var(--line); stroke-width: 1; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; }
.legend svg { width: 2.5rem; height: .6rem; margin-inline-end: .4rem; }
"""
    + "".join(
        f".curve-{number} {{ stroke: var(--c{number}); }} .dot-{number} {{ fill: var(--c{number}); }}\n"
        for number in range(_COLOURS)
    )
    + "".join(f".dash-{number} {{ stroke-dasharray: {dash}; }}\n" for number, dash in enumerate(_DASHES))
)


@dataclass(frozen=True)
class _Scale:
    """From numbers to places along an axis, with a round number at each tick."""

    ticks: tuple[float, ...]
    start: float  # where the first tick is
    length: float  # to the last one

    @classmethod
    def over(cls, least: float, most: float, start: float, length: float, *, whole: bool) -> _Scale:
        width = _round_number((most - least or abs(most) or 1.0) / _TICKS)
        if whole:
            width = max(1.0, width)
        first, last = math.floor(least / width), math.ceil(most / width)
        last = max(last, first + 1)
        return cls(tuple(number * width for number in range(first, last + 1)), start, length)

    def place(self, value: float) -> float:
        return self.start + (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0]) * self.length


def line_chart(curves: Sequence[Curve], *, title: str) -> str:
    """Losses by step, with a legend. Curves of many points are also shown smoothed.

    Args:
        curves: at least one, each with a point at least.
        title: what screen readers say.
    """
    steps = [step for curve in curves for step, _ in curve.points]
    losses = [loss for curve in curves for _, loss in curve.points]
    across = _Scale.over(min(steps), max(steps), _LEFT, _WIDTH - _LEFT - _RIGHT, whole=True)
    ground = _HEIGHT - _BOTTOM
    up = _Scale.over(min(losses), max(losses), ground, _TOP - ground, whole=False)
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{shown(title)}">']
    parts += _axes(across, up)
    for number, curve in enumerate(curves):
        parts += _drawn(curve, number, across, up)
    return "".join([*parts, "</svg>", *_legend(curves)])


def _axes(across: _Scale, up: _Scale) -> Iterator[str]:
    for value in up.ticks:
        y = up.place(value)
        yield f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>'
    for value in across.ticks:
        x = across.place(value)
        anchor = "end" if value == across.ticks[-1] else "middle"
        yield f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="{anchor}">{value:,.0f}</text>'
    middle = _LEFT + (_WIDTH - _LEFT - _RIGHT) / 2
    yield f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">step</text>'


def _drawn(curve: Curve, number: int, across: _Scale, up: _Scale) -> Iterator[str]:
    many = _is_long(curve)
    yield _line(curve.points, number, across, up, raw=many)
    if many:
        yield _line(_smoothed(curve), number, across, up)
        return
    for step, loss in curve.points:
        said = f"{curve.name}, step {step:,}: {loss:.4f}"
        place = f'cx="{across.place(step):.1f}" cy="{up.place(loss):.1f}"'
        yield f'<circle class="dot-{number % _COLOURS}" {place} r="2.5"><title>{shown(said)}</title></circle>'


def _line(
    points: Sequence[tuple[int, float]], number: int, across: _Scale, up: _Scale, *, raw: bool = False
) -> str:
    places = (f"{across.place(step):.1f},{up.place(loss):.1f}" for step, loss in _fewer(points))
    kind = " raw" if raw else ""
    return f'<polyline class="{_classes(number)}{kind}" points="{" ".join(places)}"/>'


def _classes(number: int) -> str:
    return f"curve curve-{number % _COLOURS} dash-{number % len(_DASHES)}"


def _fewer(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """As many points as can be told apart: of neighbours the least and the greatest, so that none that
    stands out is lost."""
    if len(points) <= _MOST_POINTS:
        return points
    size = -(-2 * len(points) // _MOST_POINTS)
    kept: list[tuple[int, float]] = [points[0]]
    for start in range(0, len(points), size):
        part = points[start : start + size]
        kept += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return [*kept, points[-1]]


def _smoothed(curve: Curve) -> tuple[tuple[int, float], ...]:
    return smoothed(curve.points, 1 - 1 / max(10, len(curve.points) / _SPAN))


def _legend(curves: Sequence[Curve]) -> Iterator[str]:
    yield '<ul class="legend">'
    for number, curve in enumerate(curves):
        mark = f'<line class="{_classes(number)}" x1="0" y1="5" x2="40" y2="5"/>'
        points = _smoothed(curve) if _is_long(curve) else curve.points
        yield (
            f'<li><svg viewBox="0 0 40 10" aria-hidden="true">{mark}</svg>'
            f"{shown(curve.name)}: {points[0][1]:.4f} → {points[-1][1]:.4f}{_missing(curve)}</li>"
        )
    yield "</ul>"


def _missing(curve: Curve) -> str:
    """That a loss was no number, which a line cannot show."""
    if not curve.lost:
        return ""
    more = f" and {len(curve.lost) - 1:,} more" if len(curve.lost) > 1 else ""
    return f"; no finite number at step {curve.lost[0]:,}{more}"


def _is_long(curve: Curve) -> bool:
    """Whether it is one to be smoothed, of steps rather than of evaluations."""
    return len(curve.points) > _SMOOTHED


def _round_number(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, … times a power of ten that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((times * power for times in (1, 2, 5) if times * power >= least), 10 * power)
