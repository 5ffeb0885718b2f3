"""From examples to batches: pictures read and resized, prompts and answers as tokens, all padded.

Everything here happens in processes of its own, ahead of the training; what a batch is depends on the order
of the run alone, never on how many processes make it.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from .errors import DataError
from .network import IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from ..florence2.text_processing import TextProcessor
    from ..inference.image_processing import ImageProcessor
    from .config import AugmentOptions, BatchOptions
    from .data.examples import Dataset
    from .order import Indices

Key = tuple[int, "Indices"]
"""The epoch, and the examples of a batch."""


@dataclass(frozen=True)
class Batch:
    """What the model sees at a time. On the CPU; :meth:`inputs` takes it to the device."""

    pixels: Tensor  # [B, H, W, 3] uint8, resized and not yet normalised: a quarter of the bytes
    input_ids: Tensor  # [B, L] int64, prompts padded on the right
    attention_mask: Tensor  # [B, L] int64
    labels: Tensor  # [B, T] int64, answers from <s> to </s>, padded with IGNORED
    names: tuple[str, ...]  # of the examples, for people; () for one that only keeps a process in step
    processor: ImageProcessor

    @property
    def tokens(self) -> int:
        """Target tokens."""
        return int((self.labels != IGNORED).sum())

    def inputs(self, device: torch.device) -> dict[str, Tensor]:
        """What the model's ``forward`` takes, on ``device``: the above, and normalised ``pixel_values``."""
        pixels = self.pixels.to(device, non_blocking=True)
        return {
            "pixel_values": self.processor.normalise(pixels),
            "input_ids": self.input_ids.to(device, non_blocking=True),
            "attention_mask": self.attention_mask.to(device, non_blocking=True),
            "labels": self.labels.to(device, non_blocking=True),
        }

    def pin_memory(self) -> Batch:
        """What a DataLoader asks for where a GPU is to fetch the tensors by itself."""
        return replace(
            self,
            pixels=self.pixels.pin_memory(),
            input_ids=self.input_ids.pin_memory(),
            attention_mask=self.attention_mask.pin_memory(),
            labels=self.labels.pin_memory(),
        )


@dataclass(frozen=True)
class Preparation:
    """How examples become tensors; goes to the processes that do it."""

    images: ImageProcessor
    text: TextProcessor
    prompts: Mapping[str, str] = field(default_factory=dict)  # literal ones, that replace the usual
    background: str = "white"
    augment: AugmentOptions | None = None
    seed: int = 0  # of the augmentation
    pad_token_id: int = 1


class BatchReader(TorchDataset[Any]):
    """Makes the batch of a key."""

    def __init__(self, examples: Dataset, preparation: Preparation) -> None:
        self._examples = examples
        self._preparation = preparation

    def __getitem__(self, key: Key) -> Batch | str:
        """The batch, or what is wrong with one of its examples: an exception would come through with the
        traceback of another process."""
        epoch, indices = key
        if not indices:
            return self._blank()
        try:
            rows = [self._row(epoch, index) for index in indices]
        except (OSError, ValueError) as error:
            return str(error)
        pixels, prompts, answers = zip(*rows, strict=True)
        ids = _padded(prompts, self._preparation.pad_token_id)
        mask = _padded([[1] * len(prompt) for prompt in prompts], 0)
        names = tuple(self._examples[index].name for index in indices)
        return Batch(
            torch.stack(pixels), ids, mask, _padded(answers, IGNORED), names, self._preparation.images
        )

    def _row(self, epoch: int, index: int) -> tuple[Tensor, list[int], list[int]]:
        """Pixels, prompt and answer of an example."""
        example, how = self._examples[index], self._preparation
        picture = example.image.open(how.background)
        size = picture.size
        if how.augment is not None and not how.augment.is_off:
            from .data.augmentation import augment

            picture = augment(picture, how.augment, random.Random(f"{how.seed} {epoch} {index}"))
        prompt = example.prompt(how.prompts, size)
        return how.images.resize(picture), how.text.encode(prompt), how.text.encode(example.target)

    def _blank(self) -> Batch:
        """One that weighs nothing, for a process that has nothing to do while others have."""
        images = self._preparation.images
        width, height = images.size
        one = torch.ones(1, 2, dtype=torch.int64)
        ids = torch.full((1, 2), self._preparation.pad_token_id)
        pixels = torch.zeros(1, height, width, 3, dtype=torch.uint8)
        return Batch(pixels, ids, one, torch.full((1, 2), IGNORED), (), images)


class BatchSource:
    """The batches of ``keys``, in their order, made ahead by ``options.dataloader_workers`` processes.

    No random number is drawn from torch's own generator, so that where a run begins makes no difference.

    Args:
        again: it is gone through several times; the processes stay if the options say so.
    """

    def __init__(
        self, reader: BatchReader, keys: Iterable[Key], options: BatchOptions, *, again: bool = False
    ) -> None:
        workers = options.dataloader_workers
        self._loader: DataLoader[Any] = DataLoader(
            reader,
            sampler=keys,
            batch_size=None,  # a key is a batch
            num_workers=workers,
            worker_init_fn=_begin_worker,
            prefetch_factor=options.dataloader_prefetch_factor if workers else None,
            persistent_workers=again and workers > 0 and options.persistent_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Batch]:
        """
        Raises:
            DataError: an example cannot be used: its image has gone, for example.
        """
        for batch in self._loader:
            if isinstance(batch, str):
                raise DataError(batch)
            yield batch


def read_batches(reader: BatchReader, keys: Iterable[Key], options: BatchOptions) -> Iterator[Batch]:
    """Those of a :class:`BatchSource`, once."""
    return iter(BatchSource(reader, keys, options))


def _begin_worker(number: int) -> None:
    """Ctrl-C and the like are for the main process, which ends in order and then ends these."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    torch.set_num_threads(1)


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """``[B, longest]`` int64."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.int64)
