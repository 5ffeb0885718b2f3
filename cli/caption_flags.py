"""The options that commands on images share which were named one by one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..captioning.captioner import DEFAULT_INSTRUCTION
from .choices import Format
from .completion import complete_instruction
from .question_flags import ASK, OUTPUT

Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE",
        help="Image files, patterns such as 'photos/**/*.jpg', or - for paths on standard input.",
        show_default=False,
    ),
]

Instructions = Annotated[
    list[str] | None,
    typer.Option(
        "--instruction",
        "-i",
        metavar="A,B,...",
        help="What to ask, several separated by commas or by giving the option again "
        "(see 'promptgen instructions').",
        autocompletion=complete_instruction,
        show_default=f"{DEFAULT_INSTRUCTION}; of a PaliGemma what it was trained for",
        rich_help_panel=ASK,
    ),
]

NullSeparated = Annotated[
    bool,
    typer.Option(
        "--null",
        "-0",
        help="Paths on standard input end with NUL (find -print0).",
        rich_help_panel=OUTPUT,
    ),
]


@dataclass(frozen=True, kw_only=True)
class CaptionFlags:
    """What was given for the options about the form of the answers, and about the list of images."""

    format: Annotated[
        Format | None,
        typer.Option(
            help="Form of the results. Default: text, or what the name of --output says.",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to FILE, in UTF-8, not to the screen.",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Let --output replace a file that exists.", rich_help_panel=OUTPUT),
    ] = False
    null: NullSeparated = False

    def form(self) -> Format:
        """The form of the answers: text, unless the name of the output file asks for another."""
        forms = {".json": Format.JSON, ".jsonl": Format.JSONL, ".ndjson": Format.JSONL}
        named = forms.get(self.output.suffix.lower(), Format.TEXT) if self.output else Format.TEXT
        return self.format or named
