"""What every form of output can do, in the order in which a run asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ..records import Item, Record
from ..stores.paths import Place

__all__ = ["Forgetful", "Mark", "OnProblem", "Output", "OutputError", "PictureError", "SaveMark"]

Mark = Mapping[str, Any]
"""Where an output stands, as JSON can hold it; made by the output, kept by the journal."""

SaveMark = Callable[[Mark], None]
"""Puts a mark into the journal; on disk when it returns."""

OnProblem = Callable[[str, str], None]
"""Told of what concerns one picture alone: its name, and what is the matter. The run goes on."""


class OutputError(Exception):
    """An output cannot be made or written. The message says which, why, and what to do.

    What was committed before is safe, and the run can be continued once the cause is gone.
    """


class PictureError(Exception):
    """One picture cannot get its captions, for a reason of its own. The message says why, and the way out."""


class Output(Protocol):
    """One form in which captions leave a run.

    A run calls, each output in turn::

        output.start(marks.get(output.name))        the files to the state of the mark
        save(output.commit())                       before the first write: from now on the files are ours
        write what the journal holds unfinished, then for each group of records:
            records = output.prepare(records)       what a second write must know; journal.begin(records)
            output.write(records)
            mark = output.commit()                  journal.finish(names, marks)
        output.finish(journal's records, save)      all records in order, those with errors included
        output.close()

    It may be killed between any two steps and within each of them: the next run does the same again, and the
    files come out equal. A write that was not committed is undone by ``start`` or leads to the same again.
    """

    name: str  # unique in the run and the same in every run: the key of its marks and plans
    changes_pictures: bool  # whether it writes into picture files, whose fingerprints change by that

    def targets(self, item: Item) -> list[Place]:
        """Files that belong to this picture alone; empty for forms with one file for all.

        Raises:
            OutputError: there is no place for them: a picture of a shard, and no folder was named.
        """

    def wants(self, item: Item) -> bool:
        """Whether it has a use for captions of this picture; no if there are some that are to be kept.

        Raises:
            PictureError: nobody can tell.
        """

    def start(self, mark: Mark | None) -> None:
        """Bring the files to the state of ``mark``; ``None``: of a run that has not written yet.

        Raises:
            OutputError: files are in the way that are not of this run, or were changed by somebody.
        """

    def prepare(self, records: Sequence[Record]) -> list[Record]:
        """The records with all that is needed to write them again (``Record.plans``). Writes nothing."""

    def write(self, records: Sequence[Record]) -> None:
        """Write the captions of these pictures. Records with an error are left out by most forms.

        Raises:
            OutputError: the disk is full, a folder is read-only.
        """

    def commit(self) -> Mark:
        """See that what was written is on disk, as the fsync policy says; where to start from next time."""

    def finish(self, records: Callable[[], Iterator[Record]], save: SaveMark) -> None:
        """Complete the files: forms that cannot grow are written now, from all records of the journal.

        Also called when a run is stopped before its end. Memory does not grow with the number of records.
        """

    def close(self) -> None:
        """Close what is open. Does nothing the second time; also called after an error."""


@runtime_checkable
class Forgetful(Protocol):
    """An output that may have lost what it has written, or lets others' files be replaced."""

    name: str

    def lacks(self, item: Item, plan: Any) -> bool:
        """Whether what belongs to a record of this plan is not there; None: it has none."""
