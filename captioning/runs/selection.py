"""Which of the pictures that are found are captioned, by what the journal and the outputs know of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .journal import Journal, Known
from .outputs import Output, PictureError, Targets
from .outputs.base import Forgetful
from .records import Item, Record


@dataclass
class Left:
    """How many pictures were left out, by the reason."""

    done: int = 0  # by an earlier run
    failed_before: int = 0
    kept: int = 0  # they have captions that are to be kept
    same_stem: int = 0  # their caption file belongs to another picture

    @property
    def total(self) -> int:
        """All of them."""
        return self.done + self.failed_before + self.kept + self.same_stem


@dataclass(frozen=True)
class Selection:
    """Chooses. Asks the journal and the outputs, and changes neither.

    Args:
        fresh: one of the outputs is new to the journal, and lacks what is done.
        late: pictures whose caption file is another's, if those are to be left out.
        retry_errors: try again what failed before, though nothing has changed.
    """

    journal: Journal
    outputs: Sequence[Output]
    fresh: bool = False
    late: Targets | None = None
    retry_errors: bool = False

    def choose(self, items: Iterable[Item], left: Left) -> Iterator[Item | Record]:
        """What is to be done, in order: a picture to caption, or a record to write without a model: one of
        the journal's, or the reason why a picture is not captioned.

        Args:
            left: counts those that are left out.
        """
        for item in items:
            work = self._work_on(item, left)
            if work is not None:
                yield work

    def _work_on(self, item: Item, left: Left) -> Item | Record | None:
        try:
            return self._chosen(item, left)
        except PictureError as error:
            return Record.of(item, error=str(error))

    def _chosen(self, item: Item, left: Left) -> Item | Record | None:
        standing = self.journal.standing(item)
        if self.late is not None and self.late.came_late(item.name):
            left.same_stem += 1
        elif standing.known is Known.FAILED and not self.retry_errors:
            left.failed_before += 1
        elif standing.known is Known.DONE:
            if self.fresh or not self._is_written(item) or self._is_lost(item):
                known = self.journal.answered(item)
                return None if known is None else replace(known, open=item.open, is_known=True)
            left.done += 1
        elif standing.outdated or any(output.wants(item) for output in self.outputs):
            return item
        else:
            left.kept += 1
        return None

    def _is_lost(self, item: Item) -> bool:
        """Whether an output has it no more, though it was written."""
        forgetful = [output for output in self.outputs if isinstance(output, Forgetful)]
        if not forgetful:
            return False
        plans = self.journal.plans(item.name)
        return any(output.lacks(item, plans.get(output.name)) for output in forgetful)

    def _is_written(self, item: Item) -> bool:
        """Whether the files of this picture are still there; somebody may have taken them away."""
        return all(target.exists() for output in self.outputs for target in output.targets(item))
