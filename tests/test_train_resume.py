"""A run that is killed, stopped or cut off, and goes on as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from promptgen.training.errors import TrainingError
from promptgen.training.metrics import read_metrics

from .training_runs import (
    checkpoint_names,
    draw_data,
    environment,
    settings,
    start_train,
    train,
    weights,
    write_settings,
)

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs fork and SIGKILL")

KILLS = 10


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_data(tmp_path_factory.mktemp("data"))


def require_equal(found: Path, expected: Path, step: int) -> None:
    """Two runs have made the same of everything."""
    one, other = weights(found / f"checkpoint-{step}"), weights(expected / f"checkpoint-{step}")
    assert one.keys() == other.keys()
    different = [name for name, tensor in other.items() if not torch.equal(one[name], tensor)]
    assert not different
    for name in ("final/model.safetensors", "metrics.jsonl", "split.json"):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert checkpoint_names(found) == checkpoint_names(expected)
    assert not list(found.glob(".unfinished-*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "AdamW", "lr_scheduler": "cosine"},
        {"optimizer": "CAME", "lr_scheduler": "rex", "augment": {"brightness": 0.3}, "drop_path_rate": 0.2},
    ],
    ids=["AdamW", "CAME"],
)
def test_killed_ten_times_the_weights_are_the_same_to_the_bit(
    data: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    common = {"max_steps": 50, "epochs": 20, "save_steps": 2, "eval_steps": 5} | changes
    train(data, tmp_path / "whole", **common)
    config = write_settings(tmp_path / "c.yaml", settings(data, tmp_path / "killed", **common))
    driver = Path(__file__).with_name("kill_training.py")
    done = subprocess.run(
        [sys.executable, driver, config, str(KILLS), "3"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert f"killed {KILLS}" in done.stdout
    require_equal(tmp_path / "killed", tmp_path / "whole", 50)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "ScheduleFreeAdamW", "lr_scheduler": "constant"},
        {"optimizer": "AdaFactor"},
        {"optimizer": "Prodigy", "learning_rate": 1.0},
        {"lora": {"rank": 4, "dropout": 0.2}},
        {"lr_scheduler": "CosineAnnealingLR"},
        {"log_steps": 3},
        {"dataloader_workers": 2},
        {"group_by_length": True},
    ],
    ids=[
        "schedule-free",
        "adafactor",
        "prodigy",
        "lora",
        "torch's schedule",
        "log_steps",
        "workers",
        "lengths",
    ],
)
def test_resumed_at_any_place_it_is_the_same(data: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Stopped after some steps, and again after some more, not all of them those of checkpoints."""
    common = {"max_steps": 6} | changes
    train(data, tmp_path / "whole", **common)
    for steps in (2, 3):
        assert not train(data, tmp_path / "parts", resume=True, stop=_After(steps), **common).finished
    train(data, tmp_path / "parts", resume=True, **common)
    name = "adapter_model.safetensors" if "lora" in changes else "model.safetensors"
    final = [(tmp_path / run / "final" / name).read_bytes() for run in ("parts", "whole")]
    assert final[0] == final[1]
    metrics = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("parts", "whole")]
    assert metrics[0] == metrics[1]


def test_ctrl_c_saves_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    keys = settings(data, tmp_path / "run", epochs=200, max_steps=400, save_steps=1000, eval_steps=1000)
    config = write_settings(tmp_path / "c.yaml", keys)
    last = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start_train(config, "--resume")
        _wait_for_step(process, tmp_path / "run/metrics.jsonl", last + 3)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert "--resume" in said
        steps = [entry["step"] for entry in read_metrics(tmp_path / "run/metrics.jsonl")]
        last = steps[-1]
        assert checkpoint_names(tmp_path / "run")[-1] == f"checkpoint-{last}"
        assert steps == list(range(1, last + 1))


def _wait_for_step(process: subprocess.Popen[str], metrics: Path, step: int) -> None:
    until = time.monotonic() + 90
    while not any(entry["step"] >= step for entry in read_metrics(metrics)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_full_disk_leaves_what_was_saved(data: Path, tmp_path: Path) -> None:
    """Files may have one megabyte, as good as a full disk; the weights have four."""
    train(data, tmp_path / "run", max_steps=8, stop=_After(2))
    kept = checkpoint_names(tmp_path / "run")
    config = write_settings(tmp_path / "c.yaml", settings(data, tmp_path / "run"))

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    process = start_train(config, "--resume", preexec_fn=limit)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "could not be written" in said
    assert f"The last one that is whole is {tmp_path / 'run' / kept[-1]}" in said
    assert "Traceback" not in said
    assert checkpoint_names(tmp_path / "run") == kept
    assert not list((tmp_path / "run").glob(".unfinished-*"))
    assert train(data, tmp_path / "run", resume=True).finished


class _After:
    """An event that is set once it was asked so often, which a run does before each step."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0


def test_one_process_at_a_time(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run/.lock"), pytest.raises(TrainingError, match="another process trains in"):
        train(data, tmp_path / "run", max_steps=1)
    assert train(data, tmp_path / "run", max_steps=1).finished


def test_another_run_is_not_resumed(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", max_steps=2)
    with pytest.raises(TrainingError, match=r"learning_rate: was 0\.001, is 0\.01") as raised:
        train(data, tmp_path / "run", resume=True, max_steps=2, learning_rate=0.01)
    assert "model_name: " in str(raised.value)
    other = draw_data(tmp_path / "other", 12)
    with pytest.raises(TrainingError, match="training examples: was"):
        train(other, tmp_path / "run", resume=True, max_steps=2)


def test_a_run_may_become_longer_where_that_changes_nothing_of_it(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "long", max_steps=6, lr_scheduler="constant")
    train(data, tmp_path / "run", max_steps=3, lr_scheduler="constant")
    assert train(data, tmp_path / "run", resume=True, max_steps=6, lr_scheduler="constant").finished
    expected, found = weights(tmp_path / "long/checkpoint-6"), weights(tmp_path / "run/checkpoint-6")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    train(data, tmp_path / "run", resume=True, max_steps=7, lr_scheduler="constant")
    train(data, tmp_path / "other", max_steps=3)
    with pytest.raises(TrainingError, match=r"max_steps: was 3, is 6\n(.|\n)*lr_scheduler: constant"):
        train(data, tmp_path / "other", resume=True, max_steps=6)


def test_data_and_output_may_move(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "whole", max_steps=4)
    train(data, tmp_path / "before", max_steps=4, stop=_After(2))
    (tmp_path / "before").rename(tmp_path / "after")
    moved = draw_data(tmp_path / "moved")
    train(moved, tmp_path / "after", resume=True, max_steps=4, save_steps=3, dataloader_workers=1)
    expected, found = weights(tmp_path / "whole/checkpoint-4"), weights(tmp_path / "after/checkpoint-4")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_finished_run_stays_as_it_is(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", max_steps=2)
    before = (tmp_path / "run/final/model.safetensors").read_bytes()
    result = train(data, tmp_path / "run", resume=True, max_steps=2)
    assert result.finished
    assert result.examples == 0
    assert (tmp_path / "run/final/model.safetensors").read_bytes() == before


def test_a_lora_checkpoint_holds_the_adapter_alone(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", max_steps=2, lora={"rank": 2})
    names = weights(tmp_path / "run/checkpoint-2")
    assert names
    assert all("lora_" in name or "final_logits_bias" in name or "pos_idx" in name for name in names)
