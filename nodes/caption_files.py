"""What the node that saves captions does when it runs: which file each belongs to, and writing it.

The files are those of a folder run, and written by the same code; which of them a node may write is decided
here.
"""

from __future__ import annotations

import functools
import logging
import os
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..captioning.images import image_extensions
from ..captioning.runs.outputs import Column, Existing, Fsync, SameStem, Targets
from ..captioning.runs.outputs.disk import Disk
from ..captioning.runs.outputs.existing import State, joined, look_at
from ..captioning.runs.outputs.sidecar import Sidecars
from ..captioning.runs.records import Record
from ..captioning.runs.sources.listing import list_folder
from ..captioning.runs.sources.search import is_picture_name
from . import host
from .folders import SHOWN, printable
from .inputs import require_texts

logger = logging.getLogger(__name__)

_INSTRUCTION = "text"  # what the column and the answer are called; nobody sees it


@dataclass(frozen=True)
class SaveOptions:
    """Where captions go, and what becomes of those that are there.

    Raises:
        ValueError: a choice that the menus do not have.
    """

    folder: str  # absolute; empty: file names are absolute paths
    existing: str = "skip"
    separator: str = ", "  # with \\n for a line break, as in all nodes
    extension: str = "txt"
    same_stem: str = "error"

    def __post_init__(self) -> None:
        require_texts(separator=self.separator)
        for name, value, kind in (
            ("mode", self.existing, Existing),
            ("same_stem", self.same_stem, SameStem),
        ):
            allowed = [choice.value for choice in kind]
            if value not in allowed:
                raise ValueError(f"{name} is {value!r:.80}; it takes {', '.join(allowed)}.")


@dataclass
class Saved:
    """What became of the captions."""

    folder: str = ""  # that was named
    written: list[str] = field(default_factory=list)  # paths
    kept: list[str] = field(default_factory=list)  # files with captions that were left as they are
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """For the node's face."""
        place = f" in {self.folder}" if self.folder else ""
        parts = [_listed(_files(len(self.written), f"written{place}"), self._short(self.written))]
        if self.kept:
            parts.append(_listed(_files(len(self.kept), "kept as they were"), self._short(self.kept)))
        if self.problems:
            parts.append(_listed(f"{len(self.problems)} not written:", self.problems))
        return "\n\n".join(parts)

    def _short(self, paths: Sequence[str]) -> list[str]:
        return [os.path.relpath(path, self.folder) if self.folder else path for path in paths]


