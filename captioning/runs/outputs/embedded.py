"""Captions inside the picture files: EXIF, XMP and IPTC, with the pixels untouched."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..records import Item, Record
from ..sources.patient import patiently
from ..stores.paths import Place
from .base import Mark, OnProblem, OutputError, SaveMark
from .disk import Disk, place_for, telling, temporary_of
from .existing import Existing, joined
from .texts import Column, text_of

__all__ = ["Embedded", "InPicture", "read_embedded"]

_UTF8 = "\x1b%G"  # ISO 2022: what follows is UTF-8


class _RefusedError(Exception):
    """This picture cannot hold a caption; the message says why."""


@dataclass(frozen=True)
class InPicture:
    """What a picture file says of itself."""

    description: str = ""
    tags: tuple[str, ...] = ()

    def digest(self) -> str:
        """Equal for equal words."""
        return hashlib.sha256(json.dumps([self.description, self.tags]).encode()).hexdigest()


class Embedded:
    """Writes captions into the pictures: prose as their description, tags as their keywords.

    ===========  ==============================  =======================
    \\            description                     keywords
    ===========  ==============================  =======================
    EXIF         ``ImageDescription``            –
    XMP          ``dc:description`` (x-default)  ``dc:subject``
    IPTC         ``Caption``                     ``Keywords``
    ===========  ==============================  =======================

    JPEG, PNG and TIFF take all three, WebP takes EXIF and XMP; other kinds of files are reported and left.
    All other metadata stays. A file is replaced only when all its frames decode to the same pixels as before.

    Plans hold the digests of the words before and after, the words, and what of the old ones is kept.
    """

    name = "embedded"
    changes_pictures = True

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        existing: Existing,
        separator: str,
        disk: Disk,
        on_problem: OnProblem,
    ) -> None:
        self._descriptions, self._tags = _by_kind(columns)
        self._existing = existing
        self._separator = separator
        self._disk = disk
        self._on_problem = on_problem

    def targets(self, item: Item) -> list[Place]:
        """None besides the picture itself."""
        return []

    def wants(self, item: Item) -> bool:
        """Whether the picture can hold a caption and has none that is to be kept."""
        try:
            found = self._read(item)[1]
        except _RefusedError as error:
            self._on_problem(item.name, str(error))
            return False
        return self._wants(found)

    def start(self, mark: Mark | None) -> None:
        """See that the library is there."""
        _exiv2()

    def prepare(self, records: Sequence[Record]) -> list[Record]:
        """Read what the pictures say, and decide what they shall say."""
        return [self._prepared(record) for record in records]

    def write(self, records: Sequence[Record]) -> None:
        """Write the picture files anew, each with its words. Those that have them already are not touched."""
        for record in records:
            planned = record if self.name in record.plans else self._prepared(record)
            plan = planned.plans.get(self.name)
            if record.error is None and plan is not None:
                try:
                    with telling(_path_of(record), on_one=functools.partial(self._on_problem, record.name)):
                        self._write(record, plan)
                except _RefusedError as error:
                    self._on_problem(record.name, str(error))

    def commit(self) -> Mark:
        """The names are on the disk; the content has been since it was written."""
        self._disk.sync_folders()
        return {}

    def finish(self, records: Callable[[], Iterator[Record]], save: SaveMark) -> None:
        """Nothing to do: every file is complete."""

    def close(self) -> None:
        """Nothing is open."""

    # ---- what

    def _wants(self, found: InPicture) -> bool:
        if self._existing is not Existing.SKIP:
            return True
        return bool((self._descriptions and not found.description) or (self._tags and not found.tags))

    def _prepared(self, record: Record) -> Record:
        own = record.previous_plans.get(self.name)
        if record.error is not None:  # the words of another time stay, and are still ours
            plan = own
        else:
            try:
                plan = self._plan(record, self._read(record)[1], own)
            except _RefusedError as error:
                self._on_problem(record.name, str(error))
                plan = None
        return record if plan is None else replace(record, plans={**record.plans, self.name: plan})

    def _plan(self, record: Record, found: InPicture, own: Mapping[str, Any] | None) -> dict[str, Any] | None:
        known = [] if own is None else [own["after"], *([own["before"]] if own["ours"] else [])]
        ours = found.digest() in known
        if not ours and not self._wants(found):
            return None
        base = _from_list(own["base"]) if ours and own is not None else found
        after = self._merged(base, self._new(record))
        return {
            "before": found.digest(),
            "after": after.digest(),
            "ours": ours,
            "words": [after.description, list(after.tags)],
            "base": [base.description, list(base.tags)],
        }

    def _new(self, record: Record) -> InPicture:
        texts = [text_of(record, position, column) for position, column in self._descriptions]
        description = functools.reduce(
            lambda first, second: joined(first, second, self._separator), [text for text in texts if text], ""
        )
        tags: list[str] = []
        for position, column in self._tags:
            same = [result for result in record.results if result["instruction"] == column.instruction]
            at = record.results[position : position + 1]
            result = at[0] if at and at[0] in same else next(iter(same), None)
            tags += [] if result is None else result["tags"]
        return InPicture(_printable(description), _unique(map(_printable, tags)))

    def _merged(self, old: InPicture, new: InPicture) -> InPicture:
        if self._existing is Existing.APPEND:
            description = joined(old.description, new.description, self._separator)
            return InPicture(description, _unique([*old.tags, *new.tags]))
        if self._existing is Existing.PREPEND:
            description = joined(new.description, old.description, self._separator)
            return InPicture(description, _unique([*new.tags, *old.tags]))
        keep = self._existing is Existing.SKIP
        description = old.description if not self._descriptions or (keep and old.description) else ""
        tags = old.tags if not self._tags or (keep and old.tags) else ()
        return InPicture(description or new.description, tags or new.tags)

    # ---- files

    def _read(self, picture: Item | Record) -> tuple[bytes, InPicture]:
        """The bytes of a picture's file and what it says.

        Raises:
            _RefusedError: it is no file, cannot be read, or is of a kind that cannot hold words.
        """
        try:
            data = patiently(_path_of(picture).read_bytes)
        except OSError as error:
            raise _RefusedError(f"its description cannot be read: {error.strerror or error}") from error
        return data, read_embedded(data)

    def _write(self, record: Record, plan: Mapping[str, Any]) -> None:
        path = place_for(_path_of(record))
        data, found = self._read(record)
        state = found.digest()
        words = _from_list(plan["words"])
        if state == plan["after"]:
            temporary_of(path).unlink(missing_ok=True)
            return
        if state != plan["before"]:  # somebody was here in the meantime
            if self._existing is Existing.SKIP:
                raise _RefusedError("its description was changed by somebody during this run; left as it is")
            words = self._merged(found, self._new(record))
        after = _with_words(data, words)
        if _frames(after) != _frames(data):
            raise _RefusedError("its pixels would change with its description; left as it is")
        self._disk.write_whole(path, after)


def read_embedded(data: bytes) -> InPicture:
    """What a picture file says of itself; XMP comes before EXIF, and that before IPTC.

    Raises:
        _RefusedError: the file is damaged, or of a kind that cannot hold words.
    """
    exiv2 = _exiv2()
    with _refusing(exiv2):
        image = _opened(exiv2, data)
        xmp, exif, iptc = image.xmpData(), image.exifData(), image.iptcData()
        descriptions = []
        if "Xmp.dc.description" in xmp:
            descriptions.append(dict(xmp["Xmp.dc.description"].value()).get("x-default", ""))
        if "Exif.Image.ImageDescription" in exif:
            descriptions.append(exif["Exif.Image.ImageDescription"].toString())
        if "Iptc.Application2.Caption" in iptc:
            descriptions.append(iptc["Iptc.Application2.Caption"].toString())
        subjects = list(xmp["Xmp.dc.subject"].value()) if "Xmp.dc.subject" in xmp else []
        keywords = [datum.toString() for datum in iptc if datum.key() == _KEYWORDS]
    said = [text for text in map(_printable, descriptions) if text]
    return InPicture(said[0] if said else "", _unique(map(_printable, subjects or keywords)))


def _with_words(data: bytes, words: InPicture) -> bytes:
    """The picture file with these words, and everything else as it was.

    Raises:
        _RefusedError: the file is damaged, or of a kind that cannot hold words.
    """
    exiv2 = _exiv2()
    with _refusing(exiv2):
        image = _opened(exiv2, data)
        xmp, exif, iptc = image.xmpData(), image.exifData(), image.iptcData()
        with_iptc = image.checkMode(exiv2.MetadataId.Iptc) in _writable(exiv2)
        if with_iptc:
            _turn_to_utf8(iptc)
        if words.description:
            _set_default(exiv2, xmp, words.description)
            exif["Exif.Image.ImageDescription"] = words.description
            if with_iptc:  # longer than the 2000 bytes of the standard, perhaps; readers take it
                iptc["Iptc.Application2.Caption"] = words.description
        if words.tags:
            xmp["Xmp.dc.subject"] = exiv2.XmpArrayValue(list(words.tags), exiv2.TypeId.xmpBag)
        if words.tags and with_iptc:
            while (keyword := iptc.findKey(exiv2.IptcKey(_KEYWORDS))) != iptc.end():
                iptc.erase(keyword)
            for tag in words.tags:
                iptc.add(exiv2.IptcKey(_KEYWORDS), exiv2.StringValue(tag))
        image.writeMetadata()
        return _bytes_of(image)


_KEYWORDS = "Iptc.Application2.Keywords"
_CHARACTER_SET = "Iptc.Envelope.CharacterSet"


def _set_default(exiv2: Any, xmp: Any, description: str) -> None:
    """The description of no particular language; those of languages stay."""
    languages = dict(xmp["Xmp.dc.description"].value()) if "Xmp.dc.description" in xmp else {}
    xmp["Xmp.dc.description"] = exiv2.LangAltValue({**languages, "x-default": description})


def _turn_to_utf8(iptc: Any) -> None:
    """Make all text UTF-8 and say so. Text that is none is taken for that of Western Windows, as most is."""
    for datum in iptc:
        text = datum.toString()
        if datum.key() != _CHARACTER_SET and not _is_utf8(text):
            datum.setValue(_printable(text))
    iptc[_CHARACTER_SET] = _UTF8


def _opened(exiv2: Any, data: bytes) -> Any:
    image = exiv2.ImageFactory.open(data)
    image.readMetadata()
    for kind in (exiv2.MetadataId.Exif, exiv2.MetadataId.Xmp):
        if image.checkMode(kind) not in _writable(exiv2):
            raise _RefusedError(f"files of the kind {image.mimeType()} cannot hold a description")
    return image


def _writable(exiv2: Any) -> tuple[Any, ...]:
    return exiv2.AccessMode.Write, exiv2.AccessMode.ReadWrite


def _bytes_of(image: Any) -> bytes:
    stream = image.io()
    stream.open()
    try:
        return bytes(stream.mmap())
    finally:
        stream.munmap()
        stream.close()


def _frames(data: bytes) -> list[tuple[object, ...]]:
    """What is seen of a picture file: size, mode, profile and a digest of the pixels of each frame.

    Raises:
        _RefusedError: it does not decode.
    """
    from PIL import Image, ImageSequence

    try:
        with Image.open(io.BytesIO(data)) as image:
            return [
                (
                    frame.size,
                    frame.mode,
                    frame.info.get("icc_profile"),
                    hashlib.sha256(frame.tobytes()).digest(),
                )
                for frame in ImageSequence.Iterator(image)
            ]
    except (
        OSError,
        SyntaxError,
        ValueError,
        RuntimeError,
        MemoryError,
        Image.DecompressionBombError,
    ) as error:
        raise _RefusedError(f"its pixels cannot be compared ({error}); left as it is") from error


@contextlib.contextmanager
def _refusing(exiv2: Any) -> Iterator[None]:
    try:
        yield
    except exiv2.Exiv2Error as error:
        reason = str(error.args[-1]) if error.args else str(error)
        raise _RefusedError(f"the file cannot hold a description: {reason}") from error


def _exiv2() -> Any:
    """The library.

    Raises:
        OutputError: it is not installed.
    """
    try:
        import exiv2
    except ImportError as error:
        raise OutputError(
            "--embed needs the exiv2 library: pip install 'promptgen-tagger[embed]', or leave --embed out."
        ) from error
    exiv2.LogMsg.setLevel(exiv2.LogMsg.Level.mute)  # its warnings are about what others wrote into the file
    return exiv2


def _by_kind(columns: Sequence[Column]) -> tuple[list[tuple[int, Column]], list[tuple[int, Column]]]:
    """The instructions whose answers are descriptions, and those whose answers are tags."""
    from ...instructions import AnswerKind, find_instruction

    numbered = list(enumerate(columns))
    tags = [pair for pair in numbered if find_instruction(pair[1].instruction).answer is AnswerKind.TAGS]
    return [pair for pair in numbered if pair not in tags], tags


def _path_of(picture: Item | Record) -> Path:
    if picture.path is None:
        raise _RefusedError("it lies in a shard, a table or a store, which is not written to")
    return picture.path


def _is_utf8(text: str) -> bool:
    """Whether the library could read all bytes as UTF-8; the others are surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _printable(text: str) -> str:
    """Text that all three kinds of metadata can hold and give back: no control characters, ends trimmed."""
    if not _is_utf8(text):
        text = text.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    kept = [
        character for character in text if character in "\n\t" or unicodedata.category(character) not in _OUT
    ]
    return "".join(kept).strip()


_OUT = (
    "Cc",
    "Cs",
    "Cn",
)  # control characters, surrogates, no characters at all: XML cannot hold most of them


def _unique(tags: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tag for tag in tags if tag))


def _from_list(words: Sequence[Any]) -> InPicture:
    return InPicture(words[0], tuple(words[1]))
