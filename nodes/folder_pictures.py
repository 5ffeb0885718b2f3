"""What the node that loads a folder does when it runs: find, measure, decode.

Apart from the node's schema because it needs the engine, and ComfyUI's start must not.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..captioning.errors import ImageError
from ..captioning.images import open_with_opacity, stored_size
from ..captioning.read_ahead import MOST_THREADS, ReadAhead
from ..captioning.runs.outputs.existing import State, look_at
from ..captioning.runs.sources import find_items
from ..captioning.runs.sources.ordered import Order, OrderedNames
from ..captioning.runs.sources.patient import open_patiently, patiently
from ..models_cache import free_bytes
from . import host
from .folders import SHOWN, printable

logger = logging.getLogger(__name__)

SHARE_OF_FREE_MEMORY = 0.5
"""The most of it that the pictures of one node may take."""

_BYTES_PER_PIXEL = 4 * (3 + 1)  # float32: red, green, blue and the mask
_EVERY = 256  # names between two looks at the cancel button


@dataclass(frozen=True)
class PageOptions:
    """Which pictures of a folder.

    Raises:
        ValueError: a value is outside its range.
    """

    folder: str  # absolute
    pattern: str = ""
    recursive: bool = True
    order: Order = Order.NAME
    start: int = 0
    limit: int = 0  # 0: all that are left
    extension: str | None = "txt"  # of captions; None: they are not read

    def __post_init__(self) -> None:
        for name in ("start", "limit"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it takes 0 or more.")


@dataclass
class Page:
    """The pictures that were read, in order, each with all that belongs to it."""

    count: int  # of all pictures in the folder that match
    images: list[torch.Tensor] = field(default_factory=list)  # [1, H, W, 3] float32, 0 to 1
    masks: list[torch.Tensor] = field(default_factory=list)  # [1, H, W] float32, 1 where it is transparent
    names: list[str] = field(default_factory=list)  # relative to the folder, with slashes
    captions: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # what was left out, with its reason


@dataclass(frozen=True)
class _Read:
    image: torch.Tensor
    mask: torch.Tensor


def load_page(options: PageOptions) -> Page:
    """Read the pictures of a page.

    A picture that cannot be read is left out and named.

    Raises:
        ValueError: there is no picture, none from ``start`` on, none that can be read; or they would take
            more of the memory than they may.
        InterruptProcessingException: the user cancelled.
    """
    problems: list[str] = []
    with _found(options, _reporting(problems), host.heed_cancel) as found:
        page = Page(found.count, problems=problems)
        if options.start >= found.count:
            raise ValueError(
                f"'start' is {options.start}, and the folder {printable(options.folder)} has {found.count} "
                f"{_images(found.count)} that {'matches' if found.count == 1 else 'match'}, counted from 0: "
                "all are done. Set 'start' to 0 to begin again."
            )
        names = _measured(options, found, problems)
    if not names:
        raise _nothing_readable(problems)
    _decode(options, names, page)
    if not page.images:
        raise _nothing_readable(problems)
    return page


def fingerprint(options: PageOptions) -> str:
    """Changes when any file does that a page would be made of, or when there are more or fewer pictures.

    Raises:
        ValueError: there is no picture.
    """
    digest = hashlib.sha256()
    with _found(options, lambda name, reason: None, lambda: None) as found:
        digest.update(str(found.count).encode())
        for name in found.page(options.start, options.limit):
            path = _path(options, name)
            for file in (path, *_caption_places(path, options.extension)):
                digest.update(os.fsencode(f"\n{file}\t{_state(file)}"))
    return digest.hexdigest()


def _state(file: str) -> str:
    try:
        state = os.stat(file)  # noqa: PTH116
    except OSError:
        return ""
    return f"{state.st_size} {state.st_mtime_ns}"


# Finding


def _found(
    options: PageOptions, on_problem: Callable[[str, str], None], heed: Callable[[], None]
) -> OrderedNames:
    """All pictures that match. To be closed."""
    found = OrderedNames(options.order)
    try:
        for item in find_items(
            [options.folder],
            recursive=options.recursive,
            pattern=options.pattern.strip() or None,
            fingerprints=options.order.needs_fingerprints,
            on_problem=on_problem,
        ):
            found.add(item)
            if found.count % _EVERY == 0:
                heed()
    except BaseException:
        found.close()
        raise
    return found


def _reporting(problems: list[str]) -> Callable[[str, str], None]:
    return lambda name, reason: problems.append(printable(f"{name}: {reason}"))


def _path(options: PageOptions, name: str) -> str:
    return os.path.join(options.folder, *name.split("/"))  # noqa: PTH118


# Measuring


def _measured(options: PageOptions, found: OrderedNames, problems: list[str]) -> list[str]:
    """The names of a page, but for pictures whose size cannot be read, which is a problem of theirs.

    Raises:
        ValueError: decoded, they would take more of the memory than they may.
    """
    free = free_bytes(torch.device("cpu")) or 0
    names: list[str] = []
    taken = 0
    for name in found.page(options.start, options.limit):
        host.heed_cancel()
        try:
            width, height = _size(_path(options, name))
        except (ImageError, OSError) as error:
            problems.append(_problem(name, error))
            continue
        taken += width * height * _BYTES_PER_PIXEL
        if taken > free * SHARE_OF_FREE_MEMORY:
            wanted = min(found.count - options.start, options.limit or found.count)
            raise ValueError(_too_much(len(names), wanted, taken, free))
        names.append(name)
    return names


def _size(path: str) -> tuple[int, int]:
    if not stat.S_ISREG(patiently(lambda: os.stat(path)).st_mode):  # noqa: PTH116
        raise OSError("not a file")
    with open_patiently(path, path) as file:
        return stored_size(file)


def _too_much(fitting: int, wanted: int, taken: int, free: int) -> str:
    gigabytes = 2**30
    numbers = (
        f"{taken / gigabytes:.2f} GB, and of the {free / gigabytes:.2f} GB of memory that are free they may "
        f"take {SHARE_OF_FREE_MEMORY:.0%}"
    )
    other = "use the node Caption Image Folder, which holds a few images at a time however many there are"
    if fitting == 0:
        return f"The first image alone would take {numbers}. Free some memory, or {other}."
    return (
        f"{fitting + 1} of the {wanted} {_images(wanted)} would already take {numbers}. Set 'limit' to "
        f"{fitting} or less and go on page by page with 'start', or {other}."
    )


def _nothing_readable(problems: list[str]) -> ValueError:
    for problem in problems:
        logger.warning("Load Image Folder: %s", problem)
    lines = ["None of the images can be read:", *problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"and {len(problems) - SHOWN} more; ComfyUI's log names them all")
    return ValueError("\n".join(lines))


def _images(count: int) -> str:
    return "image" if count == 1 else "images"


# Decoding


def _decode(options: PageOptions, names: list[str], page: Page) -> None:
    """Read the pictures, a few at a time, and put them into the page."""
    progress = host.StepProgress(len(names))
    ahead: ReadAhead[str, _Read | ImageError | OSError] = ReadAhead(
        (name, _path(options, name)) for name in names
    )
    with closing(ahead) as pictures:
        while pictures.more():
            ((name, read),) = pictures.take(1, MOST_THREADS, _read)
            progress.step()
            if isinstance(read, Exception):
                page.problems.append(_problem(name, read))
                continue
            page.images.append(read.image)
            page.masks.append(read.mask)
            page.names.append(name)
            page.captions.append(_caption(options, name, page.problems))


def _read(path: str) -> _Read | ImageError | OSError:
    """One picture; in a worker thread."""
    import numpy as np

    try:
        with open_patiently(path, path) as file:
            image, opacity = open_with_opacity(file)
    except (ImageError, OSError) as error:
        error.__traceback__ = None  # its frames hold the picture
        return error
    pixels = torch.from_numpy(np.array(image)).float().div_(255)[None]
    if opacity is None:
        return _Read(pixels, torch.zeros(1, image.height, image.width))
    return _Read(pixels, 1 - torch.from_numpy(np.array(opacity)).float().div_(255)[None])


def _problem(name: str, error: Exception) -> str:
    """One line that begins with the picture's name, which the error may have as a path."""
    reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    _, _, short = reason.rpartition(f"{os.path.basename(name)}: ")  # noqa: PTH119
    return printable(f"{name}: {short}")


# Captions


def _caption_places(path: str, extension: str | None) -> Iterator[str]:
    """Where the caption of a picture may lie: named after its whole name, or without the extension."""
    if extension is not None:
        yield f"{path}.{extension}"
        yield f"{os.path.splitext(path)[0]}.{extension}"  # noqa: PTH122


def _caption(options: PageOptions, name: str, problems: list[str]) -> str:
    """The caption that a picture has already; nothing where there is none, or none that is one."""
    for place in _caption_places(_path(options, name), options.extension):
        try:
            found = look_at(Path(place))
        except OSError as error:
            problems.append(printable(f"the caption of {name} cannot be read: {error.strerror or error}"))
            continue
        if found.state is State.CAPTION:
            return found.content.decode("utf-8-sig").strip()
        if found.state in (State.DAMAGED, State.UNREADABLE):
            problems.append(printable(f"the caption of {name}: {os.path.basename(place)} {found.reason}"))  # noqa: PTH119
    return ""
