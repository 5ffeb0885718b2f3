"""The command that measures quantised weights, from a checkout that need not be installed.

    python benchmarks/run_quantisation.py [--size base large] [--paligemma] [--device auto] [--help]

See :mod:`promptgen.benchmarks.quantisation` for what it measures.
"""

from __future__ import annotations

import importlib
import sys


def main() -> int:
    if "promptgen" not in sys.modules:
        from run import register_package  # beside this file, where Python looks first

        register_package()
    status: int = importlib.import_module("promptgen.benchmarks.quantisation").main()
    return status


if __name__ == "__main__":
    sys.exit(main())
