"""Bringing a checkpoint from the Hub to this disk, or mending one that is not whole.

Bytes are gathered in a file of our own beside the target, compared with the Hub's size and hash, and only
then put in place; until every file is there, the record beside the checkpoint says that it is not complete.
So whatever stops it, what can be found is either whole or recognised as unfinished, and the next try goes on.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .checks import CHECKPOINT, Contents, file_digest, file_problem, shards_of
from .errors import DownloadError
from .hub import HubError, HubFile, HubListing, StoppedError, fetch, list_files, progress_is_unwanted
from .records import STATE_FOLDER, Record, read_record, write_record

logger = logging.getLogger(__name__)

_SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class DownloadProgress:
    """How far a download is: ``done`` of ``total`` bytes of all files to fetch; ``file`` is being fetched."""

    hub_id: str
    file: str
    done: int
    total: int


Progress = bool | Callable[[DownloadProgress], None]


class Place(Protocol):
    """Where the files of a checkpoint go."""

    folder: Path
    state: Path

    def accept(self, part: Path, file: HubFile) -> None:
        """Put the verified ``part`` in the place of ``file``."""
        ...

    def begin(self) -> None:
        """The first file is about to come."""
        ...


class PlainPlace:
    """A folder of the user's. What stands there already is never deleted, at most renamed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / STATE_FOLDER

    def accept(self, part: Path, file: HubFile) -> None:
        target = self.folder / file.name
        if os.path.lexists(target):
            aside = _free_name(target)
            target.replace(aside)
            logger.warning("%s was damaged; it is kept as %s and may be deleted.", target, aside.name)
        part.replace(target)

    def begin(self) -> None:
        pass


class CachePlace:
    """A snapshot in a Hugging Face cache: ``blobs/HASH``, linked to from ``snapshots/COMMIT/NAME``."""

    def __init__(self, repository: Path, commit: str, *, is_main: bool) -> None:
        self.folder = repository / "snapshots" / commit
        self.state = repository / STATE_FOLDER
        self._repository = repository
        self._is_main = is_main

    def accept(self, part: Path, file: HubFile) -> None:
        blob = self._repository / "blobs" / file.digest.partition(":")[2]
        pointer = self.folder / file.name
        blob.parent.mkdir(parents=True, exist_ok=True)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        link = part.with_name(part.name + ".link")
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:  # Windows without the right to make links: the file itself takes the link's place
            part.replace(pointer)
            return
        part.replace(blob)
        link.replace(pointer)

    def begin(self) -> None:
        if self._is_main:
            reference = self._repository / "refs" / "main"
            reference.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.state / "main.tmp"
            temporary.write_text(self.folder.name, encoding="utf-8")
            temporary.replace(reference)


def download(
    hub_id: str,
    make_place: Callable[[HubListing], Place],
    *,
    revision: str | None,
    progress: Progress,
    contents: Contents = CHECKPOINT,
) -> Path:
    """Fetch what is missing or damaged of ``hub_id``, and check every file against the Hub.

    The caller holds the lock of the place.

    Args:
        make_place: gives the place once the Hub has named the commit.
        revision: the commit to fetch; None for the newest of the main branch.
        progress: whether to show a bar on standard error, or what to call instead; what a callback raises
            stops the download, which can be taken up again later.

    Raises:
        DownloadError: with the cause in one sentence; the caller adds the remedy.
    """
    try:
        listing = list_files(hub_id, revision)
    except HubError as error:
        raise DownloadError(str(error), model=hub_id) from error
    place = make_place(listing)
    try:
        _Download(listing, place, contents).run(progress)
    except StoppedError as stopped:
        raise stopped.cause from None
    except HubError as error:
        raise DownloadError(str(error), model=hub_id) from error
    except OSError as error:
        raise DownloadError(f"{place.folder} cannot be written to: {error}.", model=hub_id) from error
    return place.folder


