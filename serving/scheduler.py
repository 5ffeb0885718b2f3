"""One queue for the requests of all faces, and one thread that answers them in batches.

The event loop accepts and waits; a few threads read pictures; the engine's thread takes what waits longest,
fills the batch with whatever else is generated alike and will be about as long, then by arrival, and begins
the next batch as soon as one is done. Each picture's answers leave when they are there, not when the batch
ends.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .asks import Ask
from .checks import check_ask
from .engine import Engine
from .errors import DeadlineError, DrainingError, QueueFullError, ServingError
from .models import ServedModels
from .reading import PictureFiles
from .requests import Job, Request
from .settings import Limits
from .watch import Watch

if TYPE_CHECKING:
    from ..captioning import ImageResult
    from ..models_cache import ModelManager

logger = logging.getLogger(__name__)

_READERS = {"cpu": 2}  # by the device: a CPU has enough to do
_READERS_ELSEWHERE = 8
_LEAST_RETRY, _MOST_RETRY = 1.0, 60.0  # seconds


class Scheduler:
    """Answers requests from any number of coroutines of one event loop.

    Args:
        models: those that requests may name.
        limits: how much one request, and all of them, may take.
        manager: where the models live.
        watch: told what happens.
    """

    def __init__(
        self, models: ServedModels, limits: Limits, manager: ModelManager, watch: Watch | None = None
    ) -> None:
        self.models = models
        self.limits = limits
        self.manager = manager
        self._watch = watch or Watch()
        self._engine = Engine(self._watch)
        devices = {model.captioner.device.partition(":")[0] for model in models}
        readers = max(_READERS.get(device, _READERS_ELSEWHERE) for device in devices)
        self._readers = ThreadPoolExecutor(readers, "promptgen-serving-read")
        self._reader = PictureFiles(limits)
        self._serials = itertools.count()
        self._draining = False
        self._requests: set[Request] = set()  # accepted, without an answer yet; of the event loop alone
        self._none_left = asyncio.Event()
        self._none_left.set()

    def start(self) -> None:
        """Begin to work."""
        self._engine.start()

    @property
    def draining(self) -> bool:
        """Whether nothing new is accepted."""
        return self._draining

    @property
    def waiting(self) -> int:
        """Pictures that were accepted and have no answers yet."""
        return sum(request.left for request in self._requests)

    @property
    def healthy(self) -> bool:
        """Whether requests can still be answered."""
        return self._engine.is_alive

    async def answer(self, ask: Ask, images: Sequence[bytes]) -> list[ImageResult]:
        """One result per picture, in order; one that cannot be read has an error, without its name.

        Cancelling drops the work, also in the running batch.

        Args:
            images: files, as bytes.

        Raises:
            BadRequestError: what is asked does not exist, contradicts itself, or does not fit the model.
            ModelNotServedError: the model is not one of this server's.
            BodyTooLargeError: more pictures than a request may have.
            QueueFullError: too much is waiting.
            DrainingError: the server is on its way down.
            DeadlineError: there is no answer in time.
            EngineFailedError: the model cannot be loaded, or failed.
        """
        name = None
        try:
            model = self.models.find(ask.model)
            name = model.name
            inquiry = check_ask(model, ask, len(images), self.limits)
            self._check_room(len(images))
            request = Request(model, inquiry, len(images), asyncio.get_running_loop())
            results = await self._answered(request, images, self._seconds(ask))
        except asyncio.CancelledError:
            self._watch.ended(name, "dropped")
            raise
        except ServingError as error:
            self._watch.ended(name, error.code)
            raise
        self._watch.ended(name, "answered")
        return results

    def digest(self, ask: Ask) -> str:
        """See :func:`.captioning.runs.settings.settings_digest`. Reads the disk.

        Raises:
            BadRequestError, ModelNotServedError: see :meth:`answer`.
        """
        from ..captioning.runs.settings import settings_digest

        model = self.models.find(ask.model)
        inquiry = check_ask(model, ask, 1, self.limits)
        names = [instruction.name for instruction in inquiry.instructions]
        return settings_digest(model.captioner, names, ask.options)

    def drain(self) -> None:
        """Accept nothing new from now on."""
        self._draining = True

    async def finish(self) -> None:
        """Accept nothing new, answer all that was accepted, and end the threads."""
        self.drain()
        await self._none_left.wait()
        self._readers.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._engine.stop)

    def _check_room(self, pictures: int) -> None:
        if self._draining:
            raise DrainingError("The server is shutting down.", retry_after=_MOST_RETRY / 6)
        waiting = self.waiting
        if waiting and waiting + pictures > self.limits.queued:
            seconds = self._engine.seconds_each * waiting
            raise QueueFullError(
                f"{waiting} images are waiting already, and {self.limits.queued} may. Try again later.",
                retry_after=min(max(seconds, _LEAST_RETRY), _MOST_RETRY),
            )

    def _seconds(self, ask: Ask) -> float:
        return self.limits.seconds if ask.seconds is None else min(ask.seconds, self.limits.seconds)

    async def _answered(self, request: Request, images: Sequence[bytes], seconds: float) -> list[ImageResult]:
        jobs: list[Job] = []
        self._requests.add(request)
        self._none_left.clear()
        self._watch.accepted(len(images))
        try:
            for number, image in enumerate(images):
                jobs.append(Job(next(self._serials), request, number, image, time.monotonic()))
                self._engine.expect()
                self._readers.submit(self._read, jobs[-1])
            return await asyncio.wait_for(request.future, seconds)
        except asyncio.TimeoutError as error:
            raise DeadlineError(
                f"There was no answer within {seconds:g} seconds, and the work was dropped. Ask for less at "
                "a time, or give the server more time (--request-timeout)."
            ) from error
        finally:
            request.gone = True
            for job in jobs:
                job.image = None  # for those whose turn to be read comes later
            self._requests.discard(request)
            if not self._requests:
                self._none_left.set()

    def _read(self, job: Job) -> None:
        """In a thread of its own: from the file to what the model looks at."""
        try:
            if not job.is_wanted:
                return
            asked = self._reader.read(job)
            if asked is not None:
                self._engine.put(job, asked)
        except ServingError as error:
            job.request.fail(error)
        except BaseException:  # a library's panic, too
            logger.exception("A picture could not be read.")
            job.request.fail(ServingError(f"{job.name} could not be read; the server's log says more."))
        finally:
            self._engine.was_read()
