"""Where a run keeps its journal and its errors, when it is not told."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .outputs import OutputError, OutputOptions
from .sources.names import common_folder
from .sources.patterns import has_braces, has_magic
from .sources.remote import is_url_pattern
from .stores import Place, StoreError, StorePath, is_url
from .stores.objects import folder_of
from .stores.paths import parent_url

__all__ = ["ERRORS", "JOURNAL", "STORED_JOURNAL", "errors_place", "input_folder", "journal_place"]

JOURNAL = ".promptgen-run.sqlite"
STORED_JOURNAL = ".promptgen-run"  # a folder of objects
ERRORS = "errors.jsonl"


def journal_place(inputs: Sequence[str], output: OutputOptions) -> Place:
    """In the folder that the captions go to; where each lies beside its picture, in the folder of all inputs.

    A file that ``--output`` names has a journal of its own beside it, and so has each part of a divided run.
    In a store, the journal is a folder.

    Raises:
        OutputError: that folder cannot be written to, or its store cannot be asked.
    """
    file = _own_file(output)
    if file is not None:
        return file.with_name(f".{file.name}{_journal_in(file)}")
    folder = _folder(inputs, output)
    return folder / _of_part(_journal_in(folder), output)


def _journal_in(place: Place) -> str:
    return STORED_JOURNAL if isinstance(place, StorePath) else JOURNAL


def errors_place(inputs: Sequence[str], output: OutputOptions) -> Place:
    """The file of errors, beside the journal."""
    file = _own_file(output)
    if file is not None:
        return file.with_name(f"{file.stem}.{ERRORS}")
    return _folder(inputs, output) / _of_part(ERRORS, output)


def _own_file(output: OutputOptions) -> Place | None:
    """The one file of a run that has been named, in whose folder there may be others."""
    if output.output is None or output.names_folder:
        return None
    return output.place(output.files[0])


def _folder(inputs: Sequence[str], output: OutputOptions) -> Place:
    if not output.forms and output.drawn:
        return output.drawn[0].folder
    return output.output_dir or output.output or input_folder(inputs)


def _of_part(name: str, output: OutputOptions) -> str:
    """The name for one part of a divided run: ``errors-2-of-8.jsonl``."""
    if output.part is None:
        return name
    stem, dot, extension = name.rpartition(".") if name != STORED_JOURNAL else (name, "", "")
    return f"{stem}-{output.part[0]}-of-{output.part[1]}{dot}{extension}"


def input_folder(inputs: Sequence[str]) -> Place:
    """The lowest folder that holds all inputs; where there is none, that of those on this machine, or the
    current one.

    Raises:
        OutputError: it cannot be written to, or its store cannot be asked.
    """
    urls = [_url_folder_of(one) for one in inputs if _is_remote(one)]
    folders = [_folder_of(one) for one in inputs if not _is_remote(one)]
    if folders or not urls:
        return Path(common_folder(folders) or os.curdir)
    folder = common_folder(urls)
    if folder is None or not StorePath(folder).can_be_written:
        why = "can only be read from" if folder is not None else "is not the only store with inputs"
        raise OutputError(
            f"The captions and the journal need a folder: {urls[0]!r} {why}. Name one with --output-dir."
        )
    return StorePath(folder)


def _is_remote(spelled: str) -> bool:
    return is_url(spelled.removeprefix("@"))


def _url_folder_of(spelled: str) -> str:
    """As :func:`_folder_of`."""
    url = spelled.removeprefix("@")
    while has_braces(url) or is_url_pattern(url):
        url = parent_url(url)
    if url != spelled.removeprefix("@"):
        return url
    try:
        return folder_of(url if url.endswith("://") else url.rstrip("/"))
    except StoreError as error:
        raise OutputError(str(error)) from error


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
