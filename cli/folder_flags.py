"""The options that commands on folders share: which pictures, how captions are written, how the run goes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ..captioning.captioner import DEFAULT_INSTRUCTION
from ..captioning.runs.outputs import Column, Existing, Form, Fsync, OutputOptions, SameStem
from ..captioning.runs.stores import Place, as_place
from .completion import complete_instruction
from .question_flags import ASK, OUTPUT
from .reporting import UsageError

_INPUT = "Which images"
RUN = "The run"

_FORMS = {
    ".jsonl": Form.JSONL,
    ".ndjson": Form.JSONL,
    ".csv": Form.CSV,
    ".parquet": Form.PARQUET,
    ".json": Form.KOHYA,
}

Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH",
        help="Folders, images, patterns such as 'photos/**/*.jpg', tar shards, tables (.jsonl, .csv, "
        ".parquet), lists of paths (.txt, @FILE), URLs of all these such as s3://bucket/photos, or - for "
        "paths on standard input.",
        show_default=False,
    ),
]

Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--instruction",
        "-i",
        metavar="A[:NAME],B,...",
        help="What to ask, and the extension or column for its answers: "
        "'GENERATE_TAGS:tags,MORE_DETAILED_CAPTION:txt'.",
        autocompletion=complete_instruction,
        show_default=f"{DEFAULT_INSTRUCTION}; of a PaliGemma what it was trained for",
        rich_help_panel=ASK,
    ),
]


@dataclass(frozen=True, kw_only=True)
class SourceFlags:
    """What was given for the options about which images."""

    recursive: Annotated[
        bool,
        typer.Option(
            "--recursive/--no-recursive", help="Look into the folders below.", rich_help_panel=_INPUT
        ),
    ] = True
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Of folders and shards, only what matches, such as '*.{jpg,png}' or 'cats/**'.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    column: Annotated[
        str, typer.Option(metavar="NAME", help="Where tables have their images.", rich_help_panel=_INPUT)
    ] = "image"
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Only part I, from 1, of N, for several machines. An image is always in the same part.",
            rich_help_panel=_INPUT,
        ),
    ] = None

    def part(self) -> tuple[int, int] | None:
        """The index, from 1, and the count of ``--shard``.

        Raises:
            UsageError: it is no part of a whole.
        """
        if self.shard is None:
            return None
        numbers = re.fullmatch(r"(\d+)/(\d+)", self.shard.strip())
        if numbers is None or not 1 <= int(numbers[1]) <= int(numbers[2]):
            raise UsageError(
                f"--shard {self.shard!r} is no part of a whole; write 1/4, 2/4, 3/4 and 4/4 for four parts."
            )
        return int(numbers[1]), int(numbers[2])


@dataclass(frozen=True, kw_only=True)
class FolderFlags:
    """What was given for the options about where captions go, and about the run."""

    format: Annotated[
        list[Form] | None,
        typer.Option(
            help="Form of the captions, several by giving it again; those from coco on are of regions. "
            "Default: sidecar, or what the name of --output says.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None
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
    ] = None
    output_dir: Annotated[
        Any,
        typer.Option(
            metavar="FOLDER",
            parser=as_place,
            help="Put everything there: caption files in folders like those of the images. URLs, too. "
            "Default: caption files lie beside their images.",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    extension: Annotated[
        str, typer.Option(metavar="EXT", help="Extension of caption files.", rich_help_panel=OUTPUT)
    ] = "txt"
    existing: Annotated[
        Existing,
        typer.Option(
            metavar="HOW",
            help="What is done with captions that are there and not of these runs: skip (keep them), "
            "overwrite, append, prepend.",
            rich_help_panel=OUTPUT,
        ),
    ] = Existing.SKIP
    separator: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Between captions that share a file; \\n is a line break.",
            rich_help_panel=OUTPUT,
        ),
    ] = ", "
    redo_damaged: Annotated[
        bool,
        typer.Option(
            "--redo-damaged",
            help="Caption anew where a caption file is empty or damaged.",
            rich_help_panel=OUTPUT,
        ),
    ] = False
    same_stem: Annotated[
        SameStem,
        typer.Option(
            metavar="HOW",
            help="Images that ask for one caption file (a.jpg and a.png for a.txt; in shards, for one entry "
            "of kohya's file): error (do not start), full-name (a.jpg.txt), first (leave the others out).",
            rich_help_panel=OUTPUT,
        ),
    ] = SameStem.ERROR
    details: Annotated[
        bool,
        typer.Option(
            "--details",
            help="In JSON lines, all that is known: tags, regions, raw answers.",
            rich_help_panel=OUTPUT,
        ),
    ] = False
    embed: Annotated[
        bool,
        typer.Option(
            "--embed",
            help="Write captions into the images (EXIF, XMP, IPTC), whose pixels stay untouched; into "
            "caption files, too, only with --format sidecar.",
            rich_help_panel=OUTPUT,
        ),
    ] = False
    fsync: Annotated[
        Fsync,
        typer.Option(
            metavar="WHEN",
            help="What waits for the disk itself, against power cuts: always, group (each second), never.",
            rich_help_panel=OUTPUT,
        ),
    ] = Fsync.GROUP
    restart: Annotated[
        bool,
        typer.Option(
            "--restart/--resume",
            help="Forget what earlier runs have done, but not their captions; or go on where they ended.",
            rich_help_panel=RUN,
        ),
    ] = False
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors",
            help="Try again what failed before, though it has not changed.",
            rich_help_panel=RUN,
        ),
    ] = False
    max_errors: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Stop when more images than this have failed.", rich_help_panel=RUN
        ),
    ] = None
    journal: Annotated[
        Any,
        typer.Option(
            metavar="FILE",
            parser=as_place,
            help="Where the run keeps what it has done. Default: with the captions.",
            rich_help_panel=RUN,
        ),
    ] = None
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be done, and write nothing.", rich_help_panel=RUN),
    ] = False
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="At the end, write a page (.html) with counts, lengths, frequent tags, errors and a "
            "sample of images with their captions.",
            rich_help_panel=RUN,
        ),
    ] = None
    report_every: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.1, help="Without a terminal: time between lines.", rich_help_panel=RUN
        ),
    ] = 30.0

    def output_options(self, columns: tuple[Column, ...], part: tuple[int, int] | None) -> OutputOptions:
        """Where the answers go.

        Args:
            columns: what is asked.
            part: of the pictures, see :meth:`SourceFlags.part`.

        Raises:
            OutputError: options that contradict each other.
            UsageError: the name of ``--output`` does not say which form.
        """
        return OutputOptions(
            columns=columns,
            forms=tuple(self.format) if self.format else self._forms(),
            extension=self.extension,
            output=expanded(self.output),
            output_dir=expanded(self.output_dir),
            embed=self.embed,
            existing=self.existing,
            separator=self.separator.replace("\\n", "\n"),
            redo_damaged=self.redo_damaged,
            same_stem=self.same_stem,
            details=self.details,
            part=part,
            fsync=self.fsync,
        )

    def _forms(self) -> tuple[Form, ...]:
        """The form that the name of ``--output`` asks for; without one, files, or none with --embed."""
        if self.output is None:
            return () if self.embed else (Form.SIDECAR,)
        if self.output.name.lower() == "metadata.jsonl":
            return (Form.IMAGEFOLDER,)
        form = _FORMS.get(self.output.suffix.lower())
        if form is None:
            raise UsageError(
                f"--output {str(self.output)!r}: the name does not say which form; give --format."
            )
        return (form,)


Named = TypeVar("Named", Path, Place)


def expanded(path: Named | None) -> Named | None:
    """``path`` with ``~`` for the home folder."""
    return None if path is None else path.expanduser()
