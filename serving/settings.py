"""What a server allows, as two frozen records that travel whole."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "Limits", "ServerSettings"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 54880  # that of florence2-visionapi, whose clients have it built in


@dataclass(frozen=True)
class Limits:
    """How much one request, and all of them together, may take.

    Raises:
        ValueError: a value is not above 0.
    """

    body_bytes: int = 64 << 20  # of one request
    held_bytes: int = 512 << 20  # of the bodies of all requests whose pictures have not been read yet
    pixels: int = 100_000_000  # of one picture
    images: int = 64  # of one request
    tiles: int = 64  # that one picture may be cut into
    answers: int = 256  # of the model about one picture: instructions times regions or tiles
    text: int = 20_000  # characters of a text input
    beams: int = 16
    new_tokens: int = 1024
    read_bytes: int = 1 << 30  # of all pictures in the checkpoint's size, read and not answered yet
    queued: int = 256  # pictures that were accepted and have no answer yet
    connections: int = 1000  # at a time
    seconds: float = 300.0  # from the end of a request's body to its answer
    body_seconds: float = 60.0  # for a request's body to arrive

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value!r}; it takes a number above 0.")


@dataclass(frozen=True)
class ServerSettings:
    """How a server listens, and to whom."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT  # 0: any that is free
    api_keys: tuple[str, ...] = ()  # any of them opens; none: open to all
    cors_origins: tuple[str, ...] = ()  # web pages of these origins may call; "*" is all
    # Names by which clients may call a server without a key, besides its own address (against DNS rebinding).
    hosts: tuple[str, ...] = ()
    url_hosts: tuple[str, ...] = ()  # remote pictures are fetched from these hosts; none: from nowhere
    limits: Limits = field(default_factory=Limits)
