"""The options of ``promptgen serve`` about who may ask and how much."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ..serving.settings import DEFAULT_HOST, DEFAULT_PORT, Limits
from .reporting import UsageError
from .sizes import parse_size

if TYPE_CHECKING:
    from ..serving.settings import ServerSettings

_ADDRESS = "Address and access"
_LIMITS = "Limits"

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ServerFlags:
    """What was given for them."""

    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address or name to listen on; 0.0.0.0 is every IPv4 address of this machine.",
            rich_help_panel=_ADDRESS,
        ),
    ] = DEFAULT_HOST
    port: Annotated[
        int,
        typer.Option(metavar="PORT", min=0, max=65535, help="0: any that is free.", rich_help_panel=_ADDRESS),
    ] = DEFAULT_PORT
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            envvar="PROMPTGEN_API_KEY",
            help="Clients must send it (Authorization: Bearer KEY, or X-API-Key: KEY). May be given again; "
            "any of them opens. In the environment it is not seen by other users of this machine.",
            rich_help_panel=_ADDRESS,
            show_default=False,
        ),
    ] = None
    allow_no_key: Annotated[
        bool,
        typer.Option(
            "--allow-no-key",
            help="Listen without a key even where other machines can reach it.",
            rich_help_panel=_ADDRESS,
        ),
    ] = False
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...",
            help="Names by which clients call this server, besides its addresses, localhost and the "
            "machine's name. Needed only without a key.",
            rich_help_panel=_ADDRESS,
            show_default=False,
        ),
    ] = None
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN,...",
            help="Web pages of these origins, such as https://example.com:8080, may use the server from "
            "their visitors' browsers; * is all. Default: only the server's own page.",
            rich_help_panel=_ADDRESS,
            show_default=False,
        ),
    ] = None
    allow_urls: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST,...",
            help="Requests may name pictures by URLs on these hosts, which the server then fetches; never "
            "from private addresses. Default: none.",
            rich_help_panel=_ADDRESS,
            show_default=False,
        ),
    ] = None
    max_body: Annotated[
        str, typer.Option(metavar="SIZE", help="The largest request.", rich_help_panel=_LIMITS)
    ] = f"{Limits.body_bytes >> 20}MB"
    max_pixels: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="The largest picture: width times height.", rich_help_panel=_LIMITS
        ),
    ] = Limits.pixels
    max_images: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="The most pictures of one request.", rich_help_panel=_LIMITS),
    ] = Limits.images
    max_queue: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="The most pictures that wait for an answer; more are turned away, to be sent again later.",
            rich_help_panel=_LIMITS,
        ),
    ] = Limits.queued
    request_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="What is not answered by then is given up.",
            rich_help_panel=_LIMITS,
        ),
    ] = Limits.seconds

    def settings(self) -> ServerSettings:
        """How to listen, and to whom.

        Raises:
            UsageError: a value is not possible.
        """
        from ..serving.settings import ServerSettings

        if not 0 < self.request_timeout < float("inf"):
            raise UsageError(f"--request-timeout is {self.request_timeout:g}; it takes a number above 0.")
        body_bytes = parse_size("--max-body", self.max_body)
        limits = Limits(
            body_bytes=body_bytes,
            held_bytes=max(Limits.held_bytes, 2 * body_bytes),
            pixels=self.max_pixels,
            images=self.max_images,
            queued=self.max_queue,
            seconds=self.request_timeout,
        )
        return ServerSettings(
            host=self.host,
            port=self.port,
            api_keys=_checked_keys(self.api_key or ()),
            cors_origins=_checked_origins(_split(self.cors)),
            hosts=_split(self.allow_host),
            url_hosts=_checked_url_hosts(_split(self.allow_urls)),
            limits=limits,
        )


def _split(values: Sequence[str] | None) -> tuple[str, ...]:
    parts = [part.strip() for value in values or () for part in value.split(",")]
    return tuple(part for part in parts if part)


def _checked_keys(keys: Sequence[str]) -> tuple[str, ...]:
    for key in keys:
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise UsageError("An --api-key takes letters, digits and signs of ASCII, without spaces.")
    return tuple(keys)


def _checked_origins(origins: Sequence[str]) -> tuple[str, ...]:
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin.rstrip("/")):
            raise UsageError(f"--cors is {origin!r}; it takes an origin such as https://example.com, or *.")
    return tuple(origins)


def _checked_url_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    from ..serving.url_hosts import UrlHost

    for host in hosts:
        try:
            UrlHost.of(host)
        except ValueError as error:
            raise UsageError(f"--allow-urls: {error}") from error
    return hosts
