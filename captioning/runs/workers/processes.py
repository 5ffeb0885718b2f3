"""Captions by several processes of this machine, each with a device and a model of its own.

This process alone reads the sources and writes. Each worker asks for as many pictures as it can use now, so a
faster one gets more of them. One that dies is replaced, and what it had at hand is done again.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from ..records import Item, Record
from .errors import WorkerError
from .messages import Answered, Failed, Logged, Ready, Stopped, Task, Wanted
from .suspects import MOST_DEATHS, Suspects
from .telling import OnceTold
from .worker_process import WorkerProcess

if TYPE_CHECKING:
    from ...captioner import CaptionOptions

logger = logging.getLogger(__package__)

_POLL = 0.1  # seconds between looks at whether the run is to stop

# Deaths in a row on one device after which it is given up: before a model was loaded, and with no picture
# answered since the last. The latter leaves room for a picture that kills again and again.
_MOST_FAILED_STARTS = 3
_MOST_DEATHS_IN_A_ROW = MOST_DEATHS + 2

_PACKAGE = __name__.rpartition(".captioning.")[0]


class WorkerProcesses:
    """A process for each of ``devices``; see :class:`.Workers`.

    They are started when the first record is asked for, and ended when there are no more. None outlives this
    process. Since processes are spawned, a script that does this needs Python's usual
    ``if __name__ == "__main__":``.

    Args:
        devices: ``cpu``, ``cuda:0``, ``cuda:1`` ...; one may be there several times. The cores of the CPU are
            divided among those that are ``cpu``, unless ``OMP_NUM_THREADS`` says how many threads each has.
        model: catalogue name, Hub id or folder. Its files should be there: each process looks for them.
        dtype: see :class:`.Captioner`; ``auto`` may mean another on each device.
        batch_size: see :class:`.Captioner`; of each process.
        loras, quantization: see :class:`.Captioner`.
        instructions: canonical names, in order.

    Raises:
        ValueError: there are no devices.
    """

    def __init__(
        self,
        devices: Sequence[str],
        model: str,
        instructions: Sequence[str],
        options: CaptionOptions,
        *,
        dtype: str = "auto",
        batch_size: int | None = None,
        loras: Sequence[tuple[str, float]] = (),
        quantization: str = "none",
    ) -> None:
        if not devices:
            raise ValueError("Workers need at least one device.")
        levels = {name: logging.getLogger(name).level for name in ("", _PACKAGE)}
        self._tasks = [
            Task(
                model=model, device=device, dtype=dtype, batch_size=batch_size,
                instructions=tuple(instructions), options=options,
                cpu_workers=sum(device == "cpu" for device in devices), levels=levels,
                loras=tuple(loras), quantization=quantization,
            )
            for device in devices
        ]  # fmt: skip

    def answer(
        self, items: Iterator[Item | None], stopping: Callable[[], bool]
    ) -> Generator[Record | None, None, None]:
        """See :meth:`.Workers.answer`.

        A picture with which three processes have died, two of them with no other picture at hand, has that as
        its error.

        Raises:
            WorkerError: the processes have died, on every device several times in a row.
            Exception: as :meth:`.Captioner.stream` does, with the worker's traceback in its notes. What is
                wrong with a device, such as too little memory, is raised if no other device is left.
        """
        for first in items:  # no process is started for nothing
            if stopping():
                return
            if first is not None:
                break
            yield None
        else:
            return
        team = _Team(self._tasks, itertools.chain([first], items), stopping)
        with ExitStack() as stack:
            stack.callback(team.close)
            atexit.register(team.close)  # before the interpreter waits for all processes to end
            stack.callback(atexit.unregister, team.close)
            team.start()
            yield from team.records()


@dataclass(eq=False)
class _Place:
    """A device, and the process that works there now."""

    task: Task
    worker: WorkerProcess | None = None  # None once the device is given up
    deaths: int = 0  # since a picture was answered there
    failed_starts: int = 0  # since a model was loaded there


class _Team:
    """The processes of one run, and the pictures between the source and them."""

    def __init__(
        self, tasks: Sequence[Task], items: Iterator[Item | None], stopping: Callable[[], bool]
    ) -> None:
        self._places = [_Place(task) for task in tasks]
        self._items = items
        self._stopping = stopping
        self._source_ended = False
        self._stopped = False
        self._returned: deque[Item] = deque()  # by workers that could not go on, for no fault of a picture
        self._suspects = Suspects()
        self._told = OnceTold()

    def start(self) -> None:
        for place in self._places:
            place.worker = WorkerProcess(place.task)

    def close(self) -> None:
        """End all processes at once."""
        workers = [place.worker for place in self._places if place.worker is not None]
        for place in self._places:
            place.worker = None
        for worker in workers:
            worker.kill()
            worker.close()

    def records(self) -> Iterator[Record | None]:
        """See :meth:`WorkerProcesses.answer`."""
        silent_since = time.monotonic()
        while not self._has_finished():
            if self._stopping():
                self._stop()
            is_busy = self._deal()
            for record in self._hear(0.0 if is_busy else _POLL):
                silent_since = time.monotonic()
                yield record
            if time.monotonic() - silent_since >= _POLL:
                yield None
                silent_since = time.monotonic()

    def _workers(self) -> Iterator[tuple[_Place, WorkerProcess]]:
        for place in self._places:
            if place.worker is not None:
                yield place, place.worker

    def _has_finished(self) -> bool:
        if any(worker.held for _, worker in self._workers()):
            return False
        return self._stopped or (self._source_ended and not self._returned and not self._suspects)

    def _stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            for _, worker in self._workers():
                worker.stop()

    # ---- pictures to the workers

    def _deal(self) -> bool:
        """Give a picture to each worker that wants one; whether there is more to do at once."""
        dealt = False
        for _, worker in self._workers():
            if self._stopped:
                return False
            if worker.is_alone or not worker.wanted:
                continue
            if self._suspects and not worker.held:
                worker.give_alone(self._suspects.next())
                dealt = True
            elif (item := self._next_item()) is not None:
                worker.give(item)
                dealt = True
            elif self._source_ended:
                worker.flush()
            else:
                return True  # the source has taken its time already
        if self._source_ended and not self._returned:
            for _, worker in self._workers():
                worker.flush()
        return dealt

    def _next_item(self) -> Item | None:
        if self._returned:
            return self._returned.popleft()
        if self._source_ended:
            return None
        try:
            return next(self._items)
        except StopIteration:
            self._source_ended = True
            return None

    # ---- what comes from them

    def _hear(self, patience: float) -> Iterator[Record]:
        """A message of each worker that has one; the records among them."""
        places = {}
        for place, worker in self._workers():
            places[worker.connection] = place
            if worker.text is not None and not worker.text.closed:
                places[worker.text] = place
        for end in wait(list(places), patience):
            place = places[end]  # type: ignore[index]
            heard = place.worker  # no longer the same if it has died a moment ago
            if heard is not None and end is heard.text:
                self._tell_text(heard)
            elif heard is not None and end is heard.connection:
                yield from self._receive(place, heard)

    def _receive(self, place: _Place, worker: WorkerProcess) -> Iterator[Record]:
        message = worker.receive()
        if message is None:
            while self._tell_text(worker):
                pass
            yield from self._died(place, worker, worker.wait())
        elif isinstance(message, Answered):
            yield self._answered(place, worker, message.record)
        elif isinstance(message, Wanted):
            worker.wanted += message.count
        elif isinstance(message, Logged):
            self._told.log(worker.pid, message.record)
        elif isinstance(message, Ready):
            worker.is_ready = True
            place.failed_starts = 0
        elif isinstance(message, Stopped):
            worker.held.clear()
        elif message.of_process:
            yield from self._died(place, worker, str(message.error))
        else:
            self._failed(place, worker, message)

    def _answered(self, place: _Place, worker: WorkerProcess, record: Record) -> Record:
        item = worker.held.pop(record.name)
        worker.is_alone = False
        worker.last_words = ""
        place.deaths = 0
        self._suspects.clear(record.name)
        return replace(record, open=item.open)

    def _tell_text(self, worker: WorkerProcess) -> list[str]:
        lines = list(worker.read_text())
        for line in lines:
            self._told.text(worker.pid, line)
        return lines

    # ---- workers that end

    def _died(self, place: _Place, worker: WorkerProcess, reason: str) -> Iterator[Record]:
        """Have what it had at hand done again; gives the pictures that have now seen too many deaths."""
        held = self._take_leave(place, worker)
        if self._stopped:
            return  # the next run does them
        guilty = list(self._suspects.saw_death(held))
        if worker.is_ready:
            place.deaths = 0 if guilty else place.deaths + 1
        else:
            place.failed_starts += 1
        given_up = place.failed_starts >= _MOST_FAILED_STARTS or place.deaths >= _MOST_DEATHS_IN_A_ROW
        _tell_death(worker, reason, len(held), given_up)
        if not given_up and not self._has_finished():
            place.worker = WorkerProcess(place.task)
        for item in guilty:
            yield _death_record(item, reason)
        if given_up and not any(True for _ in self._workers()):
            raise WorkerError(
                f"No worker process is left. The last one, on {worker.device}, has died several times in a "
                f"row: {reason}"
            )

    def _failed(self, place: _Place, worker: WorkerProcess, failed: Failed) -> None:
        """Give its pictures to the others, if there are any that may do better.

        Raises:
            Exception: there are none.
        """
        self._returned.extend(self._take_leave(place, worker))
        others = [other.device for _, other in self._workers()]
        if not failed.of_device or not others:
            raise failed.error
        logger.warning(
            "The worker process on %s cannot go on, and leaves its pictures to those on %s: %s",
            worker.device, ", ".join(others), failed.error,
        )  # fmt: skip

    def _take_leave(self, place: _Place, worker: WorkerProcess) -> list[Item]:
        """End a worker; what it had at hand."""
        place.worker = None
        worker.kill()
        worker.close()
        held = list(worker.held.values())
        worker.held.clear()
        return held


def _tell_death(worker: WorkerProcess, reason: str, held: int, given_up: bool) -> None:
    then = "The device is given up" if given_up else "Another takes its place"
    pictures = f", and the images that it had at hand ({held}) are tried one by one" if held else ""
    logger.warning("The worker process on %s has died: %s. %s%s.", worker.device, reason, then, pictures)


def _death_record(item: Item, reason: str) -> Record:
    return Record.of(
        item, error=f"{MOST_DEATHS} worker processes have died with it, the last one so: {reason}"
    )
