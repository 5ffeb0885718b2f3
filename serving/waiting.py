"""Waiting for an answer, and for the client to lose patience, at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["until_disconnected"]

_Answer = TypeVar("_Answer")


async def until_disconnected(request: Request, work: Coroutine[Any, Any, _Answer]) -> _Answer:
    """The result of ``work``, which is cancelled as soon as the client goes away.

    Args:
        request: one whose body has been read.

    Raises:
        ClientDisconnect: the client went first. Nobody is there to tell.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect()
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
