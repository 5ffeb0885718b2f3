"""What can go wrong between a client and a server, as the client tells it: what happened, and what to do."""

from __future__ import annotations

import email.utils
import errno
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

__all__ = ["RemoteError", "connection_error", "foreign_error", "refusal"]

_SLOW = 408  # the body took too long to arrive
_TOO_LARGE = 413
_BUSY = 429
_GATEWAYS = (502, 503, 504)  # from a proxy: whoever is behind it does not answer now
_PICTURE = re.compile(r"image \d+: (.+)", re.DOTALL)
_MOST_SAID = 500  # characters of what a server says


class RemoteError(Exception):
    """The server did not do what was asked. The message names its URL, what it said, and what to do.

    Args:
        retryable: the same may succeed a little later: nobody answers, or the server is busy or starting.
        retry_after: seconds after which the server said to try again.
        status: of the server's answer; None without one.
        code: the server's own word for the reason, such as ``model_not_found``.
        said: what the server says, if it says something.
    """

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
        status: int | None = None,
        code: str | None = None,
        said: str | None = None,
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after = retry_after
        self.status = status
        self.code = code
        self.said = said

    @property
    def about_pictures(self) -> bool:
        """Whether the pictures of the request are what the server refused, and others may be welcome."""
        return self.of_picture is not None

    @property
    def of_picture(self) -> str | None:
        """What is wrong with a picture of the request, if that is why it was refused."""
        named = _PICTURE.match(self.said or "")
        if named is not None:  # it does not go with what is asked, such as a region beyond its edge
            return named[1]
        return self.said if self.status == _TOO_LARGE or self.code == "unreadable_image" else None


def connection_error(url: str, error: Exception, seconds: float) -> RemoteError:
    """Why there was no answer at all.

    Args:
        error: httpx's.
        seconds: for which an answer was waited for.
    """
    import httpx

    causes = list(_causes(error))
    if isinstance(error, httpx.InvalidURL):
        return RemoteError(f"{url} is no URL: {_said(error)}.")
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return RemoteError(
                f"The certificate of {url} is not trusted: {cause.verify_message}. If it is of an authority "
                "of your own, name that authority's certificate file in the environment variable "
                "SSL_CERT_FILE; if the address is not the one in the certificate, use that one."
            )
        if isinstance(cause, ssl.SSLError):
            return RemoteError(
                f"No secure connection to {url}: {_said(cause)}. If the server speaks plain HTTP, "
                "write http:// in place of https://."
            )
        if isinstance(cause, socket.gaierror):
            return RemoteError(
                f"The host of {url} is not known: {cause.strerror}. Check its name in the URL.",
                retryable=cause.errno == socket.EAI_AGAIN,
            )
    if isinstance(error, httpx.ConnectTimeout) or _has_errno(causes, errno.ETIMEDOUT):
        return RemoteError(
            f"{url} does not answer. Check the address, the firewall between here and there, and that the "
            "server was started with a --host that other machines reach.",
            retryable=True,
        )
    if isinstance(error, httpx.ConnectError):
        return RemoteError(
            f"Nobody can be reached at {url}: {_said(causes[-1])}. Check that 'promptgen serve' runs there, "
            "and that host and port are right.",
            retryable=True,
        )
    if isinstance(error, httpx.TimeoutException):
        return RemoteError(
            f"{url} gave no answer within {seconds:g} s. Send less at a time, or allow more time.",
            retryable=True,
        )
    return RemoteError(
        f"The connection to {url} broke before the answer was there: {_said(error)}. Check that the server "
        "runs still, and that the URL begins with https:// if the server wants it.",
        retryable=isinstance(error, httpx.TransportError),
    )


def refusal(url: str, response: httpx.Response) -> RemoteError:
    """Why the answer is no success."""
    status = response.status_code
    said, code = _reason(response)
    if said is None:
        if status == _TOO_LARGE:
            too_large = f"the server, or a proxy before it, takes no request that large (status {status})"
            return RemoteError(f"{url}: {too_large}.", status=status, said=too_large)
        if status in _GATEWAYS or status == _BUSY:
            return RemoteError(
                f"{url} answers {status} {response.reason_phrase}, as proxies do whose server is down or "
                "busy. Check that 'promptgen serve' runs behind it.",
                retryable=True, retry_after=_retry_after(response), status=status,
            )  # fmt: skip
        return foreign_error(url, response)
    advice = ""
    if status == 401:
        advice = " Give the server's key with --api-key, or in the environment variable PROMPTGEN_API_KEY."
    return RemoteError(
        f"{url} says: {said}{advice}",
        retryable=status in (_SLOW, _BUSY, 502, 503) or (status == 504 and code != "deadline"),
        retry_after=_retry_after(response),
        status=status,
        code=code,
        said=said,
    )


def foreign_error(url: str, response: httpx.Response) -> RemoteError:
    """For an answer that no server of ours gives."""
    kind = response.headers.get("content-type", "nothing that is known").partition(";")[0]
    if response.is_redirect:
        return RemoteError(
            f"{url} sends its callers on to {response.headers.get('location', 'elsewhere')[:_MOST_SAID]}. "
            "Give the server's own address.",
            status=response.status_code,
        )
    return RemoteError(
        f"What answers at {url} is no PromptGen server: it sent {kind} with status {response.status_code}. "
        "Check host, port and path of the URL.",
        status=response.status_code,
    )


def _reason(response: httpx.Response) -> tuple[str | None, str | None]:
    """What the server says of the error in one line, and its code; None if it does not say it as ours do."""
    try:
        body: Any = json.loads(response.content)
    except ValueError:
        return None, None
    if not (isinstance(body, dict) and isinstance(body.get("detail"), str) and "error" in body):
        return None, None
    code = body.get("code")
    return " ".join(body["detail"].split())[:_MOST_SAID], code if isinstance(code, str) else None


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds of ``Retry-After``, which is a number of them or a date."""
    given = response.headers.get("retry-after", "")
    try:
        seconds = float(given)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(given).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds < float("inf") else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, the first cause last."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _has_errno(causes: list[BaseException], number: int) -> bool:
    return any(isinstance(cause, OSError) and cause.errno == number for cause in causes)


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ssl.SSLError):
        known = os.strerror(error.errno)  # of Windows' own numbers it has none
        return (error.strerror if known.startswith("Unknown") and error.strerror else known).lower()
    return (str(error) or type(error).__name__).rstrip(".")
