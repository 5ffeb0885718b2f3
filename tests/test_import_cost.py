"""Importing is free: no heavy library, hardly any time, and the light commands stay light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = ["captioning", "cli", "florence2", "inference", "models_cache", "paligemma", "serving", "training"]
REFERENCE = Path(__file__).parent / "data" / "florence2-tiny-original"
HEAVY = (
    "torch", "torchvision", "transformers", "timm", "PIL", "numpy", "safetensors", "tokenizers",
    "fastapi", "starlette", "uvicorn", "prometheus_client", "httpx",
)  # fmt: skip


def run_child(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120)


def test_importing_the_package_takes_under_50_ms_and_loads_nothing() -> None:
    code = f"""
import json, sys, time
before = set(sys.modules)
started = time.perf_counter()
import promptgen
seconds = time.perf_counter() - started
loaded = sorted(set(sys.modules) - before)
print(json.dumps([seconds, loaded, [name for name in {HEAVY} if name in sys.modules]]))
"""
    measured = []
    for _ in range(5):  # the best of several: the machine may be busy with something else
        done = run_child(code)
        assert done.returncode == 0, done.stderr
        seconds, loaded, heavy = json.loads(done.stdout)
        measured.append(seconds)
        assert heavy == []
        assert {name for name in loaded if not name.startswith("promptgen")} <= {"__future__"}, loaded
    assert min(measured) < 0.05


@pytest.mark.parametrize("room", ROOMS)
def test_importing_a_room_loads_nothing_heavy(room: str) -> None:
    done = run_child(
        f"import sys, promptgen.{room}\nprint([name for name in {HEAVY} if name in sys.modules])"
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


LIGHT_COMMANDS = [
    ["--help"],
    ["--version"],
    ["caption", "--help"],
    ["serve", "--help"],
    ["train", "--help"],
    ["instructions"],
    ["instructions", "--format", "json"],
    ["models", "list"],
    ["models", "where", "demo"],
    ["caption", "no-such-folder/*.png"],  # a usage error comes before the libraries
    ["caption", "x.png", "--instruction", "NO_SUCH"],
    ["caption", "x.png", "--num-beams", "0"],
]


@pytest.mark.parametrize("arguments", LIGHT_COMMANDS, ids=" ".join)
def test_light_commands_need_no_heavy_library(arguments: list[str]) -> None:
    done = run_child(
        f"""
import sys
for name in {HEAVY}:
    sys.modules[name] = None  # importing it now raises ModuleNotFoundError
sys.argv = ["promptgen", *{arguments}]
from promptgen.cli import main
main()
"""
    )
    expected = 2 if arguments[0] == "caption" and "--help" not in arguments else 0
    assert done.returncode == expected, done.stderr
    assert "Traceback" not in done.stderr
    assert "not installed" not in done.stderr


def test_a_missing_library_is_named_with_the_way_to_get_it() -> None:
    done = run_child(
        f"""
import sys
sys.modules["torch"] = None
sys.argv = ["promptgen", "caption", "x.png", "--model", {str(REFERENCE)!r}]
from promptgen.cli import main
main()
"""
    )
    assert done.returncode == 1
    assert "'torch' is not installed" in done.stderr
    assert "pip install promptgen-tagger" in done.stderr
    assert "Traceback" not in done.stderr
