"""JSON as it comes in and goes out."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from starlette.responses import JSONResponse

from .errors import BadRequestError

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["Utf8JSONResponse", "read_json"]

_AT_ONCE_BYTES = 64 << 10  # what is parsed before anybody could notice; more goes to a thread
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # begins with what is fast to look for, in megabytes


class Utf8JSONResponse(JSONResponse):
    """JSON that names its charset, without which PowerShell 5.1 reads it as Latin-1."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        super().init_headers({"content-type": "application/json; charset=utf-8", **(headers or {})})

    def render(self, content: Any) -> bytes:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")  # half a surrogate pair, as JSON escapes it


async def read_json(request: Request) -> Any:
    """The request's body as JSON, whatever its Content-Type says.

    UTF-8 with or without a byte order mark, UTF-16 or UTF-32, all of which PowerShell sends.

    Raises:
        BadRequestError: it is something else.
        ServingError: the body is too large or comes too slowly; see :mod:`.guards`.
        ClientDisconnect: the client went before it had sent all.
    """
    body = await request.body()
    if len(body) <= _AT_ONCE_BYTES:
        return parse_json(body)
    return await asyncio.to_thread(parse_json, body)


def parse_json(body: bytes) -> Any:
    """``body`` as JSON in the strict sense: numbers are finite, and text can be written as UTF-8.

    Raises:
        BadRequestError: it is not; the message says where.
    """
    if not body.strip():
        raise BadRequestError("The body is empty; it takes JSON.")
    try:
        text = body.decode(json.detect_encoding(body))
        value = json.loads(text, parse_constant=_refuse_number, parse_float=_finite)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise BadRequestError("The body is JSON that is nested too deeply.") from error
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise BadRequestError(f"The body has text that is no Unicode: {error.reason}.") from error
    except ValueError as error:
        raise BadRequestError(f"The body is not valid JSON: {error}.") from error
    return value


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        _refuse_number(number[:20])
    return value


def _refuse_number(number: str) -> NoReturn:
    raise ValueError(f"{number} is no number that JSON has")
