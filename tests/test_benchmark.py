"""The benchmark's command, on a checkpoint that is too small to say anything about speed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .helpers_dev import ROOT

TINY = ("--size", "tiny", "--device", "cpu", "--images", "3", "--single-images", "2", "--batch-size", "2")
SHORT = ("--new-tokens", "6", "--rounds", "1", "--scenes", "1")


def run(script: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command with ``folder`` as its folder of checkpoints and numbers."""
    command = [sys.executable, str(script), *TINY, *SHORT, "--folder", str(folder), *options]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, encoding="utf-8", timeout=240)


def numbers_of(folder: Path) -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads((folder / "speed-cpu.json").read_text(encoding="utf-8"))
    return numbers


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@dataclass(frozen=True)
class Finished:
    """What a small run of everything left."""

    folder: Path
    printed: str
    numbers: dict[str, Any]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """From a clone in a folder of any name, which is not what is installed as ``promptgen``."""
    home = tmp_path_factory.mktemp("benchmark")
    clone = home / "promptgen-tagger (2)"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".*", "tests", "out", "web", "*.egg-info"))
    (clone / "_version.py").write_text('__version__ = "0.0.2"\n', encoding="utf-8")
    folder = home / "out"
    done = run(clone / "benchmarks" / "run.py", folder, "--in-process", "--num-beams", "1", "3")
    assert done.returncode == 0, done.stderr
    return Finished(folder, done.stdout, numbers_of(folder))


@pytest.mark.slow
def test_all_rows_are_in_the_table_and_in_the_numbers(finished: Finished) -> None:
    numbers = finished.numbers
    assert numbers["conditions"]["promptgen"] == "0.0.2"
    assert {"device_name", "threads", "torch", "transformers", "python", "date"} <= numbers[
        "conditions"
    ].keys()
    names = [
        "transformers",
        "transformers-batched",
        "exact",
        "exact-stream",
        "auto",
        "auto-stream",
        "fast",
        "fast-stream",
    ]
    cases = ["tiny, 6 tokens, 1 beam", "tiny, 6 tokens, 3 beams"]
    assert [(row["case"], row["row"]) for row in numbers["rows"]] == [(c, n) for c in cases for n in names]

    table = [cells(line) for line in finished.printed.splitlines() if line.startswith("|")]
    assert [row[:2] for row in table if row[0] in cases][: len(names)] == [
        [row["case"], row["title"]] for row in numbers["rows"][: len(names)]
    ]
    for row in numbers["rows"]:
        if "skipped" in row:
            assert row["row"].startswith(("auto", "fast"))
            continue
        assert "failed" not in row
        assert row["images_per_second"] > 0
        assert row["first_caption_seconds"] > 0
        assert row["ms_per_token"] == pytest.approx(1000 / row["images_per_second"] / 6)
        assert row["ratio"] is not None
        if row["row"].startswith("exact"):
            assert row["same_answers"] == [2, 2]
            assert row["same_leading_tokens"] == 1


@pytest.mark.slow
def test_phases_stand_against_floors_and_instructions_against_one(finished: Finished) -> None:
    jobs = {(one["job"]["kind"], one["job"]["name"]): one["result"] for one in finished.numbers["records"]}
    four = jobs["instructions", "exact"]
    assert four["ratio"] == four["four_seconds"] / four["one_seconds"]
    assert "Four instructions on one picture (tiny, 6 tokens, 3 beams, ours exact)" in finished.printed
    exact = jobs["phases", "exact"]
    phases = {phase["phase"]: phase for phase in exact["phases"]}
    assert list(phases) == ["preprocess", "vision", "encode", "decode"]
    assert phases["preprocess"]["flops"] == 0
    for phase in phases.values():
        by = {
            "FLOPs": phase["flops"] / exact["flops_per_second"],
            "bytes": phase["bytes"] / exact["bytes_per_second"],
        }
        assert phase["floor_seconds"] == pytest.approx(max(by.values()))
        assert phase["bound_by"] == max(by, key=lambda name: by[name])
        assert phase["seconds"] > phase["floor_seconds"]


