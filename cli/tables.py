"""Lists for people: a drawn table in a terminal, aligned columns elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from .streams import is_terminal


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print ``rows`` under ``header`` to standard output.

    Piped, each row is one line with columns two spaces apart, whatever its length.
    """
    if is_terminal(sys.stdout):
        _print_drawn(header, rows)
        return
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_drawn(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for number, name in enumerate(header):
        table.add_column(name, overflow="fold", style="cyan" if number == 0 else None)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
