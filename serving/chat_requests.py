"""What a request for a chat completion asks for.

The last user message with a picture counts, and the user's last text from there on; what came before, and
what the system and the assistant said, is ignored. The text is an instruction (``<CAPTION>``, or with its
text ``CAPTION_TO_PHRASE_GROUNDING: a red car``), unless the model's name has one as its suffix: then the text
is the input of an instruction that takes one, and ignored by all others. Without any text the model's default
instruction is meant. PaliGemma was trained with prompts in plain words, so its checkpoints get a text that is
no instruction as it stands (``PROMPT``).

Tokens are drawn at random where ``do_sample`` says so, or else a preset; ``temperature`` 0, which is OpenAI's
word for no sampling, keeps a preset from it. Nobody draws by a temperature alone, which most clients send.

A field that is neither OpenAI's nor an option has no effect, as most of OpenAI's have none (``user``,
``metadata``, ``store``, penalties); the answer lists those under ``ignored``.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..captioning.instructions import (
    INSTRUCTIONS,
    PALIGEMMA,
    Instruction,
    InstructionError,
    find_instruction,
)
from ..captioning.presets import PresetError, find_preset
from .asks import Ask
from .checks import check_ask
from .errors import BadRequestError
from .model_ids import ModelId, find_model_id
from .options import AnswerOptions
from .strict import read_object

if TYPE_CHECKING:
    from .models import ServedModels
    from .settings import Limits

__all__ = ["ChatRequest", "read_chat"]

# Fields that ask for what there is not, and their values that ask for nothing.
_NOT_TO_BE_HAD: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "logprobs": (False,),
    "logit_bias": ({},),
}
_MOST_TOKENS = ("max_completion_tokens", "max_tokens")  # the first that is given counts
_SAMPLING = ("temperature", "top_p", "top_k", "seed")  # act only with do_sample, as on the command line
_READ = {"model", "messages", "stream", "stream_options", "stop", *_MOST_TOKENS, *_NOT_TO_BE_HAD}
_MOST_STOPS = 100
_MOST_NAMED = 20  # of the fields without an effect

_WITH_BRACKETS = re.compile(r"<([^<>]*)>\s*:?(.*)", re.DOTALL)
_WITHOUT_BRACKETS = re.compile(r"([^<>:\n]*)[:\n]?(.*)", re.DOTALL)


@dataclass(frozen=True)
class ChatRequest:
    """What is asked about which pictures, and how the answer is wanted."""

    model: ModelId  # as the request names it
    ask: Ask
    images: tuple[str, ...]  # data URIs and addresses
    stop: tuple[str, ...]  # the answer ends before the first of them
    stream: bool
    with_usage: bool
    ignored: tuple[str, ...]  # fields that were given and have no effect


def read_chat(body: object, models: ServedModels, limits: Limits) -> ChatRequest:
    """The request of a JSON body.

    Raises:
        BadRequestError: it is none that can be answered.
        BodyTooLargeError: there are more pictures than a request may have.
        ModelNotServedError: the model is not one of this server's.
    """
    if not isinstance(body, dict):
        raise BadRequestError(f"The body must be an object; it is {reprlib.repr(body)}.")
    for name, allowed in _NOT_TO_BE_HAD.items():
        if body.get(name) is not None and body[name] not in allowed:
            raise BadRequestError(f"{name} cannot be {reprlib.repr(body[name])} here: an answer is one text.")
    model = find_model_id(models, _given(body, "model", str))
    images, text = _read_messages(_given(body, "messages", list) or [])
    instruction, text_input = _read_instruction(model, text)
    options, without_effect = _read_options(body, text_input, limits)
    ask = Ask(model.model.name, (instruction.name,), options.caption_options())
    check_ask(model.model, ask, len(images), limits)  # before any picture is decoded or fetched
    return ChatRequest(
        model,
        ask,
        images,
        _read_stop(body.get("stop")),
        bool(_given(body, "stream", bool)),
        bool((_given(body, "stream_options", dict) or {}).get("include_usage")),
        without_effect,
    )


def _given(body: Mapping[str, Any], name: str, kind: type) -> Any:
    """The value of a field, None if it is not there."""
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        names = {str: "a string", list: "a list", dict: "an object", bool: "true or false"}
        raise BadRequestError(f"{name} must be {names[kind]}; it is {reprlib.repr(value)}.")
    return value


def _read_messages(messages: list[Any]) -> tuple[tuple[str, ...], str]:
    """The pictures that are meant, and the text."""
    text = ""
    for number in reversed(range(len(messages))):
        place = f"messages[{number}]"
        message = messages[number]
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequestError(f"{place} must be an object with a role and a content.")
        if message["role"] != "user":
            continue
        images, said = _read_content(message.get("content"), f"{place}.content")
        text = text or said
        if images:
            return images, text
    raise BadRequestError(
        "No message of the user has a picture. Send one as a part of its content:"
        ' {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,..."}}.'
    )


def _read_content(content: Any, place: str) -> tuple[tuple[str, ...], str]:
    if content is None or isinstance(content, str):
        return (), (content or "").strip()
    if not isinstance(content, list):
        raise BadRequestError(f"{place} must be a string or a list of parts; it is {reprlib.repr(content)}.")
    images: list[str] = []
    texts: list[str] = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image_url":
            url = part.get("image_url")
            images.append(
                _text(url.get("url") if isinstance(url, dict) else url, f"{place}[{number}].image_url")
            )
        elif kind == "text":
            texts.append(_text(part.get("text"), f"{place}[{number}].text").strip())
        else:
            given = reprlib.repr(kind or part)
            raise BadRequestError(
                f"{place}[{number}] must be a part of type text or image_url; it is {given}."
            )
    return tuple(images), "\n".join(text for text in texts if text)


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise BadRequestError(f"{place} must be a string; it is {reprlib.repr(value)}.")
    return value


def _read_instruction(model: ModelId, text: str) -> tuple[Instruction, str | None]:
    """What is asked, and the text that goes with it."""
    if model.instruction is not None:
        return model.instruction, (text or None) if model.instruction.needs_input else None
    if not text:
        return find_instruction(model.model.default_instruction), None
    match = _WITH_BRACKETS.fullmatch(text) or _WITHOUT_BRACKETS.fullmatch(text)
    try:
        if match is None:
            raise InstructionError("no name")
        return find_instruction(match[1][:100]), match[2].strip() or None
    except InstructionError as error:
        if model.model.family == PALIGEMMA:
            return find_instruction("PROMPT"), text
        example = f"{model}:{model.model.instructions[0]}"
        raise BadRequestError(
            f"The text {reprlib.repr(text)} is no instruction. Ask for one of {', '.join(INSTRUCTIONS)}, with"
            " a colon and a text after those that take one. Or name the instruction with the model, as in"
            f" {example}, and any text will do."
        ) from error


def _read_options(
    body: Mapping[str, Any], text_input: str | None, limits: Limits
) -> tuple[AnswerOptions, tuple[str, ...]]:
    """The options, by the names that they have everywhere, and the fields that have no effect."""
    given = {name: value for name, value in body.items() if value is not None}
    ignored = [name for name in given if name not in _READ and name not in AnswerOptions.model_fields]
    if given.get("preset") and "do_sample" not in given and _is_zero(given.get("temperature")):
        given["do_sample"] = False  # whatever the preset says; without one, nothing is drawn anyway
        del given["temperature"]
    if not _samples(given):
        ignored += [name for name in _SAMPLING if given.pop(name, None) is not None]
    options = {name: value for name, value in given.items() if name in AnswerOptions.model_fields}
    for name in _MOST_TOKENS:
        if given.get(name) == -1:  # no limit, for clients of llama.cpp
            continue
        if name in given:  # more than any answer can have is meant as no limit
            most = min(given[name], limits.new_tokens) if type(given[name]) is int else given[name]
            options.setdefault("max_new_tokens", most)
    options.setdefault("text_input", text_input)
    shown = tuple(name[:100] for name in sorted(ignored)[:_MOST_NAMED])
    return read_object(AnswerOptions, options), shown


def _samples(given: Mapping[str, Any]) -> bool:
    """Whether tokens are drawn at random, by what is said or by a preset."""
    preset = given.get("preset")
    if given.get("do_sample") is not None or not isinstance(preset, str) or not preset:
        return given.get("do_sample") is True
    try:
        return bool(find_preset(preset).generation.do_sample)
    except PresetError as error:
        raise BadRequestError(str(error)) from error


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0


def _read_stop(stop: Any) -> tuple[str, ...]:
    texts = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRequestError(f"stop must be a string or a list of strings; it is {reprlib.repr(stop)}.")
    if len(texts) > _MOST_STOPS:
        raise BadRequestError(f"stop has {len(texts)} texts; {_MOST_STOPS} is the most.")
    return tuple(text for text in texts if text)
