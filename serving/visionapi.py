"""The face of florence2-visionapi, for the clients that were written for it.

Its clients read ``result``, and ``detail`` or ``error`` where it fails; the one for PowerShell reads them of
status 400 alone. Fields that it does not know have always been ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from ..captioning import CaptionOptions
from ..captioning.instructions import FLORENCE2, INSTRUCTIONS
from .asks import Ask
from .bodies import Utf8JSONResponse, read_json
from .errors import BadRequestError
from .pictures import decode_images
from .schema import Base64
from .strict import read_object
from .waiting import until_disconnected

if TYPE_CHECKING:
    from .models import ServedModel
    from .scheduler import Scheduler

__all__ = ["VisionAnswer", "VisionRequest", "router"]

# In the order in which it has always listed them.
_PROMPTS = (
    "GENERATE_TAGS", "CAPTION", "DETAILED_CAPTION", "MORE_DETAILED_CAPTION", "ANALYZE", "MIXED_CAPTION",
    "MIXED_CAPTION_PLUS",
)  # fmt: skip


class VisionRequest(BaseModel):
    """A picture, and what is asked about it."""

    model_config = ConfigDict(strict=True, json_schema_extra={"additionalProperties": True})

    image: Base64 = Field(description="The bytes of an image file in base64.")
    prompt: str = Field(
        max_length=100,
        description="One of /prompts, in any case, with or without brackets.",
        examples=["<CAPTION>"],
    )


class VisionAnswer(BaseModel):
    """What the model answered."""

    result: str = Field(examples=["a close-up of a cat with a curious expression"])


def router(scheduler: Scheduler) -> APIRouter:
    """``/prompts``, ``/model`` and ``/process_image``."""
    routes = APIRouter(tags=["florence2-visionapi"])
    model = scheduler.models[0]

    @routes.get("/prompts", summary="What can be asked")
    async def prompts() -> Response:
        return Utf8JSONResponse([f"<{name}>" for name in _prompts_of(model)])

    @routes.get("/model", summary="The model's name")
    async def name() -> Response:
        return Utf8JSONResponse(model.hub_id or model.name)

    @routes.post("/process_image", summary="Ask about a picture")
    async def process_image(request: Request) -> Response:
        asked = read_object(VisionRequest, await read_json(request))
        [image] = await decode_images([asked.image], ["image"])
        ask = Ask(None, (asked.prompt.strip("<> "),), CaptionOptions())
        [found] = await until_disconnected(request, scheduler.answer(ask, [image]))
        if found.error is not None:
            raise BadRequestError(f"The image cannot be read: {found.error}")
        return Utf8JSONResponse({"result": found.results[0].text})

    return routes


def _prompts_of(model: ServedModel) -> list[str]:
    """What the model can be asked without a text or a region."""
    if model.family == FLORENCE2:
        return [name for name in _PROMPTS if name in model.instructions]
    return [name for name in model.instructions if not INSTRUCTIONS[name].needs_input]
