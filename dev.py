"""The developers' commands, with nothing but Python 3.10 or later:

    python dev.py demo              caption the pictures in examples/ with the built-in demo model
    python dev.py test              lint, types, room arrows, tests     (-- ARGS go to pytest)
    python dev.py test --matrix     the parity tests on the oldest and the newest transformers
    python dev.py lint              only the first three
    python dev.py format            rewrite the sources as ruff likes them

Each command makes .venv where it is missing, installs what has changed, repairs what is half made, and ends
with an honest exit status.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
OLDEST_TRANSFORMERS = "4.50.3"
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
    own, for_pytest = arguments[:split], arguments[split + 1 :]
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
    commands.add_parser("lint", help="lint, types, room arrows").set_defaults(command=lint)
    commands.add_parser("format", help="format the sources").set_defaults(command=format_sources)
    options = parser.parse_args(own)
    options.pytest = for_pytest
    if for_pytest and options.command is not test:
        parser.error("only 'test' takes arguments after '--'")
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
    say("Tests")
    status = run([python, "-m", "pytest", *options.pytest])
    if failed:
        raise StepError(f"{', '.join(failed)} (see above); the tests' exit status is {status}.", status or 1)
    return status


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

    A second torch would cost gigabytes. The ``.pth`` file comes after the venv's own site-packages on the
    path, so what is installed here wins.
    """
    folder = ROOT / f".venv-transformers-{version}"
    base = output_of([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    fingerprint = _fingerprint(base, version)
    interpreter = venv_python(folder)
    stamp = folder / "promptgen-dev-stamp"
    if _read(stamp) == fingerprint and _works(interpreter):
        return interpreter
    say(f"Making {folder.name}: transformers {version} over the packages of {VENV.name}")
    checked([python, "-m", "venv", "--clear", "--without-pip", str(folder)], f"could not make {folder}")
    own = output_of([interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    Path(own, "promptgen-base.pth").write_text(f"import site; site.addsitedir({base!r})\n", encoding="utf-8")
    pip = [python, "-m", "pip", "--python", interpreter, "install", "--quiet", f"transformers=={version}"]
    checked(pip, f"could not install transformers {version} (see above); is there a network?")
    stamp.write_text(fingerprint, encoding="utf-8")
    return interpreter


# The virtual environment ----------------------------------------------------------------


def prepare_venv() -> str:
    """The interpreter of ``.venv``, made, repaired and brought up to date where needed."""
    python = venv_python(VENV)
    stamp = VENV / "promptgen-dev-stamp"
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


def _works(python: str, code: str = "") -> bool:
    try:
        done = subprocess.run(
            [python, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError:
        return False
    return done.returncode == 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


# Running other programs -----------------------------------------------------------------


def say(message: str) -> None:
    """Head a step."""
    print(f"\n==> {message}", flush=True)


def run(command: Sequence[str]) -> int:
    """Run ``command`` in the repository with our own input and output; its exit status."""
    return subprocess.run(command, cwd=ROOT).returncode


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
