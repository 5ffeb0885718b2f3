"""Which images a command line names: paths, patterns, and lists of paths on standard input."""

from __future__ import annotations

import glob
import locale
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from .reporting import UsageError


def expand_images(
    arguments: Sequence[str], stdin: BinaryIO | None, *, null_separated: bool = False
) -> list[str]:
    """The images that ``arguments`` name, in order and as they were written.

    A name that exists is taken literally, so ``photo[1].jpg`` needs no quoting. Otherwise ``~``, ``*``,
    ``?``, ``[...]`` and ``**`` (any depth) are expanded here, for shells that do not do it. ``-`` stands for
    the paths on ``stdin``, one per line, or separated by NUL characters with ``null_separated``.

    A path that does not exist is returned as it is: it fails as an image, and the others go on.

    Raises:
        UsageError: a folder, a pattern that matches nothing, or ``-`` with nothing to read.
    """
    if arguments.count("-") > 1:
        raise UsageError("'-' (paths from standard input) can be given only once.")
    images: list[str] = []
    for argument in arguments:
        path = argument if os.path.lexists(argument) else os.path.expanduser(argument)  # noqa: PTH111 - keeps ./
        if argument == "-":
            images += _read_paths(stdin, null_separated)
        elif os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where this says no, for all images
            raise UsageError(_folder_message(argument))
        elif glob.has_magic(path) and not os.path.lexists(path):
            images += _expand_pattern(path)
        else:
            images.append(path)
    return images


def _expand_pattern(pattern: str) -> list[str]:
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute patterns
    matches = sorted(match for match in found if not os.path.isdir(match))  # noqa: PTH112 - as above
    if not matches:
        raise UsageError(
            f"no file matches {pattern!r}. Patterns are case-sensitive where the file system is."
        )
    return matches


def _folder_message(folder: str) -> str:
    pattern = str(Path(folder) / "*.png")
    deep = str(Path(folder) / "**" / "*.png")
    return (
        f"{folder!r} is a folder, and IMAGE must name files. Give a pattern such as {pattern!r}, "
        f"or {deep!r} to include the folders below it."
    )


def _read_paths(stdin: BinaryIO | None, null_separated: bool) -> list[str]:
    if stdin is None:
        raise UsageError("'-' reads paths from standard input, which is closed.")
    data = stdin.read().removeprefix(b"\xef\xbb\xbf")  # PowerShell pipes begin with a byte order mark
    names = data.split(b"\0") if null_separated else [line.rstrip(b"\r") for line in data.split(b"\n")]
    paths = [_decode_path(name) for name in names if name.strip()]
    if not paths:
        raise UsageError("'-' was given, but standard input holds no path.")
    return paths


def _decode_path(name: bytes) -> str:
    if os.name != "nt":
        return os.fsdecode(name)
    try:  # Windows programs pipe UTF-8 or the console's code page, and say nowhere which
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode(locale.getpreferredencoding(False), errors="replace")
