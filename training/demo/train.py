"""Training of the demo checkpoint, from nothing to files.

1. *Eyes*: the vision tower learns to say, per cell of its final grid, which shape of which colour and size
   stands there, and for the picture the ground and the word, through linear heads that are thrown away.
2. *Speech*: the tower rests; projection and BART learn to answer from its features, first the short
   instructions, then all of them.
3. *Both*: everything together for a short while at a low rate, the first task kept beside the second.

The order of the data depends on the recipe's seed alone, not on the number of workers, and torch's
deterministic algorithms are on: one machine type, torch version and thread count give equal bits; others
give a model of equal accuracy.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...florence2.configuration import Florence2Config
from ...florence2.network import Florence2Network
from .answers import PROMPTS, answer
from .checkpoint import config_json, save_weights, write_settings
from .pool import CellTargets, ScenePool, cell_targets, draw_pool, joined_pools
from .scenes import (
    COLOURS,
    LOCATION_STEP,
    MAX_SHAPES,
    PLACES,
    SHAPES,
    SIZES,
    TRAINING_SEEDS,
    WORD_PLACES,
    WORDS,
)
from .tokenizer import build_tokenizer, save_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tokenizers import Tokenizer
    from torch import Tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One stretch of optimisation: linear warm-up, then a cosine down to a fiftieth of the peak."""

    steps: int
    peak_rate: float
    warm_up: int = 200


@dataclass(frozen=True)
class AnswerGroup:
    """Instructions with answers of similar length, asked in one batch so that little is padding."""

    instructions: tuple[str, ...]
    batch: int
    share: float
    """Of the steps, once all groups take part."""
    short: bool = False


