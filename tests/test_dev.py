"""``dev.py``: its virtual environments are made, kept, updated and repaired; its exit status is honest.

The environments are real. What is installed into them is a package of one file whose build needs no network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from .helpers_dev import ROOT, copy_checkout, load_dev

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: dev\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
BACKEND = """
import pathlib, shutil


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    if pathlib.Path("broken").exists():
        raise SystemExit("this package does not build")
    shutil.copy2("tiny-1.0-py3-none-any.whl", wheel_directory)
    return "tiny-1.0-py3-none-any.whl"


build_wheel = build_editable
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tiny"
version = "1.0"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small repository with dev.py, whose .venv has been made once."""
    root = tmp_path_factory.mktemp("dev") / "a clone-1.0"
    root.mkdir()
    shutil.copy2(ROOT / "dev.py", root)
    (root / "backend.py").write_text(BACKEND, encoding="utf-8")
    (root / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (root / "requirements.txt").touch()
    write_wheel(root, "tiny", "1.0")
    load_dev(root / "dev.py").prepare_venv()
    return root


@pytest.fixture
def repository(made: Path) -> Path:
    (made / "broken").unlink(missing_ok=True)
    return made


@pytest.fixture
def tiny_dev(repository: Path) -> ModuleType:
    return load_dev(repository / "dev.py")


def tiny_version(dev: ModuleType) -> str:
    version: str = dev.output_of([dev.venv_python(dev.VENV), "-c", "import tiny; print(tiny.__version__)"])
    return version.strip()


def test_first_use_makes_the_environment_and_the_second_does_nothing(
    tiny_dev: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tiny_version(tiny_dev) == "1.0"
    capfd.readouterr()
    tiny_dev.prepare_venv()
    assert capfd.readouterr() == ("", "")


def test_changed_requirements_are_installed(
    tiny_dev: ModuleType, repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with open(repository / "requirements.txt", "a", encoding="utf-8") as file:
        file.write("# changed\n")
    tiny_dev.prepare_venv()
    assert "Installing" in capfd.readouterr().out
    tiny_dev.prepare_venv()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("damage", ["no interpreter", "no pip", "install cut off", "empty folder"])
def test_half_made_environment_is_repaired(
    tiny_dev: ModuleType, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    python = Path(tiny_dev.venv_python(tiny_dev.VENV))
    if damage == "no interpreter":
        for name in ("python", "python3", python.name):
            (python.parent / name).unlink(missing_ok=True)
    elif damage == "no pip":
        (pip,) = tiny_dev.VENV.rglob("site-packages/pip")
        shutil.rmtree(pip)
        (tiny_dev.VENV / "promptgen-dev-stamp").unlink()
    elif damage == "install cut off":
        (tiny_dev.VENV / "promptgen-dev-stamp").unlink()
    else:
        shutil.rmtree(tiny_dev.VENV)
        tiny_dev.VENV.mkdir()
    tiny_dev.prepare_venv()
    assert "Installing" in capfd.readouterr().out
    assert tiny_version(tiny_dev) == "1.0"


def test_failed_install_is_told_and_tried_again(
    tiny_dev: ModuleType, repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (repository / "broken").touch()
    (tiny_dev.VENV / "promptgen-dev-stamp").unlink()
    command = [sys.executable, str(repository / "dev.py"), "lint"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=repository.parent)
        assert done.returncode == 1
        assert "FAILED: pip could not install" in done.stderr
        assert 'Traceback (most recent call last):\n  File "' + str(repository / "dev.py") not in done.stderr
    (repository / "broken").unlink()
    tiny_dev.prepare_venv()
    assert tiny_version(tiny_dev) == "1.0"


def write_wheel(folder: Path, name: str, version: str) -> None:
    """A wheel of one module that knows its version."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", f"__version__ = {version!r}")
        wheel.writestr(f"{info}/METADATA", METADATA.format(name=name, version=version))
        wheel.writestr(f"{info}/WHEEL", WHEEL)
        wheel.writestr(f"{info}/RECORD", "")


def test_matrix_environment_has_its_own_transformers_and_sees_the_rest(
    tiny_dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(tmp_path, "transformers", "5.0.0")
    write_wheel(tmp_path, "transformers", "4.50.3")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    python = tiny_dev.prepare_venv()
    subprocess.run([python, "-m", "pip", "install", "--quiet", "transformers==4.50.3"], check=True)
    assert tiny_dev._newest_transformers(python) == "5.0.0"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "transformers==5.0.0"], check=True)
    assert tiny_dev._newest_transformers(python) == "5.0.0"

    older = tiny_dev._prepare_matrix_venv(python, "4.50.3")
    version, place = tiny_dev._transformers_of(older)
    assert version == "4.50.3"
    assert Path(place).is_relative_to(tiny_dev.ROOT / ".venv-transformers-4.50.3")
    assert tiny_dev.output_of([older, "-c", "import tiny; print(tiny.__version__)"]).strip() == "1.0"
    assert tiny_dev._transformers_of(python)[0] == "5.0.0"

    with pytest.raises(tiny_dev.StepError, match=r"9\.9"):
        tiny_dev._prepare_matrix_venv(python, "9.9")


def test_arguments_after_the_dashes_go_to_pytest() -> None:
    dev = load_dev()
    options = dev._parse(["test", "--no-lint", "--", "-k", "parity", "-x"])
    assert (options.pytest, options.no_lint, options.matrix) == (["-k", "parity", "-x"], True, False)
    assert dev._parse(["test", "--transformers", "4.56.0"]).matrix


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["lint", "--", "-x"], ["test", "--nonsense"]])
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "dev.py"), *arguments], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 2
    assert "usage:" in done.stderr


@pytest.mark.slow
def test_each_check_finds_what_it_is_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One planted fault per check, in a clone under another name: all four are named."""
    clone = copy_checkout(tmp_path / "some other-name")
    planted = clone / "captioning" / "planted.py"
    planted.write_text("import os\nfrom ..cli import main\nx:int = 'text'\n", encoding="utf-8")
    dev = load_dev(clone / "dev.py")
    assert dev._failed_checks(sys.executable) == ["ruff check", "ruff format", "types", "room arrows"]
    output = capfd.readouterr().out
    assert "promptgen.captioning.planted -> promptgen.cli" in output
    assert f"captioning{os.sep}planted.py:3: error: Incompatible types" in output
