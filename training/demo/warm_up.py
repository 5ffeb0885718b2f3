"""The warm-up of the demo model: its vision tower learns to see, before the language model learns to say.

By the direct task the tower says, per cell of its final grid, which shape of which colour and size stands
there, and for the picture the ground and the word, through linear heads that are thrown away. What comes out
is a checkpoint with that tower and a language model that knows nothing, for the trainer.

The order of the data depends on the recipe's seed alone, not on the number of workers, and torch's
deterministic algorithms are on: one machine type, torch version and thread count give equal bits; others
give a tower of equal accuracy.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...florence2.configuration import Florence2Config
from ...florence2.network import Florence2Network
from .checkpoint import config_json, save_weights, write_settings
from .pool import CellTargets, cell_targets, draw_pool
from .scenes import COLOURS, PLACES, SHAPES, SIZES, TRAINING_SEEDS, WORD_PLACES, WORDS
from .tokenizer import build_tokenizer, save_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from .recipe import Recipe, Stretch

log = logging.getLogger(__name__)


class CellHeads(nn.Module):
    """Linear read-outs of the tower's grid for the direct task; not part of the checkpoint."""

    shape_weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.shape = nn.Linear(channels, 1 + len(SHAPES))
        self.colour = nn.Linear(channels, len(COLOURS))
        self.size = nn.Linear(channels, len(SIZES))
        self.place = nn.Linear(channels, len(PLACES))
        self.box = nn.Linear(channels, 4)
        self.ground = nn.Linear(channels, len(COLOURS))
        self.word = nn.Linear(channels, 1 + len(WORDS))
        self.word_place = nn.Linear(channels, 1 + len(WORD_PLACES))
        # most cells are empty; without this, "nothing" is a good enough answer for long
        self.register_buffer("shape_weight", torch.tensor([0.2] + [1.0] * len(SHAPES)), persistent=False)

    def forward(self, grid: Tensor, targets: CellTargets) -> tuple[Tensor, dict[str, float]]:
        """Loss and, per question, the share answered right.

        Args:
            grid: the tower's output [B, C, CELLS, CELLS].
        """
        cells = self.norm(grid.flatten(2).transpose(1, 2))  # [B, cells, C]
        picture = self.norm(grid.mean(dim=(2, 3)))  # [B, C]
        loss = cells.new_zeros(())
        right: dict[str, float] = {}
        for name, source in (
            ("shape", cells), ("colour", cells), ("size", cells), ("place", cells),
            ("ground", picture), ("word", picture), ("word_place", picture),
        ):  # fmt: skip
            logits, wanted = getattr(self, name)(source), getattr(targets, name)
            asked = targets.shape > 0 if source is cells else torch.ones_like(wanted, dtype=torch.bool)
            weight = self.shape_weight if name == "shape" else None
            loss = loss + functional.cross_entropy(
                logits.flatten(0, -2), wanted.flatten(), weight=weight, ignore_index=-100
            )
            correct = (logits.argmax(-1) == wanted) & asked
            right[name] = (correct.sum() / asked.sum().clamp(min=1)).item()
        there = (targets.shape > 0).unsqueeze(-1)
        error = (self.box(cells) - targets.box).abs() * there
        loss = loss + 4 * error.sum() / there.sum().clamp(min=1)
        return loss, right


def warm_up(folder: Path, recipe: Recipe, *, device: str = "cpu", workers: int | None = None) -> None:
    """Train the tower by `recipe` and write the checkpoint into `folder`.

    A stretch's result is kept there until the checkpoint is written, so that a warm-up of the same recipe
    that was cut off continues after it.

    Args:
        workers: processes that draw scenes (default: one per core).
    """
    folder.mkdir(parents=True, exist_ok=True)
    with reproducible(recipe.threads):
        _warm_up(folder, recipe, torch.device(device), workers)


