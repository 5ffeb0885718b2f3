"""A request on its way: told of by many threads, waited for by one coroutine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..captioning import ImageResult
from ..captioning.errors import without_tracebacks

if TYPE_CHECKING:
    from ..captioning import Result
    from ..captioning.captioner import Inquiry
    from .errors import ServingError
    from .models import ServedModel


class Request:
    """Pictures of which all are asked the same, and what is known about them.

    Only the event loop changes it. ``gone`` is read by all threads: nobody waits for it any more.
    """

    def __init__(
        self, model: ServedModel, inquiry: Inquiry, pictures: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.model = model
        self.inquiry = inquiry
        self.future: asyncio.Future[list[ImageResult]] = loop.create_future()
        self.gone = False
        self.left = pictures
        self._loop = loop
        self._results: dict[int, ImageResult] = {}
        self.pictures = pictures

    def put(self, number: int, result: ImageResult) -> None:
        """There is a result. To be called by any thread."""
        self._in_loop(self._put, number, result)

    def fail(self, error: ServingError) -> None:
        """The whole request has failed. To be called by any thread."""
        self._in_loop(self._fail, without_tracebacks(error))

    def _in_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits
            self._loop.call_soon_threadsafe(call, *arguments)

    def _put(self, number: int, result: ImageResult) -> None:
        if self.future.done() or number in self._results:
            return
        self._results[number] = result
        self.left -= 1
        if not self.left:
            self.future.set_result([self._results[place] for place in range(self.pictures)])

    def _fail(self, error: ServingError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.gone = True


class Job:
    """One picture of a request."""

    def __init__(
        self, serial: int, request: Request, number: int, image: bytes | None, accepted: float
    ) -> None:
        self.serial = serial  # by the order of arrival
        self.request = request
        self.number = number  # in the request
        self.image = image  # the file, until it is read
        self.accepted = accepted  # by time.monotonic()
        self.is_answered = False

    @property
    def name(self) -> str:
        """For people."""
        return f"image {self.number + 1}"

    @property
    def is_wanted(self) -> bool:
        """Whether anything is left to be done."""
        return not (self.is_answered or self.request.gone)

    def answer(self, results: tuple[Result, ...], size: tuple[int, int]) -> None:
        """There are its results; ``size`` is the width and height of the picture in pixels."""
        self.is_answered = True
        self.request.put(self.number, ImageResult(self.name, results, size=size))

    def refuse(self, error: Exception) -> None:
        """It cannot be read."""
        self.is_answered = True
        reason = str(error).removeprefix(f"{self.name}: ")
        self.request.put(self.number, ImageResult(self.name, error=reason, exception=error))
