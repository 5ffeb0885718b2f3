"""Outputs that lack records of the journal, and get them by the next run that has these outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .journal import Journal
from .outputs import Mark, Output

__all__ = ["Behindhand"]

_KEY = "behindhand"  # among the marks of the outputs, none of which is called so


@dataclass
class Behindhand:
    """Which outputs lack something, kept in the journal: a run that is to give it to them may be killed."""

    journal: Journal
    present: frozenset[str]  # names of the outputs of this run
    absent: frozenset[str]  # of outputs of earlier runs, which will lack what this one adds
    names: frozenset[str]  # of those that lack something now

    @classmethod
    def of(cls, journal: Journal, outputs: Sequence[Output]) -> Behindhand:
        """As it is before a run with these outputs."""
        marks = journal.marks()
        names = frozenset(marks.pop(_KEY, {}).get("outputs", ()))
        present = frozenset(output.name for output in outputs)
        if next(iter(journal.records()), None) is not None:
            names |= present - marks.keys()
        return cls(journal, present, frozenset(marks.keys() - present), names)

    @property
    def is_fresh(self) -> bool:
        """Whether an output of this run lacks something."""
        return bool(self.names & self.present)

    def save(self) -> None:
        """Keep it, before any output has a mark by which it would count as one that lacks nothing."""
        if self.names:
            self.journal.finish({}, {_KEY: _mark(self.names)})

    def mark_with_records(self) -> Mapping[str, Mark]:
        """What the journal is to keep together with records of this run, by its name."""
        return {_KEY: _mark(self.names | self.absent)} if self.absent - self.names else {}

    def caught_up(self, *, after_records: bool) -> None:
        """The run has come to its end, and its outputs have all.

        Args:
            after_records: it has written some.
        """
        names = (self.names | self.absent if after_records else self.names) - self.present
        if self.is_fresh:
            self.journal.finish({}, {_KEY: _mark(names)})


def _mark(names: frozenset[str]) -> Mark:
    return {"outputs": sorted(names)}
