"""From what the user asks for to outputs that are ready to start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from ..stores.paths import Place, StorePath
from ..stores.staging import staging_folder
from .base import OnProblem, Output, OutputError
from .disk import Disk, Fsync, telling
from .embedded import Embedded
from .existing import Existing
from .growing import GrowingFile, Lines
from .lines import CsvLines, ErrorLines, ImageFolderLines, JsonLines
from .sidecar import SameStem, Sidecars, check_extension
from .stored_shards import StoredShards
from .texts import Column
from .uploaded import Uploaded
from .webdataset import ShardLimits, Shards
from .whole import KohyaMetadata, Parquet, WholeFile

__all__ = ["Form", "OutputOptions", "make_outputs"]


class Form(str, Enum):
    """The forms in which captions leave a run."""

    SIDECAR = "sidecar"  # a text file for each picture
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    KOHYA = "kohya"  # metadata.json of sd-scripts' fine-tuning
    IMAGEFOLDER = "imagefolder"  # metadata.jsonl of Hugging Face datasets
    WEBDATASET = "webdataset"  # tar shards with the pictures


_FILE_NAMES = {
    Form.JSONL: "captions.jsonl",
    Form.CSV: "captions.csv",
    Form.PARQUET: "captions.parquet",
    Form.KOHYA: "metadata.json",
    Form.IMAGEFOLDER: "metadata.jsonl",
}


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
    shard_limits: ShardLimits = ShardLimits()  # noqa: RUF009 - frozen
    part: tuple[int, int] | None = None  # of how many runs side by side this is which, counted from 1
    fsync: Fsync = Fsync.GROUP

    def __post_init__(self) -> None:
        if not self.columns:
            raise OutputError("there is nothing to ask: name an instruction.")
        if not self.forms and not self.embed:
            raise OutputError("the captions would go nowhere: name a --format, or give --embed.")
        if len(set(self.forms)) < len(self.forms):
            raise OutputError("each --format can be given once.")
        check_extension(self.extension)
        for named in (self.output, self.output_dir):
            if isinstance(named, StorePath) and not named.can_be_written:
                raise OutputError(f"{str(named)!r} is on a server that can only be read from.")
        for form in self.files:
            if self.output is None and self.output_dir is None:
                raise OutputError(f"--format {form.value} needs a place: name one with --output.")
            if form is Form.IMAGEFOLDER and self.part is not None:
                raise OutputError("image folders have one metadata.jsonl, which cannot be written in parts.")
        if self.output is not None and len(self.files) != 1:
            raise OutputError(
                "--output names the one file of a --format. Name the folder of several, or of caption files, "
                "with --output-dir."
            )

    @property
    def files(self) -> tuple[Form, ...]:
        """The forms with one file, or one set of shards, for all pictures."""
        return tuple(form for form in self.forms if form is not Form.SIDECAR)

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
        if self.part is None or form is Form.WEBDATASET:
            return place
        return place.with_name(f"{place.stem}{self._part_ending()}{place.suffix}")

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
    if form in (Form.PARQUET, Form.KOHYA):
        content = Parquet(columns) if form is Form.PARQUET else KohyaMetadata(columns)
        if isinstance(path, StorePath):
            staged = _staged(path)
            whole = WholeFile(form.value, staged, content, existing=options.existing, disk=Disk(Fsync.NEVER))
            return Uploaded(whole, path, staged, existing=options.existing)
        return WholeFile(form.value, path, content, existing=options.existing, disk=disk)
    lines: Lines
    if form is Form.JSONL:
        lines = JsonLines(columns, details=options.details)
    elif form is Form.CSV:
        lines = CsvLines(columns)
    else:
        alone = len(columns) == 1 and not options.columns[0].name
        lines = ImageFolderLines(
            [Column(columns[0].instruction, "text")] if alone else columns, path, on_problem
        )
    return _growing(form.value, path, lines, options.existing, disk)


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
