"""``promptgen train``: what people type, and what they are told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from promptgen.training.metrics import read_metrics

from .checkpoints import REFERENCE
from .command_line import Promptgen
from .training_runs import checkpoint_names, draw_data, environment, settings, weights, write_settings

PUBLISHED: dict[str, Any] = {
    "model_name": "microsoft/Florence-2-base",
    "task_prompt": "<CAPTION>",
    "dataset_path": "./0000_Datasets/Gemini",
    "wandb_project_name": "Florence-2-base",
    "run_name": "Florence-2-base-gemini-2.0-flash-thinking-exp-1219-v0.2-run1",
    "epochs": 2,
    "optimizer": "CAME",
    "learning_rate": 3e-6,
    "lr_scheduler": "REX",
    "gradient_checkpointing": True,
    "freeze_vision": False,
    "freeze_language": False,
    "freeze_other": False,
    "train_batch_size": 8,
    "eval_batch_size": 8,
    "gradient_accumulation_steps": 4,
    "clip_grad_norm": 1,
    "weight_decay": 1e-2,
    "save_total_limit": 3,
    "save_steps": 10,
    "eval_steps": 10,
    "warmup_steps": 10,
    "eval_split_ratio": 0.05,
    "seed": 42,
    "filtering_processes": 128,
    "attn_implementation": "sdpa",
}
"""The configuration on the model card of PJMixers-Images' fine-tune, as it stands there."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_data(tmp_path_factory.mktemp("data"))


