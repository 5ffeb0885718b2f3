"""The threads of a run: bounded, in order, and no failure is lost."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from promptgen.captioning.runs.flow import Ahead, Behind


def given(ahead: Ahead[int]) -> list[int]:
    return [thing for thing in ahead if thing is not None]


def wait_for(condition: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)


# Ahead --------------------------------------------------------------------------------------


def test_things_come_in_order() -> None:
    assert given(Ahead(iter(range(1000)), size=7)) == list(range(1000))


def test_no_more_is_asked_for_than_fits() -> None:
    asked: list[int] = []

    def count() -> Iterator[int]:
        for number in itertools.count():
            asked.append(number)
            yield number

    ahead = Ahead(count(), size=5)
    wait_for(lambda: len(asked) == 6)  # five wait, one is held
    time.sleep(0.15)
    assert len(asked) == 6
    assert next(thing for thing in ahead if thing is not None) == 0
    wait_for(lambda: len(asked) == 7)
    ahead.close()
    assert len(asked) == 7


def test_a_failure_comes_after_what_was_given_before() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the share is gone")

    things = (thing for thing in Ahead(failing()) if thing is not None)
    assert [next(things), next(things)] == [1, 2]
    with pytest.raises(OSError, match="the share is gone"):
        next(things)


def test_who_waits_is_told_that_there_is_nothing_yet() -> None:
    go_on = threading.Event()

    def slow() -> Iterator[int]:
        go_on.wait()
        yield 1

    things = iter(Ahead(slow()))
    assert next(things) is None
    go_on.set()
    assert [thing for thing in things if thing is not None] == [1]


# Behind -------------------------------------------------------------------------------------


def test_everything_is_written_in_order_in_groups() -> None:
    groups: list[Sequence[int]] = []
    behind = Behind(groups.append, group=4, seconds=60)
    for number in range(10):
        behind.put(number)
    behind.finish()
    assert groups == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_group_does_not_wait_for_ever() -> None:
    groups: list[Sequence[int]] = []
    behind = Behind(groups.append, group=100, seconds=0.05)
    behind.put(1)
    wait_for(lambda: groups == [[1]])
    behind.finish()
    assert groups == [[1]]


def test_who_is_faster_than_the_disk_waits() -> None:
    go_on = threading.Event()
    done: list[int] = []

    def write(group: Sequence[int]) -> None:
        go_on.wait(10)

    def give() -> None:
        for number in range(10):
            behind.put(number)
            done.append(number)

    behind = Behind(write, size=2, group=1)
    giver = threading.Thread(target=give)
    giver.start()
    wait_for(lambda: len(done) == 3)  # one is being written, two wait
    time.sleep(0.15)
    assert len(done) == 3
    go_on.set()
    giver.join(10)
    assert len(done) == 10
    behind.finish()


def test_a_failed_write_is_told_at_the_next_put_and_at_the_end() -> None:
    written: list[Sequence[int]] = []

    def write(group: Sequence[int]) -> None:
        written.append(group)
        raise OSError("disk full")

    behind = Behind(write, group=1)
    behind.put(1)
    wait_for(lambda: written)
    with pytest.raises(OSError, match="disk full"):
        give_until_it_fails(behind)
    with pytest.raises(OSError, match="disk full"):
        behind.finish()
    assert written == [[1]]


def give_until_it_fails(behind: Behind[int]) -> None:
    while True:
        behind.put(2)
