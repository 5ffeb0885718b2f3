"""Which characters a font file has letters for, read from its table of them (OpenType ``cmap``).

Pillow does not tell: a letter that a font lacks is drawn as the font's box for missing ones. Only the parts
of a file that are needed are read, and of the table only what is asked for is looked up: a system has
hundreds of fonts, and one for Chinese has tens of thousands of letters.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

__all__ = ["FontFace", "read_face"]

_COLLECTION = b"ttcf"
_KINDS = (b"\0\1\0\0", b"OTTO", b"true")
# The tables of Unicode, the full one first: (platform, encoding).
_UNICODE = ((3, 10), (0, 6), (0, 4), (3, 1), (0, 3), (0, 2), (0, 1), (0, 0))


@dataclass(frozen=True)
class FontFace:
    """The first face of a font file, and its ``cmap`` subtable of format 4 or 12."""

    path: Path | None  # None: the font that Pillow brings
    subtable: bytes

    def covers(self, text: str) -> bool:
        """Whether the face has a letter of its own for each character."""
        return all(self._glyph(ord(char)) for char in text)

    def _glyph(self, code: int) -> int:
        return self._in_groups(code) if self._groups else self._in_segments(code)

    @cached_property
    def _groups(self) -> tuple[tuple[int, int, int], ...]:
        """Format 12: first and last code, and the first one's glyph."""
        if self.subtable[:2] != b"\0\x0c":
            return ()
        (count,) = struct.unpack_from(">I", self.subtable, 12)
        end = 16 + 12 * min(count, (len(self.subtable) - 16) // 12)
        return tuple(struct.iter_unpack(">III", self.subtable[16:end]))

    def _in_groups(self, code: int) -> int:
        place = bisect_left(self._groups, code, key=lambda group: group[1])
        if place == len(self._groups):
            return 0
        first, _, glyph = self._groups[place]
        return glyph + code - first if code >= first else 0

    @cached_property
    def _segments(self) -> tuple[tuple[int, ...], ...]:
        """Format 4: last and first codes, shifts, and offsets to the glyphs that no shift gives."""
        if self.subtable[:2] != b"\0\x04":
            return (), (), (), ()
        count = struct.unpack_from(">H", self.subtable, 6)[0] // 2
        starts = 14, 16 + 2 * count, 16 + 4 * count, 16 + 6 * count
        return tuple(struct.unpack_from(f">{count}H", self.subtable, start) for start in starts)

    def _in_segments(self, code: int) -> int:
        ends, starts, shifts, offsets = self._segments
        place = bisect_left(ends, code)
        if place == len(ends) or code < starts[place]:
            return 0
        if not offsets[place]:
            return (code + shifts[place]) & 0xFFFF
        at = 16 + 6 * len(ends) + 2 * place + offsets[place] + 2 * (code - starts[place])
        if at + 2 > len(self.subtable):
            return 0
        (glyph,) = struct.unpack_from(">H", self.subtable, at)
        return (glyph + shifts[place]) & 0xFFFF if glyph else 0


def read_face(file: BinaryIO, path: Path | None = None) -> FontFace | None:
    """The face of a font file, or of a collection's first font; None where there is no use in it.

    That is a file of another kind or damaged, and a font without outlines or without a table of Unicode, such
    as one of pictures in colour. A table of format 13 is left out on purpose: it has one box for many
    letters.
    """
    try:
        return _read_face(file, path)
    except (OSError, struct.error, ValueError, EOFError):
        return None


def _read_face(file: BinaryIO, path: Path | None) -> FontFace | None:
    kind, start = file.read(4), 0
    if kind == _COLLECTION:
        file.seek(12)
        (start,) = struct.unpack(">I", file.read(4))
        file.seek(start)
        kind = file.read(4)
    if kind not in _KINDS:
        return None
    tables = _read_directory(file)
    if not tables.keys() & {b"glyf", b"CFF ", b"CFF2"} or b"cmap" not in tables:
        return None
    if b"COLR" in tables and _u16(file, tables[b"COLR"][0]) > 0:
        return None  # its outlines are parts of pictures, and the letters themselves are empty
    subtable = _read_unicode(file, *tables[b"cmap"])
    return FontFace(path, subtable) if subtable else None


def _read_directory(file: BinaryIO) -> dict[bytes, tuple[int, int]]:
    """Offset and length of each table."""
    (count,) = struct.unpack(">H6x", file.read(8))
    records = struct.iter_unpack(">4s4xII", file.read(16 * count))
    return {tag: (offset, length) for tag, offset, length in records}


def _read_unicode(file: BinaryIO, offset: int, length: int) -> bytes | None:
    file.seek(offset)
    data = file.read(length)
    (count,) = struct.unpack_from(">H", data, 2)
    records = struct.iter_unpack(">HHI", data[4 : 4 + 8 * count])
    places = {(platform, encoding): place for platform, encoding, place in records}
    for key in _UNICODE:
        if key in places and data[places[key] : places[key] + 2] in (b"\0\x04", b"\0\x0c"):
            return data[places[key] :]
    return None


def _u16(file: BinaryIO, offset: int) -> int:
    file.seek(offset)
    return int(struct.unpack(">H", file.read(2))[0])