def test_the_published_configuration_runs(
    data: Path,
    tmp_path: Path,
    promptgen: Promptgen,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """But for the places of model and data, it is as published."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Path("published.json").write_text(json.dumps(PUBLISHED | {"dataset_path": str(data)}), encoding="utf-8")
    done = promptgen("train", "published.json", "--set", f"model_name={REFERENCE}", "--cpu", "--offline")
    assert done.status == 0, done.stderr
    folder = Path("checkpoints", PUBLISHED["run_name"])
    assert str(folder / "final") in done.stderr
    assert "filtering_processes" in done.stderr  # has no effect, and why
    assert "never reaches" in caplog.text  # ten steps of warm-up, of two in all
    entries = read_metrics(folder / "metrics.jsonl")
    assert [entry["step"] for entry in entries if "loss" in entry] == [1, 2]
    assert entries[0]["learning_rate"] == pytest.approx(3e-7)


def test_what_was_trained_captions(data: Path, tmp_path: Path, promptgen: Promptgen) -> None:
    config = write_settings(tmp_path / "c.yaml", settings(data, tmp_path / "run", lora={"rank": 2}))
    assert promptgen("train", config, "--set", "max_steps=2", "--cpu", "--quiet").status == 0
    final = tmp_path / "run/final"
    picture = data / "00.png"
    done = promptgen(
        "caption",
        picture,
        "--instruction",
        "CAPTION",
        "--model",
        REFERENCE,
        "--lora",
        final,
        "--device",
        "cpu",
    )
    assert done.status == 0, done.stderr
    assert done.stdout.strip()


def test_quiet_is_quiet(data: Path, tmp_path: Path, promptgen: Promptgen) -> None:
    config = write_settings(tmp_path / "c.yaml", settings(data, tmp_path / "run", max_steps=1))
    done = promptgen("train", config, "--cpu", "-q")
    assert done == (0, "", "")


def test_check_trains_nothing(data: Path, tmp_path: Path, promptgen: Promptgen) -> None:
    config = write_settings(tmp_path / "c.yaml", settings(data, tmp_path / "run"))
    done = promptgen("train", config, "--check", "--cpu")
    assert done.status == 0, done.stderr
    assert "CAPTION" in done.stderr  # the table of the data
    assert not (tmp_path / "run").exists()


def test_captions_and_scores_in_the_course_of_a_run(data: Path, tmp_path: Path, promptgen: Promptgen) -> None:
    keys = settings(
        data, tmp_path / "run", max_steps=2, eval_steps=1, do_extra_eval=True, eval_max_new_tokens=8,
        print_first_batch_predictions=True, eval_num_beams=1,
    )  # fmt: skip
    config = write_settings(tmp_path / "c.yaml", keys)
    done = promptgen("train", config, "--cpu")
    assert done.status == 0, done.stderr
    assert done.stderr.count("wanted: a ") == 4  # two evaluations, of which the first batch is shown
    entries = [entry for entry in read_metrics(tmp_path / "run/metrics.jsonl") if "evaluation_loss" in entry]
    assert [set(entry["scores"]) for entry in entries] == [{"CAPTION"}] * 2
    assert isinstance(entries[0]["scores"]["CAPTION"]["ROUGE-L"], float)
    names = sorted(path.name for path in (tmp_path / "run/predictions").iterdir())
    assert names == ["step-1.jsonl", "step-2.jsonl"]
    assert not list((tmp_path / "run").glob(".unfinished*"))


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"learning_rat": 1e-3}, 2, "learning_rate"),
        ({"learning_rate": "fast"}, 2, "learning_rate"),
        ({"dataset_config": ["nowhere"]}, 1, "nowhere"),
        ({"dataset_config": [{"path": "{data}", "instruction": "CAPTIN"}]}, 2, "CAPTION"),
        ({"dataset_config": ["{empty}"]}, 1, "there are no images in it"),
        ({"eval_dataset_config": ["{empty}"]}, 1, "there are no images in it"),
        ({"eval_dataset_config": ["{data}"]}, 1, "none is left to train on"),
        ({"split_file": "no-split.json"}, 1, "no-split.json"),
        ({"eval_split": 13}, 1, "leaves none to train on"),
        ({"model_name": "{empty}"}, 1, "{empty}"),
        ({"model_name": "nobody/has-this"}, 1, "nobody/has-this"),
        ({"optimizer": "SAM"}, 1, "SAM"),
        ({"optimizer_args": {"speed": 1}}, 1, "speed"),
        ({"freeze": ["no_such_layer.*"]}, 1, "no_such_layer"),
        ({"freeze": ["vision", "language", "other"]}, 1, "leaves nothing to train"),
        ({"lora": {"rank": 0}}, 2, "lora.rank"),
        ({"lora": {"target_modules": ["no_such_layer"]}}, 1, "no_such_layer"),
        ({"attn_implementation": "flash_attention_2"}, 1, "Choose sdpa"),
        ({"output_dir": os.devnull + "/run"}, 1, "cannot be written to"),
        ({"output_dir": "{data}/00.png"}, 1, "cannot be written to"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_will_not_do_is_one_message_and_a_status(
    data: Path, tmp_path: Path, promptgen: Promptgen, changes: dict[str, Any], status: int, words: str
) -> None:
    places = {"data": str(data), "empty": str(tmp_path / "empty")}
    (tmp_path / "empty").mkdir()
    keys = settings(data, tmp_path / "new/run") | _placed(changes, places)
    done = promptgen("train", write_settings(tmp_path / "c.yaml", keys), "--cpu", "--offline")
    assert done.status == status, done.stderr
    assert _placed(words, places) in done.stderr
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "new").exists()


def _placed(value: Any, places: dict[str, str]) -> Any:
    """With places instead of their names in braces."""
    if isinstance(value, str):
        return value.format(**places)
    if isinstance(value, dict):
        return {name: _placed(each, places) for name, each in value.items()}
    return [_placed(each, places) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset_config": ["nowhere"]}, "nowhere"),
        ({"eval_dataset_config": ["nowhere"]}, "nowhere"),
        ({"eval_split": 13}, "leaves none to train on"),
        ({"output_dir": os.devnull + "/run"}, "cannot be written to"),
        ({"optimizer": "AdamWho"}, "Did you mean AdamW"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_the_checkpoint_is_asked_for_last(
    data: Path, tmp_path: Path, promptgen: Promptgen, changes: dict[str, Any], words: str
) -> None:
    """One that would have to be downloaded is told of, once it is asked for."""
    keys = settings(data, tmp_path / "run", model_name="nobody/has-this") | changes
    done = promptgen("train", write_settings(tmp_path / "c.yaml", keys), "--cpu", "--offline")
    assert done.status == 1
    assert words in done.stderr
    assert "nobody" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such.yaml"], "no-such.yaml"),
        (["{config}", "--set", "learning_rate"], "KEY=VALUE"),
        (["{config}", "--set", "learning_rate=fast"], "learning_rate"),
        (["{config}", "--set", "nonsense=1"], "nonsense"),
    ],
)
def test_wrong_usage(
    data: Path, tmp_path: Path, promptgen: Promptgen, arguments: list[str], words: str
) -> None:
    config = write_settings(tmp_path / "c.yaml", settings(data, tmp_path / "run"))
    done = promptgen("train", *[argument.format(config=config) for argument in arguments])
    assert done.status == 2
    assert words in done.stderr


def launch(data: Path, output: Path, processes: int, *arguments: str) -> subprocess.Popen[str]:
    """A run of six windows of four examples, without dropout, in so many processes."""
    batch = 4 // processes
    keys = settings(
        data, output, train_batch_size=batch, gradient_accumulation_steps=1, eval_split=4,
        eval_batch_size=batch, max_steps=6, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
        drop_path_rate=0.0,
    )  # fmt: skip
    config = write_settings(output.with_suffix(".yaml"), keys)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    command += [str(processes), "-m", "promptgen.cli", "train", str(config), "--cpu", "--offline", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )


def require_end(process: subprocess.Popen[str]) -> None:
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said


@pytest.fixture(scope="module")
def two_processes(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("two") / "run"
    require_end(launch(data, output, 2))
    return output


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="gloo")
def test_two_processes_make_the_steps_of_one(data: Path, tmp_path: Path, two_processes: Path) -> None:
    """Of half the batch each; the last window of an epoch has one example, and so work for one of them."""
    require_end(launch(data, tmp_path / "run", 1))
    one, two = (read_metrics(folder / "metrics.jsonl") for folder in (tmp_path / "run", two_processes))
    assert [entry["step"] for entry in one] == [entry["step"] for entry in two]
    for mine, theirs in zip(one, two, strict=True):
        for name in {"loss", "gradient_norm", "evaluation_loss"} & mine.keys():
            assert theirs[name] == pytest.approx(mine[name], rel=1e-3)
        assert theirs.get("tokens") == mine.get("tokens")
    assert len(list((two_processes / "checkpoint-6/training_state").glob("random_?.pt"))) == 2


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="gloo")
def test_two_processes_are_stopped_and_go_on(data: Path, tmp_path: Path, two_processes: Path) -> None:
    """What a scheduler sends goes to the launcher, which passes it on."""
    output = tmp_path / "run"
    process = launch(data, output, 2)
    while process.poll() is None and not any(
        entry["step"] >= 1 for entry in read_metrics(output / "metrics.jsonl")
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert checkpoint_names(output)
    assert "checkpoint-6" not in checkpoint_names(output)
    require_end(launch(data, output, 2, "--resume"))
    assert (output / "metrics.jsonl").read_text() == (two_processes / "metrics.jsonl").read_text()
    expected, found = weights(two_processes / "checkpoint-6"), weights(output / "checkpoint-6")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
