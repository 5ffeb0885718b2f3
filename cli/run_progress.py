"""A run over many pictures, told while it goes on: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..captioning.runs.summary import duration, speed
from .reporting import say, say_error
from .streams import is_terminal

if TYPE_CHECKING:
    from ..captioning.runs.run import RunProgress

logger = logging.getLogger(__name__)

_MOST_TOLD = 20  # problems that are told one by one


class RunTeller:
    """Tells of a run's progress and problems on standard error.

    Args:
        quiet: only problems are told.
        seconds: between two lines where there is no terminal.
    """

    def __init__(self, *, quiet: bool, seconds: float) -> None:
        self._quiet = quiet
        self._seconds = seconds
        self._told = 0
        self._due = time.monotonic() + seconds
        self._started: float | None = None  # when the first picture was dealt with
        self._worked_then = 0
        self._stack = ExitStack()
        self._bar: Any = None

    def __enter__(self) -> RunTeller:
        if not self._quiet and is_terminal(sys.stderr):
            from tqdm import tqdm
            from tqdm.contrib.logging import logging_redirect_tqdm

            # The rate is of the last half a minute or so: the first batches, with the model still cold, and
            # pictures of another size count for less and less.
            bar = tqdm(total=None, unit="image", file=sys.stderr, dynamic_ncols=True, smoothing=0.05)
            self._bar = self._stack.enter_context(bar)
            self._stack.enter_context(logging_redirect_tqdm())  # warnings above the bar, not within it
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def progress(self, progress: RunProgress) -> None:
        """To be called often; most calls do nothing."""
        if self._bar is not None:
            self._show(progress)
        elif not self._quiet and time.monotonic() >= self._due:
            self._due = time.monotonic() + self._seconds
            say(self._line(progress))
        if self._started is None and progress.worked:
            self._started, self._worked_then = time.monotonic(), progress.worked

    def problem(self, name: str, reason: str) -> None:
        """What is wrong with one picture or folder."""
        self._told += 1
        told = f"{name if name.isprintable() else repr(name)}: {reason}"
        if self._told > _MOST_TOLD:
            logger.info("%s", told)
            return
        with self._aside():
            say_error(told)
            if self._told == _MOST_TOLD:
                say(
                    "Further errors are shown with -v alone; images without captions are in the file of "
                    "errors."
                )

    def _aside(self) -> Any:
        return self._bar.external_write_mode(file=sys.stderr) if self._bar is not None else ExitStack()

    def _show(self, progress: RunProgress) -> None:
        bar = self._bar
        if progress.total is None and not progress.worked and not progress.left_out:
            looked = f"looking at {progress.checked} images" if progress.checked else ""
            bar.set_description(looked, refresh=False)
            bar.update(0)
            return
        if progress.total is not None:
            bar.total = max(progress.worked, progress.total - progress.left_out)
        counts = {"failed": progress.failed, "left out": progress.left_out}
        bar.set_description("", refresh=False)
        bar.set_postfix({name: count for name, count in counts.items() if count}, refresh=False)
        bar.update(progress.worked - bar.n)

    def _line(self, progress: RunProgress) -> str:
        if progress.total is None and not progress.worked and not progress.left_out:
            return f"{progress.checked} images looked at" if progress.checked else "looking for images"
        parts = [f"{progress.worked} images"]
        rate = self._rate(progress)
        if progress.total is not None:
            due = max(progress.worked, progress.total - progress.left_out)
            parts[0] = f"{progress.worked} of {due} images"
            if rate:
                parts.append(f"{duration((due - progress.worked) / rate)} left")
        if rate:
            parts.insert(1, speed(rate))
        if progress.failed:
            parts.append(f"{progress.failed} failed")
        if progress.left_out:
            parts.append(f"{progress.left_out} left out")
        return ", ".join(parts)

    def _rate(self, progress: RunProgress) -> float:
        """Images per second since the first; 0 while that cannot be said."""
        if self._started is None or progress.worked <= self._worked_then:
            return 0.0
        return (progress.worked - self._worked_then) / max(1e-9, time.monotonic() - self._started)
