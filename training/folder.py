"""The folder of a run: what lies in it, and whether a run may begin there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .atomic import atomic_folder, remove_folder
from .checkpoints import STATE, find_checkpoints
from .errors import TrainingError
from .metrics import METRICS

CONFIG = "training_config.yaml"
SPLIT = "split.json"
FINAL = "final"
_LOCK = ".lock"


def check_folder(folder: Path, *, resume: bool) -> None:
    """See that a run may begin, or go on, in ``folder``. Nothing is left behind.

    Raises:
        TrainingError: it holds a run already and ``resume`` was not asked for, or nothing can be written.
    """
    if not resume and (found := _traces(folder)):
        raise TrainingError(
            f"{folder} holds a run already ({found[0]}). Go on with it by --resume, or choose another "
            "output_dir or run_name."
        )
    missing = [path for path in (folder, *folder.parents) if not path.exists()]  # the deepest first
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
        for path in missing:
            path.rmdir()
    except OSError as error:
        raise TrainingError(
            f"{folder} cannot be written to: {error.strerror or error}. Choose another output_dir, or make "
            "it writable."
        ) from error


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Within, no other process trains in ``folder``; also over after a kill.

    Raises:
        TrainingError: another one does.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise TrainingError(f"another process trains in {folder} now. Wait for it, or end it.") from error
    except NotImplementedError:  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        lock.release()


def write_final(folder: Path, checkpoint: Path) -> Path:
    """``final/``: the last checkpoint's model without what only a resumed run needs. Takes no room where the
    file system lets a file have two names.

    Raises:
        TrainingError: it cannot be written. The checkpoint is there.
    """
    final = folder / FINAL
    try:
        if final.exists():  # of an earlier end of this run
            remove_folder(final)
        with atomic_folder(final) as unfinished:
            shutil.copytree(
                checkpoint,
                unfinished,
                dirs_exist_ok=True,
                copy_function=_link,
                ignore=lambda path, _: [STATE] if Path(path) == checkpoint else [],
            )
    except OSError as error:
        raise TrainingError(
            f"{final} could not be written: {error.strerror or error}. The trained model is in {checkpoint}."
        ) from error
    return final


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # no links here
        shutil.copy2(source, target)


def _traces(folder: Path) -> list[str]:
    """What a run has left in a folder."""
    names = [name for name in (CONFIG, METRICS, SPLIT, FINAL) if (folder / name).exists()]
    return names + [path.name for path in find_checkpoints(folder).values()]
