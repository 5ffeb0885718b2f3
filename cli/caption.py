"""``promptgen caption``: images in, answers out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from ..captioning.captioner import DEFAULT_INSTRUCTION
from .answer_flags import AnswerFlags
from .choices import Format
from .completion import complete_instruction
from .expand_flags import expand_flags
from .image_arguments import expand_images
from .output_file import OutputFile
from .progress import progress_over
from .question_flags import ASK, OUTPUT
from .records import records_of
from .reporting import FAILED, UsageError, configure_logging, reported_errors, say, say_error
from .streams import is_terminal
from .writers import JsonLinesWriter, JsonWriter, TableWriter, TextWriter, Writer

if TYPE_CHECKING:
    from ..captioning import Captioner, CaptionOptions


@expand_flags
def caption(
    *,
    image: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Image files, patterns such as 'photos/**/*.jpg', or - for paths on standard input.",
            show_default=False,
        ),
    ],
    instruction: Annotated[
        list[str],
        typer.Option(
            "--instruction",
            "-i",
            metavar="A,B,...",
            help="What to ask, several separated by commas or by giving the option again "
            "(see 'promptgen instructions').",
            autocompletion=complete_instruction,
            rich_help_panel=ASK,
        ),
    ] = [DEFAULT_INSTRUCTION],  # noqa: B006 - typer copies it
    flags: AnswerFlags,
    format: Annotated[
        Format | None,
        typer.Option(
            help="Form of the results. Default: text, or what the name of --output says.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to FILE, in UTF-8, not to the screen.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Let --output replace a file that exists.", rich_help_panel=OUTPUT),
    ] = False,
    null: Annotated[
        bool,
        typer.Option(
            "--null",
            "-0",
            help="Paths on standard input end with NUL (find -print0).",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
) -> None:
    """Caption images: ask one or several questions of each.

    Results go to standard output, progress and errors to standard error. An image that cannot be read does
    not stop the others. Exit status: 0 all done, 1 something failed, 2 wrong usage, 130 stopped with Ctrl-C.
    """
    configure_logging(flags.verbose)
    with reported_errors(flags.verbose):
        instructions = flags.find_instructions(instruction)
        paths = expand_images(image, getattr(sys.stdin, "buffer", None), null_separated=null)
        options = flags.caption_options()
        with ExitStack() as stack:
            stream = _open_output(stack, output, overwrite=overwrite)
            form = format or _form_for(output)
            writer = _make_writer(form, stream, alone=len(paths) * len(instructions) == 1)
            stack.callback(writer.close)
            captioner = flags.captioner()
            if flags.watched:
                say(f"Loading {flags.model}")
            failed = _caption_all(captioner, paths, instructions, options, writer, quiet=flags.quiet)
        if failed:
            if len(paths) > 1 and not flags.quiet:
                say(f"{len(paths) - failed} of {len(paths)} images captioned, {failed} failed.")
            raise typer.Exit(FAILED)


def _caption_all(
    captioner: Captioner,
    paths: Sequence[str],
    instructions: Sequence[str],
    options: CaptionOptions,
    writer: Writer,
    *,
    quiet: bool,
) -> int:
    """Write every result as soon as it is there. Returns how many images failed."""
    failed = 0
    with progress_over(len(paths), quiet=quiet) as progress:
        for result in captioner.stream(paths, instructions, options):
            with progress.aside():
                writer.write(records_of(result, captioner.model))
                if result.error is not None:
                    failed += 1
                    named = result.error.startswith(result.image)  # image errors name their file themselves
                    say_error(result.error if named else f"{result.image}: {result.error}")
            progress.advance()
    return failed


def _open_output(stack: ExitStack, output: Path | None, *, overwrite: bool) -> TextIO:
    if output is not None:
        return stack.enter_context(OutputFile(output.expanduser(), overwrite=overwrite))
    if sys.stdout is None:
        raise UsageError("standard output is closed; name a file with --output.")
    return sys.stdout


def _form_for(output: Path | None) -> Format:
    """The form that the name of the output file asks for; text without one."""
    forms = {".json": Format.JSON, ".jsonl": Format.JSONL, ".ndjson": Format.JSONL}
    return forms.get(output.suffix.lower(), Format.TEXT) if output else Format.TEXT


def _make_writer(form: Format, stream: TextIO, *, alone: bool) -> Writer:
    if form is Format.JSON:
        return JsonWriter(stream)
    if form is Format.JSONL:
        return JsonLinesWriter(stream)
    if form is Format.TABLE or (not alone and is_terminal(stream)):
        return TableWriter(stream)
    return TextWriter(stream, headings=not alone)
