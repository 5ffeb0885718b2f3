"""``promptgen folder``: pictures of any number to captions on disk, in runs that survive anything."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ..captioning.captioner import DEFAULT_INSTRUCTION
from ..captioning.runs.outputs import (
    Column,
    Existing,
    Form,
    Fsync,
    OutputError,
    OutputOptions,
    SameStem,
    columns_of,
)
from ..captioning.runs.stores import Place, as_place
from .answer_flags import AnswerFlags
from .cluster import workers_on_ray
from .completion import complete_instruction
from .devices import captioners_on
from .expand_flags import expand_flags
from .question_flags import ASK, OUTPUT
from .reporting import STOPPED, UsageError, configure_logging, reported_errors, say
from .run_end import tell_report
from .run_progress import RunTeller
from .stopping import stop_on_signals

if TYPE_CHECKING:
    from ..captioning import Captioner
    from ..captioning.runs.run import Plan, RunOptions
    from ..captioning.runs.workers import Workers

_INPUT = "Which images"
_RUN = "The run"


@expand_flags
def folder(
    *,
    path: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Folders, images, patterns such as 'photos/**/*.jpg', tar shards, tables (.jsonl, .csv, "
            ".parquet), lists of paths (.txt, @FILE), URLs of all these such as s3://bucket/photos, or - for "
            "paths on standard input.",
            show_default=False,
        ),
    ],
    recursive: Annotated[
        bool,
        typer.Option(
            "--recursive/--no-recursive", help="Look into the folders below.", rich_help_panel=_INPUT
        ),
    ] = True,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Of folders and shards, only what matches, such as '*.{jpg,png}' or 'cats/**'.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    column: Annotated[
        str, typer.Option(metavar="NAME", help="Where tables have their images.", rich_help_panel=_INPUT)
    ] = "image",
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Only part I, from 1, of N, for several machines. An image is always in the same part.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    instruction: Annotated[
        list[str],
        typer.Option(
            "--instruction",
            "-i",
            metavar="A[:NAME],B,...",
            help="What to ask, and the extension or column for its answers: "
            "'GENERATE_TAGS:tags,MORE_DETAILED_CAPTION:txt'.",
            autocompletion=complete_instruction,
            rich_help_panel=ASK,
        ),
    ] = [DEFAULT_INSTRUCTION],  # noqa: B006 - typer copies it
    flags: AnswerFlags,
    format: Annotated[
        list[Form] | None,
        typer.Option(
            help="Form of the captions, several by giving it again; those from coco on are of regions. "
            "Default: sidecar, or what the name of --output says.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Any,  # a Place; typer knows no unions
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            parser=as_place,
            help="The one file of a form that has one; for webdataset, labelme and yolo, the folder. URLs, "
            "too.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    output_dir: Annotated[
        Any,
        typer.Option(
            metavar="FOLDER",
            parser=as_place,
            help="Put everything there: caption files in folders like those of the images. URLs, too. "
            "Default: caption files lie beside their images.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    extension: Annotated[
        str, typer.Option(metavar="EXT", help="Extension of caption files.", rich_help_panel=OUTPUT)
    ] = "txt",
    existing: Annotated[
        Existing,
        typer.Option(
            metavar="HOW",
            help="What is done with captions that are there and not of these runs: skip (keep them), "
            "overwrite, append, prepend.",
            rich_help_panel=OUTPUT,
        ),
    ] = Existing.SKIP,
    separator: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Between captions that share a file; \\n is a line break.",
            rich_help_panel=OUTPUT,
        ),
    ] = ", ",
    redo_damaged: Annotated[
        bool,
        typer.Option(
            "--redo-damaged",
            help="Caption anew where a caption file is empty or damaged.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    same_stem: Annotated[
        SameStem,
        typer.Option(
            metavar="HOW",
            help="Images that ask for one caption file (a.jpg and a.png for a.txt; in shards, for one entry "
            "of kohya's file): error (do not start), full-name (a.jpg.txt), first (leave the others out).",
            rich_help_panel=OUTPUT,
        ),
    ] = SameStem.ERROR,
    details: Annotated[
        bool,
        typer.Option(
            "--details",
            help="In JSON lines, all that is known: tags, regions, raw answers.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    embed: Annotated[
        bool,
        typer.Option(
            "--embed",
            help="Write captions into the images (EXIF, XMP, IPTC), whose pixels stay untouched; into "
            "caption files, too, only with --format sidecar.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    fsync: Annotated[
        Fsync,
        typer.Option(
            metavar="WHEN",
            help="What waits for the disk itself, against power cuts: always, group (each second), never.",
            rich_help_panel=OUTPUT,
        ),
    ] = Fsync.GROUP,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart/--resume",
            help="Forget what earlier runs have done, but not their captions; or go on where they ended.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors",
            help="Try again what failed before, though it has not changed.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    max_errors: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Stop when more images than this have failed.", rich_help_panel=_RUN
        ),
    ] = None,
    journal: Annotated[
        Any,
        typer.Option(
            metavar="FILE",
            parser=as_place,
            help="Where the run keeps what it has done. Default: with the captions.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...|all",
            help="Caption on several devices, each with a process of its own: cuda:0,cuda:1; all is every "
            "GPU. Which images a device gets, and so their order in one file, is open.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Caption on the machines of a Ray cluster, which reach the images under the same paths; "
            "without --ray-address, the one of $RAY_ADDRESS, or one of this machine alone.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|auto",
            help="Which Ray cluster; auto is the one that this machine is part of. Implies --ray.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    ray_workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Workers on the cluster. Default: one per GPU, or one per four CPUs. Implies --ray.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be done, and write nothing.", rich_help_panel=_RUN),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="At the end, write a page (.html) with counts, lengths, frequent tags, errors and a "
            "sample of images with their captions.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    report_every: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.1, help="Without a terminal: time between lines.", rich_help_panel=_RUN
        ),
    ] = 30.0,
) -> None:
    """Caption folders of any size, and go on where the last run ended.

    Each caption is written as soon as it is there. The run may be stopped or killed at any time: started
    again, it loses and repeats nothing, and captions again only images that have changed, or all if the
    instructions or other settings have. Images that cannot be read are listed in a file of errors.

    Exit status: 0 every image has its captions, 1 something failed, 2 wrong usage, 130 stopped with Ctrl-C.
    """
    configure_logging(flags.verbose)
    with reported_errors(flags.verbose), _listed(path) as inputs:
        from ..captioning.runs.answerer import local_answerer
        from ..captioning.runs.run import FolderRun, RunOptions
        from ..captioning.runs.sources import SourceError

        try:
            options = RunOptions(
                inputs=tuple(inputs),
                output=OutputOptions(
                    columns=_columns(instruction, flags),
                    forms=tuple(format) if format else _forms_for(output, embed),
                    extension=extension,
                    output=_expanded(output),
                    output_dir=_expanded(output_dir),
                    embed=embed,
                    existing=existing,
                    separator=separator.replace("\\n", "\n"),
                    redo_damaged=redo_damaged,
                    same_stem=same_stem,
                    details=details,
                    part=_part(shard),
                    fsync=fsync,
                ),
                captions=flags.caption_options(),
                recursive=recursive,
                pattern=pattern,
                column=column,
                journal=_expanded(journal),
                restart=restart,
                retry_errors=retry_errors,
                report=_expanded(report),
                max_errors=max_errors,
            )
        except OutputError as error:
            raise UsageError(str(error)) from error
        if "-" in path:
            options = _kept_here(options, path)
        if not ray and ray_address is None and ray_workers is None:
            captioner, workers = _captioner(devices, flags, options, fetch=not dry_run)
        elif devices is None:
            captioner, workers = workers_on_ray(ray_address, ray_workers, flags, options, fetch=not dry_run)
        else:
            raise UsageError("--devices are of this machine, --ray is for others; give one of the two.")
        stop = threading.Event()
        first = f"Stopping{'' if dry_run else ' after the images at hand'}. Ctrl-C again stops at once."
        try:
            with stop_on_signals(stop, first), RunTeller(quiet=flags.quiet, seconds=report_every) as teller:
                answerer = local_answerer(captioner, options, workers)
                run = FolderRun(options, answerer, teller.progress, stop, teller.problem)
                if dry_run:
                    plan = run.plan()
                else:
                    ended = run.run()
        except SourceError as error:
            raise UsageError(str(error)) from error
        if dry_run:
            _tell_plan(plan)
        else:
            tell_report(ended, _expanded(report), quiet=flags.quiet)


def _captioner(
    devices: str | None, flags: AnswerFlags, options: RunOptions, *, fetch: bool
) -> tuple[Captioner, Workers | None]:
    """Who captions: a captioner in this process, or workers, with one that only tells of what they have.

    Raises:
        UsageError: a device or the number format is not to be had.
        ModelFilesError: the checkpoint is not.
    """
    if devices is None:
        return flags.captioner(fetch=fetch), None
    from ..captioning import Captioner
    from ..captioning.runs.workers import WorkerProcesses

    captioners = captioners_on(devices, flags)
    if fetch:
        flags.fetch()  # once, for all
    workers = WorkerProcesses(
        [captioner.device for captioner in captioners],
        flags.model,
        options.instructions,
        options.captions,
        dtype=flags.precision(),
        batch_size=flags.batch_size,
        loras=flags.loras(),
    )
    every_device = ", ".join(captioner.device for captioner in captioners)
    every_dtype = ", ".join(dict.fromkeys(captioner.dtype for captioner in captioners))
    return Captioner(flags.model, device=every_device, dtype=every_dtype, loras=flags.loras()), workers


def _columns(values: Sequence[str], flags: AnswerFlags) -> tuple[Column, ...]:
    """What ``--instruction`` asks, and what the answers are to be called.

    Raises:
        OutputError: two answers would be one.
        InstructionError: one is unknown, or does not go with ``--text-input``.
    """
    columns = columns_of(",".join(values))
    flags.find_instructions([column.instruction for column in columns])
    return columns


_FORMS = {
    ".jsonl": Form.JSONL,
    ".ndjson": Form.JSONL,
    ".csv": Form.CSV,
    ".parquet": Form.PARQUET,
    ".json": Form.KOHYA,
}


def _forms_for(output: Place | None, embed: bool) -> tuple[Form, ...]:
    """The form that the name of ``--output`` asks for; without one, caption files, or none with --embed."""
    if output is None:
        return () if embed else (Form.SIDECAR,)
    if output.name.lower() == "metadata.jsonl":
        return (Form.IMAGEFOLDER,)
    form = _FORMS.get(output.suffix.lower())
    if form is None:
        raise UsageError(f"--output {str(output)!r}: the name does not say which form; give --format.")
    return (form,)


def _part(shard: str | None) -> tuple[int, int] | None:
    """The index, from 1, and the count of ``--shard``."""
    if shard is None:
        return None
    numbers = re.fullmatch(r"(\d+)/(\d+)", shard.strip())
    if numbers is None or not 1 <= int(numbers[1]) <= int(numbers[2]):
        raise UsageError(
            f"--shard {shard!r} is no part of a whole; write 1/4, 2/4, 3/4 and 4/4 for four parts."
        )
    return int(numbers[1]), int(numbers[2])


Named = TypeVar("Named", Path, Place)


def _expanded(path: Named | None) -> Named | None:
    return None if path is None else path.expanduser()


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
