"""How a run over many pictures has ended, told with what to do next, and as an exit status."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..captioning.runs.outputs.texts import UNMET
from ..captioning.runs.summary import summary
from .reporting import FAILED, STOPPED, say, say_error

if TYPE_CHECKING:
    from ..captioning.runs.run import RunReport

_PASSWORD = re.compile(r"(://[^/@:\s]*):[^/@\s]*@")  # in a URL


def tell_report(report: RunReport, page: Path | None, *, quiet: bool) -> None:
    """What became of the run, and where the page about it is.

    Raises:
        typer.Exit: not every image has its captions.
    """
    if not quiet:
        for line in summary(report):
            say(line)
    if page is not None and not quiet:
        say(f"Report: {page}")
    if report.gone is not None:
        say_error(report.gone)
    if report.too_many_errors:
        say("Stopped, since more images have failed than --max-errors allows.")
    if report.stopped or report.too_many_errors:
        say(f"All that is done is kept. To go on: {_same_command()}")
    if report.failed_before:
        say("Images that failed before, and have not changed, are tried again with --retry-errors.")
    if report.unmet and page is None and not quiet:
        say(f"Which answers they are is told by {_what_names_them(report)}")
    if report.failed or report.failed_before:
        say(f"Images that failed are listed in {report.errors}")
    if report.stopped and not (report.too_many_errors or report.gone):
        raise typer.Exit(STOPPED)
    if not report.complete:
        raise typer.Exit(FAILED)


def _what_names_them(report: RunReport) -> str:
    """Where the answers that fail the conditions are named, or what is to be done to have them named."""
    if report.marked:
        return f"the column {UNMET!r} of {', '.join(map(str, report.marked))}"
    return "a report: the same command with --report FILE.html writes it."


def _same_command() -> str:
    """What goes on with this run. Keys and passwords are left out: it may end in a log that others read."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--restart"]
    for place, argument in enumerate(arguments):
        if argument.startswith("--api-key="):
            arguments[place] = "--api-key=KEY"
        elif place and arguments[place - 1] == "--api-key":
            arguments[place] = "KEY"
    return shlex.join(["promptgen", *(_PASSWORD.sub(r"\1:PASSWORD@", one) for one in arguments)])
