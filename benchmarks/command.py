"""What the commands of this folder share: the product's own command, conditions, and numbers that survive."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def run_promptgen(arguments: Sequence[str]) -> int:
    """The product's own command, from this checkout.

    Args:
        arguments: the first is its name.
    """
    from ..cli import main as promptgen

    sys.argv = list(arguments)
    promptgen()
    return 0


def say(text: str) -> None:
    """What is done now, to standard error."""
    print(text, file=sys.stderr, flush=True)


def keep_rows(
    rows: Iterable[dict[str, Any]], options: argparse.Namespace, path: Path
) -> list[dict[str, Any]]:
    """All rows. Each is written to a JSON file when it is measured: it survives what comes after it."""
    conditions = _conditions(options)
    kept: list[dict[str, Any]] = []
    for row in rows:
        kept.append(row)
        numbers = {"conditions": conditions, "rows": kept}
        path.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return kept


def _conditions(options: argparse.Namespace) -> dict[str, Any]:
    from .._version import __version__

    return {
        "promptgen": __version__,
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),  # None: as many as torch likes
        "torch": version("torch"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "date": time.strftime("%Y-%m-%d"),
        **{name: str(value) for name, value in vars(options).items()},
    }
