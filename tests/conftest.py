"""What holds for the whole test run."""

from __future__ import annotations

import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Heed Ctrl-C even when the run was started in the background.

    Shells make background commands ignore SIGINT, and the processes that tests start and stop with it would
    inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
