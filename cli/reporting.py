"""How a command ends: exit statuses, and errors told in words instead of tracebacks.

===== =====================================================================
  0   done
  1   something failed: an image, the model, the disk, the network
  2   the command line asks for something that does not exist or contradicts
 130  stopped with Ctrl-C; what was done is kept
 141  whoever read the output has gone (``promptgen … | head``)
===== =====================================================================
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from .streams import abandon_stdout, is_broken_pipe

FAILED = 1
USAGE = 2
STOPPED = 130
READER_GONE = 141

_TALKATIVE = ("bitsandbytes.backends",)  # it misses, on being imported, what nobody has asked for
_ROOT_PACKAGE = __name__.rpartition(".cli.")[0]


class UsageError(ValueError):
    """The command line asks for something impossible; the message says what and what would do."""


class CommandError(Exception):
    """The command cannot go on; the message says why and what to do."""


def say(message: str) -> None:
    """Write one line for people to standard error."""
    typer.echo(message, err=True)


def say_error(message: str) -> None:
    """Write one error to standard error, marked as such (red in a terminal)."""
    typer.secho("error: ", fg=typer.colors.RED, bold=True, err=True, nl=False)
    typer.echo(message, err=True)


def say_warning(message: str) -> None:
    """Write one warning to standard error, marked as such (yellow in a terminal)."""
    typer.secho("warning: ", fg=typer.colors.YELLOW, bold=True, err=True, nl=False)
    typer.echo(message, err=True)


def configure_logging(verbose: int) -> None:
    """Log to standard error: warnings, with ``-v`` what the engine does, with ``-vv`` everything."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger(_ROOT_PACKAGE).setLevel(level)
    if not verbose:
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def reported_errors(verbose: int) -> Iterator[None]:
    """Run a command's body: errors that are meant for people become one line and an exit status.

    Those are the exceptions that this package defines (each says what was given, what is allowed and what to
    do), and what the system says about files. Anything else is a defect here and keeps its traceback. With
    ``verbose`` the traceback is shown in every case.
    """
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt as interrupt:
        say("Stopped.")
        raise typer.Exit(STOPPED) from interrupt
    except Exception as error:
        if is_broken_pipe(error):
            abandon_stdout()
            raise typer.Exit(READER_GONE) from error
        message = describe(error)
        if message is None:
            raise
        if verbose:
            import traceback

            traceback.print_exc()
        say_error(message)
        raise typer.Exit(exit_status(error)) from error


def describe(error: BaseException) -> str | None:
    """What to tell the user about ``error``, or None if it is a defect rather than a message."""
    if type(error).__module__.startswith(_ROOT_PACKAGE + "."):
        return str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's; naming the class would import torch
        return (
            f"out of memory on the device: {str(error).splitlines()[0].rstrip('.')}. Use --quantization 8 or "
            "4, a smaller --batch-size, --dtype auto where it is fp32, a smaller model, or --device cpu."
        )
    if isinstance(error, ModuleNotFoundError):
        return (
            f"the library {error.name!r} is not installed in {sys.prefix}. "
            f"Install what captioning needs with: {sys.executable} -m pip install promptgen-tagger"
        )
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    return None


def exit_status(error: BaseException) -> int:
    """2 where the command line itself is wrong, 1 for everything that failed on the way."""
    from ..captioning.instructions import InstructionError

    return USAGE if isinstance(error, (UsageError, InstructionError)) else FAILED
