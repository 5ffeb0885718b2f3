"""The options that detect, ground, segment and ocr have besides those of all captioning commands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..captioning.runs.outputs import SameStem
from ..captioning.vision_options import DEFAULT_REGION_MODEL
from .answer_flags import AnswerFlags, Model
from .caption_flags import NullSeparated
from .choices import RegionFormat
from .question_flags import OUTPUT
from .reporting import UsageError

if TYPE_CHECKING:
    from ..captioning.drawings import DrawingKind
    from ..captioning.runs.outputs import Drawn

_PICTURES = "Pictures of the regions"
_FOLDERS = "Folders"

_SUFFIXES = {
    ".json": RegionFormat.JSON,
    ".jsonl": RegionFormat.JSONL,
    ".ndjson": RegionFormat.JSONL,
    ".csv": RegionFormat.CSV,
    ".txt": RegionFormat.TEXT,
}

Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE",
        help="Images, patterns such as 'photos/**/*.jpg', - for paths on standard input; or folders, tar "
        "shards, tables, lists and URLs as 'promptgen folder' takes them.",
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class RegionAnswerFlags(AnswerFlags):
    """The options of all captioning commands, with a checkpoint that finds regions."""

    model: Model = DEFAULT_REGION_MODEL

    def with_input(self, text: str, option: str) -> RegionAnswerFlags:
        """With a text input that was given by an option of another name.

        Raises:
            UsageError: there is nothing in it, or ``--text-input`` says something else.
        """
        if not text.strip():
            raise UsageError(f"{option} is empty.")
        if self.text_input is not None and self.text_input != text:
            raise UsageError(f"{option} and --text-input are the same thing; give one of them.")
        return replace(self, text_input=text)


@dataclass(frozen=True, kw_only=True)
class RegionFlags:
    """What was given for those of these commands alone."""

    format: Annotated[
        RegionFormat | None,
        typer.Option(
            help="Form of the regions. Default: text, a table, or what the name of --output says.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|FOLDER",
            help="Write there, not to the screen; of yolo and labelme the folder (labelme: default beside "
            "the images).",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    select: Annotated[
        str,
        typer.Option(
            metavar="LABEL|NUMBER,...",
            help="Only these regions, by label or number: 'car, traffic light', '0, 2', '-1', '1-3', all.",
            rich_help_panel=OUTPUT,
        ),
    ] = ""
    classes: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="For coco and yolo: classes that get the first numbers, in this order.",
            rich_help_panel=OUTPUT,
        ),
    ] = ""
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Let files that exist be replaced.", rich_help_panel=OUTPUT)
    ] = False
    null: NullSeparated = False
    overlay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="Draw the regions on the image: to a file (.png, .jpg, .webp), to a folder as .png, or to "
            "'FOLDER/*.jpg'.",
            rich_help_panel=_PICTURES,
        ),
    ] = None
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="Draw masks, white where the regions are.",
            rich_help_panel=_PICTURES,
        ),
    ] = None
    per_object: Annotated[
        bool,
        typer.Option("--per-object", help="A mask for each region, in a folder.", rich_help_panel=_PICTURES),
    ] = False
    grow: Annotated[
        float,
        typer.Option(
            metavar="PIXELS",
            help="Make masks larger all around, or smaller if negative.",
            rich_help_panel=_PICTURES,
        ),
    ] = 0.0
    feather: Annotated[
        float,
        typer.Option(metavar="PIXELS", help="Soften the edges of masks.", rich_help_panel=_PICTURES),
    ] = 0.0
    crop: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Cut out each region's box: FOLDER/IMAGE/0-label.png.",
            rich_help_panel=_PICTURES,
        ),
    ] = None
    recursive: Annotated[
        bool,
        typer.Option(
            "--recursive/--no-recursive", help="Look into the folders below.", rich_help_panel=_FOLDERS
        ),
    ] = True
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN", help="Only what matches, such as '*.{jpg,png}'.", rich_help_panel=_FOLDERS
        ),
    ] = None
    same_stem: Annotated[
        SameStem,
        typer.Option(
            metavar="HOW",
            help="Images that ask for one file (a.jpg and a.png for a.txt): error (do not start), full-name "
            "(a.jpg.txt), first (leave the others out).",
            rich_help_panel=_FOLDERS,
        ),
    ] = SameStem.ERROR
    restart: Annotated[
        bool,
        typer.Option(
            "--restart/--resume",
            help="Forget what earlier runs have done; or go on where they ended.",
            rich_help_panel=_FOLDERS,
        ),
    ] = False
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors",
            help="Try again what failed before, though it has not changed.",
            rich_help_panel=_FOLDERS,
        ),
    ] = False

    @property
    def place(self) -> Path | None:
        """Where ``--output`` leads."""
        return None if self.output is None else self.output.expanduser()

    def form(self) -> RegionFormat:
        """The form of the regions.

        Raises:
            UsageError: the name of the output does not say.
        """
        if str(self.output) == "-":
            raise UsageError("--output takes a name. Without it regions go to standard output.")
        if self.format is not None:
            return self.format
        if self.output is None:
            return RegionFormat.TEXT
        form = _SUFFIXES.get(self.output.suffix.lower())
        if form is None:
            raise UsageError(
                f"--output {str(self.output)!r}: the name does not say which form; give --format."
            )
        return form

    def class_names(self) -> tuple[str, ...]:
        """The classes that get the first numbers.

        Raises:
            UsageError: the form numbers none.
        """
        names = tuple(name.strip() for name in self.classes.split(",") if name.strip())
        if names and self.form() not in (RegionFormat.COCO, RegionFormat.YOLO, RegionFormat.YOLO_SEG):
            raise UsageError(f"--classes is for coco and yolo; {self.form().value} numbers none.")
        return names

    def drawn(self, *, alone: bool) -> tuple[Drawn, ...]:
        """The pictures that are asked for.

        Args:
            alone: whether there is one image, so that a file may be named.

        Raises:
            UsageError: options that contradict each other.
        """
        from ..captioning.drawings import DrawingKind

        if self.mask is None and (self.per_object or self.grow or self.feather):
            raise UsageError("--per-object, --grow and --feather are about masks; name a place with --mask.")
        places = {
            DrawingKind.OVERLAY: self.overlay, DrawingKind.MASK: self.mask, DrawingKind.CROP: self.crop
        }  # fmt: skip
        found = {kind: path.expanduser() for kind, path in places.items() if path is not None}
        return tuple(self._drawn(kind, path, alone=alone) for kind, path in found.items())

    def _drawn(self, kind: DrawingKind, path: Path, *, alone: bool) -> Drawn:
        from ..captioning.drawings import DRAWING_EXTENSIONS, Drawing, DrawingKind
        from ..captioning.images import image_extensions
        from ..captioning.runs.outputs import Drawn

        extension = path.suffix[1:].lower()
        is_pattern = path.name == f"*{path.suffix}" and extension != ""
        if "*" in str(path.parent if is_pattern else path):
            raise UsageError(
                f"--{kind.value} {str(path)!r}: the only patterns are those like 'FOLDER/*.png'."
            )
        if str(path) == "-":
            raise UsageError(f"--{kind.value} needs a file or a folder; pictures are not put on the screen.")
        is_picture = extension in DRAWING_EXTENSIONS or path.suffix.lower() in image_extensions()
        is_file = is_picture and not is_pattern and not path.is_dir()
        masked = kind is DrawingKind.MASK
        try:
            drawing = Drawing(
                kind,
                extension if is_pattern or is_file else "png",
                per_object=masked and self.per_object,
                grow=self.grow if masked else 0.0,
                feather=self.feather if masked else 0.0,
            )
        except ValueError as error:
            raise UsageError(f"--{kind.value} {str(path)!r}: {error}") from error
        if not is_file:
            return Drawn(drawing, path.parent if is_pattern else path)
        if drawing.has_many or not alone:
            why = "there is one for each region" if drawing.has_many else "there are several images"
            raise UsageError(
                f"--{kind.value} {str(path)!r} is one file, and {why}. Name a folder, "
                f"or {str(path.with_name('*' + path.suffix))!r}."
            )
        return Drawn(drawing, path.parent, file=path)
