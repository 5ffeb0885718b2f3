"""Pictures from elsewhere: only from hosts that the server was told of, and never from its own network.

A name is resolved once, every address it has is checked, and the connection is made to a checked address, so
that a name that means another address a moment later (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from .body_limits import HeldBytes
from .errors import BadRequestError, BodyTooLargeError, QueueFullError
from .settings import Limits
from .url_hosts import PORTS, UrlHost

if TYPE_CHECKING:
    import ssl

    import httpx

__all__ = ["RemotePictures", "is_public"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]  # host, port → its addresses

_REDIRECTS = 3
_AT_A_TIME = 8  # downloads, of all requests together
_SECONDS = 30.0  # for a picture, from its name to its last byte
_CONNECT_SECONDS = 5.0
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # NAT64 and IPv4-mapped addresses lie outside
_SPECIAL = tuple(  # that carry another address, or that older Pythons take for public
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20"))
)


class RemotePictures:
    """Fetches pictures by their addresses.

    Args:
        hosts: where pictures may be, see :class:`.UrlHost`.
        limits: how many bytes the pictures of one request, and of all, may have together.
        held: what is in memory of all requests.
        resolve: from a host's name to its addresses.
        reachable: networks that may be connected to although they are not public.
        seconds: that one picture may take.

    Raises:
        ValueError: one of ``hosts`` is something else.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        limits: Limits,
        held: HeldBytes,
        *,
        resolve: Resolver | None = None,
        reachable: Sequence[Network] = (),
        seconds: float = _SECONDS,
    ) -> None:
        self._hosts = tuple(map(UrlHost.of, hosts))
        self._limits = limits
        self._held = held
        self._resolve = resolve or _resolve
        self._reachable = tuple(reachable)
        self._seconds = seconds
        self._turns = asyncio.Semaphore(_AT_A_TIME)

    @asynccontextmanager
    async def fetch(self, urls: Sequence[str]) -> AsyncIterator[list[bytes]]:
        """The bodies of ``urls``, in order. They count as held for the length of the ``async with`` block.

        Raises:
            BadRequestError: one may not be fetched, or cannot.
            BodyTooLargeError: together they are too large.
            QueueFullError: there is no memory for them now.
        """
        if urls and not self._hosts:
            raise BadRequestError(
                "This server fetches no pictures from elsewhere. Send the image file itself, as a data URI:"
                " data:image/jpeg;base64,..."
            )
        room = _Room(self._limits, self._held)
        tasks = [asyncio.ensure_future(self._fetch(url, room)) for url in urls]
        try:
            yield await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # one has failed, or nobody waits any more
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            room.close()

    async def _fetch(self, url: str, room: _Room) -> bytes:
        async with self._turns:
            try:
                return await asyncio.wait_for(self._follow(url, room), self._seconds)
            except asyncio.TimeoutError as error:
                raise _failed(url, f"it took longer than {self._seconds:g} s") from error

    async def _follow(self, url: str, room: _Room) -> bytes:
        """The picture at ``url``, or at where that leads to, with the same checks at every step."""
        for _ in range(_REDIRECTS + 1):
            place = self._place(url)
            answer = await self._get(place, room)
            if isinstance(answer, bytes):
                return answer
            try:
                url = urljoin(url, answer)
            except ValueError as error:
                raise _failed(url, "it redirects to what is no address") from error
        raise _failed(url, f"more than {_REDIRECTS} redirects")

    def _place(self, url: str) -> _Place:
        """What ``url`` names, if it may be fetched at all."""
        import httpx

        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise BadRequestError(f"{_shown(url)} is no valid address: {error}.") from error
        if parsed.scheme not in PORTS or not parsed.host:
            raise BadRequestError(f"{_shown(url)}: pictures come as data URIs, or from http and https.")
        if parsed.userinfo:
            raise BadRequestError(f"{parsed.scheme}://…@{parsed.host}: leave the user name and password out.")
        place = _Place(parsed, parsed.raw_host.decode("ascii").lower().rstrip("."))
        if not any(host.has(place.url.scheme, place.host, place.port) for host in self._hosts):
            allowed = ", ".join(host.given for host in self._hosts)
            raise BadRequestError(
                f"{_shown(url)}: this server fetches pictures only from {allowed}. Send the image file"
                " itself, as a data URI."
            )
        return place

    async def _get(self, place: _Place, room: _Room) -> bytes | str:
        """The body of a place, or the address that it redirects to."""
        import httpx

        refused: Exception = OSError("no address")
        for address in await self._addresses(place):
            try:
                return await self._get_from(address, place, room)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                refused = error  # the host may have others
            except httpx.HTTPError as error:
                raise _failed(place.url, _reason(error)) from error
        raise _failed(place.url, f"its host cannot be reached ({_reason(refused)})") from refused

    async def _addresses(self, place: _Place) -> list[Address]:
        """All addresses of the host, if all may be connected to."""
        try:
            found = [ipaddress.ip_address(one) for one in await self._resolve(place.host, place.port)]
        except (OSError, UnicodeError) as error:
            raise _failed(place.url, "its host has no address") from error
        for address in found:
            if not is_public(address) and not any(address in network for network in self._reachable):
                raise BadRequestError(
                    f"{_shown(place.url)}: its host has an address that is not public, and such are never"
                    " connected to. Send the image file itself, as a data URI."
                )
        return found

    async def _get_from(self, address: Address, place: _Place, room: _Room) -> bytes | str:
        import httpx

        host = f"[{address}]" if address.version == 6 else str(address)
        headers = {
            "Host": place.url.netloc.decode("ascii"),
            "Accept": "image/*",
            "Accept-Encoding": "identity",  # nothing that could grow
            "User-Agent": "promptgen",
        }
        timeout = httpx.Timeout(self._seconds, connect=_CONNECT_SECONDS)
        # no proxies, cookies or passwords of this machine's user
        async with (
            httpx.AsyncClient(verify=self._certificates, trust_env=False, timeout=timeout) as client,
            client.stream(
                "GET",
                place.url.copy_with(host=host, fragment=None),
                headers=headers,
                extensions={"sni_hostname": place.host},  # whose certificate it must be
            ) as response,
        ):
            if response.has_redirect_location:
                return response.headers["Location"]
            if response.status_code != 200:
                raise _failed(place.url, f"the answer was {response.status_code}")
            return await _body(response, place.url, room)

    @cached_property
    def _certificates(self) -> ssl.SSLContext:
        """Those that httpx trusts, or those of $SSL_CERT_FILE or $SSL_CERT_DIR."""
        import httpx

        return httpx.create_ssl_context()


