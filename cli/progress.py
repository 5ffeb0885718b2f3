"""Progress on standard error, where that is a terminal and somebody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from .streams import is_terminal

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Progress(Protocol):
    """A bar that can step aside while results are printed."""

    def advance(self) -> None:
        """One more image is done."""

    def aside(self) -> AbstractContextManager[Any]:
        """While inside, the bar is off the screen."""


@contextmanager
def progress_over(total: int, *, quiet: bool) -> Iterator[Progress]:
    """A progress bar for ``total`` images; without a terminal, with ``quiet`` or for one image, none."""
    if quiet or total < 2 or not is_terminal(sys.stderr):
        yield _NoBar()
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="image", file=sys.stderr, dynamic_ncols=True, smoothing=0.1) as bar:
        yield _Bar(bar)


class _NoBar:
    def advance(self) -> None:
        pass

    def aside(self) -> AbstractContextManager[Any]:
        return nullcontext()


class _Bar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def advance(self) -> None:
        self._bar.update()

    def aside(self) -> AbstractContextManager[Any]:
        return self._bar.external_write_mode(file=sys.stderr)
