"""What the commands do that caption images which were named one by one, wherever the answers come from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import typer

from ..captioning.captioner import DEFAULT_INSTRUCTION
from .caption_flags import CaptionFlags
from .choices import Format
from .image_arguments import expand_images
from .output_file import OutputFile
from .progress import progress_over
from .question_flags import QuestionFlags
from .reporting import (
    FAILED,
    UsageError,
    configure_logging,
    reported_errors,
    say,
    say_error,
    say_warning,
)
from .streams import is_terminal
from .writers import JsonLinesWriter, JsonWriter, Record, TableWriter, TextWriter, Writer

if TYPE_CHECKING:
    from ..captioning import CaptionOptions, ImageResult

    Answers = Iterable[tuple[ImageResult, Sequence[Record]]]
    """What became of each image, in order, and how that is written."""


def caption_images(
    images: Sequence[str],
    instruction: Sequence[str] | None,
    flags: QuestionFlags,
    wanted: CaptionFlags,
    ask: Callable[[Sequence[str], Sequence[str], CaptionOptions], Answers],
    default: Callable[[], str] = lambda: DEFAULT_INSTRUCTION,
) -> None:
    """Have the images captioned, and write the answers.

    Args:
        images: as they were named.
        ask: gets the paths, the instructions by their canonical names, and the options.
        default: the instruction where there is none.

    Raises:
        typer.Exit: something failed, see :mod:`.reporting`.
    """
    configure_logging(flags.verbose)
    with reported_errors(flags.verbose):
        options = flags.caption_options()
        paths = expand_images(images, getattr(sys.stdin, "buffer", None), null_separated=wanted.null)
        instructions = flags.find_instructions(instruction or [default()])
        with ExitStack() as stack:
            stream = _open_output(stack, wanted.output, overwrite=wanted.overwrite)
            writer = _make_writer(wanted.form(), stream, alone=len(paths) * len(instructions) == 1)
            stack.callback(writer.close)
            answers = ask(paths, instructions, options)
            failed = _write_all(answers, len(paths), writer, quiet=flags.quiet)
        if failed:
            if len(paths) > 1 and not flags.quiet:
                say(f"{len(paths) - failed} of {len(paths)} images captioned, {failed} failed.")
            raise typer.Exit(FAILED)


def _write_all(answers: Answers, count: int, writer: Writer, *, quiet: bool) -> int:
    """Write every result as soon as it is there. Returns how many images failed."""
    failed = 0
    with progress_over(count, quiet=quiet) as progress:
        for result, records in answers:
            with progress.aside():
                writer.write(records)
                _tell_marks(result, records, quiet=quiet)
                if result.error is not None:
                    failed += 1
                    named = result.error.startswith(result.image)  # image errors name their file themselves
                    say_error(result.error if named else f"{result.image}: {result.error}")
            progress.advance()
    return failed


def _tell_marks(result: ImageResult, records: Sequence[Record], *, quiet: bool) -> None:
    """Say which answers were kept though they fall short; the records hold it, but text does not show it."""
    for record in records if not quiet else ():
        if unmet := record.get("unmet"):
            retries = record.get("attempts", 1) - 1
            kept = f"kept after {retries} {'retry' if retries == 1 else 'retries'}" if retries else "kept"
            say_warning(f"{result.image}: {record['instruction']} {kept}: {unmet}")


def _open_output(stack: ExitStack, output: Path | None, *, overwrite: bool) -> TextIO:
    if output is not None:
        return stack.enter_context(OutputFile(output.expanduser(), overwrite=overwrite))
    if sys.stdout is None:
        raise UsageError("standard output is closed; name a file with --output.")
    return sys.stdout


def _make_writer(form: Format, stream: TextIO, *, alone: bool) -> Writer:
    if form is Format.JSON:
        return JsonWriter(stream)
    if form is Format.JSONL:
        return JsonLinesWriter(stream)
    if form is Format.TABLE or (not alone and is_terminal(stream)):
        return TableWriter(stream)
    return TextWriter(stream, headings=not alone)
