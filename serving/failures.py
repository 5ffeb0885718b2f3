"""What clients are told when something goes wrong: one form for every route and every reason."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from .bodies import Utf8JSONResponse
from .errors import ServingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI

__all__ = ["failure_body", "failure_response", "handle_failures", "serving_failure"]

# Where the clients are OpenAI's, which read an object, and where they are not.
_OPENAI_PATH = "/v1/"
_OUR_PATHS = ("/v1/captions", "/v1/instructions")
_CODES = {404: "not_found", 405: "method_not_allowed", 422: "invalid_request", 500: "server_error"}
_CLIENT_WENT = 499  # nginx's number for it; nobody gets to see it but the log


def failure_response(
    path: str,
    status: int,
    message: str,
    code: str,
    *,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Utf8JSONResponse:
    """The answer to a request for ``path`` that failed.

    Args:
        more: further keys of the body.
    """
    body = {**failure_body(path, status, message, code), **(more or {})}
    return Utf8JSONResponse(body, status, headers=dict(headers or {}))


def failure_body(path: str, status: int, message: str, code: str) -> dict[str, Any]:
    """``detail`` and ``error`` say the same, since clients read either of them; ``code`` is for programs.

    Under OpenAI's paths, of which there are more than are served, ``error`` is what its clients read.
    """
    line = " ".join(message.split())
    error: Any = line
    if path.startswith(_OPENAI_PATH) and not path.startswith(_OUR_PATHS):
        error = {"message": line, "type": _openai_type(status), "param": None, "code": code}
    return {"detail": line, "error": error, "code": code}


def serving_failure(path: str, error: ServingError) -> Utf8JSONResponse:
    """The answer to a request that was refused or has failed with ``error``, which ends here."""
    # Its frames hold the pictures, and by way of the request the error itself: memory that nothing but a
    # full round of the garbage collector would find.
    error.__traceback__ = None
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    elif error.status in (429, 503):
        headers["Retry-After"] = "1"
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return failure_response(path, error.status, str(error), error.code, headers=headers)


def handle_failures(app: FastAPI) -> None:
    """Have every exception that reaches ``app`` answered in the one form."""

    @app.exception_handler(ServingError)
    async def of_ours(request: Request, error: ServingError) -> Response:
        return serving_failure(request.url.path, error)

    @app.exception_handler(HTTPException)
    async def of_starlette(request: Request, error: HTTPException) -> Response:
        code = _CODES.get(error.status_code, "http_error")
        message = str(error.detail)
        if error.status_code == HTTPStatus.NOT_FOUND:
            message = f"There is nothing at {request.url.path[:200]}; /docs lists what there is."
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "")
            message = f"{request.url.path} does not take {request.method}; it takes {allowed}."
        return failure_response(request.url.path, error.status_code, message, code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def of_fastapi(request: Request, error: RequestValidationError) -> Response:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5]]
        return failure_response(request.url.path, 422, "; ".join(problems), _CODES[422])

    @app.exception_handler(ClientDisconnect)
    async def of_nobody(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=_CLIENT_WENT)

    @app.exception_handler(Exception)
    async def of_defects(request: Request, error: Exception) -> Response:
        message = "The server has failed at this request; its log says more."
        return failure_response(request.url.path, 500, message, _CODES[500])


def _openai_type(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
