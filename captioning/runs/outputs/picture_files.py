"""Files of regions, for each picture its own: LabelMe, YOLO, overlays, masks, cut-outs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Protocol

from ...drawings import Drawing
from ...errors import ImageError
from ...formats.entries import Classes, class_of
from ...formats.folders import labelme_text, yolo_class_files, yolo_text
from ...images import DEFAULT_BACKGROUND, Background, open_image
from ...region_selection import select_in_record
from ...regions import Region
from ..records import Item, Record
from ..sources.patient import patiently
from ..stores.paths import Place
from ..stores.reading import open_object
from .base import Mark, OnProblem, OutputError, SaveMark
from .disk import Disk, place_for, telling, temporary_of
from .sidecar import path_below, stem_of

__all__ = ["DrawnFiles", "LabelMeFiles", "PictureFiles", "YoloFiles", "regions_in"]

_HELD = 64 << 20  # bytes of files that are made when they are planned, and kept until they are written

Files = list[tuple[str, bytes]]
"""Names below the place of the picture, and what is in them. Of one file alone the name is empty."""


class Content(Protocol):
    """What stands in the files of a picture."""

    suffix: str  # of its one file, with the dot; empty: a folder with any number of files
    below: str  # folder of all files within the one that was named

    def make(self, record: Record, regions: tuple[Region, ...], place: Path) -> Iterator[tuple[str, bytes]]:
        """The files; see :data:`Files`.

        Raises:
            ImageError, OSError: the picture is needed and cannot be read.
        """


class PictureFiles:
    """Writes the files of each picture, whole, and never over one that it has not written itself.

    Plans hold, for each file, the digests before and after, and whose it was; and the names of those that
    were left as they were. What was written with other options is its own as well.

    Args:
        kind: what it writes, for people; with ``select`` it is the key of plans and marks.
        folder: where the tree of the pictures is mirrored; None: each file lies beside its picture.
        file: the one file of the one picture of a run, whatever that is called.
        select: which regions, see :func:`.select_regions`; of most pictures some are missing.
        only_these: names of instructions; of answers to others the regions are left out.
    """

    changes_pictures = False

    def __init__(
        self,
        kind: str,
        content: Content,
        folder: Path | None,
        *,
        file: Path | None = None,
        select: str = "",
        only_these: Sequence[str],
        overwrite: bool,
        full_name: bool,
        disk: Disk,
        on_problem: OnProblem,
    ) -> None:
        key = repr((select, content))
        self.name = f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        self._kind = kind
        self._content = content
        self._folder = folder
        self._file = file
        self._select = select
        self._only_these = frozenset(only_these)
        self._overwrite = overwrite
        self._full_name = full_name
        self._disk = disk
        self._on_problem = on_problem
        self._made: dict[str, Files] = {}  # what was planned and is to be written next
        self._held = 0

    def targets(self, item: Item | Record) -> list[Place]:
        """The file of the picture, or the folder of its files."""
        return [self._place(item)]

    def wants(self, item: Item) -> bool:
        """Whether its file is not there, or may be replaced."""
        return self._overwrite or not self._place(item).exists()

    def lacks(self, item: Item, plan: Any) -> bool:
        """Whether files that may be replaced are not as they should be: somebody has made or changed them."""
        if not self._overwrite or plan is None or "files" not in plan:
            return False
        place = self._place(item)
        return bool(plan.get("left")) or any(
            _digest(place / name) != one["after"] for name, one in plan["files"].items()
        )

    def start(self, mark: Mark | None) -> None:
        """Nothing to do: what was begun is written again."""

    def prepare(self, records: Sequence[Record]) -> list[Record]:
        """Make the files, and see which may be written."""
        return [self._prepared(record) for record in records]

    def write(self, records: Sequence[Record]) -> None:
        """Write them. Those that are as they should be are not touched."""
        for record in records:
            if record.error is None:
                planned = record if self.name in record.plans else self._prepared(record)
                self._write_all(planned, planned.plans.get(self.name, {}))
        self._made.clear()
        self._held = 0

    def commit(self) -> Mark:
        """The names of new files are on the disk."""
        self._disk.sync_folders()
        return {}

    def finish(self, records: Callable[[], Iterator[Record]], save: SaveMark) -> None:
        """Nothing to do: every file is complete."""

    def close(self) -> None:
        """Nothing is open."""

    # ---- where

    def _place(self, picture: Item | Record) -> Path:
        if self._file is not None:
            return self._file
        if self._folder is not None:
            place = self._folder / self._content.below / path_below(picture.relative)
        elif picture.path is not None:
            place = picture.path
        else:
            raise OutputError(
                f"{picture.name!r} is no file of this machine, so that its {self._kind} cannot lie beside "
                "it. Name a folder for them."
            )
        stem = place.name if self._full_name else stem_of(place.name)
        return place.with_name(f"{stem}{self._content.suffix}")

    # ---- what

    def _prepared(self, record: Record) -> Record:
        own = record.previous_plans.get(self.name, {})
        if record.error is not None:  # the files of another time stay, and are still ours
            return replace(record, plans={**record.plans, self.name: own}) if own else record
        made = self._make(record)
        plan = own if made is None else self._planned(record, made)
        return replace(record, plans={**record.plans, self.name: plan})

    def _make(self, record: Record) -> Files | None:
        """The files of a picture; None, which was then told, if it cannot be read any more."""
        regions = regions_in(record, self._only_these, self._select)
        if record.size is None:
            return None
        try:
            return list(self._content.make(record, regions, self._place(record)))
        except _UnseenError:  # it is found again by this run, and its files are missing
            return None
        except (ImageError, OSError) as error:
            self._on_problem(record.name, f"no {self._kind} could be made: {error}")
            return None

    def _planned(self, record: Record, made: Files) -> dict[str, Any]:
        place = self._place(record)
        plan = {}
        left = []
        for name, content in made:
            there = _digest(place / name)
            is_ours = self._has_written(record, name, there)
            after = hashlib.sha256(content).hexdigest()
            if record.path is not None and os.path.realpath(place / name) == os.path.realpath(record.path):
                self._on_problem(record.name, f"its {self._kind} would replace the picture itself; left out")
            elif there in (None, after) or is_ours or self._overwrite:
                plan[name] = {"before": there, "after": after, "ours": is_ours}
            else:
                left.append(name)
                self._on_problem(
                    record.name,
                    f"{str(place / name)!r} is there already, from elsewhere or changed by somebody; left as "
                    "it is, unless overwriting is allowed",
                )
        known = {name for last in self._previous(record) for name in last}
        for name in known - dict(made).keys():  # of objects that are found no more
            there = _digest(place / name)
            if there is not None and self._has_written(record, name, there):
                plan[name] = {"before": there, "after": None, "ours": True}
        size = sum(len(content) for _, content in made)
        if self._held + size <= _HELD:
            self._made[record.name] = made
            self._held += size
        return {"files": plan, **({"left": left} if left else {})}

    def _previous(self, record: Record) -> list[Mapping[str, Any]]:
        """What was planned for the files of a picture, also with other options."""
        kind = self.name.rpartition("-")[0]
        plans = record.previous_plans.items()
        return [plan.get("files", {}) for name, plan in plans if name.rpartition("-")[0] == kind]

    def _has_written(self, record: Record, name: str, there: str | None) -> bool:
        return any(_is_ours(there, last[name]) for last in self._previous(record) if name in last)

    def _write_all(self, record: Record, plan: Mapping[str, Any]) -> None:
        files = plan.get("files")
        if files is None:
            return
        made = self._made.get(record.name)
        if made is None:
            made = self._make(record)
        if made is None:
            return
        place = self._place(record)
        report = functools.partial(self._on_problem, record.name)
        with telling(place, on_one=report):
            self._disk.make_folder(place.parent if self._content.suffix else place)
            for name, content in made:
                if name in files:
                    self._write(place / name, content, files[name], report)
            for name, one in files.items():
                if one["after"] is None and _digest(place / name) == one["before"]:
                    (place / name).unlink()
                    self._disk.changed(place)

    def _write(
        self, path: Path, content: bytes, plan: Mapping[str, Any], report: Callable[[str], None]
    ) -> None:
        there = _digest(path)
        if there == hashlib.sha256(content).hexdigest():
            temporary_of(place_for(path)).unlink(missing_ok=True)  # what a kill may have left
        elif there in (plan["before"], None) or self._overwrite:
            self._disk.write_whole(path, content)
        else:
            report(f"{str(path)!r} was changed by somebody during this run; left as it is")


class LabelMeFiles:
    """``NAME.json``, as LabelMe opens it."""

    suffix = ".json"
    below = ""

    def __repr__(self) -> str:
        return "labelme"

    def make(self, record: Record, regions: tuple[Region, ...], place: Path) -> Iterator[tuple[str, bytes]]:
        """One file."""
        picture = record.path or Path(record.name)
        text = labelme_text(regions, record.size or (0, 0), picture, place.parent)
        yield "", text.encode("utf-8", "backslashreplace")


class DrawnFiles:
    """A drawing of each picture, or a folder of drawings."""

    below = ""

    def __init__(self, drawing: Drawing, background: Background = DEFAULT_BACKGROUND) -> None:
        self._drawing = drawing
        self._background = background
        self.suffix = "" if drawing.has_many else f".{drawing.extension}"

    def __repr__(self) -> str:
        return repr((self._drawing, self._background))

    def make(self, record: Record, regions: tuple[Region, ...], place: Path) -> Iterator[tuple[str, bytes]]:
        """One file, or one for each region."""
        with _open(record) as stream:
            image = open_image(stream, background=self._background)
        for name, drawn in self._drawing.draw(image, regions):
            yield (f"{name}.{self._drawing.extension}" if name else ""), self._drawing.encode(drawn)


class YoloFiles(PictureFiles):
    """``labels/NAME.txt`` for each picture; at the end ``classes.txt`` and ``data.yaml``.

    Numbers of classes are kept with the journal, so that they are the same in each run that goes on with it.
    """

    def __init__(
        self, kind: str, folder: Path, *, classes: Sequence[str] = (), outlines: bool, **options: Any
    ) -> None:
        self._lines = _YoloLines(classes, outlines)
        super().__init__(kind, self._lines, folder, **options)
        self._root = folder

    def start(self, mark: Mark | None) -> None:
        """Take up the classes of the runs before."""
        if mark is not None:
            self._lines.take(mark["classes"])
            return
        for name in yolo_class_files(()):
            if (self._root / name).exists() and not self._overwrite:
                raise OutputError(
                    f"{str(self._root / name)!r} is there already. Choose another folder, or replace what is "
                    "in it with --existing overwrite."
                )

    def prepare(self, records: Sequence[Record]) -> list[Record]:
        """As others do; the plans say which numbers the classes have, if they are not in the mark yet."""
        return [self._numbered(record) for record in super().prepare(records)]

    def write(self, records: Sequence[Record]) -> None:
        """Write the files, with the numbers that they were planned with."""
        numbers: dict[str, int] = {}
        for record in records:
            numbers |= record.plans.get(self.name, {}).get("classes", {})
        self._lines.take(sorted(numbers, key=numbers.__getitem__))
        super().write(records)

    def commit(self) -> Mark:
        """The classes by their numbers."""
        super().commit()
        return {"classes": self._lines.classes.names}

    def finish(self, records: Callable[[], Iterator[Record]], save: SaveMark) -> None:
        """Write what the classes are called."""
        for name, text in yolo_class_files(self._lines.classes.names).items():
            path = self._root / name
            with telling(path):
                self._disk.make_folder(self._root)
                self._disk.write_whole(path, text.encode("utf-8", "backslashreplace"))
        self._disk.sync_folders()

    def _numbered(self, record: Record) -> Record:
        plan = record.plans.get(self.name)
        if record.error is not None or not plan:
            return record
        regions = regions_in(record, self._only_these, self._select)
        classes = {name: self._lines.classes.number(name) for name in map(class_of, regions)}
        return replace(record, plans={**record.plans, self.name: {**plan, "classes": classes}})


class _YoloLines:
    """The lines of YOLO's files, and the numbers of the classes."""

    suffix = ".txt"
    below = "labels"

    def __init__(self, classes: Sequence[str], outlines: bool) -> None:
        self.classes = Classes(classes)
        self._given = tuple(classes)
        self._outlines = outlines

    def __repr__(self) -> str:
        return repr((self._given, self._outlines))

    def take(self, names: Sequence[str]) -> None:
        """Number these, unless they have their numbers."""
        for name in names:
            self.classes.number(name)

    def make(self, record: Record, regions: tuple[Region, ...], place: Path) -> Iterator[tuple[str, bytes]]:
        """One file, empty where nothing was found."""
        text = yolo_text(regions, record.size or (1, 1), self.classes, outlines=self._outlines)
        yield "", text.encode()


