"""One client's connection: uvicorn's, with limits on what a client can do without ever sending a request."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import TooManyConnectionsError
from .failures import failure_body, serving_failure
from .health import Liveness

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from .settings import Limits

__all__ = ["MOST_HEADER_BYTES", "TOLD_CONNECTIONS", "connection_class"]

MOST_HEADER_BYTES = 64 << 10
TOLD_CONNECTIONS = 100  # beyond the most that there may be: these are told so, more are not
_INVALID = "This is not valid HTTP, or its headers are too large."


def connection_class(limits: Limits) -> type[H11Protocol]:
    """The class of the connections of one server."""

    class LimitedConnection(Connection):
        pass

    LimitedConnection.limits = limits
    return LimitedConnection


class Connection(H11Protocol):
    """uvicorn knows no limit on the time that headers take, nor on the time for which an answer stays unread,
    and answers in plain text what it answers by itself.

    h11 rather than httptools, since it bounds the size of headers.
    """

    limits: Limits
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        excess = len(self.connections) - self.limits.connections
        if excess > TOLD_CONNECTIONS:
            transport.abort()
            return
        if excess > 0:
            self.app: ASGIApp = Liveness(_too_many)
        self._wait_for_client()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before and not self.flow.write_paused:  # the headers of a request are complete
            self._stop_waiting()

    def on_response_complete(self) -> None:
        before = self.cycle
        super().on_response_complete()
        if self.cycle is before:  # no other request has come already
            self._wait_for_client()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_client()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.cycle.response_complete:  # what is left may stay unread, and no other request come
            self._wait_for_client()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = json.dumps(failure_body("", 400, _INVALID, "bad_request")).encode()
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json; charset=utf-8\r\n"
                b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body)
            )
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """None: Java's client and ``curl --http2`` offer HTTP/2 each time, and take HTTP/1.1."""

    def _wait_for_client(self) -> None:
        """Cut the connection if the client takes longer than for a body."""
        self._stop_waiting()
        self._patience = self.loop.call_later(self.limits.body_seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    error = TooManyConnectionsError("Too many clients are connected.", retry_after=5)
    response = serving_failure(scope["path"], error)
    response.headers["Connection"] = "close"
    await response(scope, receive, send)
