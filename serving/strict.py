"""Objects of requests, read strictly, with what is wrong told in one line."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from .errors import BadRequestError

__all__ = ["Strict", "read_fields", "read_object"]

_TYPES = frozenset(["str", "int", "float", "bool"])  # as pydantic names the members of a union


class Strict(BaseModel):
    """What all objects of requests have: no names but the known ones, and no text for a number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _knows_names(cls, data: Any) -> Any:
        """Stop at the first unknown name; pydantic would tell of each of a million."""
        for name in data if isinstance(data, dict) else ():
            if name not in cls.model_fields:
                nearest = difflib.get_close_matches(str(name)[:100], cls.model_fields, n=1)
                hint = f" Did you mean {nearest[0]}?" if nearest else ""
                known = ", ".join(cls.model_fields)
                raise BadRequestError(f"{reprlib.repr(name)} is unknown.{hint} Known are: {known}.")
        return data


_Model = TypeVar("_Model", bound=BaseModel)


def read_object(model: type[_Model], data: object) -> _Model:
    """``data``, as JSON was parsed, as an object of ``model``.

    Raises:
        BadRequestError: it is none; the message names the place, what is allowed there and what was given.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise BadRequestError(_in_one_line(error)) from None


def read_fields(model: type[_Model], fields: Mapping[str, Any]) -> _Model:
    """Fields of a form, all of whose values are texts or such mappings, as an object of ``model``.

    Raises:
        BadRequestError: they are none.
    """
    try:
        return model.model_validate(fields, strict=False)
    except ValidationError as error:
        raise BadRequestError(_in_one_line(error)) from None


def _in_one_line(error: ValidationError) -> str:
    """The first thing that is wrong. Of a place that takes one of several, what each of them demands."""
    problems = error.errors(include_url=False, include_context=False)
    first = _place(problems[0]["loc"])
    inner = max(
        (_place(one["loc"]) for one in problems if _place(one["loc"])[: len(first)] == first), key=len
    )
    about = [one for one in problems if _place(one["loc"]) == inner]
    name = ".".join(inner) or "the body"
    if about[0]["type"] == "missing":
        return f"{name} is missing."
    demands = " or ".join(dict.fromkeys(_demand(one["msg"]) for one in about))
    return f"{name} must {demands}; it is {reprlib.repr(about[0]['input'])}."


def _place(location: tuple[int | str, ...]) -> tuple[str, ...]:
    """Where it is in what was given: without the members of unions, which pydantic counts in."""
    return tuple(
        str(part)
        for part in location
        if isinstance(part, int) or (part.isidentifier() and part.islower() and part not in _TYPES)
    )


def _demand(message: str) -> str:
    """pydantic's message, in the words of JSON."""
    message = re.sub(r"^\w+ should ", "", message)
    return re.sub(r"a valid dictionary.*", "an object", message).replace("a valid list", "a list")