@dataclass(frozen=True)
class _Place:
    """Where a picture is."""

    url: httpx.URL
    host: str  # ASCII, lower case

    @property
    def port(self) -> int:
        return PORTS[self.url.scheme] if self.url.port is None else self.url.port


class _Room:
    """Memory for all pictures of a request."""

    def __init__(self, limits: Limits, held: HeldBytes) -> None:
        self._limits = limits
        self._held = held
        self._taken = 0

    def check(self, nbytes: int) -> None:
        """Raises BodyTooLargeError or QueueFullError if there is not room for so many more."""
        if self._taken + nbytes > self._limits.body_bytes:
            raise BodyTooLargeError(
                f"The pictures at the given addresses have more than {self._limits.body_bytes} bytes"
                " together, the most that this server takes."
            )
        if self._held.count + nbytes > self._limits.held_bytes:
            raise QueueFullError(
                "The requests that are waiting take all the memory that is meant for them.", retry_after=2
            )

    def take(self, nbytes: int) -> None:
        self.check(nbytes)
        self._taken += nbytes
        self._held.count += nbytes

    def close(self) -> None:
        """The pictures are not needed any more."""
        self._held.count -= self._taken
        self._taken = 0


async def _body(response: httpx.Response, url: httpx.URL, room: _Room) -> bytes:
    """The bytes of an answer, as they are on the wire, while there is room for them."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _failed(url, "the answer is compressed, which was not asked for")
    length = response.headers.get("Content-Length", "")
    if length.isdecimal():
        room.check(int(length))
    body = bytearray()
    async for part in response.aiter_raw():
        room.take(len(part))
        body += part
    return bytes(body)


def is_public(address: Address) -> bool:
    """Whether it is an address of the internet, and one that carries no other address in it."""
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return False
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address in network for network in _SPECIAL)


async def _resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system knows them, each once.

    Raises:
        OSError: it has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def _failed(url: object, reason: str) -> BadRequestError:
    return BadRequestError(f"The picture {_shown(url)} cannot be had: {reason}.")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _shown(url: object) -> str:
    """An address for a message: not all of a long one, and nothing that ends a line."""
    text = "".join(character if character.isprintable() else "?" for character in str(url))
    return text if len(text) <= 100 else text[:99] + "…"
