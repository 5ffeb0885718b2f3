"""Drawn scenes as a folder of training data: pictures, and a table with the true answers to each of them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .answers import PROMPTS, answer
from .checkpoint import IMAGE_SIDE
from .pool import in_processes
from .scenes import draw_scene

if TYPE_CHECKING:
    from collections.abc import Sequence

TABLE = "scenes.jsonl"
_FOLDER_SIZE = 1000  # pictures in a folder


def write_scenes(folder: Path, seeds: Sequence[int], *, workers: int | None = None) -> Path:
    """Draw the scenes of `seeds` into `folder`, and beside them the table: a column for each instruction.

    The pictures are resized as the demo model's preprocessor would, since reading them is most of the work.
    The table is written last: where it is, all is there.

    Args:
        workers: processes that draw (default: one per core). What comes out does not depend on it.

    Returns:
        The table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line for part in in_processes(partial(_write_part, folder), seeds, workers) for line in part]
    unfinished = folder / f"{TABLE}.part"
    unfinished.write_text("".join(lines), encoding="utf-8")
    return unfinished.replace(folder / TABLE)


def _write_part(folder: Path, seeds: Sequence[int]) -> list[str]:
    """Pictures of some scenes; their lines of the table."""
    from PIL import Image

    lines = []
    for seed in seeds:
        picture, scene = draw_scene(seed)
        name = f"{seed // _FOLDER_SIZE:03}/{seed:06}.png"
        (folder / name).parent.mkdir(exist_ok=True)
        side = (IMAGE_SIDE, IMAGE_SIDE)
        picture.resize(side, Image.Resampling.BICUBIC).save(folder / name, compress_level=1)
        answers = {instruction: answer(instruction, scene) for instruction in PROMPTS}
        lines.append(json.dumps({"image": name, **answers}, ensure_ascii=False) + "\n")
    return lines
