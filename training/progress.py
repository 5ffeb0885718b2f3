"""Tells people how far a run is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from .metrics import Entry

_SECONDS = 30.0  # between lines, where there is no terminal


@contextmanager
def checking_bar(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar, in a terminal, for looking at images; it is told how many of how many are done."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from tqdm import tqdm

    with tqdm(unit="image", desc="checking", file=sys.stderr, dynamic_ncols=True, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


class Teller:
    """Shows the entries of a run's log to people.

    Args:
        total: optimiser steps of the whole run.
        quiet: say nothing.
    """

    def __init__(self, total: int, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._total = total
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        self._bar: Any = None
        self._said = float("-inf")

    def start(self, step: int) -> None:
        """Begin at a step."""
        if self._quiet or self._stream is None:
            return
        if self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._total, initial=step, unit="step", file=self._stream, dynamic_ncols=True
            )
        self._said = time.monotonic()

    def advance(self) -> None:
        """One more step is made."""
        if self._bar is not None:
            self._bar.update()

    def trained(self, entry: Entry) -> None:
        """Numbers of training."""
        shown = {"loss": f"{entry['loss']:.4f}", "lr": f"{entry['learning_rate']:.2e}"}
        if self._bar is not None:
            self._bar.set_postfix(shown)
        elif time.monotonic() - self._said >= _SECONDS or entry["step"] == self._total:
            self.say(
                f"step {entry['step']} of {self._total}, epoch {entry['epoch']:.2f}: loss {shown['loss']}, "
                f"learning rate {shown['lr']}"
            )

    def evaluated(self, entry: Entry) -> None:
        """Numbers of held-out images."""
        parts = ", ".join(f"{name} {value:.4f}" for name, value in entry["by_instruction"].items())
        detail = f" ({parts})" if len(entry["by_instruction"]) > 1 else ""
        self.say(f"step {entry['step']}: held-out loss {entry['evaluation_loss']:.4f}{detail}")

    def saved(self, checkpoint: Path, *, best: bool) -> None:
        """A checkpoint is written."""
        self.say(f"saved {checkpoint}{', the best so far' if best else ''}")

    def say(self, line: str) -> None:
        """A line, beside the bar."""
        if self._quiet or self._stream is None:
            return
        self._said = time.monotonic()
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
