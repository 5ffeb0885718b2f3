"""What the commands on folders do, wherever the answers come from."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..captioning.runs.outputs import Column, OutputError, columns_of
from .folder_flags import FolderFlags, SourceFlags, expanded
from .question_flags import QuestionFlags
from .reporting import STOPPED, UsageError, configure_logging, reported_errors, say
from .run_end import tell_report
from .run_progress import RunTeller
from .stopping import stop_on_signals

if TYPE_CHECKING:
    from ..captioning.runs.asked_model import AskedModel
    from ..captioning.runs.run import Plan, RunOptions


def caption_folders(
    paths: Sequence[str],
    source: SourceFlags,
    instruction: Sequence[str] | None,
    flags: QuestionFlags,
    wanted: FolderFlags,
    model_for: Callable[[RunOptions], AskedModel],
    default: Callable[[], str],
) -> None:
    """Run, or say what a run would do.

    Args:
        model_for: whom to ask; called once the options are known to be sound.
        default: the instruction where there is none.

    Raises:
        typer.Exit: not every image has its captions, see :mod:`.reporting`.
    """
    configure_logging(flags.verbose)
    with reported_errors(flags.verbose), _listed(paths) as inputs:
        from ..captioning.runs.run import FolderRun
        from ..captioning.runs.sources import SourceError

        try:
            options = _run_options(inputs, source, instruction or [default()], flags, wanted)
        except OutputError as error:
            raise UsageError(str(error)) from error
        if "-" in paths:
            options = _kept_here(options, paths)
        model = model_for(options)
        stop = threading.Event()
        first = (
            f"Stopping{'' if wanted.dry_run else ' after the images at hand'}. Ctrl-C again stops at once."
        )
        try:
            with (
                stop_on_signals(stop, first),
                RunTeller(quiet=flags.quiet, seconds=wanted.report_every) as teller,
            ):
                run = FolderRun(options, model, teller.progress, stop, teller.problem)
                if wanted.dry_run:
                    plan = run.plan()
                else:
                    ended = run.run()
        except SourceError as error:
            raise UsageError(str(error)) from error
        if wanted.dry_run:
            _tell_plan(plan)
        else:
            tell_report(ended, expanded(wanted.report), quiet=flags.quiet)


def _run_options(
    inputs: Sequence[str],
    source: SourceFlags,
    instruction: Sequence[str],
    flags: QuestionFlags,
    wanted: FolderFlags,
) -> RunOptions:
    from ..captioning.runs.run import RunOptions

    return RunOptions(
        inputs=tuple(inputs),
        output=wanted.output_options(_columns(instruction, flags), source.part()),
        captions=flags.caption_options(),
        recursive=source.recursive,
        pattern=source.pattern,
        column=source.column,
        journal=expanded(wanted.journal),
        restart=wanted.restart,
        retry_errors=wanted.retry_errors,
        report=expanded(wanted.report),
        max_errors=wanted.max_errors,
    )


def _columns(values: Sequence[str], flags: QuestionFlags) -> tuple[Column, ...]:
    """What ``--instruction`` asks, and what the answers are to be called.

    Raises:
        OutputError: two answers would be one.
        InstructionError: one is unknown, or does not go with ``--text-input``.
    """
    columns = columns_of(",".join(values))
    flags.find_instructions([column.instruction for column in columns])
    return columns


@contextmanager
def _listed(paths: Sequence[str]) -> Iterator[list[str]]:
    """``paths`` with standard input, where ``-`` stands for it, in a file of paths."""
    if "-" not in paths:
        yield list(paths)
        return
    stdin = getattr(sys.stdin, "buffer", None)
    if stdin is None or paths.count("-") > 1:
        raise UsageError("'-' reads paths from standard input: once, and if that is open.")
    with tempfile.TemporaryDirectory(prefix="promptgen-") as folder:
        names = Path(folder) / "standard-input.lst"
        with open(names, "wb") as file:
            shutil.copyfileobj(stdin, file)
        yield [f"@{names}" if path == "-" else path for path in paths]


def _kept_here(options: RunOptions, paths: Sequence[str]) -> RunOptions:
    """With a journal and a file of errors that outlive this process, as the list of standard input does not:
    where neither is named, they lie as if ``-`` were the current folder.
    """
    from ..captioning.runs.places import errors_place, journal_place

    named = [os.curdir if path == "-" else path for path in paths]
    output = replace(options.output, errors=errors_place(named, options.output))
    return replace(options, output=output, journal=options.journal or journal_place(named, options.output))


def _tell_plan(plan: Plan) -> None:
    """What would be done; the result of ``--dry-run``, so on standard output.

    Raises:
        typer.Exit: it was stopped before that was known.
    """
    if plan.stopped:
        say("Stopped before all images were looked at. Nothing was written.")
        raise typer.Exit(STOPPED)
    counts = {
        "to caption": plan.to_caption,
        "to write again": plan.to_rewrite,
        "to fail: their caption files cannot be read": plan.to_fail,
        "done before": plan.done_before,
        "failed before": plan.failed_before,
        "have captions": plan.kept,
        "left out for another of the same name": plan.same_stem,
    }
    for what, count in counts.items():
        typer.echo(f"{count:>9} {what}")
    for place in plan.places:
        typer.echo(f"Captions: {place}")
    typer.echo(f"Errors: {plan.errors}")
    typer.echo(f"Journal: {plan.journal}")
