"""What a cell of a table holds: a text, several, or what is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .examples import clean_text

__all__ = ["RowError", "is_missing", "kind_of", "text_or_none", "texts_of"]


class RowError(Exception):
    """A row has no example, or the whole table cannot be understood."""

    def __init__(self, kind: str, message: str, *, is_of_table: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.is_of_table = is_of_table


def is_missing(value: Any) -> bool:
    """As None, or as pandas has it in tables."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def texts_of(value: Any, name: str) -> list[str]:
    """One text, or several that are each an answer.

    Raises:
        RowError: it is neither; ``name`` says what it would be.
    """
    several = value if isinstance(value, (list, tuple)) else [value]
    texts = [one for one in several if not is_missing(one)]
    for one in texts:
        if isinstance(one, bool) or not isinstance(one, (str, int, float)):
            raise RowError("unreadable row", f"the {name} is {kind_of(one)}, not a text")
    return [str(one) for one in texts]


def kind_of(value: Any) -> str:
    """For people: what a value that should be another one is."""
    return "an object" if isinstance(value, Mapping) else f"of type {type(value).__name__}"


def text_or_none(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else ",".join(map(str, value)) if isinstance(value, list) else ""
    return clean_text(text) or None