class _Download:
    def __init__(self, listing: HubListing, place: Place, contents: Contents) -> None:
        self.contents = contents
        self.listing = listing
        self.place = place
        self.incoming = place.state / "incoming"
        known = read_record(place.folder)
        if known is None or (known.hub_id, known.commit) != (listing.hub_id, listing.commit):
            known = Record(listing.hub_id, listing.commit)
        self.record = known

    def run(self, progress: Progress) -> None:
        contents = self.contents
        chosen = contents.choose_weights(self.listing.files)
        if chosen is None or contents.config not in self.listing.files:
            raise HubError(
                f"{self.listing.hub_id} holds no {contents.what} that can be read: "
                f"no {'weights' if chosen is None else contents.config} among its files."
            )
        self.place.folder.mkdir(parents=True, exist_ok=True)
        self.incoming.mkdir(parents=True, exist_ok=True)
        # The weights first and config.json last: a folder without it is nobody's checkpoint.
        texts = filter(contents.is_text, self.listing.files)
        names = [chosen, *sorted(texts, key=lambda name: name == contents.config)]
        first = self._wanted(names[:1])
        self.record.complete = False
        write_record(self.place.folder, self.record)
        self.place.begin()
        if chosen.endswith(".index.json"):
            with _bar(self.listing.hub_id, sum(file.size for file in first), progress) as report:
                self._bring(first, report)
            names[1:1] = self._shards(self.place.folder / chosen)
        wanted = self._wanted(names)
        total = sum(file.size for file in wanted)
        self._check_space(total)
        with _bar(self.listing.hub_id, total, progress) as report:
            self._bring(wanted, report)
        self.record.files = {name: fact for name, fact in self.record.files.items() if name in names}
        self.record.complete = True
        write_record(self.place.folder, self.record)
        shutil.rmtree(self.incoming, ignore_errors=True)

    def _shards(self, index: Path) -> list[str]:
        try:
            shards = shards_of(index)
        except ValueError as error:
            raise HubError(f"{self.listing.hub_id}: {index.name} cannot be used, {error}.") from error
        absent = [name for name in shards if name not in self.listing.files]
        if absent:
            raise HubError(
                f"{self.listing.hub_id} lacks weight files that its index names: {', '.join(absent)}."
            )
        return shards

    def _wanted(self, names: list[str]) -> list[HubFile]:
        """Which of the files are not there as the Hub has them. Those that are there get into the record."""
        wanted = []
        for name in names:
            file = self.listing.files[name]
            path = self.place.folder / name
            if self.record.is_current(self.place.folder, name, file.digest):
                continue
            if not path.exists() or file_problem(path) is not None:
                wanted.append(file)
            elif _matches(path, file):
                self.record.note(self.place.folder, name, file.digest)
            elif isinstance(self.place, CachePlace):
                wanted.append(file)
            elif self.contents.is_text(name) and path.suffix == ".json":
                logger.info("%s is not the Hub's copy; taken as edited and kept.", path)
            elif name not in self.record.files:  # not of our downloading
                raise HubError(
                    f"{path} is whole but is not {self.listing.hub_id}'s: the rest of that repository may "
                    "not fit it and is not mixed in. Add the missing files yourself, or move the folder away."
                )
            else:
                wanted.append(file)
        return wanted

    def _bring(self, files: list[HubFile], report: Callable[[str, int], None]) -> None:
        before = 0
        for file in files:
            self._bring_one(file, _counted(report, file.name, before))
            before += file.size

    def _bring_one(self, file: HubFile, on_bytes: Callable[[int], None]) -> None:
        part = self.incoming / f"{file.name}.{file.digest[-16:]}.part"
        for _attempt in range(2):
            fetch(self.listing, file, part, on_bytes)
            found = file_digest(part, file.digest.partition(":")[0])
            if found == file.digest:
                self.place.accept(part, file)
                self.record.note(self.place.folder, file.name, file.digest)
                write_record(self.place.folder, self.record)
                return
            part.unlink()
            logger.warning("%s arrived damaged (%s instead of %s)", file.name, found, file.digest)
        raise HubError(
            f"{file.name} arrived damaged twice: it has {found} where the Hub states {file.digest}. "
            "A proxy or mirror between here and the Hub may be altering files; check HF_ENDPOINT."
        )

    def _check_space(self, total: int) -> None:
        held = sum(path.stat().st_size for path in self.incoming.iterdir())
        needed, free = total - held, shutil.disk_usage(self.place.folder).free
        if needed > 0 and needed + _SPARE_BYTES > free:
            raise HubError(
                f"the disk of {self.place.folder} has {free / 1e9:.2f} GB free, "
                f"and {needed / 1e9:.2f} GB are needed."
            )


@contextmanager
def _bar(hub_id: str, total: int, progress: Progress) -> Iterator[Callable[[str, int], None]]:
    """Yield a function of (file name, bytes done) that shows them."""
    if callable(progress):
        yield lambda name, done: progress(DownloadProgress(hub_id, name, done, total))
        return
    if not progress or not total or progress_is_unwanted():
        yield lambda name, done: None
        return
    from tqdm.auto import tqdm

    # disable=None: no bar where standard error is no terminal
    with tqdm(total=total, unit="B", unit_scale=True, desc=hub_id.rpartition("/")[2], disable=None) as bar:

        def show(name: str, done: int) -> None:
            bar.set_postfix_str(name, refresh=False)
            bar.update(done - bar.n)

        yield show


def _counted(report: Callable[[str, int], None], name: str, before: int) -> Callable[[int], None]:
    return lambda held: report(name, before + held)


def _matches(path: Path, file: HubFile) -> bool:
    return (
        path.stat().st_size == file.size and file_digest(path, file.digest.partition(":")[0]) == file.digest
    )


def _free_name(path: Path) -> Path:
    for number in range(1, 1000):
        name = path.with_name(f"{path.name}.damaged{'' if number == 1 else f'-{number}'}")
        if not os.path.lexists(name):
            return name
    raise OSError(f"{path.parent} holds a thousand damaged copies of {path.name}; delete some")
