"""Whether the server lives, and whether it takes requests: for load balancers and supervisors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.responses import Response

from .bodies import Utf8JSONResponse
from .errors import DrainingError, EngineFailedError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from .scheduler import Scheduler

__all__ = ["Liveness", "router"]

_ALIVE = b'{"status":"ok"}'
_ALIVE_HEADERS = [
    (b"content-type", b"application/json; charset=utf-8"),
    (b"content-length", str(len(_ALIVE)).encode()),
    (b"cache-control", b"no-store"),
]


def router(scheduler: Scheduler) -> APIRouter:
    """``/health`` and ``/ready``."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health", summary="Whether the process answers")
    async def health() -> Response:
        """Answered even when every core is at work."""
        return Response(_ALIVE, headers={"cache-control": "no-store"}, media_type="application/json")

    @routes.get("/ready", summary="Whether requests are taken")
    async def ready() -> Response:
        if scheduler.draining:
            raise DrainingError("The server is shutting down.", retry_after=10)
        if not scheduler.healthy:
            raise EngineFailedError("The engine has died. The server must be started again.")
        return Utf8JSONResponse({"status": "ready", "waiting": scheduler.waiting})

    return routes


class Liveness:
    """Answers ``/health`` before anything else looks at the request, and HEAD wherever GET is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            if scope["path"] == "/health":
                await send({"type": "http.response.start", "status": 200, "headers": _ALIVE_HEADERS})
                await send(
                    {"type": "http.response.body", "body": _ALIVE if scope["method"] == "GET" else b""}
                )
                return
            scope = {**scope, "method": "GET"}  # the server knows from its own scope to leave the body out
        await self._app(scope, receive, send)