ANSWER_GROUPS = (
    AnswerGroup(("GENERATE_TAGS", "CAPTION", "DETAILED_CAPTION", "OCR", "OD"), 96, 0.6, short=True),
    AnswerGroup(("MORE_DETAILED_CAPTION", "MIXED_CAPTION", "ANALYZE"), 48, 0.28),
    AnswerGroup(("MIXED_CAPTION_PLUS",), 32, 0.12),
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the trained model is."""

    seed: int = 20
    scenes: int = 40_000
    """Per stretch of the eyes stage; speech and both draw from all of them."""
    width: int = 128
    channels: tuple[int, ...] = (16, 32, 64, 128)
    eyes: tuple[Stage, ...] = (Stage(3000, 1.5e-3), Stage(4000, 1.2e-3))
    """One after the other, each with scenes of its own; the second is for small shapes and words."""
    eyes_batch: int = 48
    speech: Stage = Stage(3000, 8e-4)
    both: Stage = Stage(400, 2e-4, warm_up=50)
    groups: tuple[AnswerGroup, ...] = ANSWER_GROUPS
    short_only: float = 0.35
    """Share of the speech stage before the longer instructions join."""
    threads: int = 1


TINY_RECIPE = Recipe(
    scenes=64,
    width=32,
    channels=(8, 16, 24, 32),
    eyes=(Stage(3, 1e-3, warm_up=1), Stage(2, 1e-3, warm_up=1)),
    eyes_batch=8,
    speech=Stage(4, 1e-3, warm_up=1),
    both=Stage(2, 1e-4, warm_up=1),
    groups=(
        AnswerGroup(("CAPTION", "OCR"), 8, 0.6, short=True),
        AnswerGroup(("MIXED_CAPTION_PLUS", "OD"), 4, 0.4),
    ),
)
"""Seconds on a CPU, learns nothing: for tests and for trying the machinery."""


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


class Curriculum:
    """Which answers the speech stages ask for, batch by batch; depends on the generator alone."""

    def __init__(self, pool: ScenePool, tokenizer: Tokenizer, recipe: Recipe) -> None:
        self._pool = pool
        self._tokenizer = tokenizer
        self._groups = recipe.groups
        self._prompts = {name: tokenizer.encode(text).ids for name, text in PROMPTS.items()}

    def batch(
        self, generator: np.random.Generator, *, short_only: bool
    ) -> tuple[np.ndarray, Tensor, Tensor, Tensor]:
        """Scene indices [B], prompts [B, L], their mask, and answers [B, T] from `<s>` to `</s>`."""
        groups = [group for group in self._groups if group.short or not short_only]
        shares = np.array([group.share for group in groups])
        group = groups[int(generator.choice(len(groups), p=shares / shares.sum()))]
        indices = generator.integers(0, len(self._pool), size=group.batch)
        chosen = [
            group.instructions[int(i)] for i in generator.integers(0, len(group.instructions), group.batch)
        ]
        texts = [answer(name, self._pool.scenes[i]) for name, i in zip(chosen, indices, strict=True)]
        answers = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        prompts = [self._prompts[name] for name in chosen]
        input_ids = _padded(prompts, 1)
        return indices, input_ids, (input_ids != 1).long(), _padded(answers, 1)


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    length = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])


class AnswerLoss:
    """Cross-entropy per token; a location token shares its target with its neighbours, one step beside."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, device: torch.device) -> None:
        self._before = torch.arange(vocab_size, device=device)
        self._after = self._before.clone()
        steps = [
            tokenizer.token_to_id(f"<loc_{value}>")
            for value in range(LOCATION_STEP // 2, 1000, LOCATION_STEP)
        ]
        self._before[steps[1:]] = torch.tensor(steps[:-1], device=device)
        self._after[steps[:-1]] = torch.tensor(steps[1:], device=device)

    def __call__(self, logits: Tensor, answers: Tensor) -> Tensor:
        """Mean over the answers' tokens; logits [B, T, V], answers [B, T] with 1 as padding."""
        probabilities = functional.log_softmax(logits, dim=-1)
        wanted = torch.stack([answers, self._before[answers], self._after[answers]], dim=-1)
        picked = probabilities.gather(-1, wanted)  # [B, T, 3]
        loss = -(0.6 * picked[..., 0] + 0.2 * picked[..., 1] + 0.2 * picked[..., 2])
        there = answers != 1
        return (loss * there).sum() / there.sum()


def answer_logits(
    network: Florence2Network, features: Tensor, prompts: Tensor, mask: Tensor, answers: Tensor
) -> tuple[Tensor, Tensor]:
    """Teacher-forced logits [B, T, V] for answers [B, T], and the encoder states [B, N + L, d_model]."""
    states, states_mask = network.encode(features, prompts, mask)
    start = answers.new_full((answers.shape[0], 1), 2)  # decoder_start_token_id
    return network(states, states_mask, torch.cat([start, answers[:, :-1]], dim=1)), states


def project_grid(network: Florence2Network, grid: Tensor) -> Tensor:
    """`Florence2Network.encode_images` after the tower: grid [B, C, h, w] to image features."""
    height, width = grid.shape[-2:]
    cells = grid.flatten(2).transpose(1, 2) + network.image_pos_embed(height, width)
    cells = cells + network.visual_temporal_embed(1)
    features = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)
    return network.image_proj_norm(features @ network.image_projection)


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


def train(
    folder: Path, recipe: Recipe, *, device: str = "cpu", workers: int | None = None, work: Path | None = None
) -> None:
    """Train by `recipe` and write the checkpoint into `folder`.

    Args:
        workers: processes that draw scenes (default: one per core).
        work: a folder that keeps the drawn scenes and the tower after the first stage, so that a run that
            was cut off continues there. It must belong to this recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _reproducible(recipe.threads):
        _train(folder, recipe, torch.device(device), workers, work)


def _train(
    folder: Path, recipe: Recipe, device: torch.device, workers: int | None, work: Path | None
) -> None:
    started = time.monotonic()
    tokenizer = build_tokenizer()
    save_tokenizer(tokenizer, folder)
    network = build_network(recipe, tokenizer.get_vocab_size(), folder).to(device)
    log.info("%d parameters", sum(parameter.numel() for parameter in network.parameters()))
    parts = []
    for start in range(0, recipe.scenes * len(recipe.eyes), recipe.scenes):
        seeds = TRAINING_SEEDS[start : start + recipe.scenes]
        cache = work / f"scenes-{seeds[0]}-{seeds[-1]}.npy" if work else None
        parts.append(draw_pool(seeds, workers=workers, cache=cache))
    pool = joined_pools(parts)
    log.info("drew %d scenes after %.0f s", len(pool), time.monotonic() - started)
    trainer = Trainer(network, tokenizer, pool, recipe, device, work)
    for stage in (trainer.eyes, trainer.speech, trainer.both):
        stage()
        save_weights(network, folder)
        log.info("%s trained after %.0f s", stage.__name__, time.monotonic() - started)


@contextmanager
def _reproducible(threads: int) -> Iterator[None]:
    """Deterministic algorithms and a fixed number of threads, within the block."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_num_threads(before[1])


class Trainer:
    """The three stages over one network and one pool of scenes."""

    def __init__(
        self,
        network: Florence2Network,
        tokenizer: Tokenizer,
        pool: ScenePool,
        recipe: Recipe,
        device: torch.device,
        work: Path | None = None,
    ) -> None:
        self.network = network
        self.pool = pool
        self.recipe = recipe
        self.device = device
        self.work = work
        torch.manual_seed(recipe.seed + 1)
        self.heads = CellHeads(recipe.channels[-1]).to(device)
        self.order_head = nn.Linear(recipe.width, 1 + MAX_SHAPES).to(device)
        self.targets = cell_targets(pool.scenes)
        self.curriculum = Curriculum(pool, tokenizer, recipe)
        self.answer_loss = AnswerLoss(tokenizer, network.config.text.vocab_size, device)

    def eyes(self) -> None:
        """Stage 1: the vision tower and the heads."""
        for number, stage in enumerate(self.recipe.eyes):
            self._eyes(number, stage)

    def _eyes(self, number: int, stage: Stage) -> None:
        saved = self.work / f"eyes-{number}.pt" if self.work else None
        if saved and saved.exists():
            states = torch.load(saved, weights_only=True)
            self.network.vision_tower.load_state_dict(states["tower"])
            self.heads.load_state_dict(states["heads"])
            return
        tower = self.network.vision_tower.train()
        generator = np.random.default_rng([self.recipe.seed, 1, number])
        first = number * self.recipe.scenes

        def loss_of(_: int) -> tuple[Tensor, dict[str, float]]:
            indices = first + generator.integers(0, self.recipe.scenes, size=self.recipe.eyes_batch)
            grid = tower.forward_features(self.pool.pixel_values(indices, self.device))
            return self.heads(grid, self.targets.rows(indices, self.device))

        _optimise("eyes", [*tower.parameters(), *self.heads.parameters()], stage, loss_of)
        if saved:
            torch.save({"tower": tower.state_dict(), "heads": self.heads.state_dict()}, saved)

    def speech(self) -> None:
        """Stage 2: projection and language model, on the resting tower's features."""
        grids = self._grids()
        self.network.train()
        parameters = [
            parameter
            for name, parameter in self.network.named_parameters()
            if not name.startswith("vision_tower.")
        ]
        parameters += self.order_head.parameters()
        generator = np.random.default_rng([self.recipe.seed, 2])
        joined = self.recipe.short_only * self.recipe.speech.steps

        def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
            batch = self.curriculum.batch(generator, short_only=step < joined)
            grid = grids[torch.from_numpy(batch[0])].to(self.device)
            return self._answers_loss(grid, *batch)

        _optimise("speech", parameters, self.recipe.speech, loss_of)

    def both(self) -> None:
        """Stage 3: everything, with the direct task kept beside the answers."""
        self.network.train()
        generator = np.random.default_rng([self.recipe.seed, 3])
        parameters = [
            *self.network.parameters(),
            *self.heads.parameters(),
            *self.order_head.parameters(),
        ]

        def loss_of(_: int) -> tuple[Tensor, dict[str, float]]:
            indices, *texts = self.curriculum.batch(generator, short_only=False)
            grid = self.network.vision_tower.forward_features(self.pool.pixel_values(indices, self.device))
            seen, right = self.heads(grid, self.targets.rows(indices, self.device))
            told, shares = self._answers_loss(grid, indices, *texts)
            return told + 0.1 * seen, right | shares

        _optimise("both", parameters, self.recipe.both, loss_of)

    def _answers_loss(
        self, grid: Tensor, indices: np.ndarray, prompts: Tensor, mask: Tensor, answers: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """The answers' loss, and beside it the question which cell holds the first shape, the second, the
        third, put to the encoder: that is what the decoder has to look up, and shortens the search."""
        prompts, mask, answers = (tensor.to(self.device) for tensor in (prompts, mask, answers))
        features = project_grid(self.network, grid)
        logits, states = answer_logits(self.network, features, prompts, mask, answers)
        loss = self.answer_loss(logits, answers)
        order = self.targets.order[torch.from_numpy(indices)].to(self.device)  # [B, cells]
        ordinals = self.order_head(states[:, 1 : 1 + order.shape[1]])  # after the pooled feature
        loss = loss + 0.5 * functional.cross_entropy(ordinals.flatten(0, 1), order.flatten())
        there = answers != 1
        right = (logits.argmax(-1) == answers) | ~there
        shares = {
            "order": (ordinals.argmax(-1) == order)[order > 0].float().mean().item(),
            "tokens": ((right & there).sum() / there.sum()).item(),
            "answers": right.all(dim=1).float().mean().item(),
        }
        return loss, shares

    @torch.no_grad()
    def _grids(self) -> Tensor:
        """The tower's output for the whole pool, [N, C, CELLS, CELLS], on the CPU."""
        tower = self.network.vision_tower.eval()
        parts = [
            tower.forward_features(
                self.pool.pixel_values(range(start, min(start + 250, len(self.pool))), self.device)
            ).cpu()
            for start in range(0, len(self.pool), 250)
        ]
        return torch.cat(parts)


def _optimise(
    name: str,
    parameters: Sequence[nn.Parameter],
    stage: Stage,
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
) -> None:
    """AdamW over `stage`; logs the running mean of the loss and of the shares answered right."""
    if not stage.steps:
        return
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    plain = [parameter for parameter in parameters if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}],
        lr=stage.peak_rate,
        betas=(0.9, 0.98),
    )
    means: dict[str, float] = {}
    started = time.monotonic()
    for step in range(stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = _rate(stage, step)
        loss, shares = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        for key, value in {"loss": loss.item(), **shares}.items():
            means[key] = 0.98 * means.get(key, value) + 0.02 * value
        if step % 100 == 99 or step == stage.steps - 1:
            text = " ".join(f"{key} {value:.4f}" for key, value in means.items())
            log.info("%s step %d, %.0f s: %s", name, step + 1, time.monotonic() - started, text)


def _rate(stage: Stage, step: int) -> float:
    if step < stage.warm_up:
        return stage.peak_rate * (step + 1) / stage.warm_up
    done = (step - stage.warm_up) / max(1, stage.steps - stage.warm_up)
    return stage.peak_rate * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
