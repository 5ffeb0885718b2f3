"""Passes on what happens in a run: to the file of its metrics, to loggers, to people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .metrics import MetricsFile, log_to_trackers

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .checkpoints import Checkpoints
    from .progress import Teller


class RunWatcher:
    """The :class:`.loop.Watcher` of a real run. In processes but the main one it says nothing."""

    def __init__(
        self, accelerator: Accelerator, teller: Teller, metrics: MetricsFile | None, checkpoints: Checkpoints
    ) -> None:
        self._accelerator = accelerator
        self._teller = teller
        self._metrics = metrics
        self._checkpoints = checkpoints

    def stepped(self) -> None:
        """One more step is made."""
        self._teller.advance()

    def trained(self, entry: dict[str, Any]) -> None:
        """Numbers of training."""
        self._log(entry)
        self._teller.trained(entry)

    def evaluated(self, entry: dict[str, Any]) -> None:
        """Numbers of held-out images."""
        self._log(entry)
        self._teller.evaluated(entry)

    def saving(self) -> None:
        """A checkpoint is about to be written, which must not know more than the metrics."""
        if self._metrics is not None:
            self._metrics.sync()

    def saved(self, step: int, best: bool) -> None:
        """A checkpoint is written."""
        self._teller.saved(self._checkpoints.path(step), best=best)

    def say(self, line: str) -> None:
        """Something for people alone."""
        self._teller.say(line)

    def close(self) -> None:
        """The run is over, or has failed."""
        if self._metrics is not None:
            self._metrics.close()
        self._teller.close()

    def _log(self, entry: dict[str, Any]) -> None:
        if self._metrics is not None:
            self._metrics.add(entry)
        log_to_trackers(self._accelerator, entry)
