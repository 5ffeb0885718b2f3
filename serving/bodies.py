"""JSON as it comes in and goes out."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from starlette.responses import JSONResponse

from .errors import BadRequestError

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["Utf8JSONResponse", "in_turn", "parse_json", "read_json"]

_Result = TypeVar("_Result")

_TURNS = ThreadPoolExecutor(1, "promptgen-serving-parse")

_AT_ONCE_BYTES = 64 << 10  # what is parsed before anybody could notice; more goes to a thread
_MOST_PARTS = 200_000  # of the values in a body; megabytes of them would take gigabytes, and seconds
_COUNTED_AT_ONCE = 4 << 20  # bytes: counting holds the interpreter's lock
_LONGEST_INTEGER = 1000  # digits
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
    body = bytearray()  # which grows where it is, unlike what would be joined of parts, on the event loop
    async for part in request.stream():
        body += part
    if len(body) <= _AT_ONCE_BYTES:
        return parse_json(body)
    return await in_turn(parse_json, body)


async def in_turn(work: Callable[..., _Result], *arguments: object) -> _Result:
    """The result of ``work``, which runs in a thread, one at a time.

    It may keep the event loop from running for a tenth of a second, and several at once for as many.
    """
    return await asyncio.get_running_loop().run_in_executor(_TURNS, work, *arguments)


def parse_json(body: bytes | bytearray) -> Any:
    """``body`` as JSON in the strict sense: numbers are finite, and text can be written as UTF-8.

    Raises:
        BadRequestError: it is not; the message says where.
    """
    if not body or body.isspace():
        raise BadRequestError("The body is empty; it takes JSON.")
    _check_parts(body)
    try:
        text = body.decode(json.detect_encoding(body))
        value = json.loads(text, parse_constant=_refuse_number, parse_float=_finite, parse_int=_integer)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise BadRequestError("The body is JSON that is nested too deeply.") from error
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise BadRequestError(
            f"The body has text that is no Unicode: {error.reason}. Send it as UTF-8, not compressed."
        ) from error
    except ValueError as error:
        raise BadRequestError(f"The body is not valid JSON: {error}.") from error
    return value


def _check_parts(body: bytes | bytearray) -> None:
    """Raises BadRequestError if there are more values than anybody needs, before they are made."""
    if len(body) <= _MOST_PARTS:
        return
    starts = range(0, len(body), _COUNTED_AT_ONCE)
    parts = sum(body.count(mark, start, start + _COUNTED_AT_ONCE) for start in starts for mark in b",[{")
    if parts > _MOST_PARTS:
        raise BadRequestError(
            f"The body has about {parts} commas and brackets; {_MOST_PARTS} is the most. Pictures go into it"
            " as base64, which has none."
        )


def _integer(number: str) -> int:
    if len(number) > _LONGEST_INTEGER:
        raise ValueError(f"a number has {len(number)} digits")
    return int(number)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        _refuse_number(number[:20])
    return value


def _refuse_number(number: str) -> NoReturn:
    raise ValueError(f"{number} is no number that JSON has")
