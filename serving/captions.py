"""The server's own face: several pictures, several instructions and all options in one request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ..captioning.instructions import INSTRUCTIONS
from .bodies import Utf8JSONResponse, read_json
from .errors import BadRequestError, BodyTooLargeError, UnreadableImagesError
from .failures import failure_response
from .forms import is_form, read_form
from .pictures import decode_images
from .scheduler import Scheduler
from .schema import CaptionsRequest, DigestRequest, NamedImage
from .settings import Limits
from .strict import read_object
from .waiting import until_disconnected

if TYPE_CHECKING:
    from ..captioning import ImageResult

__all__ = ["router"]


def router(scheduler: Scheduler, limits: Limits) -> APIRouter:
    """The routes of this face."""
    routes = APIRouter(prefix="/v1", tags=["captions"])

    @routes.post("/captions")
    async def captions(request: Request) -> Response:
        """Answer each instruction for each picture.

        A picture that cannot be read has an `error` in its place and stops none of the others.
        """
        if is_form(request):
            asked, pictures = await read_form(request)
            _check_number(len(pictures), limits)
        else:
            asked = read_object(CaptionsRequest, await read_json(request))
            given = [*([] if asked.image is None else [asked.image]), *(asked.images or [])]
            _check_number(len(given), limits)
            pictures = await _decode(given)
        ask = await asyncio.to_thread(asked.ask)  # rules for tags take their time
        results = await until_disconnected(request, scheduler.answer(ask, [data for _, data in pictures]))
        images = [
            _image_answer(name or f"image {number}", result)
            for number, ((name, _), result) in enumerate(zip(pictures, results, strict=True), start=1)
        ]
        if not any(result.ok for result in results):
            return _unreadable(request.url.path, images)
        return Utf8JSONResponse({"model": scheduler.models.find(ask.model).name, "images": images})

    @routes.post("/captions/digest")
    async def digest(request: Request) -> Response:
        """A text that changes whenever an answer to the same picture may.

        Whoever keeps answers compares it with the one that they were made under.
        """
        asked = read_object(DigestRequest, await read_json(request))
        found = await asyncio.to_thread(lambda: scheduler.digest(asked.ask()))
        return Utf8JSONResponse({"digest": found})

    @routes.get("/instructions")
    async def instructions() -> Response:
        """What can be asked about a picture."""
        return Utf8JSONResponse(
            {
                "instructions": [
                    {
                        "name": one.name,
                        "summary": one.summary,
                        "input": one.input,
                        "answer": one.answer.value,
                        "known_by": one.known_by,
                        "families": one.families,
                    }
                    for one in INSTRUCTIONS.values()
                ]
            }
        )

    return routes


def _check_number(pictures: int, limits: Limits) -> None:
    if pictures == 0:
        raise BadRequestError(
            "There is no picture. images takes a list of base64 texts, or in a form one or more files."
        )
    if pictures > limits.images:
        raise BodyTooLargeError(
            f"There are {pictures} pictures; this server takes at most {limits.images} in a request."
        )


async def _decode(images: Sequence[str | NamedImage]) -> list[tuple[str, bytes]]:
    """The pictures of a JSON body, each with the name that the client gave it, if any."""
    named = [image if isinstance(image, NamedImage) else NamedImage(data=image) for image in images]
    names = [image.name or f"image {number}" for number, image in enumerate(named, start=1)]
    data = await decode_images([image.data for image in named], names)
    return list(zip(names, data, strict=True))


def _image_answer(name: str, result: ImageResult) -> dict[str, Any]:
    if result.error is not None:
        return {"image": name, "error": result.error}
    width, height = result.size or (0, 0)
    answers = [answer.to_dict() for answer in result.results]
    return {"image": name, "width": width, "height": height, "results": answers}


def _unreadable(path: str, images: Sequence[dict[str, Any]]) -> Response:
    """What a request gets none of whose pictures could be answered, with what is wrong with each."""
    first = images[0]["error"]
    message = (
        first if len(images) == 1 else f"None of the {len(images)} pictures has an answer. The first: {first}"
    )
    return failure_response(
        path, UnreadableImagesError.status, message, UnreadableImagesError.code, more={"images": images}
    )
