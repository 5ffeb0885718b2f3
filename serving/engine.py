"""The thread that has the model: it answers what waits longest, in batches.

A picture whose answer falls short of its conditions is asked again in the same batch only while nobody else
waits; otherwise it goes on behind those who do, with the same answers in the end.
"""

from __future__ import annotations

import bisect
import dataclasses
import logging
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from .errors import BadRequestError, EngineFailedError, ServingError
from .lengths import AnswerLengths
from .requests import Job

if TYPE_CHECKING:
    from ..captioning import GenerationOptions, Result
    from ..captioning.answering import Answerer, Asked, Begun
    from ..models_cache import LoadedModel
    from .models import ServedModel
    from .watch import Watch

logger = logging.getLogger(__name__)

_MEMORY_LASTS = 300.0  # seconds for which batches stay smaller after memory ran out; others may have taken it
_PATIENCE, _MOST_PATIENCE = 0.1, 0.1  # of what a picture takes, and in seconds: a batch waits for company
_SMOOTHING = 0.2  # how much the last batch counts in what a picture takes


class _Ready(NamedTuple):
    """A picture that was read."""

    serial: int  # by arrival; of one that was begun, that of the last who came before it went on
    job: Job
    asked: Asked

    @property
    def instructions(self) -> tuple[str, ...]:
        return tuple(instruction.name for instruction in self.asked.instructions)

    @property
    def kind(self) -> tuple[ServedModel, GenerationOptions]:
        """What can be in one batch."""
        return self.job.request.model, self.asked.generation


class _NobodyWaits(Exception):  # noqa: N818 - no error
    """Ends a batch of which nothing is wanted any more."""


