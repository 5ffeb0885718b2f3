"""``dev.py``: its virtual environments are made, kept, updated and repaired; its exit status is honest.

The environments are real. What is installed into them is a package of one file whose build needs no network.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import packaging
import pytest

from .comfyui_host import Checkout, UnavailableError
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


# ComfyUI --------------------------------------------------------------------------------


def make_host(folder: Path, version: str, requirements: str = "") -> Path:
    """What tells a ComfyUI source folder. It cannot run: see test_comfyui_boot.py for real ones."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "main.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    version_file = f'# generated\n__version__ = "{version}"\nraise SystemExit("imported")\n'
    (folder / "comfyui_version.py").write_text(version_file, encoding="utf-8")
    (folder / "requirements.txt").write_text(requirements, encoding="utf-8")
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, and no ``$COMFYUI_PATH``."""
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path / "home"


def test_hosts_are_found_at_home_one_per_version(home: Path) -> None:
    dev = load_dev()
    assert dev.find_hosts() == []
    make_host(home / "comfy" / "ComfyUI-0.3.64", "0.3.64")
    make_host(home / "comfy" / "ComfyUI-again", "0.8.0")
    make_host(home / "comfy" / "ComfyUI", "0.8.0")
    (home / "comfy" / "ComfyUI-notes").mkdir()
    make_host(home / "comfy" / "Elsewhere", "1.0.0")
    found = [(host.folder.name, host.version) for host in dev.find_hosts()]
    assert found == [("ComfyUI", "0.8.0"), ("ComfyUI-0.3.64", "0.3.64")]


def test_hosts_that_the_variable_names_are_the_only_ones(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev = load_dev()
    make_host(home / "comfy" / "ComfyUI", "0.8.0")
    named = [make_host(tmp_path / "b", "0.4.0"), make_host(tmp_path / "a", "0.3.70")]
    monkeypatch.setenv("COMFYUI_PATH", os.pathsep.join(map(str, named)))
    assert [host.folder for host in dev.find_hosts()] == named
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(dev.StepError, match=r"COMFYUI_PATH.*no ComfyUI") as caught:
        dev.find_hosts()
    assert str(tmp_path) in str(caught.value)


REQUIREMENTS = """
frontend=={version}
torch
torchvision
torchaudio
other>=1.0  # wanted

