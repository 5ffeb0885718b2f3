"""The application: the faces, behind the guards, over one scheduler."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from .._version import __version__
from . import captions, docs, health, metrics, openai_face, page, visionapi
from .bodies import Utf8JSONResponse
from .body_limits import BodyGuard, HeldBytes
from .description import describe
from .door import DoorGuard
from .failures import handle_failures
from .health import Liveness
from .metrics import Metrics
from .request_log import RequestLog
from .scheduler import Scheduler
from .settings import ServerSettings


def create_app(settings: ServerSettings, scheduler: Scheduler, counts: Metrics | None = None) -> FastAPI:
    """The ASGI application. Its lifespan starts the scheduler, and waits for all that it has accepted.

    Args:
        counts: those that ``scheduler`` has for its watch.
    """
    counts = counts or Metrics()
    held = HeldBytes()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        yield
        await scheduler.finish()

    app = FastAPI(
        title="PromptGen",
        version=__version__,
        summary="Captions, tags and regions of pictures with Florence-2 PromptGen and PaliGemma.",
        lifespan=lifespan,
        default_response_class=Utf8JSONResponse,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.scheduler = scheduler
    handle_failures(app)
    app.include_router(health.router(scheduler))
    app.include_router(metrics.router(counts, scheduler, held))
    app.include_router(page.router())
    app.include_router(visionapi.router(scheduler))
    app.include_router(openai_face.router(scheduler, settings, held))
    app.include_router(captions.router(scheduler, settings.limits))
    app.include_router(docs.router(app))
    describe(app, settings, scheduler.models[0].name)
    _add_guards(app, settings, scheduler, counts, held)
    return app


def _add_guards(
    app: FastAPI, settings: ServerSettings, scheduler: Scheduler, counts: Metrics, held: HeldBytes
) -> None:
    """Each is before those that were added earlier."""
    app.add_middleware(BodyGuard, limits=settings.limits, held=held, draining=lambda: scheduler.draining)
    app.add_middleware(DoorGuard, settings=settings)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[origin.rstrip("/") for origin in settings.cors_origins],
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    app.add_middleware(RequestLog, metrics=counts)
    app.add_middleware(Liveness)
