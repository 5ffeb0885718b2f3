"""Where detect, ground, segment and ocr may write: what is seen to before the model is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .reporting import UsageError

if TYPE_CHECKING:
    from ..captioning.runs.outputs import Drawn

__all__ = ["check_no_images", "check_outside", "check_places"]


def check_places(
    output: Path | None, drawn: Sequence[Drawn], images: Sequence[str], *, to_folder: bool
) -> None:
    """See that what is named can be written, each by itself, and is none of the images.

    Args:
        output: of --output.
        drawn: pictures that are made.
        images: files, or whatever holds images.
        to_folder: whether ``output`` is a folder.

    Raises:
        UsageError: it cannot.
    """
    folders = [one.folder for one in drawn]
    files = [one.file for one in drawn if one.file is not None]
    if output is not None and to_folder:
        folders.append(output)
    elif output is not None:
        folders.append(output.parent)
        files.append(output)
    check_no_images(files, images)
    for folder in folders:
        _check_folder(folder)
    if output is not None and not to_folder:
        for one in drawn:
            if _real(one.file or one.folder) == _real(output):
                raise UsageError(
                    f"--output and --{one.drawing.kind.value} name one place, {str(output)!r}; "
                    "give each its own."
                )


def check_no_images(targets: Iterable[Path], images: Sequence[str]) -> None:
    """See that none of the files that are to be written is an image that is read: they stay in any case.

    Raises:
        UsageError: one is.
    """
    read = {_real(Path(image).expanduser()) for image in images}
    for target in targets:
        if _real(target) in read:
            raise UsageError(
                f"{str(target)!r} is what is read, as an image or for its images, and never replaced. "
                "Name another place."
            )


def check_outside(folder: Path, images: Sequence[str], *, recursive: bool) -> None:
    """See that the next run does not find the pictures that this one makes.

    Raises:
        UsageError: they would lie among its images.
    """
    for image in images:
        root, place = Path(os.path.realpath(Path(image).expanduser())), Path(os.path.realpath(folder))
        if not root.is_dir() or not place.is_relative_to(root):
            continue
        below = place.relative_to(root).parts
        if (recursive or not below) and not any(part.startswith(".") for part in below):
            raise UsageError(
                f"{str(folder)!r} lies in {image!r}, where the next run would take its pictures for images. "
                "Name a folder elsewhere."
            )


def _check_folder(folder: Path) -> None:
    """See that it is a folder, or can be made one."""
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if os.path.lexists(there) and not there.is_dir():
        raise UsageError(f"{str(there)!r} is no folder, so that nothing can be put into {str(folder)!r}.")


def _real(path: Path) -> str:
    return os.path.normcase(os.path.realpath(path))
