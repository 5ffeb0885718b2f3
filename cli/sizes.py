"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from .reporting import UsageError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_FORM = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:I?B)?\s*", re.IGNORECASE | re.ASCII)


def parse_size(option: str, given: str) -> int:
    """``64MB``, ``1.5G`` or a plain number of bytes, as a number of bytes; a kilobyte is 1024 of them.

    Raises:
        UsageError: it is no such thing, or 0.
    """
    match = _FORM.fullmatch(given)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if not size:
        raise UsageError(f"{option} is {given!r}; it takes a number of bytes, such as 64MB or 8GB.")
    return size