#non essential dependencies:
{optional}
"""


@pytest.fixture
def wheels(tiny_dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that pip can install; ``torch`` is in the ``.venv``, a newer one could be had."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    both = {"torch": "2.0 3.0", "frontend": "1.0 2.0"}
    one = dict.fromkeys(("torchvision", "torchaudio"), "2.0") | dict.fromkeys(
        ("other", "nicety", "requests"), "1.0"
    )
    for name, version in [(name, version) for name, all_ in (both | one).items() for version in all_.split()]:
        write_wheel(folder, name, version)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    python = tiny_dev.prepare_venv()
    pip = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "torch==2.0", "torchvision==2.0", "other==1.0"], check=True)
    site_packages = Path(tiny_dev._site_packages(python))
    shutil.copytree(packaging.__path__[0], site_packages / "packaging", dirs_exist_ok=True)
    return folder


def version_in(interpreter: str, name: str) -> str:
    code = f"import {name}; print({name}.__version__)"
    return subprocess.run([interpreter, "-c", code], capture_output=True, encoding="utf-8").stdout.strip()


def test_each_host_has_its_own_front_end_over_the_one_torch(
    tiny_dev: ModuleType, wheels: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_host(home / "comfy" / "ComfyUI", "0.8.0", REQUIREMENTS.format(version="2.0", optional="nicety"))
    make_host(home / "comfy" / "ComfyUI-1", "0.3.64", REQUIREMENTS.format(version="1.0", optional=""))
    new, old = tiny_dev.find_hosts()
    assert tiny_dev.host_interpreter(new) is None
    assert tiny_dev._prepare_hosts(tiny_dev.venv_python(tiny_dev.VENV)) == []
    places = {host.version: tiny_dev.host_interpreter(host) for host in (new, old)}
    found = {
        version: [version_in(place, name) for name in ("frontend", "other", "torch", "torchaudio", "nicety")]
        for version, place in places.items()
    }
    assert version_in(places["0.8.0"], "requests")  # which hosts import and do not ask for
    assert found == {"0.8.0": ["2.0", "1.0", "2.0", "", "1.0"], "0.3.64": ["1.0", "1.0", "2.0", "", ""]}
    assert Path(places["0.3.64"]).is_relative_to(tiny_dev.ROOT / ".venv-comfyui-0.3.64")

    capfd.readouterr()
    assert tiny_dev._prepare_hosts(tiny_dev.venv_python(tiny_dev.VENV)) == []
    assert capfd.readouterr() == ("", "")

    make_host(old.folder, "0.3.64", REQUIREMENTS.format(version="2.0", optional=""))
    assert tiny_dev.host_interpreter(old) is None
    tiny_dev.prepare_host_venv(tiny_dev.venv_python(tiny_dev.VENV), old)
    assert version_in(places["0.3.64"], "frontend") == "2.0"


def test_what_left_the_venv_comes_back_into_the_overlay(
    tiny_dev: ModuleType, wheels: Path, home: Path
) -> None:
    make_host(home / "comfy" / "ComfyUI", "0.9.0", REQUIREMENTS.format(version="2.0", optional=""))
    (host,) = tiny_dev.find_hosts()
    python = tiny_dev.venv_python(tiny_dev.VENV)
    overlay = tiny_dev.prepare_host_venv(python, host)
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "other"], check=True)
    assert version_in(overlay, "other") == ""
    tiny_dev.prepare_host_venv(python, host)
    assert version_in(overlay, "other") == "1.0"


def test_missing_nicety_is_told_and_missing_necessity_skips_the_tests_with_its_reason(
    tiny_dev: ModuleType, wheels: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    python = tiny_dev.venv_python(tiny_dev.VENV)
    requirements = REQUIREMENTS.format(version="2.0", optional="nowhere\nnicety")
    make_host(home / "comfy" / "ComfyUI", "0.8.1", requirements)
    (host,) = tiny_dev.find_hosts()
    tiny_dev.prepare_host_venv(python, host)
    assert "could not install nowhere (see above); ComfyUI 0.8.1 starts without it" in capfd.readouterr().out
    assert version_in(tiny_dev.host_interpreter(host), "nicety") == "1.0"

    checkout = Checkout(host.folder, host.version, tiny_dev)
    make_host(host.folder, "0.8.1", REQUIREMENTS.format(version="3.0", optional=""))
    (reason,) = tiny_dev._prepare_hosts(python)
    assert "ComfyUI 0.8.1" in reason
    assert "tests that need ComfyUI 0.8.1 are skipped" in capfd.readouterr().out
    with pytest.raises(UnavailableError, match=r"could not install what ComfyUI 0\.8\.1 requires"):
        checkout.interpreter()

    write_wheel(wheels, "frontend", "3.0")
    assert tiny_dev._prepare_hosts(python) == []
    assert checkout.interpreter() == tiny_dev.host_interpreter(host)


def test_no_host_and_no_terminal_gives_the_command_to_fetch_one(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "dev.py"), "comfyui"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 1
    folder = home / "comfy" / "ComfyUI"
    assert f"git clone --depth 1 https://github.com/Comfy-Org/ComfyUI {folder}\n" in done.stdout
    assert "FAILED: there is no ComfyUI to start" in done.stderr
    assert not home.exists()


@pytest.mark.parametrize("answer", ["y", ""])
def test_no_host_is_cloned_only_if_the_user_says_so(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    dev = load_dev()
    origin = make_host(tmp_path / "origin", "0.9.9")
    git = [
        "git",
        "-C",
        str(origin),
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b.c",
        "-c",
        "commit.gpgsign=false",
    ]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(dev, "HOST_REPOSITORY", origin.as_uri())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    if answer == "y":
        assert dev._host_to_start() == (home / "comfy" / "ComfyUI", "0.9.9")
    else:
        with pytest.raises(dev.StepError, match="no ComfyUI to start"):
            dev._host_to_start()
        assert not home.exists()


def test_examples_are_handed_out_and_changed_ones_are_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dev = load_dev()
    base, source = tmp_path / "base", tmp_path / "source"
    source.mkdir()
    files = [source / "mine.json", source / "theirs.json"]
    for file in files:
        file.write_text("1", encoding="utf-8")
    (base / "input").mkdir(parents=True)
    (base / "input" / "mine.json").write_text("the user's, and it was here first", encoding="utf-8")
    dev._hand_out(base, base / "input", files)
    texts = [(base / "input" / file.name).read_text(encoding="utf-8") for file in files]
    assert texts == ["the user's, and it was here first", "1"]
    assert "mine.json is not as it came" in capfd.readouterr().out

    files[1].write_text("2", encoding="utf-8")
    dev._hand_out(base, base / "input", files)
    assert (base / "input" / "theirs.json").read_text(encoding="utf-8") == "2"

    (base / "input" / "theirs.json").write_text("2, changed", encoding="utf-8")
    files[1].write_text("3", encoding="utf-8")
    dev._hand_out(base, base / "input", files)
    assert (base / "input" / "theirs.json").read_text(encoding="utf-8") == "2, changed"
    assert {path.name for path in (base / "input").iterdir()} == {"mine.json", "theirs.json"}


def test_folder_of_the_users_comfyui_is_refused_as_base(tmp_path: Path) -> None:
    dev = load_dev()
    host = make_host(tmp_path / "ComfyUI", "0.8.0")
    before = sorted(host.rglob("*"))
    with pytest.raises(dev.StepError, match="holds a ComfyUI"):
        dev._prepare_base(host)
    assert sorted(host.rglob("*")) == before


def test_link_follows_a_clone_that_has_moved_and_spares_what_is_no_link(tmp_path: Path) -> None:
    dev = load_dev()
    packs = [tmp_path / "old", tmp_path / "new"]
    for pack in packs:
        pack.mkdir()
        (pack / "__init__.py").write_text(pack.name, encoding="utf-8")
        for _ in range(2):
            dev.link_pack(tmp_path, pack)
        link = tmp_path / "custom_nodes" / dev.PACK_NAME
        assert (link / "__init__.py").read_text(encoding="utf-8") == pack.name
    assert (packs[0] / "__init__.py").exists()

    link.unlink()
    (link / "kept").mkdir(parents=True)
    with pytest.raises(dev.StepError, match="in the way"):
        dev.link_pack(tmp_path, packs[0])
    assert (link / "kept").is_dir()


def test_taken_port_is_an_error_only_if_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    dev = load_dev()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(dev.StepError, match=f"port {port}"):
            dev._port_for_host("127.0.0.1", port)
        monkeypatch.setattr(dev, "HOST_PORT", port)
        assert port < dev._port_for_host("127.0.0.1", None) < port + 100
    assert dev._port_for_host("127.0.0.1", None) == port


def test_arguments_after_the_dashes_go_to_pytest() -> None:
    dev = load_dev()
    options = dev._parse(["test", "--no-lint", "--", "-k", "parity", "-x"])
    assert (options.pytest, options.no_lint, options.matrix) == (["-k", "parity", "-x"], True, False)
    assert dev._parse(["test", "--transformers", "4.56.0"]).matrix
    options = dev._parse(["comfyui", "--listen", "--", "--lowvram"])
    assert (options.for_host, options.listen, options.port) == (["--lowvram"], "0.0.0.0", None)


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["lint", "--", "-x"], ["test", "--nonsense"], ["comfyui", "--", "--port=1"]],
)
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
