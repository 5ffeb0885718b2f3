"""Many scenes at once, drawn by several processes into one array; what each picture cell shows."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from .checkpoint import IMAGE_SIDE, MEAN, STD
from .scenes import COLOURS, PLACES, SHAPES, SIZES, WORD_PLACES, WORDS, Scene, draw_scene, drawn_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CELLS = IMAGE_SIDE // 32
_CHUNK = 256

T = TypeVar("T")


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


def draw_pool(seeds: Sequence[int], *, workers: int | None = None) -> ScenePool:
    """Draw the scenes of `seeds`; what comes out does not depend on `workers`."""
    pixels = np.concatenate(list(in_processes(_draw_chunk, seeds, workers)))
    return ScenePool(pixels, [drawn_scene(seed) for seed in seeds])


def in_processes(
    work: Callable[[Sequence[int]], T], seeds: Sequence[int], workers: int | None = None
) -> Iterator[T]:
    """What `work` makes of `seeds`, a chunk of them at a time, in order.

    Args:
        workers: processes (default: one per core); 1 works in this one.
    """
    chunks = [seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK)]
    workers = workers or os.cpu_count() or 1
    if workers == 1 or len(chunks) == 1:
        yield from map(work, chunks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        yield from executor.map(work, chunks)


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
    for row, scene in enumerate(scenes):
        for one in scene.shapes:
            x0, x1 = one.box[0] / scene.width, one.box[2] / scene.width
            y0, y1 = one.box[1] / scene.height, one.box[3] / scene.height
            cell = int((y0 + y1) / 2 * CELLS) * CELLS + int((x0 + x1) / 2 * CELLS)
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
    arrays = (shape, colour, size, place, box, ground, word, word_place)
    return CellTargets(*(torch.from_numpy(array) for array in arrays))
