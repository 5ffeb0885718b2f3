"""The command that measures the server, from a checkout that need not be installed.

    python benchmarks/run_serving.py load [--clients 32 64] [--seconds 120] [--help]
    python benchmarks/run_serving.py throughput [--clients 32] [--model NAME] [--help]

See :mod:`promptgen.benchmarks.serving` for what it measures.
"""

from __future__ import annotations

import importlib
import sys


def main() -> int:
    if "promptgen" not in sys.modules:
        from run import register_package  # beside this file, where Python looks first

        register_package()
    status: int = importlib.import_module("promptgen.benchmarks.serving").main()
    return status


if __name__ == "__main__":
    sys.exit(main())
