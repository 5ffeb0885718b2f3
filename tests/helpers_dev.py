"""For tests of what stands around the package: the repository's root and ``dev.py`` as a module."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def load_dev(script: Path = ROOT / "dev.py") -> ModuleType:
    """``dev.py`` as a module of its own; it believes that the folder of ``script`` is the repository."""
    spec = importlib.util.spec_from_file_location("dev_under_test", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copy_checkout(target: Path) -> Path:
    """The files that git tracks or would track, copied to ``target``: a fresh clone with our changes."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target
