"""A look at a machine of a cluster before a run. It is sent there, so it imports nothing of ours."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path


def look(package: str, paths: Sequence[str]) -> tuple[str, list[str]]:
    """The version of the package on this machine, empty if it is not there, and those paths that are not."""
    try:
        version = str(importlib.import_module(f"{package}._version").__version__)
    except ImportError:
        version = ""
    return version, [path for path in paths if not Path(path).exists()]
