"""What the description of the server says of each route: bodies, answers, errors, and an example of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import answers
from .chat_schema import ChatBody, ChatCompletion, ModelAnswer, ModelsAnswer
from .errors import (
    BadRequestError,
    BodyTooLargeError,
    DeadlineError,
    DrainingError,
    EngineFailedError,
    ModelNotServedError,
    QueueFullError,
    ServingError,
    SlowBodyError,
    UnreadableImagesError,
)
from .schema import CaptionsRequest, DigestRequest
from .visionapi import VisionAnswer, VisionRequest

__all__ = ["Operation", "operations"]

# A red disc on white, 32 × 32 pixels.
_PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQMAAABJtOi3AAAABlBMVEX////cHh7/Hx2WAAAAP0lEQVR42mNgIBawP2BgYuAQYGBiMOBhYGJg"
    "YGBgYnBgYmBg+P8fxsUkGBjq/zEwMRz4B+Pyf2BgYvjxgWhbAagkCbYcG5wGAAAAAElFTkSuQmCC"
)

_OF_BODIES = (BadRequestError, SlowBodyError, BodyTooLargeError, QueueFullError, DrainingError)
_OF_ANSWERS = (*_OF_BODIES, EngineFailedError, DeadlineError)

_CAPTION = "A red circle on a white background."
_TAGS = ["1 shape", "red circle", "white background", "simple background", "no humans"]
_CAPTION_RESULT = {"instruction": "CAPTION", "text": _CAPTION, "raw": _CAPTION, "truncated": False}
_TAGS_RESULT = {
    "instruction": "GENERATE_TAGS",
    "text": ", ".join(_TAGS),
    "tags": _TAGS,
    "raw": ", ".join(_TAGS),
    "truncated": False,
}


@dataclass(frozen=True)
class Operation:
    """One method of one route."""

    example: Any  # of an answer
    answer: Any = None  # its type; None if the route itself describes it
    media_type: str = "application/json"
    body: Any = None  # the type of the request's body; None if there is none, or the route describes it
    examples: Mapping[str, Any] | None = None  # of the body, by what they show
    is_form: bool = False  # whether the body may be a form, too
    errors: tuple[type[ServingError], ...] = ()


def operations(model: str) -> dict[tuple[str, str], Operation]:
    """All of them, by path and method.

    Args:
        model: the name of the server's first, for examples that can be sent as they are.
    """
    return {
        ("/v1/captions", "post"): Operation(
            answer=answers.CaptionsAnswer,
            example={
                "model": model,
                "images": [
                    {
                        "image": "disc.png",
                        "width": 32,
                        "height": 32,
                        "results": [_CAPTION_RESULT, _TAGS_RESULT],
                    },
                    {"image": "notes.txt", "error": "a text file, not an image"},
                ],
            },
            body=CaptionsRequest,
            is_form=True,
            examples={
                "one": {"image": _PICTURE, "instructions": "CAPTION,GENERATE_TAGS"},
                "several": {
                    "images": [{"data": _PICTURE, "name": "disc.png"}, f"data:image/png;base64,{_PICTURE}"],
                    "instructions": ["CAPTION", "OD"],
                    "options": {"num_beams": 1, "scores": True, "prefix": "drawing"},
                    "timeout": 60,
                },
            },
            errors=(*_OF_ANSWERS, ModelNotServedError, UnreadableImagesError),
        ),
        ("/v1/captions/digest", "post"): Operation(
            answer=answers.DigestAnswer,
            example={"digest": "34053637f6c1af9dcf1726be76180b37217013d4bdd3af553cafd677e463dde1"},
            body=DigestRequest,
            examples={"one": {"instructions": ["CAPTION"], "options": {"num_beams": 1}}},
            errors=(*_OF_BODIES, ModelNotServedError),
        ),
        ("/v1/instructions", "get"): Operation(
            answer=answers.InstructionsAnswer,
            example={
                "instructions": [
                    {
                        "name": "CAPTION",
                        "summary": "One line about the image.",
                        "input": "none",
                        "answer": "caption",
                        "known_by": "all Florence-2 and PromptGen checkpoints",
                        "families": ["florence2", "paligemma"],
                    }
                ]
            },
        ),
        ("/v1/models", "get"): Operation(
            answer=ModelsAnswer, example={"object": "list", "data": [_model(model)]}
        ),
        ("/v1/models/{model_id}", "get"): Operation(
            answer=ModelAnswer, example=_model(model), errors=(ModelNotServedError,)
        ),
        ("/v1/chat/completions", "post"): Operation(
            answer=ChatCompletion,
            body=ChatBody,
            example={
                "id": "chatcmpl-5f0c9d2b7a1e4c3d8f6a2b1c",
                "object": "chat.completion",
                "created": 1767225600,
                "model": f"{model}:CAPTION",
                "choices": [
                    {
                        "index": 0,
                        "message": {
                            "role": "assistant",
                            "content": _CAPTION,
                            "refusal": None,
                            "results": [{"width": 32, "height": 32, **_CAPTION_RESULT}],
                        },
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": None,
            },
            examples={"one": {"model": f"{model}:CAPTION", "messages": [_message()]}},
            errors=(*_OF_ANSWERS, ModelNotServedError, UnreadableImagesError),
        ),
        ("/prompts", "get"): Operation(answer=list[str], example=["<GENERATE_TAGS>", "<CAPTION>"]),
        ("/model", "get"): Operation(answer=str, example="MiaoshouAI/Florence-2-base-PromptGen-v2.0"),
        ("/process_image", "post"): Operation(
            answer=VisionAnswer,
            example={"result": _CAPTION},
            body=VisionRequest,
            examples={"one": {"image": _PICTURE, "prompt": "<CAPTION>"}},
            errors=_OF_ANSWERS,
        ),
        ("/health", "get"): Operation(answer=answers.StatusAnswer, example={"status": "ok"}),
        ("/ready", "get"): Operation(answer=answers.StatusAnswer, example={"status": "ready", "waiting": 0}),
        ("/metrics", "get"): Operation(
            answer=str,
            media_type="text/plain",
            example="# HELP promptgen_pictures_waiting Pictures accepted and not answered yet.\n"
            "# TYPE promptgen_pictures_waiting gauge\npromptgen_pictures_waiting 0.0\n",
        ),
    }


def _model(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 1767225600,
        "owned_by": "promptgen",
        "instructions": ["GENERATE_TAGS", "CAPTION"],
        "loaded": True,
        "family": "florence2",
        "default_instruction": "GENERATE_TAGS",
        "device": "cpu",
        "dtype": "fp32",
        "quantization": "none",
    }


def _message() -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PICTURE}"}}
    return {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}