def regions_in(record: Record, only_these: frozenset[str], select: str = "") -> tuple[Region, ...]:
    """The regions of a picture, those that were selected, of the answers to these instructions."""
    regions: list[Region] = []
    for result in record.results:
        if "regions" in result and result["instruction"] in only_these:
            chosen = select_in_record(result, select, missing_ok=True)
            regions += map(Region.from_dict, chosen["regions"])
    return tuple(regions)


class _UnseenError(Exception):
    """A picture cannot be opened yet: it lies in a shard, and comes from the journal of another run."""


@contextlib.contextmanager
def _open(record: Record) -> Iterator[BinaryIO]:
    if record.path is not None:
        path = record.path
        with patiently(lambda: open(path, "rb")) as stream:
            yield stream
    elif record.open is not None:
        with record.open() as stream:
            yield stream
    elif record.url is not None:
        with open_object(record.url) as stream:
            yield stream
    else:
        raise _UnseenError


def _is_ours(there: str | None, last: Mapping[str, Any]) -> bool:
    """Whether a file is as we have left it: written, or about to be written once more when we were killed."""
    return there == last["after"] or (last["ours"] and there == last["before"])


def _digest(path: PurePath) -> str | None:
    """SHA-256 of a file; None if there is none."""
    with telling(Path(path), deed="read"):
        try:
            return hashlib.sha256(patiently(Path(path).read_bytes)).hexdigest()
        except (FileNotFoundError, NotADirectoryError):
            return None
    raise AssertionError  # not reached: all errors are told by raising
