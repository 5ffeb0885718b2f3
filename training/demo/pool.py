"""Many scenes at once, drawn by several processes into one array; what each picture cell shows."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
import torch

from .checkpoint import IMAGE_SIDE, MEAN, STD
from .scenes import COLOURS, PLACES, SHAPES, SIZES, WORD_PLACES, WORDS, Scene, draw_scene, drawn_scene

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CELLS = IMAGE_SIDE // 32
_CHUNK = 256


@dataclass(frozen=True)
class ScenePool:
    """Pictures as the network sees them, before normalisation, and the scenes they show."""

    pixels: np.ndarray
    """[N, IMAGE_SIDE, IMAGE_SIDE, 3] uint8"""
    scenes: Sequence[Scene]

    def __len__(self) -> int:
        return len(self.scenes)

    def pixel_values(self, indices: Sequence[int] | np.ndarray, device: torch.device) -> torch.Tensor:
        """[B, 3, IMAGE_SIDE, IMAGE_SIDE] float32, normalised as preprocessor_config.json says."""
        pixels = torch.from_numpy(self.pixels[indices]).to(device).permute(0, 3, 1, 2).float() / 255
        mean = torch.tensor(MEAN, device=device)[:, None, None]
        std = torch.tensor(STD, device=device)[:, None, None]
        return ((pixels - mean) / std).contiguous()


def draw_pool(seeds: Sequence[int], *, workers: int | None = None, cache: Path | None = None) -> ScenePool:
    """Draw the scenes of `seeds`; what comes out does not depend on `workers`.

    Args:
        cache: a .npy file that keeps the pictures; used when it is there, written when not.
    """
    if cache is not None and cache.exists():
        return ScenePool(np.load(cache, mmap_mode="r"), [drawn_scene(seed) for seed in seeds])
    chunks = [seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK)]
    pixels = np.concatenate(list(_drawn(chunks, workers or os.cpu_count() or 1)))
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, pixels)
    return ScenePool(pixels, [drawn_scene(seed) for seed in seeds])


def joined_pools(pools: Sequence[ScenePool]) -> ScenePool:
    """One pool out of several, in order."""
    if len(pools) == 1:
        return pools[0]
    return ScenePool(
        np.concatenate([pool.pixels for pool in pools]), [scene for pool in pools for scene in pool.scenes]
    )


def _drawn(chunks: Sequence[Sequence[int]], workers: int) -> Iterator[np.ndarray]:
    if workers == 1 or len(chunks) == 1:
        yield from map(_draw_chunk, chunks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        yield from executor.map(_draw_chunk, chunks)


def _draw_chunk(seeds: Sequence[int]) -> np.ndarray:
    from PIL import Image

    side = (IMAGE_SIDE, IMAGE_SIDE)
    return np.stack(
        [np.asarray(draw_scene(seed)[0].resize(side, Image.Resampling.BICUBIC)) for seed in seeds]
    )


@dataclass(frozen=True)
class CellTargets:
    """What the direct task for the vision tower asks; rows are scenes, `cells` those of the final grid."""

    shape: torch.Tensor
    """[N, cells] int64: 0 for nothing, else 1 + index in SHAPES, in the cell of the shape's centre."""
    colour: torch.Tensor
    """[N, cells] int64: index in COLOURS; -100 where there is nothing. `size` and `place` likewise."""
    size: torch.Tensor
    place: torch.Tensor
    box: torch.Tensor
    """[N, cells, 4] float32: x0, y0, x1, y1 as fractions of the picture; 0 where there is nothing."""
    ground: torch.Tensor
    """[N] int64: index in COLOURS"""
    word: torch.Tensor
    """[N] int64: 0 for none, else 1 + index in WORDS; `word_place` likewise, in WORD_PLACES."""
    word_place: torch.Tensor
    order: torch.Tensor
    """[N, cells] int64: 0 for nothing, else how manieth shape of the scene stands there, from 1."""

    def rows(self, indices: np.ndarray, device: torch.device) -> CellTargets:
        """The targets of some scenes."""
        chosen = torch.from_numpy(indices)
        return CellTargets(*(getattr(self, name)[chosen].to(device) for name in self.__dataclass_fields__))


def cell_targets(scenes: Sequence[Scene]) -> CellTargets:
    """Targets of the direct task for `scenes`."""
    colours = list(COLOURS)
    count, cells = len(scenes), CELLS * CELLS
    shape = np.zeros((count, cells), dtype=np.int64)
    colour, size, place = (np.full((count, cells), -100, dtype=np.int64) for _ in range(3))
    box = np.zeros((count, cells, 4), dtype=np.float32)
    order = np.zeros((count, cells), dtype=np.int64)
    for row, scene in enumerate(scenes):
        for number, one in enumerate(scene.shapes):
            x0, x1 = one.box[0] / scene.width, one.box[2] / scene.width
            y0, y1 = one.box[1] / scene.height, one.box[3] / scene.height
            cell = int((y0 + y1) / 2 * CELLS) * CELLS + int((x0 + x1) / 2 * CELLS)
            order[row, cell] = 1 + number
            shape[row, cell] = 1 + SHAPES.index(one.shape)
            colour[row, cell] = colours.index(one.colour)
            size[row, cell] = SIZES.index(one.size)
            place[row, cell] = PLACES.index(one.place)
            box[row, cell] = (x0, y0, x1, y1)
    ground = np.array([colours.index(scene.ground) for scene in scenes], dtype=np.int64)
    word = np.array([1 + WORDS.index(scene.word) if scene.word else 0 for scene in scenes], dtype=np.int64)
    word_place = np.array(
        [1 + WORD_PLACES.index(scene.word_place) if scene.word_place else 0 for scene in scenes],
        dtype=np.int64,
    )
    arrays = (shape, colour, size, place, box, ground, word, word_place, order)
    return CellTargets(*(torch.from_numpy(array) for array in arrays))
