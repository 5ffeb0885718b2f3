"""Every image, looked at once before training: does it open, how large is it, is it another one's twin."""

from __future__ import annotations

import functools
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from ...captioning.errors import ImageError
from ...captioning.images import stored_size
from .pictures import ImageRef

__all__ = ["ImageCheck", "ImageChecks", "check_images"]

ImageCheck = Literal["full", "header", "none"]

_AT_A_TIME = 256
_MOST_THREADS = 16


@dataclass(frozen=True)
class ImageChecks:
    """What was found."""

    errors: Mapping[ImageRef, str]
    sizes: Mapping[ImageRef, tuple[int, int]]  # width and height, upright; of images that were decoded
    digests: Mapping[ImageRef, bytes]  # of their files; of images that were read
    files: Mapping[ImageRef, tuple[int, int]]  # device and number on it: the same by whatever path or link

    def identity(self, image: ImageRef) -> object:
        """Equal for two that are the same picture, as far as that is known."""
        return self.digests.get(image) or self.files.get(image) or (image.place, image.column, image.row)

    @property
    def twins(self) -> dict[str, str]:
        """For the names of a picture that has several, the first of them."""
        first: dict[object, str] = {}
        groups: dict[object, set[str]] = {}  # of pictures with several names, of which there are few
        for image in self.files.keys() | self.digests.keys():
            identity = self.identity(image)
            name = first.setdefault(identity, image.name)
            if name != image.name:
                groups.setdefault(identity, {name}).add(image.name)
        return _joined(groups.values())


class _Found(NamedTuple):
    error: str | None = None
    size: tuple[int, int] | None = None
    digest: bytes | None = None
    file: tuple[int, int] | None = None


def check_images(
    images: Iterable[ImageRef],
    check: ImageCheck = "full",
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageChecks:
    """Look at images, each once, in several threads.

    Args:
        check: decode them, read what their header says, or do neither, and only see which are one file.
        on_progress: told how many of how many have been looked at.
    """
    once = list(dict.fromkeys(images))
    look = functools.partial(_seen, check=check)
    found: dict[ImageRef, _Found] = {}
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        for group in _groups(once):
            found.update(zip(group, threads.map(look, group), strict=True))
            if on_progress is not None:
                on_progress(len(found), len(once))
    return ImageChecks(
        {image: one.error for image, one in found.items() if one.error is not None},
        {image: one.size for image, one in found.items() if one.size is not None},
        {image: one.digest for image, one in found.items() if one.digest is not None},
        {image: one.file for image, one in found.items() if one.file is not None},
    )


def _seen(image: ImageRef, check: ImageCheck) -> _Found:
    file = None
    if image.column is None:
        try:
            state = Path(image.place).stat()
        except (OSError, ValueError):  # told, with the reason, by what opens it
            return _LOOKS[check](image)
        if not stat.S_ISREG(state.st_mode):  # to open a pipe is to wait for whoever writes into it
            return _Found(error=f"{image.place}: it is a folder, a pipe or a device, not a picture")
        file = (state.st_dev, state.st_ino) if state.st_ino else None  # 0: a file system without such
    return _LOOKS[check](image)._replace(file=file)


def _decoded(image: ImageRef) -> _Found:
    try:
        data = image.read()
        opened = image.open_bytes(data)
    except ImageError as error:
        return _Found(error=str(error))
    return _Found(size=opened.size, digest=blake2b(data, digest_size=16).digest())


def _header(image: ImageRef) -> _Found:
    """Not its size: that may be of a picture that lies on its side."""
    try:
        if image.column is None:
            with open(image.place, "rb") as file:
                stored_size(file)
            return _Found()
        data = image.read()
        stored_size(io.BytesIO(data))
        return _Found(digest=blake2b(data, digest_size=16).digest())
    except OSError as error:
        return _Found(error=f"{image.name}: {error.strerror or error}")
    except ImageError as error:
        return _Found(error=str(error))


_LOOKS: dict[ImageCheck, Callable[[ImageRef], _Found]] = {
    "full": _decoded,
    "header": _header,
    "none": lambda _: _Found(),
}


def _groups(images: Sequence[ImageRef]) -> Iterator[list[ImageRef]]:
    rest = iter(images)
    while group := list(islice(rest, _AT_A_TIME)):
        yield group


def _joined(groups: Iterable[set[str]]) -> dict[str, str]:
    """Names to the first name of all that are joined with them, through whatever others."""
    first: dict[str, str] = {}

    def root(name: str) -> str:
        while first.get(name, name) != name:
            name = first[name]
        return name

    for group in groups:
        roots = sorted({root(name) for name in group})
        for name in (*group, *roots):
            first[name] = roots[0]
    return {name: root(name) for name in first}
