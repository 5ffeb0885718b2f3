"""The command that measures training, from a checkout that need not be installed.

    python benchmarks/run_training.py [--size base large] [--device auto] [--batch-size auto] [--help]

See :mod:`promptgen.benchmarks.training` for what it measures.
"""

from __future__ import annotations

import importlib
import sys


def main() -> int:
    if "promptgen" not in sys.modules:
        from run import register_package  # beside this file, where Python looks first

        register_package()
    status: int = importlib.import_module("promptgen.benchmarks.training").main()
    return status


if __name__ == "__main__":
    sys.exit(main())
