"""The description of the server for people, at ``/docs``: plain HTML, with nobody's scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["router"]

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_RANGES = {
    "minimum": "at least {}", "exclusiveMinimum": "above {}", "maximum": "at most {}",
    "minItems": "at least {} of them", "maxItems": "at most {} of them", "maxLength": "at most {} characters",
}  # fmt: skip


def router(app: FastAPI) -> APIRouter:
    """``/docs``, and ``/redoc``, which leads there."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    async def docs() -> Response:
        return Response(_page(app.openapi()), media_type="text/html", headers=_HEADERS)

    @routes.get("/redoc")
    async def redoc() -> Response:
        return RedirectResponse("docs")

    return routes


def _page(described: Mapping[str, Any]) -> str:
    info = described["info"]
    title = escape(f"{info['title']} {info['version']}")
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<link rel="stylesheet" href="page/docs.css"></head><body><main><h1>{title}</h1>',
            f"<p>{escape(info['summary'])} For programs: <a href='openapi.json'>openapi.json</a>.</p>",
            *_operations(described["paths"]),
            "<h2>Objects</h2>",
            *(_object(name, schema) for name, schema in described["components"]["schemas"].items()),
            "</main></body></html>",
        ]
    )


def _operations(paths: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield f"<section><h2><code>{method.upper()} {escape(path)}</code></h2>"
            yield f"<p><strong>{escape(operation.get('summary', ''))}.</strong></p>"
            yield _prose(operation.get("description", ""))
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                yield f"<h3>Request: {escape(media_type)}</h3>"
                yield _content(content)
            for status, response in operation["responses"].items():
                yield f"<h3>{escape(status)}</h3>{_prose(response['description'])}"
                for content in response.get("content", {}).values():
                    yield _content(content)
            yield "</section>"


def _content(content: Mapping[str, Any]) -> str:
    schema = content["schema"]
    fields = _fields(schema) if "properties" in schema else f"<p>{_type(schema)}</p>"
    examples = [one["value"] for one in content.get("examples", {}).values()]
    if "example" in content:
        examples.append(content["example"])
    return fields + "".join(_example(example) for example in examples)


def _example(example: Any) -> str:
    text = example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)
    return f"<details><summary>Example</summary><pre>{escape(text)}</pre></details>"


def _object(name: str, schema: Mapping[str, Any]) -> str:
    heading = f'<section id="{escape(name)}"><h3>{escape(name)}</h3>'
    return heading + _prose(schema.get("description", "")) + _fields(schema) + "</section>"


def _fields(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code>{' (required)' if name in required else ''}</td>"
        f"<td>{_type(field)}{_default(field)}</td><td>{_prose(field.get('description', ''))}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<table><tr><th>Name</th><th>Type</th><th>Meaning</th></tr>{rows}</table>" if rows else ""


def _default(field: Mapping[str, Any]) -> str:
    default = field.get("default")
    return "" if default is None else f"; default <code>{escape(json.dumps(default))}</code>"


def _type(schema: Mapping[str, Any]) -> str:
    """What a place takes, in words."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(branch) for branch in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    kind = escape(schema.get("type", "anything"))
    if kind == "array":
        kind = f"list of {_type(schema.get('items', {}))}"
    ranges = [words.format(schema[name]) for name, words in _RANGES.items() if name in schema]
    return ", ".join([kind, *ranges])


def _prose(text: str) -> str:
    """Paragraphs, in which `code` and ``code`` is marked."""
    parts = escape(text).replace("``", "`").split("`")
    marked = "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
    return "".join(f"<p>{paragraph}</p>" for paragraph in marked.split("\n\n") if paragraph.strip())
