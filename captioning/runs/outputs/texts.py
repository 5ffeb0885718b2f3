"""Which answer goes where: the columns of a table, the extensions of caption files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...instructions import find_instruction
from ..records import Record
from .base import OutputError

__all__ = ["UNMET", "Column", "check_columns", "columns_of", "text_of", "texts_of", "unmet_of"]

UNMET = "unmet"  # the column of tables that tells which answers fall short of what was asked of them


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
    result = _result_of(record, position, column)
    return None if result is None else str(result["text"])


def unmet_of(record: Record, columns: Sequence[Column]) -> str | None:
    """What the answers lack or have too much that were kept though they fail the conditions of the run's
    ``RetryOptions``, for people; of several columns, each after its name. None if all are good."""
    results = [(column.name, _result_of(record, position, column)) for position, column in enumerate(columns)]
    reasons = [(name, result["unmet"]) for name, result in results if result and result.get("unmet")]
    return "; ".join(reason if len(columns) == 1 else f"{name}: {reason}" for name, reason in reasons) or None


def _result_of(record: Record, position: int, column: Column) -> dict[str, Any] | None:
    results = record.results
    at = [results[position]] if position < len(results) else []
    for result in [*at, *results]:  # a run may ask the same twice, so the position comes first
        if result["instruction"] == column.instruction:
            return result
    return None
