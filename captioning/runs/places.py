"""Where a run keeps its journal and its errors, when it is not told."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .outputs import Form, OutputOptions
from .sources.names import common_folder
from .sources.patterns import has_braces, has_magic

__all__ = ["ERRORS", "JOURNAL", "errors_place", "input_folder", "journal_place"]

JOURNAL = ".promptgen-run.sqlite"
ERRORS = "errors.jsonl"


def journal_place(inputs: Sequence[str], output: OutputOptions) -> Path:
    """In the folder that the captions go to; where each lies beside its picture, in the folder of all inputs.

    A file that ``--output`` names has a journal of its own beside it, and so has each part of a divided run.
    """
    file = _own_file(output)
    if file is not None:
        return file.with_name(f".{file.name}{JOURNAL}")
    return _folder(inputs, output) / _of_part(JOURNAL, output)


def errors_place(inputs: Sequence[str], output: OutputOptions) -> Path:
    """The file of errors, beside the journal."""
    file = _own_file(output)
    if file is not None:
        return file.with_name(f"{file.stem}.{ERRORS}")
    return _folder(inputs, output) / _of_part(ERRORS, output)


def _own_file(output: OutputOptions) -> Path | None:
    """The one file of a run that has been named, in whose folder there may be others."""
    if output.output is None or output.files == (Form.WEBDATASET,):
        return None
    return output.place(output.files[0])


def _folder(inputs: Sequence[str], output: OutputOptions) -> Path:
    return output.output_dir or output.output or input_folder(inputs)


def _of_part(name: str, output: OutputOptions) -> str:
    """The name for one part of a divided run: ``errors-2-of-8.jsonl``."""
    if output.part is None:
        return name
    stem, dot, extension = name.rpartition(".")
    return f"{stem}-{output.part[0]}-of-{output.part[1]}{dot}{extension}"


def input_folder(inputs: Sequence[str]) -> Path:
    """The lowest folder that holds all inputs; the current one where there is none."""
    folders = [_folder_of(one) for one in inputs]
    return Path(common_folder(folders) or os.curdir)


def _folder_of(spelled: str) -> str:
    """The folder that an input is, or that it lies in; for a pattern the last that is no pattern itself."""
    path = spelled if os.path.lexists(spelled) else os.path.expanduser(spelled)  # noqa: PTH111 - keeps ./
    if not os.path.lexists(path) and path.startswith("@"):
        path = os.path.expanduser(path[1:])  # noqa: PTH111
    path = os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps ".."
    if os.path.isdir(path):  # noqa: PTH112
        return path
    folder = os.path.dirname(path)  # noqa: PTH120
    while has_magic(folder) or has_braces(folder):
        if os.path.isdir(folder):  # noqa: PTH112 - a folder of such a name
            break
        folder = os.path.dirname(folder)  # noqa: PTH120
    return folder
