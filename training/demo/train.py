"""The demo checkpoint, from nothing: warm-up, scenes, and three runs of the ordinary trainer.

Each part has a folder and begins where the one before has ended:

1. `eyes`: the checkpoint that the warm-up of the vision tower writes.
2. `scenes`: pictures with their answers.
3. `short`, `all`, `both`: runs of the configurations of these names, `training/configs/demo-short.yaml` and
   so on. The model is `both/final`.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..config_files import read_config
from ..folder import FINAL
from ..preparing import RunSettings, prepare_run
from ..run import train as train_run
from .checkpoint import WEIGHTS_FILE
from .recipe import Recipe
from .scene_files import TABLE, write_scenes
from .scenes import TRAINING_SEEDS
from .warm_up import reproducible, warm_up

if TYPE_CHECKING:
    from ..config import TrainConfig

log = logging.getLogger(__name__)

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = ("short", "all", "both")
FOLDER = Path("demo-model")
"""Where the configurations have everything."""


def train(folder: Path, recipe: Recipe, *, device: str = "cpu", workers: int | None = None) -> Path:
    """Make the model in `folder`. What was cut off there goes on; what is done is not done again.

    Args:
        device: `cpu`, or a device of torch for the warm-up; the runs then take what accelerate chooses.
        workers: processes that draw scenes (default: one per core).

    Returns:
        The folder of the trained checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "eyes" / WEIGHTS_FILE).exists():
        warm_up(folder / "eyes", recipe, device=device, workers=workers)
    if not (folder / "scenes" / TABLE).exists():
        write_scenes(folder / "scenes", TRAINING_SEEDS[: recipe.scenes], workers=workers)
    for name in RUNS:
        if not (folder / name / FINAL).exists():
            log.info("run %s", name)
            _run(folder, name, recipe, cpu=device == "cpu")
    return folder / RUNS[-1] / FINAL


def placed(config: TrainConfig, folder: Path) -> TrainConfig:
    """A run's configuration with its paths in `folder` instead of `FOLDER`."""

    def there(path: Path) -> Path:
        return folder / path.relative_to(FOLDER)

    data = config.data
    sources = tuple(replace(source, path=there(source.path)) for source in data.sources)
    split_file = None if data.split_file is None else there(data.split_file)
    return replace(
        config,
        checkpoint=replace(config.checkpoint, model_name=str(there(Path(config.checkpoint.model_name)))),
        run=replace(config.run, output_dir=there(config.run.folder)),
        data=replace(data, sources=sources, split_file=split_file),
    )


def _run(folder: Path, name: str, recipe: Recipe, *, cpu: bool) -> None:
    config = placed(read_config(CONFIGS / f"demo-{name}.yaml", recipe.overrides), folder)
    settings = RunSettings(resume=True, cpu=cpu, offline=True)
    with reproducible(recipe.threads):
        train_run(prepare_run(config, settings, log.info), threading.Event())
