"""Whether the server lives, and whether it takes requests: for load balancers and supervisors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.responses import Response

from .bodies import Utf8JSONResponse

if TYPE_CHECKING:
    from .scheduler import Scheduler


def router(scheduler: Scheduler) -> APIRouter:
    """``/health`` and ``/ready``."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health", summary="Whether the process answers")
    async def health() -> Response:
        return Utf8JSONResponse({"status": "ok"})

    @routes.get("/ready", summary="Whether requests are taken")
    async def ready() -> Response:
        if scheduler.draining:
            return Utf8JSONResponse({"status": "shutting_down"}, 503)
        if not scheduler.healthy:
            return Utf8JSONResponse({"status": "engine_failed"}, 503)
        return Utf8JSONResponse({"status": "ready", "waiting": scheduler.waiting})

    return routes
