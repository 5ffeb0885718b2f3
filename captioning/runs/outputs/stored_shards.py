"""Tar shards in a store: each is put there when it is full, the last one at the end of a run."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..records import Item, Record
from ..stores.objects import list_objects, put_file, remove
from ..stores.paths import StorePath
from ..stores.reading import open_seekable
from ..stores.staging import staging_folder
from .base import Mark, OnProblem, OutputError, SaveMark
from .disk import Disk, telling
from .existing import Existing
from .extent import Extent
from .samples import Samples
from .texts import Column
from .webdataset import PictureGoneError, ShardLimits, Shards, Standing, from_mark, to_mark

__all__ = ["StoredShards"]


class StoredShards(Shards):
    """Shards that grow on this machine and are final once they are in the store.

    What a run that was killed had in a shard that was not full is written again by the next one, which reads
    those pictures once more. A plan says of its record in which run, and as the how-manieth, it was written;
    marks hold up to where each run's are in the store.

    Args:
        place: the folder of the shards.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        place: StorePath,
        *,
        prefix: str,
        limits: ShardLimits,
        existing: Existing,
        disk: Disk,
        on_problem: OnProblem,
    ) -> None:
        super().__init__(
            columns, staging_folder(place / prefix), prefix=prefix, limits=limits, existing=existing,
            disk=disk, on_problem=on_problem,
        )  # fmt: skip
        self._place = place
        self._mark: dict[str, Any] = {}
        self._run = 0
        self._held: dict[str, int] = {}  # by run, how many of its records are in the store
        self._prepared_count = 0  # of this run
        self._written_count = 0

    def start(self, mark: Mark | None) -> None:
        """Go on behind the last shard that is in the store. See :meth:`Output.start`."""
        self.close()
        if mark is None:
            self._standing = self._begin_in_store()
            self._run, self._held = 1, {}
        else:
            self._standing = from_mark(mark)
            self._run, self._held = mark["run"] + 1, {**mark["held"]}
        self._prepared_count = self._written_count = 0
        self._note()

    def lacks(self, item: Item | Record, plan: Any) -> bool:
        """Whether the sample of a record of this plan did not come into the store."""
        return plan is not None and plan["sample"] >= self._held.get(str(plan["run"]), 0)

    def prepare(self, records: Sequence[Record]) -> list[Record]:
        """Say where each comes in the order of this run."""
        prepared = []
        for record in records:
            if self._takes(record):
                last = record.previous_plans.get(self.name) if record.is_known else None
                if last is not None and not self.lacks(record, last):
                    plan = {**last, "there": True}
                else:
                    plan = {"run": self._run, "sample": self._prepared_count}
                    self._prepared_count += 1
                record = self._planned(record, plan)
            prepared.append(record)
        return prepared

    def write(self, records: Sequence[Record]) -> None:
        """Append the samples of pictures that were found by this run: others come when they are."""
        for record in records:
            plan = record.plans.get(self.name)
            if plan is not None and record.open is not None and not self._has(record):
                super().write([record])
                self._written_count = plan["sample"] + 1

    def commit(self) -> Mark:
        """How far the store has them."""
        return self._mark

    def finish(self, records: Callable[[], Iterator[Record]], save: SaveMark) -> None:
        """Put the last shard into the store; all of them anew if a picture was captioned again."""
        self._put_last()
        save(self._mark)
        if self._standing.taken > sum(self._takes(record) for record in records()):
            self._write_all_anew(records, save)
        # What lies behind the last was to be overwritten, or comes from a run that was killed.
        self._remove(number for number in self._stored_numbers() if number >= self._standing.number)

    def close(self) -> None:
        """Close the shard that grows, which is of no use any more."""
        super().close()
        for number in self._numbers():
            self._shard(number).unlink(missing_ok=True)

    # ---- inside

    def _shard_ended(self) -> None:
        """Put a shard that is complete into the store."""
        number = self._standing.number
        with telling(self._object(number)):
            put_file(self._shard(number), self._object(number).url)
        self._shard(number).unlink()

    def _went_on(self) -> None:
        self._note()

    def _put_last(self) -> None:
        if self._standing.samples:
            self._end_shard()
            self._standing = replace(
                self._standing, number=self._standing.number + 1, ours=Extent(), samples=0
            )
        self._note()

    def _note(self) -> None:
        """What is known now is what the store has."""
        held = {**self._held, str(self._run): self._written_count}
        self._mark = {**to_mark(self._standing), "run": self._run, "held": held}

    def _begin_in_store(self) -> Standing:
        numbers = self._stored_numbers()
        if not numbers or self._existing is Existing.OVERWRITE:
            return Standing()
        if self._existing is not Existing.APPEND:
            raise OutputError(
                f"{str(self._place)!r} has shards already, from {self._object(numbers[0]).name!r} on. "
                "Choose another folder with --output, add shards to it with --existing append, or replace "
                "them with --existing overwrite."
            )
        return Standing(first=numbers[-1] + 1, number=numbers[-1] + 1)

    def _object(self, number: int) -> StorePath:
        return self._place / self._shard(number).name

    def _stored_numbers(self) -> list[int]:
        """Of the shards that are in the store."""
        pattern = re.compile(re.escape(self._prefix) + r"-([0-9]{6,})\.tar")
        with telling(self._place, deed="read"):
            try:
                matches = [pattern.fullmatch(entry.name) for entry in list_objects(self._place.url)]
            except FileNotFoundError:
                return []
        return sorted(int(match[1]) for match in matches if match)

    def _remove(self, numbers: Iterator[int]) -> None:
        with telling(self._place):
            remove([self._object(number).url for number in numbers])

    def _write_all_anew(self, records: Callable[[], Iterator[Record]], save: SaveMark) -> None:
        """All shards behind the old ones, which then go; if a picture is gone, all stays as it is."""
        old, old_mark = self._standing, self._mark
        self._standing = Standing(first=old.number, number=old.number)
        objects = [self._object(number).url for number in range(old.first, old.number)]
        with Samples([functools.partial(open_seekable, url) for url in objects]) as samples:
            try:
                for record, picture in self._with_pictures(records(), samples):
                    self._add(record, picture)
            except PictureGoneError:
                self.close()
                self._standing, self._mark = old, old_mark
                return
        self._put_last()
        save(self._mark)
        self._remove(iter(range(old.first, old.number)))
