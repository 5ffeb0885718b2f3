"""What can be wrong with a request before its pictures are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .asks import Ask
from .errors import BadRequestError, BodyTooLargeError
from .settings import Limits

if TYPE_CHECKING:
    from ..captioning.captioner import Inquiry
    from .models import ServedModel

_MOST_INSTRUCTIONS = 32  # of one request


def check_ask(model: ServedModel, ask: Ask, pictures: int, limits: Limits) -> Inquiry:
    """What is asked of ``model``, in canonical names, each once.

    Raises:
        BadRequestError: it does not exist, contradicts itself, or is above the limits.
        BodyTooLargeError: there are more pictures than a request may have.
    """
    from ..captioning.instructions import find_instructions

    if not pictures:
        raise BadRequestError("There is no image in the request.")
    if pictures > limits.images:
        raise BodyTooLargeError(
            f"The request has {pictures} images; {limits.images} is the most. Send them in several requests."
        )
    if len(ask.instructions) > _MOST_INSTRUCTIONS:
        raise BadRequestError(f"{len(ask.instructions)} instructions; {_MOST_INSTRUCTIONS} is the most.")
    if ask.seconds is not None and not ask.seconds > 0:
        raise BadRequestError(f"The timeout is {ask.seconds!r}; it takes seconds above 0.")
    generation = ask.options.generation
    _check_limit("num_beams", generation.num_beams, limits.beams)
    _check_limit("max_new_tokens", generation.max_new_tokens, limits.new_tokens)
    _check_limit("min_new_tokens", generation.min_new_tokens, limits.new_tokens)
    _check_limit("length of text_input", len(ask.options.text_input or ""), limits.text)
    try:
        found = find_instructions(ask.instructions or [model.default_instruction])
        names = dict.fromkeys(one.name for one in found)
        return model.captioner.inquire(list(names), ask.options)
    except ValueError as error:  # InstructionError, too
        raise BadRequestError(str(error)) from error


def _check_limit(name: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise BadRequestError(f"{name} is {value}; this server allows {most} at most.")
