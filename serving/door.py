"""Who may ask: those who have a key, and no web pages but our own."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from .errors import ForbiddenError, KeyRefusedError, ServingError
from .failures import serving_failure

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from .settings import ServerSettings

__all__ = ["DoorGuard", "is_open"]

# Without a key: what says nothing of anybody's pictures. The page asks its user for the key.
_OPEN_PATHS = ("/", "/health", "/ready", "/docs", "/redoc", "/openapi.json")
_OPEN_FOLDERS = ("/page/", "/docs/")

_SAME_ORIGIN = ("same-origin", "none")  # what browsers say of a page's own requests and of typed addresses


class DoorGuard:
    """Turns away who has no key, and web pages that use the server behind their visitors' backs.

    A page of another origin could post to a server on its visitor's machine, or, if its name is made to stand
    for that machine's address (DNS rebinding), even read the answers. So requests with the ``Origin`` of
    another page are refused unless the settings name it, and a server without a key answers only to names
    that nobody else can make their own: addresses, localhost, this machine's name and those of the settings.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._keys = [_digest(key.encode()) for key in settings.api_keys]
        self._origins = {origin.rstrip("/").casefold() for origin in settings.cors_origins}
        name = socket.gethostname().casefold()
        known = {"localhost", name, f"{name}.local", settings.host, *settings.hosts}
        self._hosts = {host.casefold().rstrip(".") for host in known}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(Headers(scope=scope), scope["method"], scope["path"])
            except ServingError as error:
                await serving_failure(scope["path"], error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, headers: Headers, method: str, path: str) -> None:
        """Raises a :class:`ServingError` if the request is to be turned away."""
        self._check_origin(headers, method)
        if not self._keys:
            self._check_host(headers)
        elif not is_open(path):
            self._check_key(headers)

    def _check_origin(self, headers: Headers, method: str) -> None:
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site")
        if site in _SAME_ORIGIN or "*" in self._origins:
            return
        if origin is None:  # no browser, or a link to us
            allowed = site is None or method in ("GET", "HEAD")
        elif site is None:  # a browser to which we are no secure place
            allowed = _netloc(origin) == headers.get("host", "").casefold()
        else:
            allowed = False
        if allowed or (origin or "").casefold() in self._origins:
            return
        raise ForbiddenError(
            f"This server takes no requests from web pages of {(origin or 'others')[:200]}. To allow them, "
            f"start it with --cors {(origin or 'ORIGIN')[:200]}."
        )

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host")
        if host is None:
            return
        name = _host_name(host)
        if name in self._hosts or name.endswith(".localhost") or _is_address(name):
            return
        raise ForbiddenError(
            f"This server does not go by the name {name[:200]!r}. To let it, start it with "
            f"--allow-host {name[:200]}, or with an --api-key."
        )

    def _check_key(self, headers: Headers) -> None:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key", "") or (bearer.strip() if scheme.casefold() == "bearer" else "")
        # Digests are of one length, and all are compared, so that the time taken tells nothing.
        digest = _digest(given.encode("latin-1"))
        if sum(hmac.compare_digest(digest, key) for key in self._keys):
            return
        wrong = "The API key is not one of this server's." if given else "This server asks for an API key."
        raise KeyRefusedError(
            f"{wrong} Send it in a header: 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
        )


def is_open(path: str) -> bool:
    """Whether ``path`` is answered without a key."""
    return path in _OPEN_PATHS or path.startswith(_OPEN_FOLDERS)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _netloc(origin: str) -> str:
    """Host and port of ``scheme://host:port``; empty if it is none, such as ``null``."""
    try:
        return urlsplit(origin).netloc.casefold()
    except ValueError:
        return ""


def _host_name(host: str) -> str:
    """``name:port``, ``[address]:port`` or either without a port, without it."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.casefold().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
