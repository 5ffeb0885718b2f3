"""The loss of true answers under a checkpoint: what training lowers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...captioning.batches import BackOff
from ...captioning.errors import ImageError
from ...captioning.read_ahead import ReadAhead
from ..data.examples import Example
from ..data.pictures import ImageRef
from ..errors import DataError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor

    from ...models_cache import ImageProcessor
    from ..network import TrainableModel

__all__ = ["TokenLoss", "example_losses", "load_for_loss", "losses_by_image", "mean_loss"]

Row = tuple[int, list[int], list[int], int]
"""Of an example: which image of those at hand it is about, prompt and target as tokens, and its place."""


@dataclass(frozen=True)
class TokenLoss:
    """Cross-entropy summed over the tokens of one true answer, ``</s>`` included, in nats."""

    loss: float
    tokens: int


def mean_loss(losses: Sequence[TokenLoss]) -> float | None:
    """Nats per token: each token weighs alike, whichever answer it is of; None of nothing."""
    tokens = sum(one.tokens for one in losses)
    return sum(one.loss for one in losses) / tokens if tokens else None


def load_for_loss(
    folder: Path, adapters: Sequence[tuple[Path, float]] = (), *, device: str = "cpu"
) -> TrainableModel:
    """A checkpoint in fp32, whatever it is saved as, so that losses can be compared.

    Args:
        adapters: folders of LoRA adapters, each with its strength, whose changes are put into the weights.

    Raises:
        CheckpointError, AdapterError: one cannot be loaded, or they do not fit each other.
    """
    from ...florence2.adapting import changed_parameters, parameter_shapes
    from ...florence2.loading import TIED
    from ...florence2.lora import check_adapter, merged_changes, read_adapter
    from ..network import TrainableModel

    model = TrainableModel.load(folder, device=device)
    model.eval()
    model.requires_grad_(False)
    if adapters:
        read = [(read_adapter(path, model.config), strength) for path, strength in adapters]
        shapes = parameter_shapes(model.network)
        for adapter, _ in read:
            check_adapter(adapter, shapes)
        changed = changed_parameters(model.network, folder, merged_changes(read))
        for name, values in changed.items():
            model.network.get_parameter(TIED[0] if name in TIED else name).copy_(values)
    return model


def example_losses(
    model: TrainableModel,
    examples: Sequence[Example],
    *,
    prompts: Mapping[str, str] | None = None,
    background: str = "white",
    batch_size: int = 8,
) -> list[TokenLoss]:
    """The loss of each example, in their order; see :func:`losses_by_image`."""
    losses: dict[int, TokenLoss] = {}
    for found in losses_by_image(
        model, examples, prompts=prompts, background=background, batch_size=batch_size
    ):
        losses.update(found)
    return [losses[place] for place in range(len(examples))]


def losses_by_image(
    model: TrainableModel,
    examples: Sequence[Example],
    *,
    prompts: Mapping[str, str] | None = None,
    background: str = "white",
    batch_size: int = 8,
) -> Iterator[dict[int, TokenLoss]]:
    """The losses of examples by their places, dropout off: at a time those about some images.

    An image is read, and seen by the tower, once, whatever the number of examples about it.

    Args:
        prompts: literal prompts by instruction that replace the usual ones.
        batch_size: images that the tower sees, and answers that the language model reads, at a time; fewer
            once memory has run out.

    Raises:
        DataError: an image cannot be read.
        TrainingError: a true answer, or a prompt, has more tokens than the checkpoint takes.
        OutOfMemoryError: there is not enough memory for a single answer.
    """
    model.eval()
    device = next(model.parameters()).device
    tower, text = BackOff("images"), BackOff("answers")
    by_image: dict[ImageRef, list[int]] = {}
    for place, example in enumerate(examples):
        by_image.setdefault(example.image, []).append(place)
    # Answers of like lengths together: less padding. The sum over each example is the same.
    images = sorted(
        by_image, key=lambda image: -max(len(examples[place].target) for place in by_image[image])
    )
    reader = _Reader(model.image_processor, background)
    pictures: ReadAhead[ImageRef, tuple[Tensor, tuple[int, int]]] = ReadAhead(
        (one.name, one) for one in images
    )
    waiting = iter(images)
    with closing(pictures):
        while pictures.more():
            read = [picture for _, picture in _taken(pictures, batch_size, reader)]
            rows = [
                _row(model, examples[place], number, place, prompts or {}, size)
                for number, (_, size) in enumerate(read)
                for place in by_image[next(waiting)]
            ]
            rows.sort(key=lambda row: -len(row[2]))
            pixels = [picture for picture, _ in read]
            features = tower.run(partial(_features, model, device), pixels, batch_size, device)
            losses = text.run(partial(_losses, model, features), rows, batch_size, device)
            yield {row[3]: loss for row, loss in zip(rows, losses, strict=True)}


@dataclass(frozen=True)
class _Reader:
    """Reads an image as a checkpoint sees it, and its width and height in pixels. Any thread may call it."""

    processor: ImageProcessor
    background: str

    def __call__(self, image: ImageRef) -> tuple[Tensor, tuple[int, int]]:
        picture = image.open(self.background)
        return self.processor.resize(picture), picture.size


def _taken(
    pictures: ReadAhead[ImageRef, tuple[Tensor, tuple[int, int]]], count: int, reader: _Reader
) -> list[tuple[str, tuple[Tensor, tuple[int, int]]]]:
    try:
        return pictures.take(count, count, reader)
    except ImageError as error:
        raise DataError(str(error)) from error


def _row(
    model: TrainableModel,
    example: Example,
    image: int,
    place: int,
    prompts: Mapping[str, str],
    size: tuple[int, int],
) -> Row:
    prompt = list(model.text.encode(example.prompt(prompts, size)))
    target = list(model.text.encode(example.target))
    for what, given, most in (
        ("prompt", len(prompt), model.max_prompt_tokens),
        ("true answer", len(target), model.max_target_tokens),
    ):
        if given > most:
            raise TrainingError(
                f"The {what} of {example.name} has {given} tokens, and {model.folder.name} takes {most}. "
                "Shorten it, or leave it out."
            )
    return image, prompt, target, place


def _features(model: TrainableModel, device: torch.device, pixels: Sequence[Tensor]) -> list[Tensor]:
    """What the tower sees, ``[num_image_tokens, d_model]`` of each image.

    Args:
        pixels: resized, each ``[H, W, 3]`` uint8 on the CPU
    """
    with torch.no_grad():
        values = model.image_processor.normalise(torch.stack(list(pixels)).to(device))
        return list(model.network.encode_images(values))


def _losses(model: TrainableModel, features: Sequence[Tensor], rows: Sequence[Row]) -> list[TokenLoss]:
    """Of each row. ``features`` are those of the images at hand."""
    images, prompts, targets, _ = zip(*rows, strict=True)
    seen = torch.stack([features[image] for image in images])
    with torch.no_grad():
        inputs = (one.to(seen.device) for one in _padded(model, prompts, targets))
        found = model.losses_of_features(seen, *inputs)
    told = zip(found.sample_losses.tolist(), found.sample_tokens.tolist(), strict=True)
    return [TokenLoss(loss, tokens) for loss, tokens in told]


def _padded(
    model: TrainableModel, prompts: Sequence[list[int]], targets: Sequence[list[int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts, which of their places are not padding, and labels, each ``[B, longest]`` int64."""
    from torch.nn.utils.rnn import pad_sequence

    from ..network import IGNORED

    def pad(rows: Sequence[list[int]], value: int) -> Tensor:
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)

    mask = pad([[1] * len(prompt) for prompt in prompts], 0)
    return pad(prompts, model.config.text.pad_token_id), mask, pad(targets, IGNORED)
