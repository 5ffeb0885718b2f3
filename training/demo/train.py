"""The demo checkpoint, from nothing: warm-up, scenes, and three runs of the ordinary trainer.

Each part has a folder and begins where the one before has ended:

1. `eyes`: the checkpoint that the warm-up of the vision tower writes.
2. `scenes`: pictures with their answers.
3. `short`, `all`, `both`: runs of the configurations of these names, `training/configs/demo-short.yaml` and
   so on. The model is `both/final`.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ..config_files import read_config
from ..folder import FINAL, SPLIT
from ..preparing import RunSettings, prepare_run
from ..run import train as train_run
from .recipe import Recipe
from .scene_files import TABLE, write_scenes
from .scenes import TRAINING_SEEDS
from .warm_up import reproducible, warm_up

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

CONFIGS = Path(__file__).parents[1] / "configs"
EYES, SCENES = "eyes", "scenes"
RUNS: Mapping[str, str] = {"short": EYES, "all": f"short/{FINAL}", "both": f"all/{FINAL}"}
"""The trainer's part of it, in order: runs, and the folders of the checkpoints that they begin with."""


def train(folder: Path, recipe: Recipe, *, device: str = "cpu", workers: int | None = None) -> Path:
    """Make the model in `folder`. What was cut off there goes on; what is done is not done again.

    Args:
        device: `cpu`, or a device of torch for the warm-up; the runs then take what accelerate chooses.
        workers: processes that draw scenes (default: one per core).

    Returns:
        The folder of the trained checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / EYES / "model.safetensors").exists():
        warm_up(folder / EYES, recipe, device=device, workers=workers)
    if not (folder / SCENES / TABLE).exists():
        write_scenes(folder / SCENES, TRAINING_SEEDS[: recipe.scenes], workers=workers)
    for name in RUNS:
        if not (folder / name / FINAL).exists():
            log.info("run %s", name)
            _run(folder, name, recipe, cpu=device == "cpu")
    return folder / name / FINAL


def overrides_for(folder: Path, name: str) -> dict[str, str]:
    """The keys of a run's configuration that say where things are, for `folder` instead of `demo-model`."""
    places = {
        "model_name": folder / RUNS[name],
        "output_dir": folder / name,
        "dataset_config.path": folder / SCENES / TABLE,
    }
    if name == "both":
        places["split_file"] = folder / "all" / SPLIT
    return {key: json.dumps(str(place)) for key, place in places.items()}


def _run(folder: Path, name: str, recipe: Recipe, *, cpu: bool) -> None:
    config = read_config(CONFIGS / f"demo-{name}.yaml", {**overrides_for(folder, name), **recipe.overrides})
    settings = RunSettings(resume=True, cpu=cpu, offline=True)
    with reproducible(recipe.threads):
        train_run(prepare_run(config, settings, log.info), threading.Event())
