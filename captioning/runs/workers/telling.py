"""What worker processes log and print, told once by the process of the run."""

from __future__ import annotations

import logging

logger = logging.getLogger(__package__)

_MOST_REMEMBERED = 10_000  # messages


class OnceTold:
    """Leaves out what another worker has said before in the same words: all load the same model."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], int | None] = {}  # who said it

    def log(self, worker: int | None, record: logging.LogRecord) -> None:
        """Log what the process ``worker`` has logged."""
        own = logging.getLogger(record.name)
        if own.isEnabledFor(record.levelno) and self._is_new(worker, record.name, record.getMessage()):
            own.handle(record)

    def text(self, worker: int | None, line: str) -> None:
        """Log a line that the process ``worker`` has printed."""
        if self._is_new(worker, "", line):
            logger.warning("%s", line)

    def _is_new(self, worker: int | None, kind: str, words: str) -> bool:
        key = (kind, words)
        if key not in self._first and len(self._first) >= _MOST_REMEMBERED:
            return True
        return self._first.setdefault(key, worker) == worker
