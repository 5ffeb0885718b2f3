"""``promptgen caption``: images in, answers out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from ..captioning.captioner import DEFAULT_INSTRUCTION, DEFAULT_MODEL
from .choices import Dtype, EarlyStopping, Format, Underscores
from .completion import complete_instruction, complete_model
from .image_arguments import expand_images
from .output_file import OutputFile
from .progress import progress_over
from .records import records_of
from .reporting import FAILED, UsageError, configure_logging, reported_errors, say, say_error
from .streams import is_terminal
from .writers import JsonLinesWriter, JsonWriter, TableWriter, TextWriter, Writer

if TYPE_CHECKING:
    from ..captioning import Captioner, CaptionOptions

_WHITE = "white"
_ASK = "What is asked"
_GENERATION = "Generation (default: the checkpoint's own settings)"
_TAGS = "Tags"
_DEVICE = "Model and device"
_OUTPUT = "Output"


def caption(
    image: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Image files, patterns such as 'photos/**/*.jpg', or - for paths on standard input.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|HUB_ID|FOLDER",
            help="Checkpoint by catalogue name (see 'promptgen models list'), Hub id or folder. "
            "'demo' is built in and knows drawn shapes only.",
            autocompletion=complete_model,
            rich_help_panel=_DEVICE,
        ),
    ] = DEFAULT_MODEL,
    instruction: Annotated[
        list[str],
        typer.Option(
            "--instruction",
            "-i",
            metavar="A,B,...",
            help="What to ask, several separated by commas or by giving the option again "
            "(see 'promptgen instructions').",
            autocompletion=complete_instruction,
            rich_help_panel=_ASK,
        ),
    ] = [DEFAULT_INSTRUCTION],  # noqa: B006 - typer copies it
    text_input: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Text or region that some instructions need, such as the phrase to locate.",
            rich_help_panel=_ASK,
        ),
    ] = None,
    num_beams: Annotated[
        int | None,
        typer.Option(metavar="N", help="Beams of the beam search; 1 is greedy.", rich_help_panel=_GENERATION),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Longest answer, in tokens.", rich_help_panel=_GENERATION)
    ] = None,
    min_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Shortest answer, in tokens.", rich_help_panel=_GENERATION)
    ] = None,
    do_sample: Annotated[
        bool | None,
        typer.Option(
            "--do-sample/--no-do-sample", help="Draw tokens at random.", rich_help_panel=_GENERATION
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="With --do-sample: above 1 wilder, below 1 tamer.", rich_help_panel=_GENERATION
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="With --do-sample: only the K likeliest tokens.", rich_help_panel=_GENERATION
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="With --do-sample: only the likeliest tokens that sum to P.",
            rich_help_panel=_GENERATION,
        ),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Above 1 discourages tokens already used.", rich_help_panel=_GENERATION
        ),
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="With beams: above 0 prefers longer answers.", rich_help_panel=_GENERATION
        ),
    ] = None,
    no_repeat_ngram_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="No run of N tokens twice; 0 is off.", rich_help_panel=_GENERATION),
    ] = None,
    early_stopping: Annotated[
        EarlyStopping | None,
        typer.Option(
            metavar="WHEN", help="When beam search stops: true, false or never.", rich_help_panel=_GENERATION
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="With --do-sample: repeat the same draws.", rich_help_panel=_GENERATION
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda[:N]|mps", help="Where to run.", rich_help_panel=_DEVICE)
    ] = "auto",
    dtype: Annotated[
        Dtype,
        typer.Option(
            help="Number format; auto is fp16 on a GPU, bf16 on a CPU that has it, else fp32.",
            rich_help_panel=_DEVICE,
        ),
    ] = Dtype.AUTO,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="On a CPU: weights of 8 bits. Nearly the same answers, see the README for how nearly.",
            rich_help_panel=_DEVICE,
        ),
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="The most answers to compute at a time. Default: as many as the device's memory takes, up "
            "to 8 on a CPU and 64 on a GPU. It changes no answer.",
            rich_help_panel=_DEVICE,
        ),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never touch the network.", rich_help_panel=_DEVICE)
    ] = False,
    background: Annotated[
        str,
        typer.Option(
            metavar="COLOUR",
            help="Colour behind transparent pixels: a name or #RRGGBB.",
            rich_help_panel=_ASK,
        ),
    ] = _WHITE,
    prefix: Annotated[str, typer.Option(help="Put before every answer.", rich_help_panel=_TAGS)] = "",
    suffix: Annotated[str, typer.Option(help="Put after every answer.", rich_help_panel=_TAGS)] = "",
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG,...", help="Tags to leave out.", rich_help_panel=_TAGS, show_default=False),
    ] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OLD:NEW;...",
            help="Whole tags or whole words to replace; an empty NEW takes them out.",
            rich_help_panel=_TAGS,
            show_default=False,
        ),
    ] = None,
    underscores: Annotated[
        Underscores,
        typer.Option(
            metavar="HOW",
            help="keep, spaces ('long hair') or underscores ('long_hair'); ^_^ stays.",
            rich_help_panel=_TAGS,
        ),
    ] = Underscores.KEEP,
    escape_parentheses: Annotated[
        bool | None,
        typer.Option(
            "--escape-parentheses/--bare-parentheses",
            help="Write \\( \\) or ( ); the default keeps what the model wrote.",
            rich_help_panel=_TAGS,
        ),
    ] = None,
    deduplicate: Annotated[
        bool, typer.Option("--deduplicate", help="Drop repeated tags.", rich_help_panel=_TAGS)
    ] = False,
    format: Annotated[
        Format | None,
        typer.Option(
            help="Form of the results. Default: text, or what the name of --output says.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to FILE, in UTF-8, not to the screen.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Let --output replace a file that exists.", rich_help_panel=_OUTPUT),
    ] = False,
    null: Annotated[
        bool,
        typer.Option(
            "--null",
            "-0",
            help="Paths on standard input end with NUL (find -print0).",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="No progress and no closing line; errors stay.", rich_help_panel=_OUTPUT
        ),
    ] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            show_default=False,
            help="Log what is done; -vv logs more.",
            rich_help_panel=_OUTPUT,
        ),
    ] = 0,
) -> None:
    """Caption images: ask one or several questions of each.

    Results go to standard output, progress and errors to standard error. An image that cannot be read does
    not stop the others. Exit status: 0 all done, 1 something failed, 2 wrong usage, 130 stopped with Ctrl-C.
    """
    configure_logging(verbose)
    with reported_errors(verbose):
        instructions = _find_instructions(instruction, text_input)
        paths = expand_images(image, getattr(sys.stdin, "buffer", None), null_separated=null)
        options = _make_options(
            generation={
                "num_beams": num_beams,
                "max_new_tokens": max_new_tokens,
                "min_new_tokens": min_new_tokens,
                "do_sample": do_sample,
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
                "repetition_penalty": repetition_penalty,
                "length_penalty": length_penalty,
                "no_repeat_ngram_size": no_repeat_ngram_size,
                "early_stopping": early_stopping
                and {"true": True, "false": False}.get(early_stopping, "never"),
                "seed": seed,
            },
            tags={
                "prefix": prefix,
                "suffix": suffix,
                "exclude": ",".join(exclude or ()),
                "replace": ";".join(replace or ()),
                "underscores": underscores.value,
                "escape_parentheses": escape_parentheses,
                "deduplicate": deduplicate,
            },
            text_input=text_input,
            background=background,
        )
        with ExitStack() as stack:
            stream = _open_output(stack, output, overwrite=overwrite)
            form = format or _form_for(output)
            writer = _make_writer(form, stream, alone=len(paths) * len(instructions) == 1)
            stack.callback(writer.close)
            captioner = _make_captioner(
                model, device, _precision(dtype, fast=fast), batch_size, offline=offline, quiet=quiet
            )
            failed = _caption_all(captioner, paths, instructions, options, writer, quiet=quiet)
        if failed:
            if len(paths) > 1 and not quiet:
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


def _find_instructions(values: Sequence[str], text_input: str | None) -> list[str]:
    """The canonical names of the instructions, each once, in the order given."""
    from ..captioning.instructions import check_text_input, find_instructions

    found = find_instructions(",".join(values))
    check_text_input(found, text_input)
    return list(dict.fromkeys(instruction.name for instruction in found))


def _make_options(
    *,
    generation: dict[str, Any],
    tags: dict[str, Any],
    text_input: str | None,
    background: str,
) -> CaptionOptions:
    from ..captioning import CaptionOptions, TagOptions
    from ..captioning.images import DEFAULT_BACKGROUND, parse_background
    from ..florence2 import GenerationOptions

    try:
        usual = (
            background == _WHITE
        )  # is known without Pillow, which so comes after the command line is checked
        colour = DEFAULT_BACKGROUND if usual else parse_background(background)
        return CaptionOptions(
            generation=GenerationOptions(**generation),
            tags=TagOptions(**tags),
            text_input=text_input,
            background=colour,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _precision(dtype: Dtype, *, fast: bool) -> str:
    """The number format that ``--dtype`` and ``--fast`` ask for together."""
    if fast and dtype not in (Dtype.AUTO, Dtype.INT8):
        raise UsageError(f"--fast is --dtype int8, and --dtype {dtype.value} is another. Give one of them.")
    return Dtype.INT8.value if fast else dtype.value


def _make_captioner(
    model: str, device: str, dtype: str, batch_size: int | None, *, offline: bool, quiet: bool
) -> Captioner:
    from ..captioning import Captioner
    from ..florence2 import resolve_device, resolve_dtype
    from ..models_cache import ensure_checkpoint

    try:  # before a download, which a mistyped device should not start
        device = resolve_device(device)
        dtype = resolve_dtype(dtype, device)
    except ValueError as error:
        raise UsageError(str(error)) from error
    watched = is_terminal(sys.stderr) and not quiet
    ensure_checkpoint(model, offline=offline, progress=watched)
    if watched:
        say(f"Loading {model}")
    return Captioner(model, device=device, dtype=dtype, batch_size=batch_size)


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