def _warm_up(folder: Path, recipe: Recipe, device: torch.device, workers: int | None) -> None:
    tokenizer = build_tokenizer()
    save_tokenizer(tokenizer, folder)
    network = build_network(recipe, tokenizer.get_vocab_size(), folder).to(device)
    torch.manual_seed(recipe.seed + 1)
    parts = nn.ModuleDict({"tower": network.vision_tower, "heads": CellHeads(recipe.channels[-1])}).to(device)
    kept = [folder / f"stretch-{number}.pt" for number in range(len(recipe.stretches))]
    for number, stretch in enumerate(recipe.stretches):
        if kept[number].exists():
            for name, state in torch.load(kept[number], weights_only=True).items():
                parts[name].load_state_dict(state)
            continue
        log.info("drawing %d scenes", recipe.stretch_scenes)
        _learn_cells(parts, recipe, number, stretch, device, workers)
        torch.save({name: part.state_dict() for name, part in parts.items()}, kept[number])
    save_weights(network, folder)
    for path in kept:
        path.unlink()


def build_network(recipe: Recipe, vocab_size: int, folder: Path) -> Florence2Network:
    """Write the settings into `folder` and build the network they describe, freshly initialised."""
    write_settings(folder, config_json(vocab_size, width=recipe.width, channels=recipe.channels))
    torch.manual_seed(recipe.seed)
    network = Florence2Network(Florence2Config.from_folder(folder))
    # BART's 0.02 is for layers six times as wide: attention stays uniform, and the texts blind, for long.
    # The tower does not mind (tried: it learns slower with wider weights).
    for module in network.language_model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    return network


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Deterministic algorithms and a fixed number of threads, within the block."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_num_threads(before[1])


def _learn_cells(
    parts: nn.ModuleDict,
    recipe: Recipe,
    number: int,
    stretch: Stretch,
    device: torch.device,
    workers: int | None,
) -> None:
    """One stretch over tower and heads, on scenes of its own."""
    first = number * recipe.stretch_scenes
    pool = draw_pool(TRAINING_SEEDS[first : first + recipe.stretch_scenes], workers=workers)
    targets = cell_targets(pool.scenes)
    generator = np.random.default_rng([recipe.seed, 1, number])
    tower: Any = parts["tower"].train()
    heads = parts["heads"]

    def loss_of() -> tuple[Tensor, dict[str, float]]:
        indices = generator.integers(0, len(pool), size=recipe.batch_size)
        grid = tower.forward_features(pool.pixel_values(indices, device))
        found: tuple[Tensor, dict[str, float]] = heads(grid, targets.rows(indices, device))
        return found

    _optimise(list(parts.parameters()), stretch, loss_of)


def _optimise(
    parameters: Sequence[nn.Parameter],
    stretch: Stretch,
    loss_of: Callable[[], tuple[Tensor, dict[str, float]]],
) -> None:
    """AdamW over `stretch`; logs the running mean of the loss and of the shares answered right."""
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    plain = [parameter for parameter in parameters if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}],
        lr=stretch.peak_rate,
        betas=(0.9, 0.98),
    )
    means: dict[str, float] = {}
    started = time.monotonic()
    for step in range(stretch.steps):
        for group in optimizer.param_groups:
            group["lr"] = _rate(stretch, step)
        loss, shares = loss_of()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        for key, value in {"loss": loss.item(), **shares}.items():
            means[key] = 0.98 * means.get(key, value) + 0.02 * value
        if step % 100 == 99 or step == stretch.steps - 1:
            text = " ".join(f"{key} {value:.4f}" for key, value in means.items())
            log.info("eyes step %d, %.0f s: %s", step + 1, time.monotonic() - started, text)


def _rate(stretch: Stretch, step: int) -> float:
    if step < stretch.rise:
        return stretch.peak_rate * (step + 1) / stretch.rise
    done = (step - stretch.rise) / max(1, stretch.steps - stretch.rise)
    return stretch.peak_rate * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
