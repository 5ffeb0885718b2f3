"""The threads ahead of the device and behind it, and how much they hold."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from promptgen.captioning.runs.flow import Ahead, Behind
from promptgen.captioning.runs.records import Item
from promptgen.captioning.runs.sources import find_items
from promptgen.captioning.runs.sources.patient import held_bytes

SIZE = 10_000  # bytes of each picture in a shard


@pytest.fixture(params=[".tar", ".tar.gz"])
def shard(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """One hundred pictures, as far as a search can tell."""
    path = tmp_path / f"shard{request.param}"
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for number in range(100):
            member = tarfile.TarInfo(f"{number:03d}.jpg")
            member.size = SIZE
            archive.addfile(member, io.BytesIO(os.urandom(SIZE)))
    return path


def stays_at(count: Callable[[], int], number: int) -> bool:
    """Whether it comes to this number, and does not go on."""
    due = time.monotonic() + 30
    while count() < number and time.monotonic() < due:
        time.sleep(0.01)
    time.sleep(0.3)
    return count() == number


def test_pictures_of_a_compressed_shard_are_held_up_to_a_number_of_bytes(shard: Path) -> None:
    found: list[str] = []

    def items() -> Iterator[Item]:
        for item in find_items([str(shard)], on_problem=lambda name, reason: None):
            found.append(item.name)
            yield item

    ahead = Ahead(items(), size=50, weigh=lambda item: held_bytes(item.open), held=5 * SIZE)
    with closing(ahead):
        # one more has been found, and waits for its place
        assert stays_at(lambda: len(found), 6 if shard.suffix == ".gz" else 51)
        given = [item for item in ahead if item is not None]
    assert [item.name for item in given] == found
    assert len(given) == 100
    for item in given:
        with item.open() as file:
            assert len(file.read()) == SIZE


def test_what_is_larger_than_the_bound_comes_alone() -> None:
    begun = []

    def things() -> Iterator[int]:
        for number in range(5):
            begun.append(number)
            yield number

    ahead = Ahead(things(), weigh=lambda number: 1000, held=10)
    with closing(ahead):
        assert stays_at(lambda: len(begun), 2)
        assert [thing for thing in ahead if thing is not None] == [0, 1, 2, 3, 4]


def test_records_wait_for_the_disk_where_they_hold_much() -> None:
    written: list[int] = []
    taken = []

    def write(group: Sequence[int]) -> None:
        time.sleep(0.1)
        written.extend(group)

    behind: Behind[int] = Behind(write, group=1, weigh=lambda number: 10, held=30)
    for number in range(12):
        behind.put(number)
        taken.append(number - len(written))
    behind.finish()
    assert written == list(range(12))
    assert max(taken) <= 5  # three wait, one is written, one has just been taken
