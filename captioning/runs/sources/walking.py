"""All folders below a folder, each once, whatever its symbolic links say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .listing import list_folder
from .names import is_hidden, within


class Visited(NamedTuple):
    """A folder on the way, and the names of its files that were kept."""

    path: str  # as it was reached
    real: str  # without symbolic links
    files: list[str]


class Links:
    """Which symbolic links to folders are followed, by all the walks of a run.

    A link is followed if nothing else leads to its target: neither a walk through the folders of the run, nor
    another link. One to a folder that holds a folder of the run would lead round in a circle and is not
    followed. So what is kept grows with the number of such links alone.
    """

    def __init__(self, roots: list[str]) -> None:
        self._roots = roots  # real paths
        self._targets: set[str] = set()

    def follow(self, target: str) -> bool:
        """Whether to follow a link to the folder ``target``, a real path; yes is said once."""
        if any(within(root, target) is not None for root in self._roots):
            return False
        if any(is_walked(target, start) for start in (*self._roots, *self._targets)):
            return False
        self._targets.add(target)
        return True

    def is_target(self, folder: str) -> bool:
        """Whether a link that was followed leads to ``folder``, a real path."""
        return folder in self._targets


def is_walked(folder: str, start: str) -> bool:
    """Whether a walk from ``start`` comes to ``folder`` by itself; both are real paths."""
    below = within(folder, start)
    parts = [] if below is None else below.replace(os.sep, "/").split("/")  # URLs have slashes
    return below is not None and not any(is_hidden(part) for part in parts if part)


def walk(
    root: str,
    links: Links | None,
    keep_file: Callable[[str], bool],
    on_problem: Callable[[str, str], None],
) -> Iterator[Visited]:
    """The folder ``root`` and, in natural order and depth first, those below it but for the hidden ones.

    Args:
        root: an absolute path.
        links: which links to follow; None to stay in ``root`` itself.
        keep_file: by its name, whether a file is of use.
        on_problem: told the path of a folder that cannot be read, and why.
    """
    waiting = [(root, os.path.realpath(root), False)]
    while waiting:
        path, real, is_link = waiting.pop()
        if is_link:
            real = os.path.realpath(path)
            if links is None or not links.follow(real):
                continue
        files, folders = list_folder(path, keep_file, _is_visible if links is not None else _none, on_problem)
        yield Visited(path, real, files)
        for folder in reversed(folders):
            below = os.path.join(real, folder.name)
            if folder.is_link or links is None or not links.is_target(below):
                waiting.append((os.path.join(path, folder.name), below, folder.is_link))


def _is_visible(name: str) -> bool:
    return not is_hidden(name)


def _none(_: str) -> bool:
    return False
