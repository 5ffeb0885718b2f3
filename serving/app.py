"""The application: the faces, behind the guards, over one scheduler."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from .._version import __version__
from . import health
from .bodies import Utf8JSONResponse
from .failures import handle_failures
from .scheduler import Scheduler
from .settings import ServerSettings


def create_app(settings: ServerSettings, scheduler: Scheduler) -> FastAPI:
    """The ASGI application. Its lifespan starts the scheduler, and waits for all that it has accepted."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        yield
        await scheduler.finish()

    app = FastAPI(
        title="PromptGen",
        version=__version__,
        summary="Captions, tags and regions of pictures with Florence-2 PromptGen.",
        lifespan=lifespan,
        default_response_class=Utf8JSONResponse,
    )
    app.state.settings = settings
    app.state.scheduler = scheduler
    handle_failures(app)
    app.include_router(health.router(scheduler))
    return app
