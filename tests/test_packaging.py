"""What pip and the ComfyUI registry get is what they should get."""

from __future__ import annotations

import ast
import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import unquote

import pytest
from packaging.requirements import Requirement

from .helpers_dev import ROOT, copy_checkout

MEGABYTE = 1_000_000
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone into a folder whose name is no identifier."""
    return copy_checkout(tmp_path_factory.mktemp("packaging") / "a clone-1.0")


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> zipfile.ZipFile:
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*build, "--wheel-dir", "../wheels"], cwd=checkout, check=True)
    (file,) = checkout.parent.glob("wheels/*.whl")
    return zipfile.ZipFile(file)


@pytest.fixture(scope="module")
def sdist_names(checkout: Path) -> set[str]:
    code = "import setuptools.build_meta as backend; backend.build_sdist('../sdists')"
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True, capture_output=True)
    (file,) = checkout.parent.glob("sdists/*.tar.gz")
    with tarfile.open(file) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def package_files() -> set[str]:
    """The Python sources of the package, relative to the root."""
    rooms = [
        path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name not in ("tests", "benchmarks")
    ]
    sources = {path.relative_to(ROOT).as_posix() for room in rooms for path in room.rglob("*.py")}
    return sources | {"__init__.py", "_version.py"}


def demo_files() -> set[str]:
    return {f"models_cache/demo/{path.name}" for path in (ROOT / "models_cache" / "demo").iterdir()}


def page_files() -> set[str]:
    """The server's page, whose files are served as they lie in the package."""
    return {f"serving/page/{path.name}" for path in (ROOT / "serving" / "page").iterdir()}


def configurations() -> set[str]:
    """The trainer's: the reference of all keys, and those to begin with."""
    return {f"training/configs/{path.name}" for path in (ROOT / "training" / "configs").iterdir()}


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = package_files() | demo_files() | page_files() | configurations() | {"py.typed"}
    assert names == {f"promptgen/{name}" for name in files}


def test_demo_model_is_in_the_wheel_and_small(wheel: zipfile.ZipFile) -> None:
    sizes = {
        info.filename: info.file_size for info in wheel.infolist() if "/models_cache/demo/" in info.filename
    }
    names = {name.rpartition("/")[2] for name in sizes}
    assert {"config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json"} <= names
    assert names & {"pytorch_model.bin", "model.safetensors"}
    assert sum(sizes.values()) <= 12 * MEGABYTE


def test_sdist_can_build_and_has_no_tests(sdist_names: set[str]) -> None:
    assert package_files() | demo_files() | page_files() | {"py.typed"} <= sdist_names
    assert {"pyproject.toml", "requirements.txt", "setup.py", "README.md", "LICENSE"} <= sdist_names
    assert not {
        name for name in sdist_names if name.startswith(("tests", "benchmarks", ".")) or name == "dev.py"
    }


def test_metadata(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    version = ast.literal_eval((ROOT / "_version.py").read_text(encoding="utf-8").partition("=")[2].strip())
    assert metadata["Name"] == "promptgen-tagger"
    assert metadata["Version"] == version
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    assert {"dev", "server", "train", "ray", "quantization"} <= set(metadata.get_all("Provides-Extra", []))
    (scripts,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "promptgen = promptgen.cli:main" in wheel.read(scripts).decode()


def test_requirements_leave_a_comfyui_install_as_it_is() -> None:
    """ComfyUI installs this file into an environment whose torch fits its GPU: nothing may move it."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    for requirement in requirements:
        if requirement.name.startswith("torch"):
            assert not requirement.specifier, f"{requirement}: torch is not ours to choose"
        for bound in requirement.specifier:
            assert bound.operator == ">=", f"{requirement}: no pins, no upper bounds"


def test_sources_are_valid_in_the_oldest_python() -> None:
    for name in [*package_files(), "dev.py", "setup.py"]:
        ast.parse((ROOT / name).read_text(encoding="utf-8"), name, feature_version=(3, 10))


def test_no_remote_code_and_no_evaluation() -> None:
    """The house's first rule, and the registry's."""
    for name in package_files():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "trust_remote_code" not in text, name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "__import__"}, f"{name}:{node.lineno}"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What the registry gets.

    git reads the syntax of .comfyignore: in a repository with only this ignore file, see what is left.
    """
    pack = copy_checkout(tmp_path_factory.mktemp("registry") / "pack")
    (pack / ".comfyignore").rename(pack / ".gitignore")
    git = ["git", "-c", "core.excludesFile=", "-c", "core.quotePath=off", "-C", str(pack)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    listed = subprocess.run(
        [*git, "ls-files", "--others", "--exclude-standard"], check=True, capture_output=True
    )
    return set(listed.stdout.decode().split("\n")) - {""}


def test_the_registry_gets_the_pack_and_not_the_rest(archive: set[str]) -> None:
    assert package_files() | demo_files() | page_files() <= archive
    assert {"pyproject.toml", "requirements.txt", "README.md", "LICENSE", "CHANGELOG.md"} <= archive
    for room in ("web/js", "web/docs", "locales", "example_workflows"):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / room).rglob("*") if path.is_file()}
        assert files, room
        assert files <= archive
    kept_out = ("tests", "benchmarks", "clients", "deploy", "dev.py", "setup.py", "MANIFEST.in")
    assert not {name for name in archive if name.startswith(".") or name.partition("/")[0] in kept_out}


def test_the_registry_gets_no_picture_that_is_not_shown(archive: set[str]) -> None:
    shown = set()
    for name in archive:
        if name.endswith(".md"):
            text = (ROOT / name).read_text(encoding="utf-8")
            for target in re.findall(r"!\[[^]]*\]\(<?([^)>]+)>?\)|<img [^>]*src=\"([^\"]+)\"", text):
                place = (ROOT / name).parent / unquote("".join(target))
                shown.add(Path(os.path.normpath(place)).relative_to(ROOT).as_posix())
        if name.startswith("example_workflows/") and name.endswith(".json"):
            shown.add(name.removesuffix("json") + "jpg")  # the front end asks for this one
            nodes = json.loads((ROOT / name).read_text(encoding="utf-8"))["nodes"]
            loaded = {node["widgets_values"][0] for node in nodes if node["type"] == "LoadImage"}
            shown |= {f"examples/{picture}" for picture in loaded}
    assert {name for name in archive if name.endswith(PICTURES)} == shown


def test_comfy_cli_has_nothing_to_say(tmp_path: Path, archive: set[str]) -> None:
    """The registry's own tool, where it is installed: too much to bring along for the sake of one test."""
    comfy = shutil.which("comfy", path=str(Path(sys.executable).parent))
    if comfy is None:
        pytest.skip("needs comfy-cli: pip install comfy-cli")
    pack = copy_checkout(tmp_path / "pack")
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", "-C", str(pack), *command], check=True)

    def run(command: str) -> str:
        done = subprocess.run(
            [comfy, "--skip-prompt", "--no-enable-telemetry", "node", command],
            cwd=pack, capture_output=True, encoding="utf-8", timeout=120,
            env={**os.environ, "HOME": str(tmp_path), "DO_NOT_TRACK": "1", "NO_COLOR": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    said = run("validate")
    assert "All validation checks passed" in said
    assert not re.search("warning|error", said, re.IGNORECASE), said
    said = run("pack")
    assert not re.search("warning|error|not found", said, re.IGNORECASE), said
    with zipfile.ZipFile(pack / "node.zip") as made:
        assert set(made.namelist()) == archive
