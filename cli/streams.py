"""Standard input, output and error as the command uses them: UTF-8 and never a crash on a character."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn, TextIO


def use_utf8() -> None:
    """Make standard output and error take any text.

    Piped or redirected output becomes UTF-8 whatever the locale (a Chinese Windows would write cp936, which
    mangles or refuses half the world's file names). A terminal keeps its own encoding, since it shows nothing
    else. What still cannot be encoded, such as an undecodable byte in a file name, is written as a backslash
    escape, which inside JSON is the right escape too.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def is_terminal(stream: TextIO | None) -> bool:
    """True if ``stream`` is an open terminal; a closed or missing stream (pythonw) is none."""
    return stream is not None and not stream.closed and stream.isatty()


def is_broken_pipe(error: BaseException) -> bool:
    """True if ``error`` says that the reader of our output has gone (Windows reports it as EINVAL)."""
    if isinstance(error, BrokenPipeError):
        return True
    return (
        os.name == "nt" and isinstance(error, OSError) and error.errno == errno.EINVAL and not error.filename
    )


def abandon_stdout() -> None:
    """Point standard output at nothing, so that the flush at exit does not fail a second time."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)


def leave_at_once(status: int) -> NoReturn:
    """End the process without taking its modules apart, which with torch loaded takes more than a second.

    For Ctrl-C, after which nobody wants to wait. Files must be closed by now; the standard streams are
    flushed here.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, missing, or its reader has gone
            stream.flush()
    os._exit(status)
