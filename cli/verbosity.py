"""``--verbose``, as commands have it that keep their options in one list."""

from __future__ import annotations

from typing import Annotated

import typer

Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, show_default=False, help="Log what is done; -vv logs more."),
]