class Engine:
    """Answers pictures that were read, in the order of their arrival, in a thread of its own."""

    def __init__(self, watch: Watch) -> None:
        self.seconds_each = 1.0  # that a picture takes, about
        self._watch = watch
        self._ready: list[_Ready] = []  # by arrival
        self._reading = 0  # pictures that will be ready soon
        self._lengths = AnswerLengths()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="promptgen-serving-engine", daemon=True)
        self._answerers: dict[str, tuple[weakref.ref[LoadedModel], float, Answerer]] = {}

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Leave what is waiting, and end. Comes back when the batch in flight is done."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether it can answer."""
        return self._thread.is_alive()

    def expect(self) -> None:
        """A picture is going to be read. To be called by any thread."""
        with self._changed:
            self._reading += 1

    def was_read(self) -> None:
        """It was, or could not be; :meth:`put` came first. To be called by any thread."""
        with self._changed:
            self._reading -= 1
            self._changed.notify()

    def put(self, job: Job, asked: Asked) -> None:
        """A picture more. To be called by any thread."""
        with self._changed:
            self._drop_unwanted()
            bisect.insort(self._ready, _Ready(job.serial, job, asked), key=lambda ready: ready.serial)
            self._changed.notify()

    def _drop_unwanted(self) -> None:
        """Those who went while a batch takes its time would otherwise leave more pictures than may wait."""
        self._ready = [ready for ready in self._ready if ready.job.is_wanted]

    # ---- in the thread

    def _work(self) -> None:
        while (oldest := self._oldest()) is not None:
            try:
                self._answer_batch_of(oldest)
            except BaseException as error:  # a library's panic, too: without this thread nothing is answered
                logger.exception("A batch failed.")
                self._refuse([oldest], error)
            del oldest  # and with it the picture

    def _oldest(self) -> _Ready | None:
        """What waits longest; waits for it. None at the end."""
        with self._changed:
            while not self._stopped:
                self._drop_unwanted()
                if self._ready:
                    return self._ready[0]
                self._changed.wait()
            self._ready = []
        return None

    def _take(self, oldest: _Ready, answers: int) -> list[_Ready]:
        """``oldest``, and what goes into one batch of so many answers with it: what will be about as long
        first, since a batch takes as long as its longest answer; else by arrival."""
        kind, room = oldest.kind, answers - oldest.asked.answers
        taken = [oldest]
        with self._changed:
            fitting = (one for one in self._ready if one is not oldest and one.job.is_wanted)
            alike = [one for one in fitting if one.kind == kind]
            for one in sorted(alike, key=lambda one: self._unlikeness(oldest, one)):
                if room <= 0:
                    break
                taken.append(one)
                room -= one.asked.answers
            gone = {one.job for one in taken}
            self._ready = [one for one in self._ready if one.job not in gone]
        return taken

    def _others_wait(self) -> bool:
        """Whether anybody is there who is not in the batch."""
        with self._changed:
            return any(ready.job.is_wanted for ready in self._ready)

    def _put_back(self, ready: _Ready, begun: Begun) -> None:
        """Let a picture with answers that fall short go on when those have had their turn who wait now."""
        asked = dataclasses.replace(ready.asked, begun=begun)
        with self._changed:
            last = max((one.serial for one in self._ready), default=ready.serial)
            again = _Ready(max(last, ready.serial), ready.job, asked)
            bisect.insort(self._ready, again, key=lambda one: one.serial)

    def _unlikeness(self, one: _Ready, other: _Ready) -> int:
        return self._lengths.unlikeness(one.job.request.model.name, one.instructions, other.instructions)

    def _wait_for_company(self, oldest: _Ready, answers: int) -> None:
        """Give pictures that are being read a moment, so that those that come together go together."""
        until = time.monotonic() + min(_MOST_PATIENCE, _PATIENCE * self.seconds_each)
        with self._changed:
            while self._reading and not self._stopped and (left := until - time.monotonic()) > 0:
                if sum(one.asked.answers for one in self._ready if one.kind == oldest.kind) >= answers:
                    return
                self._changed.wait(left)

    def _take_all_of(self, model: ServedModel) -> list[_Ready]:
        with self._changed:
            taken = [ready for ready in self._ready if ready.job.request.model is model]
            self._ready = [ready for ready in self._ready if ready.job.request.model is not model]
        return taken

    def _answer_batch_of(self, oldest: _Ready) -> None:
        model, generation = oldest.kind
        with ExitStack() as stack:
            try:
                loaded = stack.enter_context(model.captioner.loaded())
            except Exception as error:  # noqa: BLE001 - it is raised where the answers are waited for
                logger.error("%s cannot be loaded: %s", model.name, error)
                failure = EngineFailedError(f"{model.name} cannot be loaded: {_one_line(error)}")
                self._refuse(self._take_all_of(model), failure)
                return
            answerer = self._answerer(model, loaded)
            try:
                size = answerer.answers_at_a_time(loaded, generation)
            except ValueError as error:  # an option that the checkpoint does not have
                self._refuse([oldest], error)
                return
            self._wait_for_company(oldest, size)
            self._answer(answerer, loaded, self._take(oldest, size), size)

    def _answerer(self, model: ServedModel, loaded: LoadedModel) -> Answerer:
        """What it learns about the memory lasts for some time, and for no longer than the model is loaded."""
        now = time.monotonic()
        known, since, answerer = self._answerers.get(model.name, (None, 0.0, None))
        if answerer is None or known is None or known() is not loaded or now - since > _MEMORY_LASTS:
            answerer = model.captioner.answerer()
            self._answerers[model.name] = weakref.ref(loaded), now, answerer
        return answerer

    def _answer(self, answerer: Answerer, loaded: LoadedModel, batch: Sequence[_Ready], size: int) -> None:
        """Answer a batch; if it fails, each picture alone, so that one costs no other its answer."""
        from ..captioning.answering import Onlookers

        jobs = [ready.job for ready in batch]
        began = time.monotonic()

        def on_step(_: int) -> None:
            if not any(job.is_wanted for job in jobs):
                raise _NobodyWaits

        def on_results(number: int, results: tuple[Result, ...]) -> None:
            ready = batch[number]
            ready.job.answer(results, ready.asked.picture.size)
            now, accepted = time.monotonic(), ready.job.accepted
            model = ready.job.request.model.name
            self._lengths.saw(model, results)
            self._watch.answered(model, ready.instructions, began - accepted, now - accepted)

        left_over: list[tuple[_Ready, Begun]] = []
        onlookers = Onlookers(
            on_step,
            on_results,
            lambda number: jobs[number].is_wanted,
            self._others_wait,
            lambda number, begun: left_over.append((batch[number], begun)),
        )
        try:
            answerer.answer(loaded, [ready.asked for ready in batch], size, onlookers)
        except _NobodyWaits:
            return
        except BaseException as error:  # noqa: BLE001 - it is raised where the answers are waited for
            left = [ready for ready in batch if ready.job.is_wanted]
            if len(batch) == 1:
                self._refuse(left, error)
                return
        else:
            seconds = time.monotonic() - began
            for ready, begun in left_over:
                self._put_back(ready, begun)
            done = max(len(batch) - len(left_over), 1)
            self.seconds_each += _SMOOTHING * (seconds / done - self.seconds_each)
            answers = sum(ready.asked.answers for ready in batch)
            self._watch.batch(jobs[0].request.model.name, len(batch), answers, seconds)
            return
        # Not within the handler: the error's frames hold what the batch took of the device.
        for ready in left:
            self._answer(answerer, loaded, [ready], size)

    def _refuse(self, batch: Sequence[_Ready], error: BaseException) -> None:
        """Tell those who wait what went wrong."""
        for ready in batch:
            ready.job.is_answered = True
            ready.job.request.fail(_as_told(error))


def _as_told(error: BaseException) -> ServingError:
    """Whose fault it is. Checkpoints were checked when they were loaded; what the model does not take is in
    the request. Not chained to ``error``, whose frames hold pictures and what the model made of them."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, ValueError):
        return BadRequestError(_one_line(error))
    logger.error("The model failed at a request.", exc_info=error)
    return EngineFailedError(f"The model failed at this request: {_one_line(error)}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
