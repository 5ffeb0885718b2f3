"""What can go wrong with those who caption, whatever the pictures."""

from __future__ import annotations


class WorkerError(RuntimeError):
    """The processes that caption cannot go on; the message says what ended the last of them."""


class ModelGoneError(Exception):
    """The model cannot be asked any more, for no fault of a picture.

    The run ends as if it had been told to: what was answered is kept, and the next one goes on.
    """
