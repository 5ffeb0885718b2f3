"""From records to the outputs, through the journal: a kill at any instant loses and repeats nothing."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .flow import GROUP
from .journal import Journal
from .outputs import Mark, Output
from .records import Record
from .sources.search import fingerprint_of


class GroupWriter:
    """Writes groups of records to all outputs.

    Args:
        outputs: each of a name of its own.
        marks: what the journal keeps together with the marks of the outputs, when there are records.
    """

    def __init__(
        self, journal: Journal, outputs: Sequence[Output], marks: Mapping[str, Mark] | None = None
    ) -> None:
        self._journal = journal
        self._outputs = outputs
        self._marks = dict(marks or {})
        self.written = 0  # records

    def start(self) -> None:
        """Bring the outputs to where the journal stands, and write what was begun before a kill.

        Raises:
            OutputError: a file is in the way, or cannot be written.
            JournalError: the journal cannot be written.
        """
        marks = self._journal.marks()
        for output in self._outputs:
            output.start(marks.get(output.name))
            self._save(output, output.commit())
        for group in _in_groups(self._journal.unfinished()):
            self._write(group)

    def write(self, records: Sequence[Record]) -> None:
        """Keep a group in the journal, then write it.

        Raises:
            OutputError: a file cannot be written. The group is safe in the journal.
            JournalError: the journal cannot be written. The group is lost, and will be captioned again.
        """
        group = [self._without_plans(record) for record in self._journal.with_previous_plans(records)]
        for output in self._outputs:
            group = output.prepare(group)
        self._journal.begin(group)
        self._write(group)
        self.written += len(group)

    def finish(self) -> None:
        """Complete the files; also when the run is stopped before its end.

        Raises:
            OutputError: a file cannot be written. The next run does it.
        """
        for output in self._outputs:
            output.finish(self._journal.records, functools.partial(self._save, output))

    def close(self) -> None:
        """Close all files, also after an error."""
        for output in self._outputs:
            output.close()

    def _write(self, group: Sequence[Record]) -> None:
        for output in self._outputs:
            output.write(group)
        marks = self._marks | {output.name: output.commit() for output in self._outputs}
        self._journal.finish({record.name: self._fingerprint_now(record) for record in group}, marks)

    def _without_plans(self, record: Record) -> Record:
        """As it is to be prepared. Where a picture has become unreadable, its captions stay, and stay ours.

        What is written again is still where outputs have it that are not of this run.
        """
        plans: Mapping[str, Any] = {}
        if record.error is not None:
            plans = record.previous_plans
        elif record.is_known:
            own = {output.name for output in self._outputs}
            plans = {name: plan for name, plan in record.previous_plans.items() if name not in own}
        return replace(record, plans=plans)

    def _save(self, output: Output, mark: Mark) -> None:
        self._journal.finish({}, {output.name: mark})

    def _fingerprint_now(self, record: Record) -> str:
        """The fingerprint that the next run will find: captions may have been written into the picture."""
        changed = record.path is not None and any(output.changes_pictures for output in self._outputs)
        if not changed or record.path is None or record.error is not None:
            return record.fingerprint
        try:
            return fingerprint_of(record.path.stat())
        except OSError:  # somebody has taken it away meanwhile
            return record.fingerprint


def _in_groups(records: Iterator[Record]) -> Iterator[list[Record]]:
    while group := list(itertools.islice(records, GROUP)):
        yield group
