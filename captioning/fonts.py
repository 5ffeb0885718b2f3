"""Text in whatever script, drawn with fonts that have its letters.

The font that Pillow brings (Latin letters only) comes first, so that most labels look the same everywhere;
then the fonts of the system, sans-serif and upright ones first. A text is drawn in one font if one has all of
it, otherwise in as many as it takes. What no font has is written out as ``U+4E2D``, and a warning says once
for each script which font to install: a box in place of a letter tells nothing.

No system font is needed. ``font=`` or ``$PROMPTGEN_FONT`` names a font file that goes before all others.
"""

from __future__ import annotations

import functools
import io
import logging
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .font_files import FontFace, read_face

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

__all__ = ["FONT_VARIABLE", "FontBook", "TextLine", "font_folders", "open_fonts"]

logger = logging.getLogger(__name__)

FONT_VARIABLE = "PROMPTGEN_FONT"

# What of a file's name tells that another face is the better one to read a label in.
_LESS_WANTED = re.compile(
    r"bold|black|heavy|italic|oblique|light|thin|hairline|condensed|narrow|mono|serif|math|music|symbol"
    r"|emoji|display|script|slab|typewriter|[a-z](?:bd|bi|it?|l|z)$",
    re.IGNORECASE,
)
_PREFERRED = re.compile(
    r"(?:dejavusans|notosans-|notosans\[|notosanscjk|sourcehansans|segoeui|arial|arialunicode|arial unicode"
    r"|msyh|malgun|meiryo|yugoth|pingfang|hiragino|applesdgothicneo|nirmala|leelawui|notosans)",
    re.IGNORECASE,
)
# Fonts that claim every character and draw a box or nothing for most.
_PLACEHOLDERS = re.compile(
    r"last ?resort|adobe-?(?:not)?(?:def|blank)|unifont.*(?:csur|upper)", re.IGNORECASE
)


def open_fonts(font: str | os.PathLike[str] | None = None) -> FontBook:
    """The fonts of this machine, after the one named by ``font`` or else by ``$PROMPTGEN_FONT``.

    Raises:
        ValueError: the file named is no font that can be used.
    """
    return _open_fonts(str(font or os.environ.get(FONT_VARIABLE) or ""))


@functools.lru_cache(maxsize=8)
def _open_fonts(font: str) -> FontBook:
    return FontBook(Path(font).expanduser() if font else None)


def font_folders() -> list[Path]:
    """Where fonts are installed on this system, the user's own first."""
    environment, home = os.environ, Path("~").expanduser()
    if sys.platform == "win32":
        local = environment.get("LOCALAPPDATA", str(home / "AppData" / "Local"))
        return [
            Path(local) / "Microsoft" / "Windows" / "Fonts",
            Path(environment.get("WINDIR", r"C:\Windows")) / "Fonts",
        ]
    if sys.platform == "darwin":
        system = Path("/System/Library")
        return [home / "Library" / "Fonts", Path("/Library/Fonts"), system / "Fonts", system / "AssetsV2"]
    own = environment.get("XDG_DATA_HOME") or str(home / ".local" / "share")
    shared = environment.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    folders = [Path(folder) / "fonts" for folder in [own, *shared.split(":"), "/usr/share"] if folder]
    nix = Path("/run/current-system/sw/share/X11/fonts")
    return list(dict.fromkeys([home / ".fonts", *folders, Path("/usr/share/X11/fonts"), nix]))


@dataclass(frozen=True)
class TextLine:
    """A line of text as it will be drawn, and how much room it takes in pixels."""

    parts: tuple[tuple[str, FreeTypeFont], ...]  # from left to right
    width: float
    ascent: int
    descent: int

    @property
    def text(self) -> str:
        """What is read, part by part from the left."""
        return "".join(text for text, _ in self.parts)

    def draw(self, canvas: ImageDraw, left: float, baseline: float, colour: tuple[int, int, int]) -> None:
        for text, font in self.parts:
            canvas.text((left, baseline), text, fill=colour, font=font, anchor="ls")
            left += font.getlength(text)


