"""The benchmark of quantised weights, on checkpoints that are too small to say anything about speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .helpers_dev import ROOT

SCRIPT = ROOT / "benchmarks" / "run_quantisation.py"
FEW = (
    "--device", "cpu", "--dtype", "fp32", "--batch-size", "2", "--batches", "1", "--new-tokens", "4",
)  # fmt: skip


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *FEW, "--folder", str(folder), *options]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, encoding="utf-8", timeout=280)


@pytest.mark.slow
def test_rows_hold_memory_speed_and_agreement(tmp_path: Path) -> None:
    done = run(tmp_path / "out", "--size", "tiny", "--paligemma", "tiny", "--scenes", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "out/quantisation.json").read_text(encoding="utf-8"))["rows"]
    measured = [row for row in rows if "model" in row]
    ways = [(row["model"], row["quantization"]) for row in measured]
    models = ("Florence-2 tiny", "PaliGemma tiny")
    assert ways == [(model, kind) for model in models for kind in ("none", "8", "4")]
    for row in measured:
        assert row["s/caption, batch 2"] > 0
        assert row["tokens/s, batch 2"] > 0
        assert row["load s"] > 0
    for number in (0, 3):
        none, eight, four = (row["weights MB"] for row in measured[number : number + 3])
        assert four < eight < none
    agreement = [row for row in rows if "equal" in row]
    assert [row["quantization"] for row in agreement] == ["8", "4"]
    assert len([line for line in done.stdout.splitlines() if line.startswith("| PaliGemma tiny")]) == 3


@pytest.mark.slow
def test_a_row_that_fails_is_told(tmp_path: Path) -> None:
    done = run(
        tmp_path / "out", "--size", "--paligemma", "tiny", "--dtype", "fp16", "--quantization", "4",
        "--scenes", "0",
    )  # fmt: skip
    assert done.returncode == 1
    assert "Choose auto" in done.stdout
