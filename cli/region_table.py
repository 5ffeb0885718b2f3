"""Regions for people: a table for each image, drawn on a terminal, aligned columns elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from .streams import is_terminal

_HEADER = ("#", "label", "score", "left", "top", "right", "bottom")
_LABEL, _SCORE = 1, 2


class RegionTableWriter:
    """Writes what was found in each image. A :class:`.writers.Writer`; failures are told elsewhere."""

    def __init__(self, stream: TextIO, *, headings: bool) -> None:
        self._stream = stream
        self._headings = headings
        self._begun = False

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write each answer; one without regions is its text."""
        for record in records:
            if "error" not in record:
                self._write(record)
        self._stream.flush()

    def close(self) -> None:
        """Nothing is left to complete."""

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._headings:
            gap = "\n" if self._begun else ""
            self._stream.write(f"{gap}==> {record['image']}: {record['instruction']} <==\n")
        self._begun = True
        if "regions" not in record:
            self._stream.write(record["text"] + "\n")
        elif not record["regions"]:
            self._stream.write("no regions\n")
        else:
            self._write_table(_rows(record["regions"]))
        if record["truncated"]:
            self._stream.write("(the answer was cut off; --max-new-tokens allows longer ones)\n")

    def _write_table(self, rows: Sequence[Sequence[str]]) -> None:
        if is_terminal(self._stream):
            _draw(rows, self._stream)
            return
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            cells = [
                cell.ljust(width) if column == _LABEL else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self._stream.write("  ".join(cells).rstrip() + "\n")


def _rows(regions: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The header and a row for each region, in whole pixels; without scores if there are none."""
    rows = [list(_HEADER)]
    for number, region in enumerate(regions):
        score = region.get("score")
        box = [f"{value:.0f}" for value in region["box"]] if region["box"] else [""] * 4
        label = " ".join(region["label"].split())
        rows.append([str(number), label, "" if score is None else f"{score:.2f}", *box])
    if not any(row[_SCORE] for row in rows[1:]):
        rows = [row[:_SCORE] + row[_SCORE + 1 :] for row in rows]
    return rows


def _draw(rows: Sequence[Sequence[str]], stream: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for column, name in enumerate(rows[0]):
        is_label = column == _LABEL
        table.add_column(
            name, overflow="fold", style="cyan" if is_label else None, justify="left" if is_label else "right"
        )
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    Console(file=stream, highlight=False).print(table)
