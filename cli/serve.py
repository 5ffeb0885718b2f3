"""``promptgen serve``: the engine for other programs, over HTTP."""

from __future__ import annotations

import importlib.util
import math
import sys
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated

import typer

from ..captioning.captioner import DEFAULT_MODEL
from .answer_flags import DEVICE, AnswerFlags, DeviceFlags
from .completion import complete_model
from .expand_flags import expand_flags
from .quantized_names import split_quantization
from .question_flags import OUTPUT
from .reporting import CommandError, UsageError, configure_logging, reported_errors, say
from .server_flags import ServerFlags
from .sizes import parse_size
from .stopping import stop_on_signals

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection, Iterator, Sequence

    from ..captioning import Captioner
    from ..models_cache import ModelManager
    from ..serving.settings import ServerSettings

_LIBRARIES = ("fastapi", "prometheus_client", "python_multipart", "uvicorn")  # of the extra "server"


@expand_flags
def serve(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|HUB_ID|FOLDER",
            help="Checkpoint by catalogue name (see 'promptgen models list'), Hub id or folder; NAME@4 or "
            "NAME@8 has weights of so many bits. May be given again; requests that name none are answered by "
            "the first.",
            autocompletion=complete_model,
            rich_help_panel=DEVICE,
            show_default=DEFAULT_MODEL,
        ),
    ] = None,
    device: DeviceFlags,
    idle_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="A model that nobody has asked for so long leaves the memory; the next request loads it "
            "again. 0: never.",
            rich_help_panel=DEVICE,
        ),
    ] = 300,
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Of several models, keep at most so much of weights in memory, such as 8GB.",
            rich_help_panel=DEVICE,
        ),
    ] = None,
    preload: Annotated[
        bool,
        typer.Option(
            "--preload", help="Load the models now, not at the first request.", rich_help_panel=DEVICE
        ),
    ] = False,
    server: ServerFlags,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Say nothing but errors and warnings.", rich_help_panel=OUTPUT),
    ] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose", "-v", count=True, show_default=False,
            help="Log each request; -vv logs more.", rich_help_panel=OUTPUT,
        ),
    ] = 0,
) -> None:  # fmt: skip
    """Answer requests of other programs over HTTP, until stopped.

    Three ways to ask: /v1/captions, OpenAI's /v1/chat/completions, and /process_image as florence2-visionapi
    has it. There is a page to try it at /, and a description of everything at /docs.

    Ctrl-C or SIGTERM: nothing new is accepted, what was accepted is answered, and the exit status is 0. A
    second one ends the server at once.
    """
    configure_logging(verbose)
    with reported_errors(verbose):
        settings = server.settings()
        budget = None if max_memory is None else parse_size("--max-memory", max_memory)
        if not 0 <= idle_timeout < math.inf:
            raise UsageError(f"--idle-timeout is {idle_timeout:g}; it takes seconds, or 0 for never.")
        _check_libraries()
        sockets = _sockets(settings, allow_no_key=server.allow_no_key)
        manager = _manager(budget, idle_timeout)
        from ..models_cache import family_of_model

        captioners = _captioners(model or [DEFAULT_MODEL], device, quiet=quiet)
        with _settled({family_of_model(captioner.model) for captioner in captioners}):
            if preload:
                _load(captioners, quiet=quiet)
            _serve(settings, captioners, manager, sockets, quiet=quiet)


def _check_libraries() -> None:
    for name in _LIBRARIES:
        if importlib.util.find_spec(name) is None:
            raise CommandError(
                f"The server needs the library {name!r}, which is not installed in {sys.prefix}. Install it "
                f"with: {sys.executable} -m pip install 'promptgen-tagger[server]'"
            )


def _sockets(settings: ServerSettings, *, allow_no_key: bool) -> list[socket.socket]:
    """Taken before anything is downloaded or loaded, so that it does not end at the last step."""
    from ..serving.listening import bind, is_local

    if not (settings.api_keys or allow_no_key or is_local(settings.host)):
        raise UsageError(
            f"Other machines can reach {settings.host}, and everybody there could use the server. Set a key "
            "with $PROMPTGEN_API_KEY or --api-key; or say --allow-no-key, if you trust them all."
        )
    return bind(settings.host, settings.port)


def _manager(budget: int | None, idle_timeout: float) -> ModelManager:
    from ..models_cache import shared_manager

    manager = shared_manager()
    manager.configure(budget_bytes=budget, idle_seconds=idle_timeout or None)
    return manager


def _captioners(models: Sequence[str], device: DeviceFlags, *, quiet: bool) -> list[Captioner]:
    """One per model, whose files are there, downloaded first if need be."""
    options = {field.name: getattr(device, field.name) for field in fields(device)}
    captioners = []
    for given in models:
        name, bits = split_quantization(given, device.quantization)
        captioners.append(
            AnswerFlags(model=name, quiet=quiet, **{**options, "quantization": bits}).captioner()
        )
    return captioners


@contextmanager
def _settled(families: Collection[str]) -> Iterator[None]:
    """Import what the first request would, and keep all of it out of the rounds of the garbage collector.

    Each of its full rounds looks at every object there is, which stops the server for up to a second.

    Args:
        families: of the models.
    """
    import gc

    importlib.import_module("..serving.run", __package__)
    for family in families:
        importlib.import_module(f"..{family}.model", __package__)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()  # libraries complain of what is left at the end of the process


def _load(captioners: Sequence[Captioner], *, quiet: bool) -> None:
    """Load all of them; the budget may let go of the first again."""
    for captioner in captioners:
        if not quiet:
            say(f"Loading {captioner.model}")
        with captioner.loaded():
            pass


def _serve(
    settings: ServerSettings,
    captioners: Sequence[Captioner],
    manager: ModelManager,
    sockets: Sequence[socket.socket],
    *,
    quiet: bool,
) -> None:
    from ..serving.listening import urls
    from ..serving.metrics import Metrics
    from ..serving.models import ServedModel, ServedModels
    from ..serving.run import run
    from ..serving.scheduler import Scheduler

    served = [ServedModel.of(captioner) for captioner in captioners]
    try:
        models = ServedModels(served)
    except ValueError as error:
        raise UsageError(str(error)) from error
    metrics = Metrics()
    scheduler = Scheduler(models, settings.limits, manager, metrics)

    def tell() -> None:
        if not quiet:
            say(f"Serving {', '.join(model.name for model in models)}. Ctrl-C ends it.")
            for url in urls(sockets):
                say(f"Listening on {url}")

    stop = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(stop_on_signals(stop, "Finishing what was accepted. Once more ends at once."))
        run(settings, scheduler, metrics, sockets, stop, tell)
