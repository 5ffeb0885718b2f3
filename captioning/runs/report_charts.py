"""Plots as SVG within a page. They take their colours from the page, by the classes ``bar`` and ``axis``."""

from __future__ import annotations

from collections.abc import Sequence

from ..pages.text import shown

__all__ = ["bar", "histogram"]

# Of a histogram, in units of the view box.
_WIDTH, _HEIGHT = 480, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 10, 36
_LABELS = 6  # along the x axis, about


def histogram(steps: Sequence[int], width: int, *, unit: str, open_end: bool, title: str) -> str:
    """Bars over lengths from 0.

    Args:
        steps: how many texts are in each step.
        width: of a step, in ``unit``.
        open_end: whether the last step also has all that are longer.
        title: what screen readers say.
    """
    across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    each = across / len(steps)
    ground, highest = _TOP + down, max(*steps, 1)
    parts = [
        f'<svg class="histogram" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{shown(title)}">',
        f'<line class="axis" x1="{_LEFT}" y1="{ground}" x2="{_WIDTH - _RIGHT}" y2="{ground}"/>',
        f'<text x="{_LEFT - 6}" y="{_TOP + 9}" text-anchor="end">{highest:,}</text>',
        f'<text x="{_LEFT - 6}" y="{ground}" text-anchor="end">0</text>',
    ]
    for number, count in enumerate(steps):
        if not count:
            continue
        x, height = _LEFT + number * each, max(1.0, count / highest * down)  # one text can be seen, too
        said = f"{_range(number, len(steps), width, open_end)} {unit}: {count:,}"
        parts.append(
            f'<rect class="bar" x="{x + 0.5:.1f}" y="{ground - height:.1f}" width="{max(1.0, each - 1):.1f}" '
            f'height="{height:.1f}"><title>{shown(said)}</title></rect>'
        )
    every = max(1, -(-len(steps) // _LABELS))
    for number in range(0, len(steps), every):
        parts.append(f'<text x="{_LEFT + number * each:.1f}" y="{ground + 14}">{number * width:,}</text>')
    parts.append(
        f'<text x="{_LEFT + across / 2:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{shown(unit)}</text>'
    )
    parts.append("</svg>")
    return "".join(parts)


def bar(share: float) -> str:
    """A bar whose length is a ``share``, from 0 to 1, of the room there is; the number stands beside it."""
    return (
        '<svg class="share" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="bar" width="{max(0.2, 100 * share):.2f}" height="10"/></svg>'
    )


def _range(number: int, steps: int, width: int, open_end: bool) -> str:
    first = number * width
    if open_end and number == steps - 1:
        return f"{first:,} and more"
    return f"{first:,}" if width == 1 else f"{first:,} to {first + width - 1:,}"
