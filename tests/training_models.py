"""Models to train on the reference checkpoint, and the batch of which the published code's loss is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from promptgen.florence2 import Florence2Model, GenerationOptions
from promptgen.inference.image_processing import preprocess_images
from promptgen.training.model_options import ModelOptions
from promptgen.training.network import IGNORED, Losses, TrainableModel

from .checkpoints import REFERENCE, expected

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "drop_path_rate": 0.0}


def still(folder: Path = REFERENCE, **options: Any) -> TrainableModel:
    """A model in training mode that is the same each time."""
    return TrainableModel.load(folder, ModelOptions(**{**NO_DROPOUT, **options}))


def pictures(*names: str) -> list[Image.Image]:
    return [Image.open(REFERENCE / "images" / name).convert("RGB") for name in names]


def padded(rows: Sequence[Sequence[int]], filling: int) -> torch.Tensor:
    filled = torch.full((len(rows), max(map(len, rows))), filling)
    for place, row in zip(filled, rows, strict=True):
        place[: len(row)] = torch.tensor(row)
    return filled


def batch(
    model: TrainableModel, names: Sequence[str], prompts: Sequence[str], targets: Sequence[str]
) -> dict[str, torch.Tensor]:
    """What ``forward`` takes, each padded to its longest."""
    encoded = [model.text.encode(prompt) for prompt in prompts]
    return {
        "pixel_values": preprocess_images(pictures(*names), model.config.image),
        "input_ids": padded(encoded, model.config.text.pad_token_id),
        "attention_mask": padded([[1] * len(row) for row in encoded], 0),
        "labels": padded([model.text.encode(target) for target in targets], IGNORED),
    }


def reference_batch(model: TrainableModel) -> dict[str, torch.Tensor]:
    """The batch of ``expected.json``'s ``training``."""
    training = expected()["training"]
    prompt = expected()["prompts"][training["instruction"]]
    return batch(model, training["images"], [prompt] * 3, training["targets"])


def loss_of(model: TrainableModel, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mean over target tokens."""
    losses: Losses = model(**inputs)
    return losses.loss / losses.tokens


def train_steps(model: TrainableModel, steps: int = 3, rate: float = 1e-3) -> list[float]:
    """A few steps of AdamW on the reference batch; the losses before each."""
    optimiser = torch.optim.AdamW([part for _, part in model.trainable_parameters()], lr=rate)
    inputs, seen = reference_batch(model), []
    for _ in range(steps):
        loss = loss_of(model, inputs)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(loss.item())
    return seen


def answers(model: Florence2Model, **options: Any) -> list[tuple[int, ...]]:
    """Token ids of answers to two prompts about each of three pictures."""
    features = model.encode_images(model.preprocess(pictures("00.png", "01.png", "03.png")))
    settings = GenerationOptions(max_new_tokens=24, **options)
    return [
        sequence.token_ids
        for prompt in ("What does the image describe?", "<GENERATE_TAGS>")
        for sequence in model.generate(features, [prompt] * 3, settings)
    ]


def load(folder: Path, *adapters: Path) -> Florence2Model:
    """What the engine makes of a folder, in fp32 on the CPU."""
    model = Florence2Model.load(folder, device="cpu", dtype="fp32")
    return model.with_adapters([(adapter, 1.0) for adapter in adapters]) if adapters else model