class CaptionFiles:
    """Writes captions to files."""

    def __init__(self, options: SaveOptions) -> None:
        self._options = options
        self._existing = Existing(options.existing)
        self._same_stem = SameStem(options.same_stem)
        self._separator = options.separator.replace("\\n", "\n")
        self._saved = Saved(options.folder)
        self._sidecars = Sidecars(
            [Column(_INSTRUCTION, options.extension)],
            folder=None,
            existing=self._existing,
            separator=self._separator,
            redo_damaged=False,
            same_stem=self._same_stem,
            disk=Disk(Fsync.GROUP),
            on_problem=lambda name, reason: self._problem(name, reason),
        )

    def save(self, names: Sequence[str], captions: Sequence[str]) -> Saved:
        """Write them, one for each name. What is wrong with all or between them is said before the first.

        Raises:
            ValueError: a name that leads elsewhere, or two names that ask for one file.
            OutputError: the disk is full, a folder is read-only.
            InterruptProcessingException: the user cancelled. What was written stays.
        """
        records = [
            Record(name, Path(name), self._place(name), "", ({"instruction": _INSTRUCTION, "text": caption},))
            for name, caption in zip(names, captions, strict=True)
        ]
        progress = host.StepProgress(len(records))
        try:
            for record in self._without_late(records):
                progress.step()
                self._save(record)
        finally:
            self._sidecars.commit()
        return self._saved

    # ---- where

    def _place(self, name: str) -> Path:
        """The image that a caption belongs to, which need not be there.

        Raises:
            ValueError: it lies elsewhere than in the folder, or there is no saying where.
        """
        shown = printable(name)
        path = Path(name.replace("\\", "/") if os.name == "nt" else name)
        if not path.name or "\0" in name or ".." in path.parts:
            raise ValueError(f"{shown!r} is no file name that a caption could be called after.")
        folder = self._options.folder
        if not folder:
            if not path.is_absolute():
                raise ValueError(
                    f"There is no saying in which folder {shown!r} lies. Connect the folder output of Load "
                    "Image Folder to 'folder', or name a folder."
                )
            if not path.is_file():
                raise ValueError(
                    f"There is no image {shown!r}, beside which its caption could lie. Name a folder for the "
                    "captions in 'folder'."
                )
            return self._named(path)
        if path.is_absolute():
            path = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
        place = Path(folder) / path
        self._require_inside(place, shown)
        return self._named(place)

    def _named(self, image: Path) -> Path:
        """With an extension to lose: other packs name images without one, and may have dots in such names."""
        if self._same_stem is SameStem.FULL_NAME or image.suffix.lower() in image_extensions():
            return image
        return image.with_name(f"{image.name}.png")

    def _require_inside(self, image: Path, shown: str) -> None:
        """See that the caption comes to lie in the folder that was named, links and all; or, where a link in
        that folder leads elsewhere, beside an image that is there."""
        real, folder = os.path.realpath(image.parent), os.path.realpath(self._options.folder)
        try:
            inside = os.path.commonpath([real, folder]) == folder
        except ValueError:  # another drive
            inside = False
        if not inside and not image.is_file():
            raise ValueError(
                f"The caption of {shown!r} would lie outside of {printable(self._options.folder)!r}."
            )

    def _without_late(self, records: list[Record]) -> list[Record]:
        """The records, each with a file of its own. Images beside them count, which another call may bring.

        Raises:
            ValueError: two ask for one file, and there is no rule for that.
        """
        names: dict[str, str] = {}  # by path
        for record in records:
            if str(record.path) in names:
                raise ValueError(
                    f"The file name {printable(record.name)!r} comes twice; an image has one caption."
                )
            names[str(record.path)] = record.name
        with Targets() as targets:
            for one in [*self._beside(records), *records]:
                targets.add(str(one.path), [self._target(one)])
            asked = [one for one in targets.collisions() if one.first in names or one.other in names]
        if asked and self._same_stem is not SameStem.FIRST:
            lines = [
                f"{self._shown(one.first, names)} and {self._shown(one.other, names)}: {one.target.name}"
                for one in asked
            ]
            raise ValueError(
                _listed("Images that ask for the same caption file:", lines)
                + "\nAll images in the folder count, also those whose names did not come. Set 'same_stem' to "
                "full-name for names like a.jpg.txt, or to first."
            )
        late = {one.other: one.first for one in asked if one.other in names}
        for other, first in late.items():
            self._problem(names[other], f"its caption file is that of {self._shown(first, names)}")
        return [record for record in records if str(record.path) not in late]

    def _beside(self, records: Sequence[Record]) -> Iterator[Record]:
        """The images beside those of the records that have a stem of theirs, in the order of a run."""
        if self._same_stem is SameStem.FULL_NAME:  # as no other has
            return
        folders: dict[tuple[Path, Path], set[str]] = {}
        for record in records:
            image = Path(record.name)
            if record.path is not None and image.suffix.lower() in image_extensions():
                there = image if image.is_absolute() and image.is_file() else record.path
                folders.setdefault((there.parent, record.path.parent), set()).add(_folded_stem(image.name))
        for (folder, place), stems in folders.items():
            is_wanted = functools.partial(_is_picture_of, stems)
            for name in list_folder(str(folder), is_wanted, lambda _: False, self._problem).files:
                yield Record(name, Path(name), place / name, "")

    def _shown(self, path: str, names: Mapping[str, str]) -> str:
        if path in names:
            return names[path]
        return os.path.relpath(path, self._options.folder) if self._options.folder else path

    def _target(self, record: Record) -> Path:
        (target,) = self._sidecars.targets(record)
        assert isinstance(target, Path)  # no node writes to a store
        return target

    # ---- what

    def _save(self, record: Record) -> None:
        target = self._target(record)
        text = record.results[0]["text"].strip()
        found = look_at(target)
        if not text:
            self._problem(record.name, "the caption is empty")
        elif found.state is State.UNREADABLE:
            self._problem(record.name, f"{target.name} {found.reason}; it is left as it is")
        elif found.unusable and self._existing is Existing.SKIP:
            self._problem(record.name, f"{target.name} {found.reason}; mode overwrite replaces it")
        elif found.state is State.CAPTION and self._is_kept(found.content.decode("utf-8-sig"), text):
            self._saved.kept.append(str(target))
        else:
            self._write(record, target)

    def _write(self, record: Record, target: Path) -> None:
        (record,) = self._sidecars.prepare([record])
        problems = len(self._saved.problems)
        self._sidecars.write([record])
        if len(self._saved.problems) == problems:
            self._saved.written.append(str(target))

    def _is_kept(self, old: str, text: str) -> bool:
        """Whether a caption stays as it is: by the mode, or as the text is there since an earlier run."""
        old = old.replace("\r\n", "\n").strip()
        text = text.replace("\r\n", "\n")
        if self._existing is Existing.OVERWRITE:
            return old == text
        if self._existing is Existing.SKIP or old == text:
            return True
        separator = self._separator
        if self._existing is Existing.APPEND:
            return old.endswith(joined("_", text, separator)[1:])
        return old.startswith(joined(text, "_", separator)[:-1])

    def _problem(self, name: str, reason: str) -> None:
        problem = printable(f"{name}: {reason}")
        self._saved.problems.append(problem)
        logger.warning("Save Captions: %s", problem)


def _is_picture_of(stems: Collection[str], name: str) -> bool:
    return _folded_stem(name) in stems and is_picture_name(name)


def _folded_stem(name: str) -> str:
    """Equal where two stems are, or may be, the same to a file system."""
    return unicodedata.normalize("NFC", os.path.splitext(name)[0]).casefold()  # noqa: PTH122


def _files(count: int, what: str) -> str:
    return f"{count} caption {'file' if count == 1 else 'files'} {what}" + (":" if count else "")


def _listed(heading: str, lines: Sequence[str]) -> str:
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return printable("\n".join([heading, *lines[:SHOWN], *more]))
