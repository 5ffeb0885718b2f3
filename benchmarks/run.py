"""The benchmark's command, from a checkout that need not be installed and may have any name.

    python benchmarks/run.py [--size base large] [--new-tokens 64 128] [--num-beams 1 3] [--help]

See :mod:`promptgen.benchmarks.speed` for what it measures.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path


def register_package() -> None:
    """Make this checkout importable as ``promptgen``, whatever else is installed under that name."""
    here = Path(__file__).resolve().parent
    # Python put this folder there, and its files are no modules of their own.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    root = here.parent
    spec = importlib.util.spec_from_file_location(
        "promptgen", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{root} is no package.")
    package = importlib.util.module_from_spec(spec)
    sys.modules["promptgen"] = package
    spec.loader.exec_module(package)


def main() -> int:
    if "promptgen" not in sys.modules:
        register_package()
    status: int = importlib.import_module("promptgen.benchmarks.speed").main()
    return status


if __name__ == "__main__":
    sys.exit(main())
