"""The face of OpenAI's chat completions, for the clients that were written for it.

``POST /v1/chat/completions`` takes pictures as data URIs and, from hosts that the server was told of, by
address. See :mod:`.chat_requests` for how an instruction is given, and which fields are heeded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from .bodies import Utf8JSONResponse, read_json
from .chat_answers import DONE, KEEP_ALIVE, ChatAnswer, ChatFrame, event
from .chat_requests import ChatRequest, read_chat
from .errors import ServingError, UnreadableImagesError
from .failures import failure_body
from .model_ids import ModelId, find_model_id, list_model_ids
from .pictures import decode_images
from .remote_pictures import RemotePictures
from .waiting import until_disconnected

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from ..captioning import ImageResult
    from ..models_cache import LoadedInfo
    from .body_limits import HeldBytes
    from .scheduler import Scheduler
    from .settings import ServerSettings

__all__ = ["router"]

_BEFORE_STREAM_SECONDS = 0.2  # in which a refusal still gets its own status
_KEEP_ALIVE_SECONDS = 10.0

logger = logging.getLogger(__name__)


def router(scheduler: Scheduler, settings: ServerSettings, held: HeldBytes) -> APIRouter:
    """``/v1/models`` and ``/v1/chat/completions``.

    Args:
        held: what is in memory of all requests.
    """
    routes = APIRouter(prefix="/v1", tags=["OpenAI"])
    fetcher = RemotePictures(settings.url_hosts, settings.limits, held)
    started = int(time.time())

    @routes.get("/models", summary="The models, alone and with each instruction")
    async def models() -> Response:
        loaded = await asyncio.to_thread(scheduler.manager.loaded)
        data = [_model(one, loaded, started) for one in list_model_ids(scheduler.models)]
        return Utf8JSONResponse({"object": "list", "data": data})

    @routes.get("/models/{model_id:path}", summary="One of the models")
    async def model(model_id: str) -> Response:
        found = find_model_id(scheduler.models, model_id)
        loaded = await asyncio.to_thread(scheduler.manager.loaded)
        return Utf8JSONResponse(_model(found, loaded, started))

    @routes.post("/chat/completions", summary="Ask about pictures in a chat")
    async def completions(request: Request) -> Response:
        body = await read_json(request)  # which may have millions of parts
        chat = await asyncio.to_thread(read_chat, body, scheduler.models, scheduler.limits)
        frame = ChatFrame(chat)
        if not chat.stream:
            answer = await until_disconnected(request, _answer(chat, scheduler, fetcher))
            return Utf8JSONResponse(frame.completion(answer))
        working = asyncio.ensure_future(_answer(chat, scheduler, fetcher))
        try:
            await asyncio.wait({working}, timeout=_BEFORE_STREAM_SECONDS)
        except asyncio.CancelledError:
            working.cancel()
            raise
        if working.done():
            working.result()  # raises what is wrong
        return _Stream(frame, working, request.url.path)

    return routes


async def _answer(chat: ChatRequest, scheduler: Scheduler, fetcher: RemotePictures) -> ChatAnswer:
    carried = [(number, image) for number, image in enumerate(chat.images, 1) if not _is_address(image)]
    names = [f"image_url {number}" for number, _ in carried]
    decoded = iter(await decode_images([image for _, image in carried], names))
    async with fetcher.fetch([image for image in chat.images if _is_address(image)]) as fetched:
        rest = iter(fetched)
        images = [next(rest) if _is_address(image) else next(decoded) for image in chat.images]
        results = await scheduler.answer(chat.ask, images)
    _raise_if_unreadable(results)
    return ChatAnswer.of(results, chat.stop)


def _is_address(image: str) -> bool:
    return "://" in image[:20]


def _raise_if_unreadable(results: list[ImageResult]) -> None:
    reasons = [
        f"image {number} cannot be read: {result.error}"
        for number, result in enumerate(results, 1)
        if result.error is not None
    ]
    if reasons:
        raise UnreadableImagesError("; ".join(reasons))


class _Stream(StreamingResponse):
    """Events for as long as the answer takes, which is dropped as soon as nobody listens."""

    def __init__(self, frame: ChatFrame, working: asyncio.Future[ChatAnswer], path: str) -> None:
        super().__init__(
            _events(frame, working, path),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        self._working = working
        working.add_done_callback(lambda done: done.cancelled() or done.exception())  # it need not be heard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._working.cancel()


async def _events(frame: ChatFrame, working: asyncio.Future[ChatAnswer], path: str) -> AsyncIterator[bytes]:
    yield frame.role()
    while not (await asyncio.wait({working}, timeout=_KEEP_ALIVE_SECONDS))[0]:
        yield KEEP_ALIVE
    try:
        yield frame.answer(working.result())
    except ServingError as error:
        error.__traceback__ = None  # see serving_failure
        yield event({"error": failure_body(path, error.status, str(error), error.code)["error"]})
    except Exception:
        logger.exception("A stream has failed")
        message = "The server has failed at this request; its log says more."
        yield event({"error": failure_body(path, 500, message, "server_error")["error"]})
    yield DONE


def _model(one: ModelId, loaded: list[LoadedInfo], created: int) -> dict[str, Any]:
    """What a list of models says about one."""
    captioner = one.model.captioner
    known = one.model.instructions if one.instruction is None else (one.instruction.name,)
    names = {one.model.base_name.casefold(), PurePath(one.model.base_name).name.casefold()}
    with_adapters = any(strength for _, strength in captioner.loras)
    return {
        "id": str(one),
        "object": "model",
        "created": created,
        "owned_by": (one.model.hub_id or "promptgen/").partition("/")[0],
        "instructions": known,
        "loaded": any(
            info.name.casefold() in names
            and bool(info.adapters) == with_adapters
            and info.quantization == captioner.quantization
            for info in loaded
        ),
        "family": one.model.family,
        "default_instruction": one.model.default_instruction,
        "device": captioner.device,
        "dtype": captioner.dtype,
        "quantization": captioner.quantization,
    }
