"""Which server the remote node talks to, and which key it gives.

A workflow may come from anybody and name any server. The key of the environment is the user's: it goes to the
server that is named beside it, or else to this computer, and nowhere else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..serving.client import RemoteCaptioner, is_this_computer

_URL = "PROMPTGEN_URL"
_KEY = "PROMPTGEN_API_KEY"


@dataclass(frozen=True)
class Server:
    """As the node names it."""

    url: str  # empty: that of the environment
    api_key: str  # empty: that of the environment, if this server may have it
    checkpoint: str  # empty: the server's first
    timeout: float  # seconds

    def connect(self) -> RemoteCaptioner:
        """A client of it. Nothing is sent yet.

        Raises:
            ValueError: nothing says which server.
            RemoteError: the URL or the key cannot be one.
        """
        key = self.api_key.strip() or (_environment(_KEY) if self.may_have_the_key() else "")
        model = self.checkpoint.strip()
        return RemoteCaptioner(self._url(), model=model or None, api_key=key or None, timeout=self.timeout)

    def may_have_the_key(self) -> bool:
        """Whether the key of the environment is for it.

        Raises:
            ValueError: nothing says which server.
            RemoteError: a URL cannot be one.
        """
        origin, own = _origin(self._url()), _environment(_URL)
        return origin == _origin(own) if own else is_this_computer(origin[1])

    def about_the_key(self) -> str:
        """For when the server refuses the key: where it came from, or why there was none."""
        if self.api_key.strip():
            return "It was given the key that is connected to 'api_key'."
        if not _environment(_KEY):
            return f"ComfyUI was started without {_KEY}."
        if self.may_have_the_key():
            return f"It was given the {_KEY} that ComfyUI was started with."
        own = _environment(_URL)
        only = RemoteCaptioner(own).shown_url if own else "servers on this computer"
        return (
            f"ComfyUI was started with {_KEY}, but keeps it for {only}. If this server is yours, start "
            f"ComfyUI with its address in {_URL}."
        )

    def _url(self) -> str:
        url = self.url.strip() or _environment(_URL)
        if not url:
            raise ValueError(
                f"The url is empty, and so is the environment variable {_URL}. Write where the caption "
                "server listens, such as http://127.0.0.1:54880."
            )
        return url


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port, as the library that connects reads them."""
    import httpx

    read = httpx.URL(RemoteCaptioner(url).url)
    return read.scheme, read.host, read.port  # None where it is the scheme's own


def _environment(name: str) -> str:
    return os.environ.get(name, "").strip()
