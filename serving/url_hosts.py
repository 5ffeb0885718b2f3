"""The hosts that a server may fetch pictures from."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["PORTS", "UrlHost"]

PORTS = {"http": 80, "https": 443}

_WRITTEN = re.compile(r"(?P<below>\*\.)?(?P<name>[\w.-]+)(:(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class UrlHost:
    """``example.com``, or ``*.example.com`` for all below it; with ``:PORT`` if it is not the usual one."""

    given: str
    name: str  # ASCII, lower case
    below: bool  # whether those are meant whose names end with a dot and this one
    port: int | None  # None: the scheme's own

    @classmethod
    def of(cls, given: str) -> UrlHost:
        """
        Raises:
            ValueError: it is written otherwise.
        """
        match = _WRITTEN.fullmatch(given.strip())
        try:
            if match is None or int(match["port"] or 1) not in range(1, 1 << 16):
                raise ValueError(given)
            name = match["name"].rstrip(".").encode("idna").decode("ascii").lower()
        except ValueError as error:
            raise ValueError(
                f"{given!r} is no host to fetch pictures from; write example.com, *.example.com or"
                " example.com:8080."
            ) from error
        return cls(given.strip(), name, bool(match["below"]), int(match["port"]) if match["port"] else None)

    def has(self, scheme: str, host: str, port: int) -> bool:
        """Whether it covers ``host``, whose name is in ASCII and lower case."""
        if port != (PORTS[scheme] if self.port is None else self.port):
            return False
        return host.endswith(f".{self.name}") if self.below else host == self.name
