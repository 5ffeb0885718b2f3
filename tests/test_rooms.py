"""The room arrows of pyproject.toml hold, cover every room, and each of them notices a violation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .helpers_dev import ROOT, load_dev

dev = load_dev()

NOT_ROOMS = {"tests", "benchmarks"}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the sources as ``promptgen/``, to plant violations in."""
    folder: Path = dev.mirror_package(tmp_path / "house")
    return folder


def lint_imports(house: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the copy with the repository's own contracts."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--config", str(ROOT / "pyproject.toml"), "--no-cache", "--no-logo"],
        cwd=house,
        env={**os.environ, "PYTHONPATH": str(house), "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
    )


def rooms() -> set[str]:
    return {path.parent.name for path in ROOT.glob("*/__init__.py")} - NOT_ROOMS


def test_arrows_hold(house: Path) -> None:
    done = lint_imports(house)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "statement", "contract"),
    [
        ("captioning/planted.py", "from ..cli import main", "Imports between rooms"),
        ("captioning/planted.py", "from ..training import demo", "Imports between rooms"),
        (
            "models_cache/planted.py",
            "def f():\n    from ..captioning import Captioner",
            "Imports between rooms",
        ),
        ("florence2/planted.py", "from .. import models_cache", "Imports between rooms"),
        ("training/planted.py", "import promptgen.cli", "Imports between rooms"),
        (
            "captioning/planted.py",
            "from ..florence2.network import Florence2Network",
            "faces of the families",
        ),
        ("captioning/planted.py", "from ..florence2 import network", "faces of the families"),
        ("captioning/planted.py", "import comfy.model_management", "Only nodes knows"),
        ("cli/planted.py", "import folder_paths", "Only nodes knows"),
        ("models_cache/planted.py", "from server import PromptServer", "Only nodes knows"),
        ("__init__.py", "from .captioning import Captioner", "imports no room"),
    ],
)
def test_planted_violation_is_found(house: Path, file: str, statement: str, contract: str) -> None:
    planted = house / "promptgen" / file
    before = planted.read_text(encoding="utf-8") if planted.exists() else ""
    planted.write_text(f"{before}\n{statement}\n", encoding="utf-8")
    done = lint_imports(house)
    assert done.returncode != 0
    broken = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    assert len(broken) == 1, done.stdout
    assert contract in broken[0]


def test_new_room_must_be_placed(house: Path) -> None:
    (house / "promptgen" / "attic").mkdir()
    (house / "promptgen" / "attic" / "__init__.py").touch()
    done = lint_imports(house)
    assert done.returncode != 0
    assert "promptgen.attic" in done.stdout


def test_host_rule_covers_every_room() -> None:
    """import-linter cannot say "every room but nodes", so the list must be complete."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contract = text.split('id = "host"')[1].split("forbidden_modules")[0]
    assert set(re.findall(r'"promptgen\.(\w+)"', contract)) == rooms() - {"nodes"}
