"""What can go wrong with worker processes themselves."""

from __future__ import annotations


class WorkerError(RuntimeError):
    """The processes that caption cannot go on; the message says what ended the last of them."""