class FontBook:
    """Finds the font for each text. Font files are looked into as they are needed and then remembered."""

    def __init__(self, first: Path | None = None, folders: list[Path] | None = None) -> None:
        """
        Args:
            first: a font file that goes before all others.
            folders: where to look for more; by default where the system has its fonts.

        Raises:
            ValueError: ``first`` is no font file that can be used.
        """
        self._folders = font_folders() if folders is None else folders
        self._known: list[FontFace] = [*([_named(first)] if first else []), *_builtin()]
        self._unread: Iterator[Path] | None = None
        self._warned: set[str] = set()
        self._face_of = functools.lru_cache(maxsize=4096)(self._find_face)
        self._opened = functools.lru_cache(maxsize=64)(_open)

    def line(self, text: str, size: int, max_width: float | None = None) -> TextLine:
        """The text in one line; what does not fit into ``max_width`` is left out at its end, with ``…``."""
        text = self.readable(text)
        line = self._line(text, size)
        if max_width is None or line.width <= max_width:
            return line
        fits, too_long = 0, len(text)
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            line = self._line(_shorten(text, middle), size)
            fits, too_long = (middle, too_long) if line.width <= max_width else (fits, middle)
        return self._line(_shorten(text, fits), size)

    def readable(self, text: str) -> str:
        """The text in one line of characters that fonts have; the others as their number in Unicode."""
        text = " ".join(unicodedata.normalize("NFC", text).split())
        lacking = [char for char in dict.fromkeys(text) if not self._has(char)]
        if not lacking:
            return text
        written = {char: self._plain(char) or f"U+{ord(char):04X}" for char in lacking}
        self._warn([char for char, instead in written.items() if instead.startswith("U+")])
        for char, instead in written.items():
            text = text.replace(char, f" {instead} " if instead.startswith("U+") else instead)
        return " ".join(text.split())

    def _has(self, char: str) -> bool:
        return _is_invisible(char) or self._face_of(char) is not None

    def _plain(self, char: str) -> str | None:
        """The same in simpler characters, such as ``fi`` for the ligature or ``e`` for an accented one."""
        for form in ("NFKC", "NFKD"):
            simple = unicodedata.normalize(form, char)
            if form == "NFKD":
                simple = "".join(part for part in simple if not unicodedata.combining(part))
            if simple and simple != char and all(map(self._has, simple)):
                return simple
        return None

    def _line(self, text: str, size: int) -> TextLine:
        parts = [(part, self._opened(face, size)) for part, face in self._split(text)]
        parts = [(part if _has_raqm() else self._in_visual_order(part), font) for part, font in parts]
        if _is_right_to_left(text):
            parts.reverse()
        metrics = [font.getmetrics() for _, font in parts] or [
            self._opened(self._known[0], size).getmetrics()
        ]
        width = sum(font.getlength(part) for part, font in parts)
        return TextLine(tuple(parts), width, max(up for up, _ in metrics), max(down for _, down in metrics))

    def _split(self, text: str) -> list[tuple[str, FontFace]]:
        """The text in parts of one font each; in one part if one font has all of it."""
        visible = "".join(char for char in text if not _is_invisible(char))
        if not visible:
            return []
        whole = self._face_of(visible)
        if whole is not None:
            return [(text, whole)]
        parts: list[tuple[str, FontFace]] = []
        for char in text:
            last = parts[-1][1] if parts else None
            if last is not None and (_is_invisible(char) or unicodedata.combining(char) or last.covers(char)):
                parts[-1] = (parts[-1][0] + char, last)
                continue
            face = self._face_of(char)
            if face is not None:
                parts.append((char, face))
        return parts

    def _find_face(self, text: str) -> FontFace | None:
        """The first font that has all of the text."""
        for face in self._faces():
            if face.covers(text):
                return face
        return None

    def _faces(self) -> Iterator[FontFace]:
        place = 0
        while place < len(self._known) or self._read_next():
            yield self._known[place]
            place += 1

    def _read_next(self) -> bool:
        """Look into one more of the system's fonts that is of use; False when there are none left."""
        if self._unread is None:
            self._unread = iter(_font_files(self._folders))
        for path in self._unread:
            try:
                with path.open("rb") as file:
                    face = read_face(file, path)
                if face is not None:
                    self._opened(face, 16)  # what Pillow cannot open is of no use either
                    self._known.append(face)
                    return True
            except OSError as error:
                logger.debug("the font %s cannot be used: %s", path, error)
        return False

    def _in_visual_order(self, text: str) -> str:
        """What to hand to a Pillow that draws strictly from left to right."""
        if any(unicodedata.bidirectional(char) == "AL" or _needs_shaping(char) for char in text):
            self._warn_of_layout()
        text = "".join(char for char in text if not _is_invisible(char))
        return text[::-1] if _is_right_to_left(text) else text

    def _warn_of_layout(self) -> None:
        if "raqm" not in self._warned:
            self._warned.add("raqm")
            logger.warning(
                "this Pillow cannot join letters as Arabic and Indian scripts need it (no Raqm layout), so"
                " they are drawn one by one; install FriBiDi (Debian, Ubuntu: libfribidi0; Windows:"
                " fribidi.dll on the path)"
            )

    def _warn(self, lacking: list[str]) -> None:
        """Say once for each script that no font has it."""
        new = {_script(char): char for char in reversed(lacking) if _script(char) not in self._warned}
        if not new:
            return
        self._warned.update(new)
        letters = ", ".join(
            f"{script} ({char!r}, written as U+{ord(char):04X})" for script, char in new.items()
        )
        logger.warning(
            "no font found has letters of these scripts: %s; install one (%s), or name a font file by"
            " font= or $%s",
            letters,
            ", ".join(dict.fromkeys(_package(script) for script in new)),
            FONT_VARIABLE,
        )