def test_the_work_of_a_caption_is_that_of_its_matrices() -> None:
    from promptgen.benchmarks.floors import Load, work_of
    from promptgen.benchmarks.random_checkpoint import SIZES, make_config

    def load(
        pictures: int = 1, new_tokens: int = 1, num_beams: int = 1, weight_bytes: int = 4
    ) -> dict[str, Any]:
        config = make_config(**SIZES["base"])
        return work_of(Load(config, pictures, 12, new_tokens, num_beams, weight_bytes, 4))

    width, ffn, layers, words, states = 768, 3072, 6, 51_289, 577 + 12
    layer = 4 * width**2 + 2 * width**2 + 2 * width * ffn  # without the keys and values of the encoder states
    one = load()
    attention = layers * 2 * 2 * (states + 1) * width  # to the encoder states and to itself
    assert one["decode"].flops == 2 * (layers * layer + words * width) + attention
    cross = layers * 2 * states * width**2
    encoder = layers * states * (4 * width**2 + 2 * width * ffn + 2 * states * width)
    assert one["encode"].flops == 2 * (encoder + cross)

    weights = 4 * (layers * layer + words * width)
    assert one["decode"].nbytes == pytest.approx(weights + 4 * layers * 2 * states * width, rel=0.01)
    steps = load(new_tokens=10, num_beams=3)
    assert steps["decode"].flops == pytest.approx(30 * one["decode"].flops, rel=0.001)
    assert steps["decode"].nbytes == pytest.approx(10 * one["decode"].nbytes, rel=0.01)
    batch = load(pictures=8)
    assert all(batch[phase].flops == 8 * one[phase].flops for phase in one)
    assert batch["decode"].nbytes < 2 * one["decode"].nbytes  # weights are read once for all
    assert load(weight_bytes=1)["decode"].nbytes < 0.35 * one["decode"].nbytes


@pytest.mark.slow
def test_a_row_that_fails_in_its_process_is_named_and_stops_no_other(
    finished: Finished, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(finished.folder, folder)
    weights = folder / "tiny-fp16-original" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    rows = ("--parts", "rows", "--rows", "exact", "transformers")
    done = run(ROOT / "benchmarks" / "run.py", folder, *rows)
    assert done.returncode == 1
    assert "FAILED: tiny, 6 tokens, 3 beams: row exact: " in done.stderr
    exact, theirs = numbers_of(folder)["rows"]
    assert str(weights.parent) in exact["failed"]
    assert theirs["images_per_second"] > 0
    assert theirs["load_peak_ratio"] is None or theirs["load_peak_ratio"] > 0


def run_folder(folder: Path, what: str, *options: str) -> tuple[int, Any]:
    """Run the command that measures runs of a folder, but for what it runs apart in this process."""
    from promptgen.benchmarks.folder import main

    status = main([what, "--folder", str(folder), *options])
    return status, json.loads((folder / f"folder-{what}.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_memory_of_a_run_is_told_by_the_number_of_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--images", "40", "--form", "jsonl", "--broken", "0.1")
    status, numbers = run_folder(tmp_path, "memory", *options)
    (row,) = numbers["rows"]
    assert (row["form"], row["images"], row["failing"]) == ("jsonl", 40, 4)
    told = {int(count): nbytes for count, nbytes in row["resident_bytes"].items()}
    assert set(told) <= set(range(4, 40, 4))
    assert all(100e6 < nbytes <= row["most_bytes"] for nbytes in told.values())
    assert row["growth_bytes"] == row["most_bytes"] - told[4]
    assert status == (0 if row["met"] else 1)
    head, _, values = [cells(line) for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert head[3] == "4 images"
    assert values[3] == f"{told[4] / 1e6:.1f}"
    assert [path.name for path in tmp_path.iterdir()] == ["folder-memory.json"]  # pictures are gone


def test_the_share_of_waiting_is_that_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--images", "3", "--model", "demo", "--device", "cpu", "--batch-size", "1")
    status, numbers = run_folder(tmp_path, "waiting", *options, "--new-tokens", "4", "--num-beams", "1")
    (row,) = numbers["rows"]
    assert row["megabytes"] > 1.5
    assert 0 < row["waited"] < 1
    assert row["met"] == (row["waited"] < 0.05)
    assert status == (0 if row["met"] else 1)
    assert f"{100 * row['waited']:.2f} %" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["folder-waiting.json"]


def test_the_command_for_folders_runs_from_a_checkout_of_any_name(tmp_path: Path) -> None:
    clone = tmp_path / "promptgen-tagger (2)"
    (clone / "benchmarks").mkdir(parents=True)
    shutil.copytree(ROOT / "benchmarks", clone / "benchmarks", dirs_exist_ok=True, ignore=_out)
    for name in ("__init__.py", "_version.py"):
        shutil.copy2(ROOT / name, clone)
    command = [sys.executable, str(clone / "benchmarks" / "run_folder.py"), "memory", "--images", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=240)
    assert "ValueError: 1 images, 0.0 broken: 10 or more" in done.stderr
    assert str(clone / "benchmarks" / "folder_memory.py") in done.stderr


def _out(folder: str, names: list[str]) -> list[str]:
    """Checkpoints and numbers, which no test needs."""
    return [name for name in names if name in ("out", "__pycache__")]
