"""From what the user asks for to outputs that are ready to start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from ...drawings import Drawing
from ...images import DEFAULT_BACKGROUND, Background
from ...region_selection import gives_regions
from ..records import Item
from ..stores.paths import Place, StorePath
from ..stores.staging import staging_folder
from .base import OnProblem, Output, OutputError
from .disk import Disk, Fsync, telling
from .embedded import Embedded
from .existing import Existing
from .growing import GrowingFile, Lines
from .lines import CsvLines, ErrorLines, ImageFolderLines, JsonLines
from .picture_files import DrawnFiles, LabelMeFiles, PictureFiles, YoloFiles
from .region_files import RegionFile
from .sidecar import SameStem, Sidecars, check_extension
from .stored_shards import StoredShards
from .texts import Column
from .uploaded import Uploaded
from .webdataset import ShardLimits, Shards
from .whole import Content, KohyaMetadata, Parquet, WholeFile, kohya_name

__all__ = ["Drawn", "Form", "OutputOptions", "make_outputs"]


class Form(str, Enum):
    """The forms in which captions leave a run."""

    SIDECAR = "sidecar"  # a text file for each picture
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    KOHYA = "kohya"  # metadata.json of sd-scripts' fine-tuning
    IMAGEFOLDER = "imagefolder"  # metadata.jsonl of Hugging Face datasets
    WEBDATASET = "webdataset"  # tar shards with the pictures
    # Of regions: one file for all pictures, in which each answer has its regions,
    COCO = "coco"
    REGIONS_CSV = "regions-csv"
    REGIONS_JSON = "regions-json"
    REGIONS_JSONL = "regions-jsonl"
    # and forms with a file for each picture.
    LABELME = "labelme"
    YOLO = "yolo"
    YOLO_SEG = "yolo-seg"


_FILE_NAMES = {
    Form.JSONL: "captions.jsonl",
    Form.CSV: "captions.csv",
    Form.PARQUET: "captions.parquet",
    Form.KOHYA: "metadata.json",
    Form.IMAGEFOLDER: "metadata.jsonl",
    Form.COCO: "coco.json",
    Form.REGIONS_CSV: "regions.csv",
    Form.REGIONS_JSON: "regions.json",
    Form.REGIONS_JSONL: "regions.jsonl",
}
_WITH_REGIONS = {  # what their formats are called
    Form.COCO: "coco",
    Form.REGIONS_CSV: "csv",
    Form.REGIONS_JSON: "json",
    Form.REGIONS_JSONL: "jsonl",
}
_TABLES = (Form.JSONL, Form.CSV, Form.PARQUET)  # that have a column for what falls short
_YOLO = (Form.YOLO, Form.YOLO_SEG)
_PER_PICTURE = (Form.LABELME, *_YOLO)


@dataclass(frozen=True)
class Drawn:
    """A drawing of each picture, and where it goes."""

    drawing: Drawing
    folder: Path  # in which the tree of the pictures is mirrored
    file: Path | None = None  # of the one picture of a run


@dataclass(frozen=True)
class OutputOptions:
    """What comes out of a run, and where.

    Raises:
        OutputError: two of the options contradict each other.
    """

    columns: tuple[Column, ...]  # in the order of the results
    forms: tuple[Form, ...] = (Form.SIDECAR,)
    extension: str = "txt"  # of caption files, where an instruction has none of its own
    output: Place | None = None  # the file, or for webdataset the folder; for one form besides sidecar
    output_dir: Place | None = None  # for mirrored caption files, and for files with their usual names
    embed: bool = False  # write captions into the pictures, too
    errors: Place | None = None  # file for pictures that could not be captioned
    existing: Existing = Existing.SKIP
    separator: str = ", "  # between captions that share a file, and before or behind one that is there
    redo_damaged: bool = False
    same_stem: SameStem = SameStem.ERROR
    details: bool = False  # JSON lines with all that is known of each answer
    marks: bool = False  # tables tell which answers fail the conditions of the run's RetryOptions
    drawn: tuple[Drawn, ...] = ()  # pictures of the regions
    background: Background = DEFAULT_BACKGROUND  # behind transparent pixels of pictures that are drawn on
    select: str = ""  # of forms of regions and drawings: which regions, see `select_regions`
    classes: tuple[str, ...] = ()  # of COCO and YOLO: classes that are to have the first numbers
    shard_limits: ShardLimits = ShardLimits()  # noqa: RUF009 - frozen
    part: tuple[int, int] | None = None  # of how many runs side by side this is which, counted from 1
    fsync: Fsync = Fsync.GROUP

    def __post_init__(self) -> None:
        if not self.columns:
            raise OutputError("there is nothing to ask: name an instruction.")
        if not self.forms and not self.embed and not self.drawn:
            raise OutputError("the captions would go nowhere: name a --format, or give --embed.")
        if len(set(self.forms)) < len(self.forms):
            raise OutputError("each --format can be given once.")
        check_extension(self.extension)
        for named in (self.output, self.output_dir):
            if isinstance(named, StorePath) and not named.can_be_written:
                raise OutputError(f"{str(named)!r} is on a server that can only be read from.")
        self._check_regions()
        for form in self.files:
            if form is Form.LABELME:
                continue
            if self.output is None and self.output_dir is None:
                raise OutputError(f"--format {form.value} needs a place: name one with --output.")
            if form is Form.IMAGEFOLDER and self.part is not None:
                raise OutputError("image folders have one metadata.jsonl, which cannot be written in parts.")
        if self.output is not None and len(self.files) != 1:
            raise OutputError(
                "--output names the one file of a --format. Name the folder of several, or of caption files, "
                "with --output-dir."
            )

    def _check_regions(self) -> None:
        """See that what is asked has regions for the forms that need some, and a place for them."""
        forms = [form for form in self.forms if form in _WITH_REGIONS or form in _PER_PICTURE]
        if not forms and not self.drawn:
            if self.select.strip():
                raise OutputError("there is nothing to select from: no form of regions is written.")
            return
        if not any(gives_regions(column.instruction) for column in self.columns):
            names = ", ".join(column.instruction for column in self.columns)
            what = forms[0].value if forms else self.drawn[0].drawing.kind.value
            raise OutputError(
                f"there are no regions for {what}: {names} gives none. Ask for OD, for example."
            )
        if self.existing in (Existing.APPEND, Existing.PREPEND):
            raise OutputError(f"--existing {self.existing.value} cannot be done to files of regions.")
        for form in set(forms) & set(_PER_PICTURE):
            if isinstance(self.output or self.output_dir, StorePath):
                raise OutputError(f"{form.value} is written to folders of this machine only.")
        if self.part is not None and set(forms) & set(_YOLO):
            raise OutputError("YOLO numbers its classes, which parts of a run would do each by itself.")
        if self.same_stem is SameStem.FULL_NAME and set(forms) & set(_YOLO):
            raise OutputError(
                "YOLO finds the labels of a picture by its name without the extension, and those of "
                "--same-stem full-name not at all. Rename pictures, or take the first with --same-stem first."
            )
        places = [one.file or one.folder for one in self.drawn]
        if len(set(places)) < len(places):
            raise OutputError("each kind of drawing needs a folder of its own.")

    @property
    def names_folder(self) -> bool:
        """Whether ``output`` is a folder."""
        return self.output is not None and self.files[0] in (Form.WEBDATASET, *_PER_PICTURE)

    @property
    def files(self) -> tuple[Form, ...]:
        """The forms with one file, or one set of files, for all pictures."""
        return tuple(form for form in self.forms if form is not Form.SIDECAR)

    @property
    def marked(self) -> tuple[Place, ...]:
        """The tables that tell which answers fail the conditions."""
        return tuple(self.place(form) for form in self.files if self.marks and form in _TABLES)

    def named_columns(self, usual: Callable[[str], str]) -> list[Column]:
        """The columns with a name each.

        Args:
            usual: from an instruction to the name of its answers where none was given.
        """
        return [replace(column, name=column.name or usual(column.instruction)) for column in self.columns]

    def place(self, form: Form) -> Place:
        """The file of a form; for webdataset, the folder of the shards."""
        place: Place
        if self.output is not None:
            place = self.output
        else:
            assert self.output_dir is not None  # checked when the options were made
            place = self.output_dir / _FILE_NAMES.get(form, "")
        if self.part is None or form is Form.WEBDATASET or form in _PER_PICTURE:
            return place
        return place.with_name(f"{place.stem}{self._part_ending()}{place.suffix}")

    @property
    def has_entries(self) -> bool:
        """Whether there are pictures that have :meth:`entries`."""
        return Form.KOHYA in self.forms and self.same_stem is not SameStem.FULL_NAME

    def entries(self, item: Item) -> list[Place]:
        """What a picture asks for within a file of all, where it is called by its stem as caption files are:
        the file, and below it the name of the entry.
        """
        if not self.has_entries or item.path is not None:
            return []
        return [self.place(Form.KOHYA) / kohya_name(item, full=False)]

    def shard_prefix(self) -> str:
        """What the names of shards begin with."""
        return f"captions{self._part_ending()}"

    def _part_ending(self) -> str:
        return "" if self.part is None else f"-{self.part[0]}-of-{self.part[1]}"


def make_outputs(options: OutputOptions, on_problem: OnProblem) -> list[Output]:
    """The outputs of a run, in the order in which they are to be written.

    Args:
        on_problem: told of pictures whose captions could not be written for reasons of their own, and of
            caption files that are empty or damaged.

    Raises:
        OutputError: what is asked for cannot be made.
    """
    disk = Disk(options.fsync)
    outputs: list[Output] = [_make(form, options, disk, on_problem) for form in options.forms]
    for one in options.drawn:
        kind, content = one.drawing.kind.value, DrawnFiles(one.drawing, options.background)
        shared = _of_pictures(options, disk, on_problem)
        outputs.append(PictureFiles(kind, content, one.folder, file=one.file, **shared))
    if options.embed:
        outputs.append(
            Embedded(
                options.columns,
                existing=options.existing,
                separator=options.separator,
                disk=disk,
                on_problem=on_problem,
            )
        )
    if options.errors is not None:
        # Its own file from the last run is no user's, whatever --existing says.
        outputs.append(_growing("errors", options.errors, ErrorLines(), Existing.SKIP, disk))
    return outputs


def _make(form: Form, options: OutputOptions, disk: Disk, on_problem: OnProblem) -> Output:
    if form is Form.SIDECAR:
        return Sidecars(
            options.named_columns(lambda _: options.extension),
            folder=options.output_dir,
            existing=options.existing,
            separator=options.separator,
            redo_damaged=options.redo_damaged,
            same_stem=options.same_stem,
            disk=disk,
            on_problem=on_problem,
        )
    if form in _PER_PICTURE:
        return _make_per_picture(form, options, disk, on_problem)
    path = options.place(form)
    columns = options.named_columns(str)
    if form is Form.WEBDATASET and isinstance(path, StorePath):
        return StoredShards(
            columns,
            path,
            prefix=options.shard_prefix(),
            limits=options.shard_limits,
            existing=options.existing,
            disk=Disk(Fsync.NEVER),
            on_problem=on_problem,
        )
    if form is Form.WEBDATASET:
        assert isinstance(path, Path)
        return Shards(
            columns,
            path,
            prefix=options.shard_prefix(),
            limits=options.shard_limits,
            existing=options.existing,
            disk=disk,
            on_problem=on_problem,
        )
    if form in (Form.PARQUET, Form.KOHYA) or form in _WITH_REGIONS:
        content = _whole(form, columns, options)
        if isinstance(path, StorePath):
            staged = _staged(path)
            whole = WholeFile(form.value, staged, content, existing=options.existing, disk=Disk(Fsync.NEVER))
            return Uploaded(whole, path, staged, existing=options.existing)
        return WholeFile(form.value, path, content, existing=options.existing, disk=disk)
    lines: Lines
    if form is Form.JSONL:
        lines = JsonLines(columns, details=options.details, marks=options.marks)
    elif form is Form.CSV:
        lines = CsvLines(columns, marks=options.marks)
    else:
        alone = len(columns) == 1 and not options.columns[0].name
        lines = ImageFolderLines(
            [Column(columns[0].instruction, "text")] if alone else columns, path, on_problem
        )
    return _growing(form.value, path, lines, options.existing, disk)


def _whole(form: Form, columns: Sequence[Column], options: OutputOptions) -> Content:
    """What stands in a file that is written at the end."""
    if form is Form.PARQUET:
        return Parquet(columns, marks=options.marks)
    if form is Form.KOHYA:
        return _kohya(columns, options)
    asked = [column.instruction for column in columns]
    classes = options.classes if form is Form.COCO else ()
    return RegionFile(_WITH_REGIONS[form], asked, select=options.select, classes=classes)


def _kohya(columns: Sequence[Column], options: OutputOptions) -> KohyaMetadata:
    return KohyaMetadata(columns, full_names=options.same_stem is SameStem.FULL_NAME)


def _make_per_picture(form: Form, options: OutputOptions, disk: Disk, on_problem: OnProblem) -> Output:
    shared = _of_pictures(options, disk, on_problem)
    if form is Form.LABELME:
        folder = options.output or options.output_dir
        assert not isinstance(folder, StorePath)
        return PictureFiles(form.value, LabelMeFiles(), folder, **shared)
    folder = options.place(form)
    assert isinstance(folder, Path)
    return YoloFiles(form.value, folder, classes=options.classes, outlines=form is Form.YOLO_SEG, **shared)


def _of_pictures(options: OutputOptions, disk: Disk, on_problem: OnProblem) -> dict[str, Any]:
    """What all forms with files of regions for each picture are told."""
    return {
        "select": options.select,
        "only_these": [column.instruction for column in options.columns],
        "overwrite": options.existing is Existing.OVERWRITE,
        "full_name": options.same_stem is SameStem.FULL_NAME,
        "disk": disk,
        "on_problem": on_problem,
    }


def _growing(name: str, path: Place, lines: Lines, existing: Existing, disk: Disk) -> Output:
    """A file of lines, on a disk or in a store."""
    if not isinstance(path, StorePath):
        return GrowingFile(name, path, lines, existing=existing, disk=disk)
    staged = _staged(path)
    grown = GrowingFile(name, staged, lines, existing=existing, disk=Disk(Fsync.NEVER))
    return Uploaded(grown, path, staged, existing=existing)


def _staged(path: StorePath) -> Path:
    """The file of this machine that becomes the object."""
    with telling(path):
        return staging_folder(path) / path.name
    raise AssertionError  # not reached: all errors are told by raising
