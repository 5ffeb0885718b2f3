"""Every image, looked at once before training: does it open, how large is it, is it another one's twin."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
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
    digests: Mapping[ImageRef, bytes]  # of their files; of images that were decoded

    def identity(self, image: ImageRef) -> object:
        """Equal for two that are the same picture, as far as that is known."""
        return self.digests.get(image) or (image.place, image.column, image.row)

    @property
    def twins(self) -> dict[str, str]:
        """For the names of a picture that has several, the first of them."""
        names: dict[object, set[str]] = {}
        for image in self.digests:
            names.setdefault(self.identity(image), set()).add(image.name)
        return _joined(group for group in names.values() if len(group) > 1)


class _Found(NamedTuple):
    error: str | None = None
    size: tuple[int, int] | None = None
    digest: bytes | None = None


def check_images(
    images: Iterable[ImageRef],
    check: ImageCheck = "full",
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageChecks:
    """Look at images, each once, in several threads.

    Args:
        check: decode them, read what their header says, or do neither.
        on_progress: told how many of how many have been looked at.
    """
    once = list(dict.fromkeys(images)) if check != "none" else []
    look = _decoded if check == "full" else _header
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
    )


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
        else:
            stored_size(io.BytesIO(image.read()))
    except OSError as error:
        return _Found(error=f"{image.name}: {error.strerror or error}")
    except ImageError as error:
        return _Found(error=str(error))
    return _Found()


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
