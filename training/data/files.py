"""Images and caption files in folders, by name."""

# Paths are strings: a Path for each of very many files would cost more than it gives.
# ruff: noqa: PTH100, PTH122

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ...captioning.runs.sources.search import is_picture_name
from ...captioning.runs.sources.walking import Links, walk
from .examples import OnProblem, Problem, clean_text, why_no_text

__all__ = ["FolderFiles", "below", "folders_of", "is_picture_name", "read_caption", "stem_of"]


class FolderFiles(NamedTuple):
    """What one folder holds, in natural order."""

    path: str
    pictures: list[str]
    others: list[str]


def folders_of(root: Path, on_problem: OnProblem) -> Iterator[FolderFiles]:
    """The folder ``root`` and those below it, but for hidden ones; links to folders are followed once."""

    def tell(path: str, reason: str) -> None:
        on_problem(Problem("unreadable folder", path, reason))

    base = os.path.abspath(root)
    for folder in walk(base, Links([os.path.realpath(base)]), _is_visible, tell):
        pictures = [name for name in folder.files if is_picture_name(name)]
        others = [name for name in folder.files if not is_picture_name(name)]
        yield FolderFiles(folder.path, pictures, others)


def _is_visible(name: str) -> bool:
    return not name.startswith(".")


def below(path: str, root: Path) -> str:
    """``path`` relative to ``root``, with slashes; as it is where it lies elsewhere.

    The same on every machine: macOS may write an accent as a character of its own.
    """
    base = os.path.abspath(root)
    absolute = os.path.abspath(path)
    prefix = base if base.endswith(os.sep) else base + os.sep
    inside = os.path.normcase(absolute).startswith(os.path.normcase(prefix))
    name = (absolute[len(prefix) :] if inside else absolute).replace(os.sep, "/")
    return unicodedata.normalize("NFC", name)


def stem_of(name: str) -> str:
    """The name without its last extension; accents in one form, as two machines may have written them."""
    return os.path.splitext(unicodedata.normalize("NFC", name))[0]


def read_caption(path: str, on_problem: OnProblem, *, keep_empty: bool = False) -> str | None:
    """The cleaned text in a caption file; None, and told, where there is none.

    Args:
        keep_empty: that of an empty file is the empty text.
    """
    text = _read(path, lambda kind, reason: on_problem(Problem(kind, path, reason)))
    if text == "" and not keep_empty:
        on_problem(Problem("empty caption", path, "there is nothing in it"))
        return None
    return text


def _read(path: str, tell: Callable[[str, str], None]) -> str | None:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        tell("unreadable caption", f"it cannot be read: {error.strerror or error}")
        return None
    except UnicodeDecodeError:
        tell("unreadable caption", "it is not UTF-8; save it as UTF-8")
        return None
    if (reason := why_no_text(text)) is not None:
        tell("unreadable caption", reason)
        return None
    return clean_text(text)
