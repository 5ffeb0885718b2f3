"""A result file that appears complete or not at all, and never over one that is there."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TextIO

from .reporting import CommandError, UsageError, say


class OutputFile:
    """Writes to ``NAME.partial`` in the same folder and renames it to ``NAME`` when the run has ended well.

    After Ctrl-C or a failure the partial file stays with all that was written, and standard error says where.
    Text is UTF-8 with ``\\n`` line ends on every system.

    Raises:
        UsageError: ``path`` exists and ``overwrite`` is False, or is no regular file.
        CommandError: at the end, if a file of that name has appeared during the run or the disk is full.
        OSError: the folder cannot be made or written.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        if str(path) == "-":
            raise UsageError("--output takes a name. Without it results go to standard output.")
        if path.is_dir():
            raise UsageError(
                f"--output {str(path)!r} is a folder. "
                f"Name a file, for example {str(path / 'captions.jsonl')!r}."
            )
        if path.exists() and not path.is_file():  # renaming a file over /dev/null would do away with it
            raise UsageError(f"--output {str(path)!r} is no regular file. Redirect standard output to it.")
        if path.exists() and not overwrite:
            raise UsageError(
                f"--output {str(path)!r} exists already. Choose another name, or give --overwrite."
            )
        self.path = path
        self.overwrite = overwrite
        path.parent.mkdir(parents=True, exist_ok=True)
        self.partial, self.stream = _open_new(path)

    def __enter__(self) -> TextIO:
        return self.stream

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with self.stream:
                self.stream.flush()
                os.fsync(self.stream.fileno())
        except OSError as failure:
            raise CommandError(f"{str(self.partial)!r} cannot be written: {failure.strerror}.") from failure
        if error is None:
            self._put_in_place()
        elif self.partial.stat().st_size:
            say(f"What was done so far is in {self.partial}")
        else:
            self.partial.unlink()  # ours, and empty

    def _put_in_place(self) -> None:
        if self.path.exists() and not self.overwrite:
            raise CommandError(
                f"{str(self.path)!r} was made by someone else during this run and is left as it is. "
                f"The results are in {str(self.partial)!r}."
            )
        self.partial.replace(self.path)


def _open_new(path: Path) -> tuple[Path, TextIO]:
    """Open ``NAME.partial``, or ``NAME.partial2`` and so on where an earlier run has left one."""
    number = 1
    while True:
        partial = path.with_name(f"{path.name}.partial{number if number > 1 else ''}")
        try:
            return partial, open(partial, "x", encoding="utf-8", errors="backslashreplace", newline="\n")
        except FileExistsError:
            number += 1
