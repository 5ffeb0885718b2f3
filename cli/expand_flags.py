"""Dataclasses of options as parameters of commands, so that what several share is spelled once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints


def expand_flags(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` as typer wants it: each parameter that is a dataclass of options, such as
    :class:`AnswerFlags`, becomes one option per field of that class.
    """
    groups: dict[str, tuple[type, list[inspect.Parameter]]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        options = _options_of(kind) if isinstance(kind, type) and is_dataclass(kind) else [parameter]
        if options != [parameter]:
            groups[parameter.name] = (kind, options)
        parameters += options

    @functools.wraps(command)
    def expanded(**given: Any) -> None:
        made = {
            name: kind(**{option.name: given.pop(option.name) for option in options if option.name in given})
            for name, (kind, options) in groups.items()
        }
        command(**made, **given)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _options_of(kind: type) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(kind)
        if field.default is not MISSING
    ]