def _named(path: Path) -> FontFace:
    try:
        with path.open("rb") as file:
            face = read_face(file, path)
        if face is not None:
            _open(face, 16)
            return face
        problem = "is no TrueType or OpenType font with outlines and a table of Unicode"
    except OSError as error:
        problem = f"cannot be used: {error.strerror or error}"
    raise ValueError(f"the font {path} {problem}; name a .ttf, .otf or .ttc file")


def _builtin() -> list[FontFace]:
    """The font that Pillow brings; if it was built without one, system fonts must do."""
    from PIL import ImageFont

    font = ImageFont.load_default(16)
    face = read_face(io.BytesIO(getattr(font, "font_bytes", b"")))
    return [face] if face is not None else []


def _open(face: FontFace, size: int) -> FreeTypeFont:
    from PIL import ImageFont

    if face.path is not None:
        return ImageFont.truetype(str(face.path), size)
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError(
            "this Pillow was built without FreeType, which labels need; install it from a wheel"
        )
    return font


def _font_files(folders: list[Path]) -> list[Path]:
    """All font files, those first that labels are best read in."""
    found = {
        Path(folder, name)
        for top in folders
        for folder, _, names in os.walk(top)
        for name in names
        if name.lower().endswith((".ttf", ".otf", ".ttc", ".otc")) and not _PLACEHOLDERS.search(name)
    }
    return sorted(found, key=lambda path: (*_rank(path.stem), path.stem.lower(), str(path)))


def _rank(stem: str) -> tuple[int, int]:
    return len(_LESS_WANTED.findall(stem)), 0 if _PREFERRED.match(stem) else 1


def _shorten(text: str, length: int) -> str:
    """So many characters at most, no accent cut off from its letter, and ``…``; nothing of nothing."""
    while 0 < length < len(text) and (unicodedata.combining(text[length]) or _is_invisible(text[length])):
        length -= 1
    return text[:length].rstrip() + "…" if length else ""


@functools.cache
def _has_raqm() -> bool:
    from PIL import features

    return bool(features.check("raqm"))


def _is_invisible(char: str) -> bool:
    """Joiners, marks of direction and variation selectors: fonts need no letter for them."""
    return char == " " or unicodedata.category(char) == "Cf" or "\ufe00" <= char <= "\ufe0f"


def _is_right_to_left(text: str) -> bool:
    """Whether the first letter with a direction goes to the left."""
    for char in text:
        direction = unicodedata.bidirectional(char)
        if direction in ("L", "R", "AL"):
            return direction != "L"
    return False


def _needs_shaping(char: str) -> bool:
    return "\u0900" <= char <= "\u0dff" or "\u1000" <= char <= "\u109f" or "\u1780" <= char <= "\u17ff"


def _script(char: str) -> str:
    """The script as Unicode's names have it: CJK, HANGUL, THAI; "symbols" for what is no letter."""
    name = unicodedata.name(char, "")
    if not name or not unicodedata.category(char).startswith(("L", "M", "N")):
        return "symbols"
    return name.split()[0].split("-")[0]


def _package(script: str) -> str:
    if script in ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC"):
        return "Noto Sans CJK; Debian, Ubuntu: fonts-noto-cjk"
    if script == "symbols":
        return "Symbola or DejaVu Sans; Debian, Ubuntu: fonts-symbola"
    return f"Noto Sans {script.capitalize()}; Debian, Ubuntu: fonts-noto-core"
