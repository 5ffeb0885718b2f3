"""``promptgen train``: fine-tune a checkpoint on your own images and captions."""

from __future__ import annotations

import shlex
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .reporting import STOPPED, UsageError, configure_logging, reported_errors, say
from .stopping import stop_on_signals

if TYPE_CHECKING:
    from ..training.config import TrainConfig
    from ..training.preparing import PreparedRun
    from ..training.run import RunResult

_FIRST = "Stopping after this step; a checkpoint is saved. Ctrl-C again stops at once."


def train(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG",
            help="A YAML or JSON file. Those of Florence-2ner run as they are.",
            show_default=False,
        ),
    ],
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Instead of what the file says, such as --set learning_rate=1e-5. May be given again.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on from the newest checkpoint of this run; begin where there is none."
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Look at configuration, data and checkpoint; train nothing.")
    ] = False,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU even if there is a GPU.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no closing lines; errors stay.")
    ] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose", "-v", count=True, show_default=False, help="Log what is done; -vv logs more."
        ),
    ] = 0,
) -> None:
    """Fine-tune a Florence-2 checkpoint on your own images and captions, wholly or with LoRA.

    A configuration needs a model, a name, and folders with data:

        model_name: Florence-2-base-PromptGen-v2.0
        run_name: my-style
        dataset_config: {DETAILED_CAPTION: [pictures/my-style]}

    The run's folder, checkpoints/my-style, gets checkpoints that caption with --model, metrics.jsonl, and at
    the end final/. Ctrl-C saves; --resume goes on as if nothing had been, also after a power cut. On several
    GPUs: accelerate launch -m promptgen.cli train CONFIG. Needs: pip install 'promptgen-tagger[train]'.

    Exit status: 0 trained, 1 something failed, 2 the configuration will not do, 130 stopped with Ctrl-C.
    """
    configure_logging(verbose)
    with reported_errors(verbose):
        found = _read(config, override or [], quiet=quiet)
        run = _prepare(found, resume=resume, cpu=cpu, offline=offline, quiet=quiet)
        if check:
            if not quiet:
                say("Everything is in order.")
            return
        from ..training.run import train as train_run

        stop = threading.Event()
        with stop_on_signals(stop, _FIRST):
            result = train_run(run, stop)
        if run.accelerator.is_main_process and not quiet:
            _tell(result, config)
        if not result.finished:
            raise typer.Exit(STOPPED)


def _read(path: Path, overrides: list[str], *, quiet: bool) -> TrainConfig:
    from ..training.config_files import read_config
    from ..training.errors import ConfigError

    given = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {text}: write KEY=VALUE, such as learning_rate=1e-5.")
        given[key.strip()] = value
    try:
        return read_config(path.expanduser(), given, lambda note: None if quiet else say(f"note: {note}"))
    except ConfigError as error:
        raise UsageError(str(error)) from error


def _prepare(config: TrainConfig, *, resume: bool, cpu: bool, offline: bool, quiet: bool) -> PreparedRun:
    try:
        import accelerate  # noqa: F401
        import pytorch_optimizer  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            f"training needs the library {error.name!r}, which is not installed. Do: "
            f"{shlex.quote(sys.executable)} -m pip install 'promptgen-tagger[train]'"
        ) from error
    from ..training.preparing import RunSettings, prepare_run

    return prepare_run(config, RunSettings(resume=resume, cpu=cpu, offline=offline, quiet=quiet), say)


def _tell(result: RunResult, config: Path) -> None:
    seconds = max(result.seconds, 1e-9)
    memory = f", {result.peak_bytes / 2**30:.1f} GiB of GPU memory" if result.peak_bytes else ""
    say(
        f"{result.step} of {result.steps} steps; {result.examples} examples in {seconds:.0f} s "
        f"({result.examples / seconds:.2f} per second{memory})."
    )
    if result.best is not None:
        say(f"Best on held-out images: {result.best} (loss {result.best_loss:.4f}).")
    if result.final is not None:
        say(f"The trained model: {result.final}")
    if not result.finished:
        say(f"Go on with: promptgen train {shlex.quote(str(config))} --resume")
