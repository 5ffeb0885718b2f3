"""Text of anybody's, such as captions and file names, as it may stand in a page of HTML."""

from __future__ import annotations

import html
import re

__all__ = ["clipped", "shown"]

# What HTML or UTF-8 cannot hold: control characters, lone surrogates (bytes of file names), non-characters.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def shown(text: str) -> str:
    """``text`` for a page, between tags or in a quoted attribute: markup in it is text.

    What a page cannot hold is written as in Python: ``\\udcff``.
    """
    fit = _UNFIT.sub(lambda match: ascii(match[0])[1:-1], text.replace("\r\n", "\n"))
    return html.escape(fit)


def clipped(text: str, most: int) -> str:
    """``text``, or as much of it as ``most`` characters, for a page."""
    return shown(text if len(text) <= most else f"{text[: most - 1]}…")
