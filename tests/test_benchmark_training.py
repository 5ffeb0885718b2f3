"""The benchmark of training, on a checkpoint that is too small to say anything about speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .helpers_dev import ROOT

SCRIPT = ROOT / "benchmarks" / "run_training.py"
TINY = ("--size", "tiny", "--device", "cpu", "--steps", "2", "--warmup-steps", "1", "--workers", "0")


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *TINY, "--folder", str(folder), *options]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, encoding="utf-8", timeout=280)


@pytest.mark.slow
def test_rows_hold_rate_and_memory(tmp_path: Path) -> None:
    done = run(tmp_path / "out", "--batch-size", "2", "--method", "full", "lora", "--checkpointing", "on")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out/training.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["size"], row["method"], row["checkpointing"], row["batch"]) for row in rows] == [
        ("tiny", "full", "on", 2),
        ("tiny", "lora", "on", 2),
    ]
    for row in rows:
        assert row["samples/s"] == pytest.approx(2 / row["s/step"])
        assert 0.1 < row["peak GiB"] < 8
        assert 0 <= row["waited %"] < 100
        assert len(row["losses"]) == 3
    assert rows[1]["trained parameters"] < rows[0]["trained parameters"]
    table = [line for line in done.stdout.splitlines() if line.startswith("| tiny")]
    assert len(table) == 2


@pytest.mark.slow
def test_a_row_that_fails_is_told(tmp_path: Path) -> None:
    done = run(
        tmp_path / "out", "--batch-size", "1", "--mixed-precision", "fp16", "--method", "full",
        "--checkpointing", "off",
    )  # fmt: skip
    assert done.returncode == 1
    assert "| tiny | full | off |" in done.stdout
    assert "fp16 needs a GPU" in done.stdout
    assert "fp16 needs a GPU" in (tmp_path / "out/training.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "words"), [(("--batch-size", "none"), "nor auto"), (("--batch-size", "auto"), "needs a GPU")]
)
def test_what_makes_no_sense_is_said(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    done = run(tmp_path / "out", *options)
    assert done.returncode != 0
    assert words in done.stderr
