"""How the demo model is made, as far as the trainer's configurations (`training/configs/demo-*.yaml`) do not
say it: its size, what it sees, and the warm-up of its vision tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stretch:
    """A stretch of the warm-up: the rate rises linearly, then goes as a cosine to a fiftieth of its peak."""

    steps: int
    peak_rate: float
    rise: int = 200  # steps


@dataclass(frozen=True)
class Recipe:
    """Everything of that; equal recipes make equal models."""

    seed: int = 20
    width: int = 128  # of the language model
    channels: tuple[int, ...] = (16, 32, 64, 128)  # of the tower's stages
    stretches: tuple[Stretch, ...] = (Stretch(3000, 1.5e-3), Stretch(4000, 1.2e-3))
    """One after the other, each with scenes of its own; the second is for small shapes and words."""
    stretch_scenes: int = 40_000
    batch_size: int = 48  # of the warm-up
    scenes: int = 30_000  # with answers
    threads: int = 1
    overrides: Mapping[str, str] = field(default_factory=dict)  # of the configurations' keys


TINY_RECIPE = Recipe(
    width=32,
    channels=(8, 16, 24, 32),
    stretches=(Stretch(3, 1e-3, rise=1), Stretch(2, 1e-3, rise=1)),
    stretch_scenes=64,
    batch_size=8,
    scenes=24,
    overrides={
        "max_steps": "2", "warmup_steps": "1", "eval_split": "4", "train_batch_size": "4",
        "dataloader_workers": "0", "log_steps": "1",
    },
)  # fmt: skip
"""Seconds on a CPU, learns nothing: for tests and for trying the machinery."""
