"""Small training runs: the tiny reference checkpoint on a handful of drawn pictures."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from .checkpoints import REFERENCE

if TYPE_CHECKING:
    import torch
    from promptgen.training.run import RunResult

PICTURES = 13
COLOURS = ("red", "green", "blue", "white", "black")


def draw_data(folder: Path, count: int = PICTURES) -> Path:
    """Pictures of a disc each, and captions of several lengths in the published layout."""
    (folder / "CAPTION").mkdir(parents=True)
    for number in range(count):
        colour = COLOURS[number % len(COLOURS)]
        picture = Image.new("RGB", (48, 40), (number * 15, 90, 160))
        ImageDraw.Draw(picture).ellipse((8, 4, 30 + number % 7, 34), fill=colour)
        picture.save(folder / f"{number:02}.png")
        words = " on a plain ground" * (number % 3)
        (folder / "CAPTION" / f"{number:02}.txt").write_text(f"a {colour} disc{words}", encoding="utf-8")
    return folder


def settings(data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A configuration's keys: eight steps, in windows of two batches of two examples, three held out.

    Dropout is on, so that random numbers matter.
    """
    return {
        "model_name": str(REFERENCE),
        "run_name": "test",
        "output_dir": str(output),
        "dataset_config": [str(data)],
        "eval_split": 3,
        "train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "dataloader_workers": 0,
        "epochs": 3,
        "max_steps": 8,
        "save_steps": 2,
        "eval_steps": 4,
        "optimizer": "AdamW",
        "learning_rate": 1e-3,
        "lr_scheduler": "rex",
        "warmup_steps": 2,
        "dropout": 0.1,
    } | changes


def write_settings(path: Path, keys: dict[str, Any]) -> Path:
    """A configuration file in YAML."""
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return path


def train(data: Path, output: Path, *, resume: bool = False, stop: Any = None, **changes: Any) -> RunResult:
    """A run in this process, on the CPU."""
    from promptgen.training.config_files import parse_config
    from promptgen.training.preparing import RunSettings, prepare_run
    from promptgen.training.run import train as train_run

    config = parse_config(settings(data, output, **changes))
    run = prepare_run(config, RunSettings(resume=resume, cpu=True, offline=True, quiet=True))
    return train_run(run, stop or threading.Event())


def start_train(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """``promptgen train`` as a process of its own."""
    command = [sys.executable, "-m", "promptgen.cli", "train", "--cpu", "--offline", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), **options
    )


def environment() -> dict[str, str]:
    """That of a process that trains: one thread, which the parent may have had otherwise."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """What training has made: in full precision, from the state of a checkpoint."""
    return load_file(checkpoint / "training_state" / "weights.safetensors")


def checkpoint_names(folder: Path) -> list[str]:
    """The checkpoints in a run's folder, sorted by step."""
    return sorted((path.name for path in folder.glob("checkpoint-*")), key=lambda name: (len(name), name))
