"""``promptgen train``: fine-tune a checkpoint on your own images and captions."""

from __future__ import annotations

import shlex
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .reporting import STOPPED, UsageError, configure_logging, reported_errors, say
from .stopping import stop_on_signals
from .verbosity import Verbose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..training.config import TrainConfig
    from ..training.data.examples import Example
    from ..training.preparing import PreparedRun
    from ..training.run import RunResult

_REFERENCE = Path(__file__).parent.parent / "training" / "configs" / "reference.yaml"
_FIRST = "Stopping after this step; a checkpoint is saved. Ctrl-C again stops at once."


def _print_keys(wanted: bool) -> None:
    if wanted:
        typer.echo(_REFERENCE.read_text(encoding="utf-8"), nl=False)
        raise typer.Exit()


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
    keys: Annotated[
        bool,
        typer.Option(
            "--keys",
            callback=_print_keys,
            is_eager=True,
            help="Print every key of configurations, with its default and what it means, and exit.",
        ),
    ] = False,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU even if there is a GPU.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no closing lines; errors stay.")
    ] = False,
    verbose: Verbose = 0,
) -> None:
    """Fine-tune a Florence-2 checkpoint on your own images and captions, wholly or with LoRA.

    A configuration, say my-style.yaml, needs a model and data, such as a folder of pictures with caption
    files beside them, which promptgen folder makes and you correct:

        model_name: Florence-2-base-PromptGen-v2.0
        dataset_config: {DETAILED_CAPTION: [my-pictures]}

    The run's folder, checkpoints/my-style, gets checkpoints that caption with --model, metrics.jsonl, and at
    the end final/; promptgen evaluate checkpoints/my-style shows what has changed. Ctrl-C saves; --resume
    goes on as if nothing had been, also after a power cut. On several GPUs: accelerate launch -m
    promptgen.cli train CONFIG. Needs: pip install 'promptgen-tagger[train]'.

    Exit status: 0 trained, 1 something failed, 2 the configuration will not do, 130 stopped with Ctrl-C.
    """
    configure_logging(verbose)
    with reported_errors(verbose):
        found = _read(config, override or [], quiet=quiet)
        run = _prepare(found, resume=resume, cpu=cpu, offline=offline, quiet=quiet)
        told = run.accelerator.is_main_process and not quiet
        if told:
            say(_plan(run))
        if check:
            if told:
                say("Everything is in order.")
            return
        from ..training.run import train as train_run

        stop = threading.Event()
        with stop_on_signals(stop, _FIRST):
            result = train_run(run, stop)
        if told:
            _tell(result, run, config)
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


def _plan(run: PreparedRun) -> str:
    """What is about to happen, in numbers."""
    batches = run.config.batches
    window = batches.train_batch_size * batches.gradient_accumulation_steps * run.accelerator.num_processes
    held_out = _amount(run.data.evaluation) if run.data.evaluation else "nothing"
    return (
        f"Training on {_amount(run.data.train)}; held out: {held_out}. "
        f"{run.timing.steps:,} steps of {window}, to {run.folder}"
    )


def _amount(examples: Sequence[Example]) -> str:
    images = len({example.image.name for example in examples})
    return f"{len(examples):,} answers about {images:,} image{'' if images == 1 else 's'}"


def _tell(result: RunResult, run: PreparedRun, config: Path) -> None:
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
        say(f"Caption with it: {_use(run, result.final)}")
        if run.data.evaluation:
            say(f"See what has changed: promptgen evaluate {shlex.quote(str(result.folder))}")
    if not result.finished:
        say(f"Go on with: promptgen train {shlex.quote(str(config))} --resume")


def _use(run: PreparedRun, final: Path) -> str:
    """The command that asks the trained model what it was trained on most."""
    counts = Counter(example.instruction for example in run.data.train)
    model = ["--model", str(final)]
    if run.config.model.lora is not None:
        model = ["--model", run.config.checkpoint.model_name, "--lora", str(final)]
    command = ["promptgen", "caption", "IMAGE", *model, "--instruction", counts.most_common(1)[0][0]]
    return shlex.join(command)
