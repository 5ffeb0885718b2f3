"""The three forms in which captions leave the command: text for people, one JSON array, JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TextIO

Record = Mapping[str, Any]
"""One answer (``image``, ``model``, ``instruction``, ``text``, …) or one failure (``image``, ``error``)."""


class Writer(Protocol):
    """Writes records as they come. Each ``write`` is flushed, so that nothing done is lost."""

    def write(self, records: Sequence[Record]) -> None:
        """Write the records of one image."""

    def close(self) -> None:
        """Complete what has been written; called at the end and also after Ctrl-C. Leaves the stream open."""


class JsonLinesWriter:
    """One JSON object per line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, records: Sequence[Record]) -> None:
        """Write each record as a line."""
        for record in records:
            self._stream.write(_json(record) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is left to complete: every line stands alone."""


class JsonWriter:
    """One JSON array, valid from its first record on once it has been closed, however early that is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = False

    def write(self, records: Sequence[Record]) -> None:
        """Write each record as an element."""
        for record in records:
            text = (",\n" if self._begun else "[\n") + _json(record)
            self._begun = True  # before the write, after which Ctrl-C may strike
            self._stream.write(text)
        self._stream.flush()

    def close(self) -> None:
        """Close the array; a run that has written no record writes no array either."""
        if self._begun:
            self._stream.write("\n]\n")
            self._stream.flush()


class TextWriter:
    """Plain text: the bare answer if there is only one, else blocks under ``==> image: INSTRUCTION <==``.

    Failures are not written here; they are told on standard error.
    """

    def __init__(self, stream: TextIO, *, headings: bool) -> None:
        self._stream = stream
        self._headings = headings
        self._begun = False

    def write(self, records: Sequence[Record]) -> None:
        """Write each answer, with a blank line between blocks."""
        for record in records:
            if "error" in record:
                continue
            if self._headings:
                gap = "\n" if self._begun else ""
                self._stream.write(f"{gap}==> {record['image']}: {record['instruction']} <==\n")
            self._stream.write(record["text"] + "\n")
            self._begun = True
        self._stream.flush()

    def close(self) -> None:
        """Nothing is left to complete."""


class TableWriter:
    """For a terminal: one small table per image, instruction beside answer."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)

    def write(self, records: Sequence[Record]) -> None:
        """Print the table of one image; a failure is told on standard error instead."""
        from rich.table import Table
        from rich.text import Text

        answers = [record for record in records if "error" not in record]
        if not answers:
            return
        table = Table(
            title=Text(str(answers[0]["image"]), style="bold"),
            title_justify="left",
            show_header=False,
            show_lines=True,
            expand=True,
        )
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(ratio=1, overflow="fold")
        for answer in answers:
            table.add_row(Text(answer["instruction"]), Text(answer["text"]))
        self._console.print(table)

    def close(self) -> None:
        """Nothing is left to complete."""


def _json(record: Record) -> str:
    # Lone surrogates (undecodable bytes in a file name) leave through the stream's backslashreplace handler
    # as \\udcXX, which is how JSON spells them.
    return json.dumps(record, ensure_ascii=False)
