"""How much may be sent, and how slowly."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
from starlette.datastructures import Headers

from .errors import BodyTooLargeError, DrainingError, QueueFullError, SlowBodyError
from .failures import serving_failure

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .settings import Limits

__all__ = ["BodyGuard", "HeldBytes"]

_DRAIN_CHECK_SECONDS = 0.5


class HeldBytes:
    """How much of requests' bodies is in memory."""

    def __init__(self) -> None:
        self.count = 0


class BodyGuard:
    """Ends requests whose body is too large, comes too slowly, or would not fit beside those of the others.

    The bytes of a body count until its request is answered.

    Args:
        draining: whether the server is on its way down; whose body is not there by then is turned away.
    """

    def __init__(self, app: ASGIApp, limits: Limits, held: HeldBytes, draining: Callable[[], bool]) -> None:
        self._app = app
        self._limits = limits
        self._held = held
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if int(announced) > self._limits.body_bytes:
            await serving_failure(scope["path"], self._too_large())(scope, receive, send)
            return
        started = time.monotonic()
        size = 0
        complete = False

        async def receive_in_time() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            message = await self._receive(receive, started)
            if message["type"] == "http.request":
                count = len(message.get("body", b""))
                size += count
                self._held.count += count
                complete = not message.get("more_body", False)
                if size > self._limits.body_bytes:
                    raise self._too_large()
                if self._held.count > self._limits.held_bytes:
                    raise QueueFullError(
                        "The requests that are waiting take all the memory that is meant for them.",
                        retry_after=2,
                    )
            return message

        try:
            await self._app(scope, receive_in_time, send)
        finally:
            self._held.count -= size

    async def _receive(self, receive: Receive, started: float) -> Message:
        """The next part of a body that began to arrive at ``started``."""
        deadline = started + self._limits.body_seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._draining():
                raise DrainingError("The server is shutting down.")
            with anyio.move_on_after(min(left, _DRAIN_CHECK_SECONDS)):
                return await receive()
        raise SlowBodyError(f"The body was not there after {self._limits.body_seconds:g} s.")

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"The body is larger than {self._limits.body_bytes} bytes, the most that this server takes in one"
            " request. Send fewer or smaller pictures, or start it with a larger --max-body."
        )
