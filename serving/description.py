"""``/openapi.json``: what the routes take and give, exactly, with this server's limits and examples."""

from __future__ import annotations

import http
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from .answers import ErrorAnswer, OpenAIErrorAnswer, UnreadableAnswer
from .chat_schema import ChatBody
from .door import is_open
from .errors import (
    ForbiddenError,
    KeyRefusedError,
    ServingError,
    TooManyConnectionsError,
    UnreadableImagesError,
)
from .failures import failure_body
from .operations import Operation, operations
from .options import AnswerOptions
from .schema import CaptionsRequest

if TYPE_CHECKING:
    from fastapi import FastAPI

    from .settings import Limits, ServerSettings

__all__ = ["describe"]

_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_REFERENCE = "#/components/schemas/{model}"


def describe(app: FastAPI, settings: ServerSettings, model: str) -> None:
    """Have ``app`` describe itself, when it is first asked to.

    Args:
        model: the name of the server's first.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _Description(settings, operations(model)).of(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


class _Description:
    """Puts together what FastAPI knows of the routes, and what :mod:`.operations` knows of their bodies."""

    def __init__(self, settings: ServerSettings, known: dict[tuple[str, str], Operation]) -> None:
        self._settings = settings
        self._known = known
        bodies = [one.body for one in known.values() if one.body is not None]
        answers = [one.answer for one in known.values() if one.answer is not None]
        errors = [ErrorAnswer, OpenAIErrorAnswer, UnreadableAnswer]
        self._schemas, self._components = _schemas(bodies, [*answers, *errors])
        _set_limits(self._components, settings.limits)

    def of(self, app: FastAPI) -> dict[str, Any]:
        """The description of ``app``."""
        found = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes,
            openapi_version="3.1.0",
        )  # fmt: skip
        for path, methods in found["paths"].items():
            for method, described in methods.items():
                self._complete(path, described, self._known[path, method])
        order = [path for path, _ in self._known]  # as people should see them
        found["paths"] = dict(sorted(found["paths"].items(), key=lambda item: order.index(item[0])))
        found["components"] = {"schemas": self._components}
        if self._settings.api_keys:
            found["components"]["securitySchemes"] = _KEYS
        return found

    def _complete(self, path: str, described: dict[str, Any], operation: Operation) -> None:
        errors: list[type[ServingError]] = [ForbiddenError, TooManyConnectionsError, *operation.errors]
        if path == "/health":
            errors = [TooManyConnectionsError]  # answered before anybody asks who it is
        if self._settings.api_keys and not is_open(path):
            described["security"] = [{name: []} for name in _KEYS]
            errors.append(KeyRefusedError)
        if operation.examples is not None:
            content = described.get("requestBody", {}).get("content", {})
            described["requestBody"] = {"required": True, "content": self._request(operation, content)}
        content = described["responses"]["200"].get("content", {})
        described["responses"] = {
            "200": {"description": "The answer.", "content": self._answer(operation, content)},
            **{str(status): self._failures(path, status, errors) for status in _statuses(errors)},
        }
        if path == "/ready":
            described["responses"]["503"]["content"]["application/json"]["schema"] = {
                "anyOf": [self._schemas[operation.answer], self._schemas[ErrorAnswer]]
            }

    def _request(self, operation: Operation, content: Mapping[str, Any]) -> dict[str, Any]:
        """Its body by media type; ``content`` is what the route says of it."""
        if operation.body is None:
            schema = content["application/json"]["schema"]
            _set_options_limits(schema["properties"], self._settings.limits)
        else:
            schema = self._schemas[operation.body]
        examples = {name: {"value": value} for name, value in (operation.examples or {}).items()}
        body = {"application/json": {"schema": schema, "examples": examples}}
        if operation.is_form:
            body["multipart/form-data"] = {
                "schema": _form(self._components, self._settings.limits),
                "encoding": {"images": {"contentType": "image/*"}, "image": {"contentType": "image/*"}},
            }
        return body

    def _answer(self, operation: Operation, content: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer by media type; ``content`` is what the route says of it."""
        kind = operation.media_type
        if operation.answer is None:
            return {**content, kind: {**content[kind], "example": operation.example}}
        return {kind: {"schema": self._schemas[operation.answer], "example": operation.example}}

    def _failures(self, path: str, status: int, errors: Iterable[type[ServingError]]) -> dict[str, Any]:
        """All that end with ``status``."""
        errors = [error for error in errors if error.status == status]
        openai = path.startswith(("/v1/chat", "/v1/models"))
        answer: type = OpenAIErrorAnswer if openai else ErrorAnswer
        more = {}
        if UnreadableImagesError in errors and path == "/v1/captions":
            answer = UnreadableAnswer
            more = {"images": [{"image": "notes.txt", "error": "a text file, not an image"}]}
        examples = {
            error.code: {"value": failure_body(path, status, _summary(error), error.code) | more}
            for error in errors
        }
        response: dict[str, Any] = {
            "description": " ".join(f"`{error.code}`: {_summary(error)}" for error in errors),
            "content": {"application/json": {"schema": self._schemas[answer], "examples": examples}},
        }
        if status in (http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE):
            seconds = {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds to wait."}
            response["headers"] = {"Retry-After": seconds}
        return response


def _schemas(bodies: Iterable[Any], answers: Iterable[Any]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The schema of each type, and the components that they refer to."""
    modes: list[tuple[Any, JsonSchemaMode]] = [
        *((one, "validation") for one in bodies),
        *((one, "serialization") for one in answers),
    ]
    inputs = [(number, mode, TypeAdapter(one)) for number, (one, mode) in enumerate(modes)]
    found, common = TypeAdapter.json_schemas(inputs, ref_template=_REFERENCE)
    schemas = {modes[number][0]: schema for (number, _), schema in found.items()}
    return schemas, common["$defs"]


def _set_limits(components: dict[str, Any], limits: Limits) -> None:
    """What this server allows, where the models know only what is possible."""
    images = components[CaptionsRequest.__name__]["properties"]["images"]
    _unless_null(images)["maxItems"] = limits.images
    for model in (AnswerOptions, ChatBody):
        _set_options_limits(components[model.__name__]["properties"], limits)


def _set_options_limits(options: dict[str, Any], limits: Limits) -> None:
    _unless_null(options["num_beams"])["maximum"] = limits.beams
    _unless_null(options["max_new_tokens"])["maximum"] = limits.new_tokens
    _unless_null(options["min_new_tokens"])["maximum"] = limits.new_tokens
    _unless_null(options["text_input"])["maxLength"] = limits.text


def _unless_null(schema: dict[str, Any]) -> dict[str, Any]:
    """What a property that may be null is otherwise."""
    found: dict[str, Any] = schema["anyOf"][0]
    return found


def _form(components: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """The fields of a form: files, and each option by its name."""
    file = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    options = components[AnswerOptions.__name__]["properties"]
    asked = components[CaptionsRequest.__name__]["properties"]
    written = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": _REFERENCE.format(model=AnswerOptions.__name__)},
        "description": "The options as one JSON object. Each may be a field of its own as well.",
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "anyOf": [{"required": ["images"]}, {"required": ["image"]}],
        "properties": {
            "images": {
                "type": "array", "items": file, "minItems": 1, "maxItems": limits.images,
                "description": "The files of the pictures.",
            },
            "image": {**file, "description": "The same for one; it comes first."},
            **{name: _or_empty(asked[name]) for name in ("model", "instructions", "instruction", "timeout")},
            "options": written,
            **{name: _or_empty(option) for name, option in options.items()},
        },
    }  # fmt: skip


def _or_empty(schema: dict[str, Any]) -> dict[str, Any]:
    """A field of a form, which cannot be null, but an empty text, which does not count."""
    return {**schema, "anyOf": [*schema["anyOf"][:-1], {"const": ""}]}


def _statuses(errors: Iterable[type[ServingError]]) -> list[int]:
    return sorted({error.status for error in errors})


def _summary(error: type[ServingError]) -> str:
    return (error.__doc__ or "").strip().splitlines()[0]
