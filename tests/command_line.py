"""The ``promptgen`` command in the process of the tests, as users call it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest
from promptgen.cli import main


class Ended(NamedTuple):
    """How a run of the command ended."""

    status: int
    stdout: str
    stderr: str


Promptgen = Callable[..., Ended]


@pytest.fixture
def promptgen(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Promptgen:
    """Runs the command in this process, which has torch loaded already."""

    def run(*arguments: object, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "argv", ["promptgen", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        status = 0
        try:
            main()
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
        return Ended(status, *capfd.readouterr())

    return run
