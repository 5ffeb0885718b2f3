"""Serving, and going down in order."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import uvicorn

from .app import create_app
from .connections import MOST_HEADER_BYTES, TOLD_CONNECTIONS, connection_class
from .listening import allow_open_files

if TYPE_CHECKING:
    from .metrics import Metrics
    from .scheduler import Scheduler
    from .settings import ServerSettings

__all__ = ["run"]

_KEEP_ALIVE_SECONDS = 30
_BACKLOG = 2048
_LAST_CALL_SECONDS = 0.2
_OTHER_FILES = 400  # of the models, the loop, remote pictures; generously


def run(
    settings: ServerSettings,
    scheduler: Scheduler,
    metrics: Metrics,
    sockets: Sequence[socket.socket],
    stop: threading.Event,
    on_listening: Callable[[], None] = lambda: None,
) -> None:
    """Serve until ``stop`` is set, then finish what was accepted, and return.

    Args:
        sockets: of :func:`.listening.bind`; closed at the end.
        on_listening: called as soon as requests are taken.

    Raises:
        RuntimeError: the server could not be started; the log says why.
    """
    limits = settings.limits
    allow_open_files(limits.connections + TOLD_CONNECTIONS + _OTHER_FILES)
    config = uvicorn.Config(
        create_app(settings, scheduler, metrics),
        http=connection_class(limits),
        ws="none",
        lifespan="on",
        log_config=None,  # its loggers hand on to ours
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        # What was accepted has its deadline, and its client some time to read the answer.
        timeout_graceful_shutdown=math.ceil(limits.seconds + limits.body_seconds),
    )
    _Server(config, scheduler, stop, on_listening).run(list(sockets))


class _Server(uvicorn.Server):
    """uvicorn's, told to stop by an event, so that signals are their owner's business."""

    def __init__(
        self,
        config: uvicorn.Config,
        scheduler: Scheduler,
        stop: threading.Event,
        on_listening: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._scheduler = scheduler
        self._stop = stop
        self._on_listening = on_listening

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_listening()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._stop.is_set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._scheduler.drain()
        for server in self.servers:
            server.close()
        await asyncio.sleep(_LAST_CALL_SECONDS)  # what is on its way in open connections is told why not
        await super().shutdown(sockets)
