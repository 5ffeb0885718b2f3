"""A number for every request, a line in the log with -v, and the counts."""

from __future__ import annotations

import ipaddress
import logging
import time
import uuid
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .metrics import Metrics

__all__ = ["RequestLog"]

_MOST_ID_CHARACTERS = 128
_HEADER = "X-Request-Id"

logger = logging.getLogger(__name__)


class RequestLog:
    """Gives each request an id, or keeps its client's, and tells the log and the metrics how it ended."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        number = _id_of(Headers(scope=scope).get(_HEADER))
        status = 500  # unless something else is answered

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[_HEADER] = number
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            seconds = time.monotonic() - started
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.request(route, status, seconds)
            logger.info(
                "%s %s %s %d %.0f ms %s",
                _client_of(scope), scope["method"], scope["raw_path"].decode("latin-1"),
                status, seconds * 1000, number,
            )  # fmt: skip


def _client_of(scope: Scope) -> str:
    """Its address. A proxy's header may have put anything in its place, which could look like other lines."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return "-"


def _id_of(given: str | None) -> str:
    """What the client calls its request, if that can stand in a log; else something new."""
    if given and len(given) <= _MOST_ID_CHARACTERS and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex
