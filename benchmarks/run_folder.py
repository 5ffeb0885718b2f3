"""The command that measures runs of a folder, from a checkout that need not be installed.

    python benchmarks/run_folder.py memory [--images 10000] [--form sidecar jsonl] [--broken 0.05] [--help]
    python benchmarks/run_folder.py waiting [--images 24] [--model NAME] [--device auto] [--help]

See :mod:`promptgen.benchmarks.folder` for what it measures.
"""

from __future__ import annotations

import importlib
import sys


def main() -> int:
    if "promptgen" not in sys.modules:
        from run import register_package  # beside this file, where Python looks first

        register_package()
    status: int = importlib.import_module("promptgen.benchmarks.folder").main()
    return status


if __name__ == "__main__":
    sys.exit(main())
