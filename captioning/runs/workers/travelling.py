"""Pictures on their way to another process."""

from __future__ import annotations

import functools
from dataclasses import replace
from pickle import PicklingError
from typing import BinaryIO

from ..pictures import ItemPicture
from ..records import Item
from ..sources.patient import bytes_as_file

__all__ = ["UNPORTABLE", "fail", "in_memory"]

UNPORTABLE = (TypeError, AttributeError, PicklingError)
"""What pickle raises for an item that can be opened only in this process, such as one in a Parquet file."""


def in_memory(item: Item) -> Item:
    """The item with its content, read now; what hinders that is said where it is opened."""
    try:
        return replace(item, open=functools.partial(bytes_as_file, ItemPicture(item).read(), item.name))
    except OSError as error:
        return replace(item, open=functools.partial(fail, error))


def fail(error: OSError) -> BinaryIO:
    """Opens a picture that could not be read."""
    raise error
