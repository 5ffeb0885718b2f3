"""The developers' commands, with nothing but Python 3.10 or later:

    python dev.py demo              caption the pictures in examples/ with the built-in demo model
    python dev.py test              lint, types, room arrows, tests     (-- ARGS go to pytest)
    python dev.py test --matrix     the parity tests on the oldest and the newest transformers
    python dev.py comfyui           start ComfyUI with this pack alone          (-- ARGS go to ComfyUI)
    python dev.py lint              only the first three
    python dev.py format            rewrite the sources as ruff likes them

Each command makes .venv where it is missing, installs what has changed, repairs what is half made, and ends
with an honest exit status.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = "promptgen-dev-stamp"  # in a venv: all that was due has been installed
FAILURE = "promptgen-dev-failure"  # in a host's venv: why it could not be
OLDEST_TRANSFORMERS = "4.50.3"
MOST_TEST_PROCESSES = 4  # each takes up to 2 GB
HOST_VARIABLE = "COMFYUI_PATH"
HOST_REPOSITORY = "https://github.com/Comfy-Org/ComfyUI"
HOST_PORT = 8188  # its own default
HOST_START_SECONDS = 600
HOST_ARGUMENTS_OF_OURS = ("--port", "--listen", "--base-directory", "--tls-keyfile", "--tls-certfile")
HOST_PROBE = "PromptGenTagger"  # the node whose presence says that the pack was loaded
PACK_NAME = "promptgen-tagger"  # the folder that the host sees, whatever this clone is called
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
DEMO_INSTRUCTIONS = "GENERATE_TAGS,CAPTION,MIXED_CAPTION,ANALYZE"
SCRIPTS = ("dev.py", "setup.py")  # lie in the root folder, but are no part of the package


class StepError(Exception):
    """A step did not succeed; the message says what to do. ``status`` becomes our exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parse(sys.argv[1:] if arguments is None else list(arguments))
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except StepError as failure:
        print(f"\nFAILED: {failure}", file=sys.stderr)
        return failure.status
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def _parse(arguments: list[str]) -> argparse.Namespace:
    split = arguments.index("--") if "--" in arguments else len(arguments)
    own, passed_on = arguments[:split], arguments[split + 1 :]
    parser = argparse.ArgumentParser(
        prog="dev.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    demo_parser = commands.add_parser("demo", help="caption the example pictures")
    demo_parser.set_defaults(command=demo)
    test_parser = commands.add_parser("test", help="lint, types, room arrows, tests; '-- ARGS' go to pytest")
    test_parser.add_argument(
        "--matrix",
        action="store_true",
        help=f"only the parity tests, on transformers {OLDEST_TRANSFORMERS} and on the newest",
    )
    test_parser.add_argument(
        "--transformers",
        action="append",
        metavar="VERSION",
        help="with --matrix: these versions instead ('newest' is one); may be given again",
    )
    test_parser.add_argument("--no-lint", action="store_true", help="only the tests")
    test_parser.set_defaults(command=test)
    host_parser = commands.add_parser(
        "comfyui", help="start ComfyUI with this pack alone; '-- ARGS' go to ComfyUI"
    )
    host_parser.add_argument("--port", type=int, help=f"default: {HOST_PORT}, or the next that is free")
    host_parser.add_argument(
        "--listen",
        nargs="?",
        const="0.0.0.0",
        default="127.0.0.1",
        metavar="IP",
        help="let other machines in: they need no password (default: only this machine)",
    )
    host_parser.add_argument(
        "--base",
        type=Path,
        default=ROOT / ".comfyui",
        metavar="DIR",
        help="for pictures, workflows, models and results (default: .comfyui)",
    )
    host_parser.set_defaults(command=comfyui)
    commands.add_parser("lint", help="lint, types, room arrows").set_defaults(command=lint)
    commands.add_parser("format", help="format the sources").set_defaults(command=format_sources)
    options = parser.parse_args(own)
    options.pytest = options.for_host = passed_on
    if passed_on and options.command not in (test, comfyui):
        parser.error("only 'test' and 'comfyui' take arguments after '--'")
    if options.command is comfyui:
        for argument in passed_on:
            if argument.partition("=")[0] in HOST_ARGUMENTS_OF_OURS:
                parser.error(f"{argument} is not for ComfyUI here; see 'dev.py comfyui --help'")
    if getattr(options, "transformers", None):
        options.matrix = True
    return options


# Commands -------------------------------------------------------------------------------


def demo(options: argparse.Namespace) -> int:
    """Caption every picture in ``examples/`` with the demo model."""
    python = prepare_venv()
    pictures = sorted(
        str(path.relative_to(ROOT)) for path in (ROOT / "examples").rglob("*") if path.suffix in PICTURES
    )
    if not pictures:
        raise StepError("examples/ holds no pictures; the clone is incomplete. Clone the repository again.")
    say(f"Captioning {len(pictures)} pictures with the demo model, which knows drawn shapes only")
    command = [python, "-m", "promptgen.cli", "caption", *pictures]
    return run(
        [
            *command,
            "--model",
            "demo",
            "--instruction",
            DEMO_INSTRUCTIONS,
            "--device",
            "cpu",
            "--format",
            "table",
        ]
    )


def test(options: argparse.Namespace) -> int:
    """Lint unless told otherwise, then pytest, whose summary is the last line when all is well."""
    python = prepare_venv()
    if options.matrix:
        return _test_matrix(python, options.transformers or [OLDEST_TRANSFORMERS, "newest"], options.pytest)
    failed = [] if options.no_lint else _failed_checks(python)
    without = _prepare_hosts(python)
    say("Tests")
    status = run([python, "-m", "pytest", *_side_by_side(), *options.pytest], _one_thread_each())
    for reason in without:
        say(f"NOT TESTED IN COMFYUI: {reason}")
    if failed:
        raise StepError(f"{', '.join(failed)} (see above); the tests' exit status is {status}.", status or 1)
    return status


def _side_by_side() -> list[str]:
    """For pytest: tests run in several processes, those of a file, or of one ComfyUI, in one of them."""
    return ["-n", str(_test_processes()), "--dist", "loadscope"] if _test_processes() > 1 else []


def _one_thread_each() -> dict[str, str]:
    """The environment in which the processes do not take each other's cores."""
    return {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // _test_processes()))}


def _test_processes() -> int:
    return min(MOST_TEST_PROCESSES, os.cpu_count() or 1)


def comfyui(options: argparse.Namespace) -> int:
    """Start ComfyUI with this pack alone on a folder of its own; the user's ComfyUI is not written to."""
    host = _host_to_start()
    interpreter = prepare_host_venv(prepare_venv(), host)
    base = options.base.resolve()
    _prepare_base(base)
    port = _port_for_host(options.listen, options.port)
    database = f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}"
    command = host_command(host, base, port, database=database, interpreter=interpreter)
    command += [
        "--listen",
        options.listen,
        *link_pack(base),
        *_device_arguments(interpreter, options.for_host),
    ]
    say(f"Starting ComfyUI {host.version} ({host.folder})")
    _heed_signals()
    process = _HostProcess([*command, *options.for_host], base, host_environment(host))
    return _attend(process, base, options.listen, port)


def lint(options: argparse.Namespace) -> int:
    """Lint, format, types and room arrows; all of them are run whatever the first ones say."""
    failed = _failed_checks(prepare_venv())
    if failed:
        raise StepError(f"{', '.join(failed)} (see above).")
    say("All clean")
    return 0


def format_sources(options: argparse.Namespace) -> int:
    """Let ruff fix and format the sources."""
    python = prepare_venv()
    fixed = run([python, "-m", "ruff", "check", "--fix", "--quiet", "."])
    return run([python, "-m", "ruff", "format", "."]) or fixed


# Checks ---------------------------------------------------------------------------------


def _failed_checks(python: str) -> list[str]:
    checks: dict[str, Callable[[], int]] = {
        "ruff check": lambda: run([python, "-m", "ruff", "check", "."]),
        "ruff format": lambda: run([python, "-m", "ruff", "format", "--check", "."]),
        "types": lambda: _check_types(python),
        "room arrows": lambda: _check_arrows(python),
    }
    failed = []
    for name, check in checks.items():
        say(name.capitalize())
        if check() != 0:
            failed.append(name)
    return failed


def mirror_package(folder: Path) -> Path:
    """Make ``folder`` hold a copy of the sources as ``promptgen/``, and nothing else.

    The root folder is the package, but a clone may have any name (``promptgen-tagger`` is not even an
    identifier), and tools that find a package by its folder's name need one that fits. A copy works on every
    system, links do not. The times of the files are kept, so that the tools' caches hold.
    """
    if folder.exists():
        shutil.rmtree(folder)
    target = folder / "promptgen"
    rooms = [path for path in ROOT.iterdir() if (path / "__init__.py").is_file() and path.name != "tests"]
    target.mkdir(parents=True)
    for file in [*ROOT.glob("*.py"), ROOT / "py.typed"]:
        if file.name not in SCRIPTS:
            shutil.copy2(file, target)
    for room in rooms:
        shutil.copytree(room, target / room.name, ignore=_all_but_sources)
    return folder


def _all_but_sources(folder: str, names: list[str]) -> list[str]:
    return [
        name
        for name in names
        if name == "__pycache__" or not (name.endswith((".py", ".pyi")) or (Path(folder) / name).is_dir())
    ]


def _check_types(python: str) -> int:
    mirror = mirror_package(ROOT / ".mypy_cache" / "types")
    configuration = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    package = _run_in_mirror([python, "-m", "mypy", *configuration, "-p", "promptgen"], mirror)
    for script in SCRIPTS:  # beside the package, not within: a clone's name need not be that of a package
        shutil.copy2(ROOT / script, mirror)
    return _run_in_mirror([python, "-m", "mypy", *configuration, *SCRIPTS], mirror) or package


def _check_arrows(python: str) -> int:
    mirror = mirror_package(ROOT / ".import_linter_cache" / "arrows")
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    cache = str(ROOT / ".import_linter_cache")
    command = [
        python,
        "-c",
        code,
        "--config",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        cache,
        "--no-logo",
    ]
    return _run_in_mirror(command, mirror)


def _run_in_mirror(command: Sequence[str], mirror: Path) -> int:
    """Run ``command`` in the mirror and print what it says with the paths of the real sources."""
    environment = {**os.environ, "PYTHONPATH": str(mirror), "PYTHONUTF8": "1"}
    done = subprocess.run(
        command,
        cwd=mirror,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    text = done.stdout.replace(f"{mirror}{os.sep}", "")
    for line in text.splitlines():
        print(line.removeprefix(f"promptgen{os.sep}"), flush=True)
    return done.returncode


# The parity tests on other versions of transformers -------------------------------------


def _test_matrix(python: str, versions: Sequence[str], for_pytest: Sequence[str]) -> int:
    outcomes: dict[str, int] = {}
    for wanted in versions:
        version = _newest_transformers(python) if wanted == "newest" else wanted
        interpreter = (
            python if version == _transformers_of(python)[0] else _prepare_matrix_venv(python, version)
        )
        found, place = _transformers_of(interpreter)
        if found != version:
            raise StepError(f"wanted transformers {version}, but {interpreter} imports {found} from {place}.")
        say(f"Parity tests on transformers {found} ({place})")
        outcomes[version] = run([interpreter, "-m", "pytest", "-m", "matrix", *for_pytest])
    say("Matrix")
    for version, status in outcomes.items():
        print(f"  transformers {version:12} {'passed' if status == 0 else f'FAILED (exit status {status})'}")
    return max(outcomes.values(), key=abs)


def _transformers_of(python: str) -> tuple[str, str]:
    code = "import transformers; print(transformers.__version__); print(transformers.__path__[0])"
    version, place = output_of([python, "-c", code]).splitlines()[-2:]
    return version, place


def _newest_transformers(python: str) -> str:
    """The newest release that pip would install here; without a network the installed one, and we say so."""
    command = [
        python,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--no-deps",
        "--upgrade",
        "--quiet",
        "--report",
        "-",
    ]
    done = subprocess.run([*command, "transformers"], stdout=subprocess.PIPE, encoding="utf-8")
    installed, _ = _transformers_of(python)
    if done.returncode != 0:
        say(f"pip cannot tell the newest transformers; taking the installed {installed} for it")
        return installed
    planned = json.loads(done.stdout)["install"]
    return str(planned[0]["metadata"]["version"]) if planned else installed


def _prepare_matrix_venv(python: str, version: str) -> str:
    """A venv with its own transformers (and what that needs) which sees all else in ``.venv``.

    A second torch would cost gigabytes.
    """
    folder = ROOT / f".venv-transformers-{version}"
    fingerprint = _fingerprint(_site_packages(python), version)
    interpreter = venv_python(folder)
    stamp = folder / STAMP
    if _read(stamp) == fingerprint and _works(interpreter):
        return interpreter
    say(f"Making {folder.name}: transformers {version} over the packages of {VENV.name}")
    _make_overlay(python, folder)
    pip = [python, "-m", "pip", "--python", interpreter, "install", "--quiet", f"transformers=={version}"]
    checked(pip, f"could not install transformers {version} (see above); is there a network?")
    stamp.write_text(fingerprint, encoding="utf-8")
    return interpreter


def _make_overlay(python: str, folder: Path) -> str:
    """A new venv that also sees the packages of the venv of ``python``.

    The ``.pth`` file comes after the venv's own site-packages on the path, so what is installed here wins.
    """
    checked([python, "-m", "venv", "--clear", "--without-pip", str(folder)], f"could not make {folder}")
    interpreter = venv_python(folder)
    pointer = f"import site; site.addsitedir({_site_packages(python)!r})\n"
    Path(_site_packages(interpreter), "promptgen-base.pth").write_text(pointer, encoding="utf-8")
    return interpreter


def _site_packages(python: str) -> str:
    return output_of([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()


# ComfyUI, the host of the node pack -----------------------------------------------------


class HostCheckout(NamedTuple):
    """A ComfyUI source folder, of any version."""

    folder: Path
    version: str

    @property
    def venv(self) -> Path:
        """Where its overlay venv is, or will be."""
        return ROOT / f".venv-comfyui-{self.version}"

    @property
    def byte_code(self) -> Path:
        """Where compiled modules go when it runs: not into its folder, and for all bases the same."""
        return self.venv / "byte-code"


def find_hosts() -> list[HostCheckout]:
    """The ComfyUI checkouts in ``$COMFYUI_PATH``, else those in ``~/comfy``; one for each version.

    ``~/comfy/ComfyUI`` is where comfy-cli puts it; other versions lie beside it as ``ComfyUI-<anything>``.

    Raises:
        StepError: ``$COMFYUI_PATH`` names a folder that is no ComfyUI.
    """
    named = [Path(part).expanduser() for part in os.environ.get(HOST_VARIABLE, "").split(os.pathsep) if part]
    for folder in named:
        if _host_version(folder) is None:
            raise StepError(
                f"${HOST_VARIABLE} names {folder}, but that is no ComfyUI source folder: it has no "
                "main.py and comfyui_version.py."
            )
    hosts: dict[str, HostCheckout] = {}
    for folder in named or [_home_of_hosts() / "ComfyUI", *sorted(_home_of_hosts().glob("ComfyUI-*"))]:
        version = _host_version(folder)
        if version is not None and version not in hosts:
            hosts[version] = HostCheckout(folder.resolve(), version)
    return list(hosts.values())


def _home_of_hosts() -> Path:
    return Path.home() / "comfy"


def _host_version(folder: Path) -> str | None:
    """The version of the ComfyUI in ``folder``, read and not imported; None where there is none."""
    if not (folder / "main.py").is_file():
        return None
    found = re.search(r"^__version__\s*=\s*[\"']([\w.+-]+)[\"']", _read(folder / "comfyui_version.py"), re.M)
    return found[1] if found else None


def host_interpreter(host: HostCheckout) -> str | None:
    """The interpreter of the host's overlay venv if that is ready for use, else None."""
    stamp, interpreter = _read(host.venv / STAMP), venv_python(host.venv)
    return interpreter if stamp == _host_fingerprint(host) and Path(interpreter).exists() else None


def host_failure(host: HostCheckout) -> str:
    """Why the host's overlay venv could not be made the last time this was tried; empty if it could."""
    return _read(host.venv / FAILURE)


def prepare_host_venv(python: str, host: HostCheckout) -> str:
    """A venv with what the host requires (its own front end, too) which sees all else in ``.venv``.

    torch and torchvision are those of ``.venv``, whatever the host says, and torchaudio is not installed at
    all: the host starts without it.
    """
    interpreter = venv_python(host.venv)
    required, optional = _host_requirements(host)
    if host_interpreter(host) and not _missing(interpreter, required):
        return interpreter
    say(f"Making {host.venv.name}: what ComfyUI {host.version} needs, over the packages of {VENV.name}")
    host.venv.mkdir(exist_ok=True)
    try:
        _install_host_requirements(python, host, required, optional)
    except StepError as failure:
        (host.venv / STAMP).unlink(missing_ok=True)
        (host.venv / FAILURE).write_text(str(failure), encoding="utf-8")
        raise
    (host.venv / FAILURE).unlink(missing_ok=True)
    (host.venv / STAMP).write_text(_host_fingerprint(host), encoding="utf-8")
    return interpreter


def _prepare_hosts(python: str) -> list[str]:
    """Make the environments of all ComfyUIs that are found; why that failed, for those where it did.

    Their tests skip then. Nothing is said where no ComfyUI is found: the tests' own summary has it.
    """
    reasons = []
    try:
        hosts = find_hosts()
    except StepError as failure:
        return [str(failure)]
    for host in hosts:
        try:
            prepare_host_venv(python, host)
        except StepError as failure:
            reasons.append(str(failure))
            say(f"FAILED: {failure} The tests that need ComfyUI {host.version} are skipped")
    return reasons


def _install_host_requirements(
    python: str, host: HostCheckout, required: Sequence[str], optional: Sequence[str]
) -> None:
    interpreter = venv_python(host.venv)
    if not _works(interpreter):
        _make_overlay(python, host.venv)
    constraints = host.venv / "constraints.txt"
    constraints.write_text("\n".join(_torch_constraints(python)), encoding="utf-8")
    pip = [python, "-m", "pip", "--python", interpreter, "install", "--disable-pip-version-check"]
    install = [*pip, "--quiet", "--constraint", str(constraints)]
    if run([*install, *required, *optional]) == 0:
        return
    advice = f"could not install what ComfyUI {host.version} requires (see above); is there a network?"
    checked([*install, *required], advice)
    for requirement in optional:
        if run([*install, requirement]) != 0:
            say(f"pip could not install {requirement} (see above); ComfyUI {host.version} starts without it")


def _host_requirements(host: HostCheckout) -> tuple[list[str], list[str]]:
    """What the host cannot start without, and what it can.

    The second are those that its requirements file calls non-essential, its workflow templates and help
    pages.
    """
    required = ["requests"]  # imported, and not required: until transformers 5 it came along with that
    optional: list[str] = []
    lines = required
    for line in _read(host.folder / "requirements.txt").splitlines():
        requirement, hash_sign, comment = line.partition("#")
        if hash_sign and re.search(r"non[- ]?essential", comment, re.I):
            lines = optional
        name = re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0].lower()
        if name in ("comfyui-workflow-templates", "comfyui-embedded-docs"):
            optional.append(requirement.strip())
        elif name and name not in ("torch", "torchvision", "torchaudio"):
            lines.append(requirement.strip())
    return required, optional


def _host_fingerprint(host: HostCheckout) -> str:
    """Not that of ``.venv``: what changes there is seen through the overlay."""
    digest = hashlib.sha256(str(ROOT).encode("utf-8", "surrogateescape") + b"\0")
    digest.update(_read(host.folder / "requirements.txt").encode())
    return digest.hexdigest()


def _torch_constraints(python: str) -> list[str]:
    code = (
        "import importlib.metadata as m; print(*(f'{n}=={m.version(n)}' for n in ('torch', 'torchvision')))"
    )
    return [*output_of([python, "-c", code]).split(), "torchaudio<0"]


def _missing(interpreter: str, requirements: Sequence[str]) -> bool:
    """Whether ``interpreter`` lacks any: a new ``.venv`` may hold less than the one it was made over."""
    code = (
        "import importlib.metadata as m, sys\n"
        "from packaging.requirements import Requirement\n"
        "for r in map(Requirement, sys.argv[1:]):\n"
        "    if r.marker is None or r.marker.evaluate():\n"
        "        assert r.specifier.contains(m.version(r.name), prereleases=True)\n"
    )
    return not _works(interpreter, code, *requirements)


def link_pack(base: Path, pack: Path = ROOT) -> list[str]:
    """Let a host on the base directory ``base`` load ``pack`` and no other; the arguments it needs for that.

    A link (on Windows, a junction) and not a copy, which would go stale. Where a file system knows neither,
    the host is told to look for packs where this one lies.

    Raises:
        StepError: something else lies where the link belongs.
    """
    folder = base / "custom_nodes"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / PACK_NAME
    if link.exists() and link.samefile(pack):
        return ["--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK_NAME]
    if link.is_symlink() or _is_junction(link):
        link.unlink()  # of a clone that has moved; what it points to is not touched
    if link.exists():
        raise StepError(f"{link} is in the way: it is neither {pack} nor a link. Move it elsewhere.")
    if _link_folder(link, pack):
        return ["--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK_NAME]
    paths = base / "custom_nodes_of_promptgen.yaml"
    paths.write_text(f"promptgen:\n  custom_nodes: {json.dumps(str(pack.parent))}\n", encoding="utf-8")
    whitelist = ["--disable-all-custom-nodes", "--whitelist-custom-nodes", pack.name]
    return ["--extra-model-paths-config", str(paths), *whitelist]


def _link_folder(link: Path, target: Path) -> bool:
    try:
        link.symlink_to(target, target_is_directory=True)
    except (OSError, NotImplementedError):  # Windows wants a privilege for it, but not for a junction
        if os.name == "nt":
            done = subprocess.run(["cmd", "/c", "mklink", "/J", str(link), str(target)], capture_output=True)
            return done.returncode == 0
        return False
    return True


def _is_junction(path: Path) -> bool:
    if os.name != "nt":
        return False
    try:
        attributes = getattr(path.lstat(), "st_reparse_tag", 0)
    except OSError:
        return False
    return bool(attributes)


def host_command(host: HostCheckout, base: Path, port: int, *, database: str, interpreter: str) -> list[str]:
    """How to start ``host`` so that it writes to ``base`` alone."""
    return [
        interpreter,
        str(host.folder / "main.py"),
        *("--base-directory", str(base)),
        *("--database-url", database),
        *("--port", str(port)),
        *("--disable-auto-launch", "--disable-api-nodes", "--log-stdout"),
    ]


def host_environment(host: HostCheckout) -> dict[str, str]:
    """The environment to start ``host`` in."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **inherited,
        "PYTHONPYCACHEPREFIX": str(host.byte_code),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
    }


def _host_to_start() -> HostCheckout:
    """The first that is found; where there is none, one is cloned if the user says so.

    Raises:
        StepError: there is none, and the user does not want one.
    """
    found = find_hosts()
    if found:
        return found[0]
    folder = _home_of_hosts() / "ComfyUI"
    clone = ["git", "clone", "--depth", "1", HOST_REPOSITORY, str(folder)]
    say(f"No ComfyUI found: ${HOST_VARIABLE} is not set, and {folder} is none")
    print(f"This fetches one:\n\n    {shlex.join(clone)}\n", flush=True)
    if not sys.stdin.isatty():
        raise StepError(
            f"there is no ComfyUI to start. Run the command above, or set ${HOST_VARIABLE} to one."
        )
    if input("Run it now? [y/N] ").strip().lower() not in ("y", "yes"):
        raise StepError(f"there is no ComfyUI to start. Set ${HOST_VARIABLE} if you have one elsewhere.")
    if shutil.which("git") is None:
        raise StepError("git is not installed.")
    checked(clone, f"could not clone ComfyUI into {folder} (see above).")
    found = find_hosts()
    if not found:
        raise StepError(f"what git fetched into {folder} is no ComfyUI that this script knows.")
    return found[0]


def _prepare_base(base: Path) -> None:
    """The folders that a host wants, and the example pictures and workflows where its page shows them.

    Raises:
        StepError: ``base`` is the user's ComfyUI, which is not ours to write to.
    """
    if (base / "main.py").exists() or (base / "comfyui_version.py").exists():
        raise StepError(f"{base} holds a ComfyUI. Give --base a folder of its own; it is made if missing.")
    for name in ("custom_nodes", "models", "output", "temp"):
        (base / name).mkdir(parents=True, exist_ok=True)
    pictures = [path for path in sorted((ROOT / "examples").glob("*")) if path.suffix in PICTURES]
    _hand_out(base, base / "input", pictures)
    workflows = sorted((ROOT / "example_workflows").glob("*.json"))
    _hand_out(base, base / "user" / "default" / "workflows", workflows)


def _hand_out(base: Path, folder: Path, files: Sequence[Path]) -> None:
    """Copy ``files`` into ``folder`` and keep the copies up to date, but for those that the user has changed.

    What was copied is written down in ``base``, so that a copy can be told from the user's own work.
    """
    record = base / "copied-by-promptgen.json"
    copied: dict[str, str] = json.loads(_read(record) or "{}")
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        target = folder / file.name
        name = target.relative_to(base).as_posix()
        content = file.read_bytes()
        there = hashlib.sha256(target.read_bytes()).hexdigest() if target.is_file() else None
        wanted = hashlib.sha256(content).hexdigest()
        if there not in (None, wanted, copied.get(name)):
            print(f"  {target} is not as it came; left alone", flush=True)
        elif there != wanted or copied.get(name) != wanted:
            _write(target, content)
            copied[name] = wanted
    _write(record, json.dumps(copied, indent=1, sort_keys=True).encode())


def _write(target: Path, content: bytes) -> None:
    """Through a temporary file and a rename: whole or not at all."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(target)


def _device_arguments(interpreter: str, for_host: Sequence[str]) -> list[str]:
    """``--cpu`` where torch sees nothing better and the user has not chosen."""
    if {"--cpu", "--directml"} & {argument.partition("=")[0] for argument in for_host}:
        return []
    code = (
        "import sys, torch\n"
        "kinds = [torch.cuda, torch.backends.mps, getattr(torch, 'xpu', None)]\n"
        "sys.exit(not any(kind is not None and kind.is_available() for kind in kinds))"
    )
    if _works(interpreter, code):
        return []
    say("torch sees no GPU here: ComfyUI runs on the CPU")
    return ["--cpu"]


def _port_for_host(address: str, wanted: int | None) -> int:
    """``wanted`` or, from 8188, the first that nobody listens on.

    Raises:
        StepError: it is taken.
    """
    for port in [wanted] if wanted is not None else range(HOST_PORT, HOST_PORT + 100):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            if os.name != "nt":  # as the host does: a port that was in use a moment ago is free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as failure:
                reason = failure
                continue
        if wanted is None and port != HOST_PORT:
            say(f"Port {HOST_PORT} is taken (another ComfyUI?); taking {port}")
        return port
    raise StepError(f"cannot listen on {address}, port {wanted or HOST_PORT}: {reason.strerror}.")


class _HostProcess:
    """The host as a child: what it says goes to our output, and the start of it is kept."""

    def __init__(self, command: Sequence[str], base: Path, environment: dict[str, str]) -> None:
        self.said: list[str] = []
        self._process = subprocess.Popen(
            command,
            cwd=base,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it from us, once, and whoever sent it to us
        )
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()

    def _pass_on(self) -> None:
        assert isinstance(self._process.stdout, io.BufferedReader)
        unfinished = b""
        while block := self._process.stdout.read1():
            with contextlib.suppress(OSError):  # our own output may be gone; the host's must still be read
                sys.stdout.buffer.write(block)
                sys.stdout.buffer.flush()
            *lines, unfinished = (unfinished + block).split(b"\n")
            if len(self.said) < 5000:
                self.said += [line.decode("utf-8", "replace").rstrip() for line in lines]

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self) -> int:
        """Wait for its end and return its exit status as a shell would."""
        while self._process.poll() is None:  # in steps: on Windows a wait without end is deaf to Ctrl-C
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)
        self._reader.join(5)
        status = self._process.returncode
        return status if status >= 0 else 128 - status

    def stop(self) -> int:
        """Ask it to end, then insist; its exit status."""
        for signal_name, patience in (("SIGINT", 10), ("SIGTERM", 5), ("SIGKILL", 5)):
            if self.ended:
                break
            if os.name != "nt":
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, getattr(signal, signal_name))
            elif signal_name != "SIGINT":  # which the console has sent to it, too
                self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):  # again: insist at once
                self._process.wait(patience)
        return self.wait()


def _heed_signals() -> None:
    """Ctrl-C and its kin end us in order; SIGINT too, since the shell makes background jobs deaf to it."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)


def _attend(host: _HostProcess, base: Path, address: str, port: int) -> int:
    """See that the host has our nodes, tell its address, and stay until it ends.

    Returns:
        The host's own exit status: 0 if it was stopped with Ctrl-C and ended well.

    Raises:
        StepError: it ended before it answered, or does not know our nodes.
    """
    reached_at = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    url = f"http://{f'[{reached_at}]' if ':' in reached_at else reached_at}:{port}"
    try:
        _wait_for_host(host, url)
        if not _asked(f"{url}/object_info/{HOST_PROBE}").get(HOST_PROBE):
            raise StepError(_import_failure(host.said))
    except BaseException:
        host.stop()
        raise
    try:
        frame = "=" * 78
        print(f"\n{frame}\n  ComfyUI with PromptGen:  {url}\n", flush=True)
        print(f"  Pictures, workflows and results: {base}", flush=True)
        if not (address.startswith("127.") or address == "::1"):
            print("  Everyone who can reach this machine can use it, without a password.", flush=True)
        print(f"  Ctrl-C ends it.\n{frame}\n", flush=True)
        return host.wait()
    except KeyboardInterrupt:
        say("Stopping ComfyUI")
        return host.stop()


def _wait_for_host(host: _HostProcess, url: str) -> None:
    deadline = time.monotonic() + HOST_START_SECONDS
    while time.monotonic() < deadline:
        if host.ended:
            raise StepError(f"ComfyUI ended with status {host.wait()} before it answered (see above).")
        if _asked(f"{url}/system_stats"):
            return
        time.sleep(0.2)
    raise StepError(f"ComfyUI did not answer at {url} in {HOST_START_SECONDS} s.")


def _asked(url: str) -> dict[str, object]:
    """The host's answer, empty if it has none."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy on the way to ourselves
    try:
        with direct.open(url, timeout=10) as response:
            answer: dict[str, object] = json.load(response)
            return answer
    except (OSError, ValueError, http.client.HTTPException):
        return {}


def _import_failure(said: Sequence[str]) -> str:
    """What the host's own log has on the failed import of this pack."""
    about = [
        i
        for i, line in enumerate(said)
        if (PACK_NAME in line or ROOT.name in line) and re.search(r"annot import|rror while|kip ", line)
    ]
    if not about:
        return "ComfyUI runs, but it does not know our nodes, and its log (above) does not say why."
    last = about[-1]
    first = last
    if "annot import" in said[last]:  # the traceback came before
        other = [i for i, line in enumerate(said[:last]) if line.startswith("Cannot import ")]
        after = other[-1] + 1 if other else 0
        traces = [i for i in range(after, last) if said[i].startswith("Traceback ")]
        first = traces[0] if traces else last
    lines = "\n".join(f"    {line}" for line in said[first : last + 1])
    return f"ComfyUI started, but could not load this pack. Its log says:\n\n{lines}"


# The virtual environment ----------------------------------------------------------------


def prepare_venv() -> str:
    """The interpreter of ``.venv``, made, repaired and brought up to date where needed."""
    python = venv_python(VENV)
    stamp = VENV / STAMP
    if _read(stamp) == _fingerprint() and _works(python):
        return python
    started = time.monotonic()
    fresh = not _works(python, "import pip")
    if fresh:
        say(f"Repairing {VENV.name}" if VENV.exists() else f"Making {VENV.name}")
        stamp.unlink(missing_ok=True)
        make = [sys.executable, "-m", "venv"]
        if run([*make, str(VENV)]) != 0 or not _works(python, "import pip"):
            advice = f"could not make {VENV}. On Debian and Ubuntu: apt install python3-venv"
            checked([*make, "--clear", str(VENV)], advice)
    say("Installing what pyproject.toml asks for" + (" (torch is large: some minutes)" if fresh else ""))
    stamp.unlink(missing_ok=True)
    quiet = [] if fresh else ["--quiet"]  # the first time, pip's progress is worth seeing
    checked(
        [python, "-m", "pip", "install", "--disable-pip-version-check", *quiet, "--editable", ".[dev]"],
        "pip could not install the requirements (see above). Without a network, set PIP_FIND_LINKS to a "
        "folder of wheels.",
    )
    stamp.write_text(_fingerprint(), encoding="utf-8")
    say(f"Installed in {time.monotonic() - started:.0f} s")
    return python


def venv_python(folder: Path) -> str:
    """Where the interpreter of the virtual environment ``folder`` is."""
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def _fingerprint(*more: str) -> str:
    """Changes when an install is due: other requirements, another place, another use."""
    digest = hashlib.sha256()
    for part in (str(ROOT), *more):
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    for name in ("pyproject.toml", "requirements.txt"):
        digest.update((ROOT / name).read_bytes() + b"\0")
    return digest.hexdigest()


def _works(python: str, code: str = "", *arguments: str) -> bool:
    command = [python, "-c", code, *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        return False
    return done.returncode == 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""


# Running other programs -----------------------------------------------------------------


def say(message: str) -> None:
    """Head a step."""
    print(f"\n==> {message}", flush=True)


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run ``command`` in the repository with our own input and output; its exit status."""
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def checked(command: Sequence[str], advice: str) -> None:
    """Run ``command``.

    Raises:
        StepError: it failed; ``advice`` is what the user reads.
    """
    status = run(command)
    if status != 0:
        raise StepError(advice, status if status > 0 else 1)


def output_of(command: Sequence[str]) -> str:
    """The standard output of ``command``.

    Raises:
        StepError: it failed.
    """
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8")
    if done.returncode != 0:
        raise StepError(f"'{' '.join(command)}' failed with exit status {done.returncode}.")
    return done.stdout


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036 - the point is to tell users of an older one
        sys.exit(f"dev.py needs Python 3.10 or later; this is {sys.version.split()[0]} ({sys.executable}).")
    sys.exit(main())
