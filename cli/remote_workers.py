"""Has the pictures of a run captioned by a server; several are on their way at a time."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from ..captioning import ImageError
from ..captioning.images import read_whole
from ..captioning.runs.pictures import ItemPicture
from ..captioning.runs.records import Item, Record
from ..captioning.runs.sources.patient import held_bytes
from ..captioning.runs.workers import ModelGoneError
from ..serving.client import RemoteCaptioner, RemoteError, RemoteImage, pause_after
from .remote_window import Window

logger = logging.getLogger(__name__)

_POLL = 0.1  # seconds between looks at whether the run is to stop
_READERS = 4  # pictures that are read at a time
_MOST_READY = 8  # pictures that were read and wait for their turn
_MOST_AHEAD = 256  # pictures after the first that has no answer
_HELD = 128 * 2**20  # bytes of pictures from which on none is read
_STOP_SECONDS = 10.0  # for answers to what is on its way when the run is stopped
_MOST_ATTEMPTS = 5  # at one picture
_OF_ITSELF = ("engine_failed", "deadline")  # failures for which a picture may be the reason
_AWAY = (None, 502, 503, 504)  # statuses after which another server may answer; None: nobody did


class RemoteWorkers:
    """See :class:`.Workers`. Records come in the order of the items, as from a captioner here.

    Args:
        instructions: canonical names, in order.
        options: as :meth:`.RemoteCaptioner.caption` takes them.
        patience: seconds for which the server may be away, or take nothing, before the run ends.
    """

    def __init__(
        self,
        remote: RemoteCaptioner,
        instructions: Sequence[str],
        options: Mapping[str, Any],
        patience: float,
    ) -> None:
        self._remote = remote
        self._instructions = tuple(instructions)
        self._options = dict(options)
        self.patience = patience
        self._digest: str | None = None

    def digest(self) -> str:
        """See :meth:`.RemoteCaptioner.digest`; asked once, for the whole run.

        Raises:
            RemoteError: the server cannot be reached, or refuses what is asked.
        """
        if self._digest is None:
            self._digest = self._remote.digest(self._instructions, self._options)
        return self._digest

    def answer(
        self, items: Iterator[Item | None], stopping: Callable[[], bool]
    ) -> Generator[Record | None, None, None]:
        """See :meth:`.Workers.answer`.

        Raises:
            ModelGoneError: the server is away or takes nothing for too long, refuses what is asked, fails at
                a picture again and again, or has come back as another.
        """
        with closing(_Traffic(self, items, stopping)) as traffic:
            yield from traffic.records()

    def send(self, content: bytes) -> Future[list[RemoteImage]]:
        """Ask about one picture, once."""
        return self._remote.submit([("", content)], self._instructions, self._options, retries=0)

    def ask_digest(self) -> Future[str]:
        """Ask the server for its digest, once."""
        return self._remote.submit_digest(self._instructions, self._options, retries=0)

    def check_digest(self, digest: str) -> None:
        """See that the server, which was away, has not been started anew with another checkpoint.

        Raises:
            ModelGoneError: it has.
        """
        if digest != self.digest():
            raise ModelGoneError(
                f"{self._remote.shown_url} has come back with another checkpoint or other settings than it "
                "had before. Start the server as it was, or start again to have all images captioned anew."
            )


@dataclass(order=True)
class _Parcel:
    """A picture that was read."""

    number: int  # in the order of the items
    item: Item = field(compare=False)
    content: bytes = field(compare=False)
    attempts: int = field(default=0, compare=False)  # that failed, perhaps for its sake
    sent: float = field(default=0.0, compare=False)  # when it was sent the last time


class _Traffic:
    """The pictures between their source and the server."""

    def __init__(
        self, workers: RemoteWorkers, items: Iterator[Item | None], stopping: Callable[[], bool]
    ) -> None:
        self._workers = workers
        self._items = items
        self._stopping = stopping
        self._readers = ThreadPoolExecutor(_READERS, "promptgen-remote-read")
        self._begun = 0  # items that were taken
        self._reading: dict[Future[bytes], tuple[int, Item]] = {}
        self._ready: list[_Parcel] = []  # a heap
        self._sent: dict[Future[list[RemoteImage]], _Parcel] = {}
        self._answered: dict[int, Record] = {}  # those before them are not there yet
        self._given = 0  # records that were given on
        self._window = Window()
        self._source_ended = False
        self._stopped_at: float | None = None
        # While the server is away or takes nothing:
        self._failing_since: float | None = None
        self._failures = 0  # in a row
        self._resume_at = 0.0
        self._was_away = False  # whether it may be another now
        self._asking: Future[str] | None = None  # for its digest
        self._doubtful: dict[int, Record] = {}  # answers that came meanwhile, from whomever

    def close(self) -> None:
        """Drop what is on its way."""
        for future in self._sent:
            future.cancel()
        if self._asking is not None:
            self._asking.cancel()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def records(self) -> Iterator[Record | None]:
        """See :meth:`RemoteWorkers.answer`."""
        silent_since = time.monotonic()
        try:
            while not self._has_finished():
                if self._stopping():
                    self._stop()
                self._read()
                self._send()
                self._hear()
                while self._given in self._answered:
                    silent_since = time.monotonic()
                    yield self._give(self._given)
                if time.monotonic() - silent_since >= _POLL:
                    yield None
                    silent_since = time.monotonic()
        except ModelGoneError:
            yield from map(self._give, sorted(self._answered))
            raise
        yield from map(self._give, sorted(self._answered))

    def _give(self, number: int) -> Record:
        self._given = number + 1
        return self._answered.pop(number)

    def _has_finished(self) -> bool:
        if self._sent:
            return False
        return self._stopped_at is not None or (self._source_ended and not self._reading and not self._ready)

    def _stop(self) -> None:
        """Begin nothing else; what takes long is not waited for."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            self._reading.clear()
            self._ready.clear()
        elif time.monotonic() - self._stopped_at > _STOP_SECONDS:
            for future in self._sent:
                future.cancel()
            self._sent.clear()

    # ---- there

    def _read(self) -> None:
        """Have pictures read, as many as there is room for."""
        while self._stopped_at is None and not self._source_ended and self._has_room():
            try:
                item = next(self._items)
            except StopIteration:
                self._source_ended = True
                return
            if item is None:
                return
            self._reading[self._readers.submit(_content_of, item)] = (self._begun, item)
            self._begun += 1

    def _has_room(self) -> bool:
        if len(self._reading) >= _READERS or len(self._ready) >= _MOST_READY:
            return False
        held = sum(len(parcel.content) for parcel in (*self._ready, *self._sent.values()))
        held += sum(held_bytes(item.open) for _, item in self._reading.values())
        answered = (*self._answered.values(), *self._doubtful.values())
        held += sum(held_bytes(record.open) for record in answered)
        return held < _HELD and self._begun < self._given + _MOST_AHEAD

    def _send(self) -> None:
        if time.monotonic() < self._resume_at or self._stopped_at is not None:
            return
        if self._was_away:
            if self._asking is None and self._ready:
                self._asking = self._workers.ask_digest()
            return
        while self._ready and len(self._sent) < self._window.size:
            parcel = heapq.heappop(self._ready)
            parcel.sent = time.monotonic()
            self._sent[self._workers.send(parcel.content)] = parcel

    # ---- and back

    def _hear(self) -> None:
        """Take what has come, and note the records.

        Raises:
            ModelGoneError: there is nobody to ask any more; what else has come is noted.
        """
        futures: list[Future[Any]] = [*self._reading, *self._sent]
        if self._asking is not None:
            futures.append(self._asking)
        if not futures:
            time.sleep(_POLL if self._ready else 0)  # the source, if we wait for that, takes its time itself
            return
        gone: ModelGoneError | None = None
        for future in wait(futures, _POLL, FIRST_COMPLETED).done:
            try:
                if future is self._asking:
                    self._asking = None
                    self._is_back(future)
                elif future in self._reading:
                    self._was_read(*self._reading.pop(future), future)
                else:
                    self._was_answered(self._sent.pop(future), future)
            except ModelGoneError as error:
                gone = error
        if gone is not None:
            raise gone

    def _was_read(self, number: int, item: Item, future: Future[bytes]) -> None:
        try:
            heapq.heappush(self._ready, _Parcel(number, item, future.result()))
        except ImageError as error:
            reason = str(error).removeprefix(f"{_shown(item.name)}: ")
            self._answered[number] = Record.of(item, error=reason)

    def _was_answered(self, parcel: _Parcel, future: Future[list[RemoteImage]]) -> None:
        try:
            (image,) = future.result()
        except RemoteError as error:
            if error.of_picture is None:
                self._failed(parcel, error)
                return
            image = RemoteImage("", error=error.of_picture)
        self._window.answered(time.monotonic() - parcel.sent)
        self._failing_since, self._failures = None, 0
        known = self._doubtful if self._was_away else self._answered
        known[parcel.number] = Record.of(
            parcel.item, results=image.results, size=image.size, error=image.error
        )

    # ---- what goes wrong

    def _failed(self, parcel: _Parcel, error: RemoteError) -> None:
        """Keep the picture for another attempt.

        Raises:
            ModelGoneError: there is to be none.
        """
        if not (error.retryable or error.code == "deadline"):
            raise ModelGoneError(str(error)) from error
        if self._stopped_at is not None:
            return
        self._window.refused(len(self._sent))
        heapq.heappush(self._ready, parcel)
        if error.status in _AWAY and error.code not in _OF_ITSELF:
            self._was_away = True
        parcel.attempts += error.status in (None, 408) or error.code in _OF_ITSELF
        if parcel.attempts >= _MOST_ATTEMPTS:
            raise ModelGoneError(
                f"{_shown(parcel.item.name)} was tried {parcel.attempts} times. The last time: {error}"
            ) from error
        if not self._sent:  # else the next answer says when there is room
            self._pause(error)

    def _is_back(self, future: Future[str]) -> None:
        try:
            self._workers.check_digest(future.result())
        except RemoteError as error:
            if not error.retryable:
                raise ModelGoneError(str(error)) from error
            self._pause(error)
        else:
            self._was_away = False
            self._answered |= self._doubtful
            self._doubtful.clear()

    def _pause(self, error: RemoteError) -> None:
        """Send nothing for a while.

        Raises:
            ModelGoneError: it has been long enough.
        """
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            logger.warning("%s Trying again for %g s.", error, self._workers.patience)
        pause = pause_after(error, self._failures)
        self._failures += 1
        left = self._failing_since + self._workers.patience - now
        if left <= 0:
            raise ModelGoneError(str(error)) from error
        self._resume_at = now + min(pause, left)


def _content_of(item: Item) -> bytes:
    return read_whole(ItemPicture(item))


def _shown(name: str) -> str:
    return name if name.isprintable() else repr(name)
