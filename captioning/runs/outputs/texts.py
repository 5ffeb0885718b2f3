"""Which answer goes where: the columns of a table, the extensions of caption files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...instructions import find_instruction
from ..records import Record
from .base import OutputError

__all__ = ["Column", "check_columns", "columns_of", "text_of", "texts_of"]


@dataclass(frozen=True)
class Column:
    """One instruction of the run, and what its answers are called on their way out."""

    instruction: str  # canonical name
    name: str = ""  # of the column of a table, or the extension of a caption file; empty: the usual one


def columns_of(spelled: str) -> tuple[Column, ...]:
    """What ``GENERATE_TAGS:tags, CAPTION`` asks, and what the answers are to be called.

    Raises:
        InstructionError: there is no such instruction.
        OutputError: two answers would be one.
    """
    pieces = [piece.partition(":") for piece in spelled.split(",") if piece.strip()]
    columns = tuple(Column(find_instruction(asked).name, name.strip()) for asked, _, name in pieces)
    if len({column.instruction for column in columns}) < len(columns):
        raise OutputError(f"{spelled!r} asks the same twice.")
    return columns


def check_columns(columns: Sequence[Column], own: Iterable[str]) -> None:
    """See that each column of a table has a name of its own.

    Args:
        own: names that the form uses for itself.

    Raises:
        OutputError: two have the same.
    """
    taken = set(own)
    for column in columns:
        if column.name in taken:
            raise OutputError(
                f"two columns would be called {column.name!r}. Name them: "
                f"--instruction {column.instruction}:another_name"
            )
        taken.add(column.name)


def texts_of(record: Record, columns: Sequence[Column]) -> dict[str, str | None]:
    """The text of each column; None where the record, being of other settings, has no such answer."""
    return {column.name: text_of(record, position, column) for position, column in enumerate(columns)}


def text_of(record: Record, position: int, column: Column) -> str | None:
    """The text of the answer to the instruction at ``position`` of the run."""
    results = record.results
    at = [results[position]] if position < len(results) else []
    for result in [*at, *results]:  # a run may ask the same twice, so the position comes first
        if result["instruction"] == column.instruction:
            return str(result["text"])
    return None
