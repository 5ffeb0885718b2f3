"""The options of commands that ask a server: which, and what is sent there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..captioning.captioner import DEFAULT_INSTRUCTION
from ..serving.settings import DEFAULT_HOST, DEFAULT_PORT
from .question_flags import QuestionFlags

if TYPE_CHECKING:
    from ..serving.client import RemoteCaptioner
    from .remote_workers import RemoteWorkers

_SERVER = "Server"
_NOT_SENT = ("quiet", "verbose")


@dataclass(frozen=True, kw_only=True)
class ServerFlags:
    """What was given for the options about the server."""

    url: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="PROMPTGEN_URL",
            help="Where 'promptgen serve' listens.",
            rich_help_panel=_SERVER,
        ),
    ] = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            envvar="PROMPTGEN_API_KEY",
            help="If the server wants one. In the environment others do not see it in the list of processes.",
            rich_help_panel=_SERVER,
            show_default=False,
        ),
    ] = None

    def remote(self) -> RemoteCaptioner:
        """The server.

        Raises:
            RemoteError: the URL or the key cannot be one.
        """
        from ..serving.client import RemoteCaptioner

        return RemoteCaptioner(self.url, api_key=self.api_key)


@dataclass(frozen=True, kw_only=True)
class AskedServerFlags(ServerFlags):
    """The same for commands that have images captioned there."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|HUB_ID",
            help="One of the server's models. Default: its first.",
            rich_help_panel=_SERVER,
            show_default=False,
        ),
    ] = None
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=1, help="The longest to wait for one image.", rich_help_panel=_SERVER
        ),
    ] = 300.0
    patience: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="How long to go on trying while the server is away, or busy with others.",
            rich_help_panel=_SERVER,
        ),
    ] = 120.0

    def remote(self) -> RemoteCaptioner:
        """See :meth:`ServerFlags.remote`."""
        from ..serving.client import RemoteCaptioner

        return RemoteCaptioner(self.url, model=self.model, api_key=self.api_key, timeout=self.timeout)

    def default_instruction(self) -> str:
        """What the server's model is asked where nobody says what.

        Raises:
            RemoteError: the server cannot be reached, or does not have the model.
        """
        with self.remote() as remote:
            return remote.default_instruction() or DEFAULT_INSTRUCTION

    def workers(
        self, remote: RemoteCaptioner, instructions: Sequence[str], options: Mapping[str, Any]
    ) -> RemoteWorkers:
        """Those who have pictures captioned by ``remote``."""
        from .remote_workers import RemoteWorkers

        return RemoteWorkers(remote, instructions, options, self.patience)


def options_to_send(flags: QuestionFlags) -> dict[str, Any]:
    """The options as a server takes them: what was given, by the names of the command line."""
    usual = QuestionFlags()
    given = {
        field.name: getattr(flags, field.name)
        for field in fields(QuestionFlags)
        if field.name not in _NOT_SENT and getattr(flags, field.name) != getattr(usual, field.name)
    }
    return {name: _as_json(name, value) for name, value in given.items()}


def _as_json(name: str, value: Any) -> Any:
    if isinstance(value, Enum):
        return {"true": True, "false": False}.get(value.value, value.value)
    if name == "exclude":
        return ",".join(value)
    if name == "replace":
        return ";".join(value)
    if name == "tile":
        return "auto" if value.strip().lower() == "auto" else int(value)
    return value
