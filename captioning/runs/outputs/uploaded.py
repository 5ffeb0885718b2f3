"""Forms with one file for all pictures in a store, whose objects cannot grow: put there at a run's end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..records import Item, Record
from ..stores.objects import fetch, put_file, remove
from ..stores.paths import Place, StorePath
from .base import Mark, Output, OutputError, SaveMark
from .disk import telling, temporary_of
from .existing import Existing
from .extent import Extent
from .growing import GrowingFile

__all__ = ["Uploaded"]


class Uploaded:
    """A form that writes a file of this machine, which becomes an object when the run ends or is stopped.

    The file starts as the object is, and is of no value afterwards: its marks are those of the object. What a
    run that was killed has answered since is in the journal, from which the form writes it at the next end.

    Args:
        output: the form, which writes ``staged`` and takes "all records" at its end for what is to be there.
    """

    changes_pictures = False

    def __init__(self, output: Output, place: StorePath, staged: Path, *, existing: Existing) -> None:
        self.name = output.name
        self._output = output
        self._place = place
        self._staged = staged
        self._existing = existing
        self._mark: dict[str, Any] = {}
        self._is_due = False  # whether the object is to be written
        self._is_there = False

    def targets(self, item: Item) -> list[Place]:
        """None: the object is for all."""
        return []

    def wants(self, item: Item) -> bool:
        """As the form does."""
        return self._output.wants(item)

    def start(self, mark: Mark | None) -> None:
        """Fetch the object, and see that nobody else's is in the way. See :meth:`Output.start`."""
        with telling(self._place, deed="read"):
            temporary_of(self._staged).unlink(missing_ok=True)
            self._is_there = fetch(self._place.url, self._staged)
        if mark is None:
            with self._naming():
                self._output.start(None)
            self._mark = {"inner": {**self._output.commit(), "closed": True}, "behind": False}
            self._is_due = False
            return
        inner = mark["inner"]
        there = Extent.of(self._staged)
        if "next" in mark and there == Extent.from_mark(mark["next"]):  # killed after it was put
            inner = mark["next"]
        changed = self._is_there and there != Extent.from_mark(inner)
        if changed and mark["behind"] and self._existing is Existing.APPEND:
            raise OutputError(
                f"{str(self._place)!r} was changed by somebody after a run that was killed had begun to add "
                "to it. Move it away, choose another name with --output, or replace it with --existing "
                "overwrite."
            )
        with self._naming():
            self._output.start(inner)
        self._is_due = mark["behind"] or there != Extent.from_mark(inner)
        if self._is_due and isinstance(self._output, GrowingFile):
            self._output.distrust()
        self._mark = {"inner": inner, "behind": mark["behind"]}

    def prepare(self, records: Sequence[Record]) -> list[Record]:
        """As the form does."""
        return self._output.prepare(records)

    def write(self, records: Sequence[Record]) -> None:
        """Into the file of this machine."""
        self._output.write(records)
        if records and not self._mark["behind"]:
            self._mark = {**self._mark, "behind": True}
            self._is_due = True

    def commit(self) -> Mark:
        """Where the object stands, and whether the journal has more."""
        return self._mark

    def finish(self, records: Callable[[], Iterator[Record]], save: SaveMark) -> None:
        """Complete the file and put it into the store, if there is anything new."""
        if not self._is_due:
            return
        marks: list[Mark] = []
        self._output.finish(records, marks.append)
        after = {**marks[-1], "closed": True} if marks else self._mark["inner"]
        save({**self._mark, "next": after})
        with telling(self._place):
            if self._staged.exists():
                put_file(self._staged, self._place.url)
            elif self._is_there:  # no line is left
                remove([self._place.url])
        self._mark = {"inner": after, "behind": False}
        self._is_due = False
        save(self._mark)

    def close(self) -> None:
        """Give the file of this machine back."""
        self._output.close()
        self._staged.unlink(missing_ok=True)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Makes an error about the file one about the object, which alone the user knows."""
        try:
            yield
        except OutputError as error:
            raise OutputError(str(error).replace(str(self._staged), str(self._place))) from error
