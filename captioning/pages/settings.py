"""The section of a page that tells with which settings it came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .text import clipped, shown

__all__ = ["settings_section"]

_VALUE = 2_000  # characters that are shown at most


def settings_section(settings: Mapping[str, str]) -> Iterator[str]:
    """A table of names and values."""
    yield '<section>\n<h2>Settings</h2>\n<div class="wide"><table><tbody>\n'
    for what, value in settings.items():
        yield f'<tr><th scope="row">{shown(what)}</th><td><bdi>{clipped(value, _VALUE)}</bdi></td></tr>\n'
    yield "</tbody></table></div>\n</section>\n"
