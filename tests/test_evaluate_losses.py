"""The loss of true answers: the published one, however they are batched, also with adapters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from promptgen.captioning.batches import OutOfMemoryError
from promptgen.training.errors import DataError, TrainingError
from promptgen.training.evaluation.losses import example_losses, load_for_loss, losses_by_image, mean_loss

if TYPE_CHECKING:
    from torch import Tensor

from .adapters import merged_checkpoint, with_adapter
from .checkpoints import REFERENCE, expected
from .evaluations import published_examples


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_loss_is_the_published_one(batch_size: int) -> None:
    training = expected()["training"]
    losses = example_losses(load_for_loss(REFERENCE), published_examples(), batch_size=batch_size)
    assert sum(one.tokens for one in losses) == training["tokens"]
    assert mean_loss(losses) == pytest.approx(training["loss"], rel=1e-4)


def test_the_loss_with_an_adapter_is_that_of_the_merged_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)  # of what is not zero in a new adapter
    model = with_adapter(seed=5, size=0.2)
    model.save_pretrained(adapter := tmp_path / "adapter")
    merged = merged_checkpoint(tmp_path / "merged", model)

    def loss(folder: Path, *adapters: tuple[Path, float]) -> float:
        return mean_loss(example_losses(load_for_loss(folder, adapters), published_examples())) or 0

    plain, whole = loss(REFERENCE), loss(merged)
    assert loss(REFERENCE, (adapter, 1.0)) == pytest.approx(whole)
    assert loss(REFERENCE, (adapter, 0.0)) == pytest.approx(plain)
    assert plain != pytest.approx(whole, rel=1e-3)


def test_a_true_answer_that_is_too_long_is_named() -> None:
    first, *_ = published_examples()
    long = dataclasses.replace(first, target="red " * 2000)
    with pytest.raises(TrainingError, match=r"00.png .CAPTION.* has 200\d tokens"):
        example_losses(load_for_loss(REFERENCE), [long])


def test_each_example_has_its_own() -> None:
    model = load_for_loss(REFERENCE)
    examples = published_examples()
    together = example_losses(model, examples)
    for example, loss in zip(examples, together, strict=True):
        (alone,) = example_losses(model, [example])
        assert alone.tokens == loss.tokens
        assert alone.loss == pytest.approx(loss.loss, rel=1e-5)


def test_an_image_is_seen_once_whatever_is_asked_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_for_loss(REFERENCE)
    encode = model.network.encode_images
    seen: list[int] = []

    def counted(pixel_values: Tensor) -> Tensor:
        seen.append(len(pixel_values))
        return encode(pixel_values)

    monkeypatch.setattr(model.network, "encode_images", counted)
    examples = [
        dataclasses.replace(example, instruction=instruction, target=target)
        for instruction, target in (
            ("CAPTION", "a"),
            ("DETAILED_CAPTION", "a b c"),
            ("GENERATE_TAGS", "a, b"),
        )
        for example in published_examples()
    ]
    losses = example_losses(model, examples, batch_size=2)
    assert sum(seen) == len(published_examples())
    for example, loss in zip(examples, losses, strict=True):
        (alone,) = example_losses(model, [example])
        assert (loss.loss, loss.tokens) == (pytest.approx(alone.loss, rel=1e-5), alone.tokens)


def test_all_about_an_image_comes_at_once() -> None:
    first, second, *_ = published_examples()
    about_first = [first, dataclasses.replace(first, instruction="OCR", target="long " * 40)]
    found = list(losses_by_image(load_for_loss(REFERENCE), [*about_first, second], batch_size=1))
    assert [set(losses) for losses in found] == [{0, 1}, {2}]


def test_less_at_a_time_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_for_loss(REFERENCE)
    expected_losses = example_losses(model, published_examples())
    compute = model.losses_of_features
    most = 1

    def scarce(features: Tensor, *rest: Tensor) -> Any:
        if len(features) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return compute(features, *rest)

    monkeypatch.setattr(model, "losses_of_features", scarce)
    found = example_losses(model, published_examples(), batch_size=8)
    assert [one.loss for one in found] == pytest.approx([one.loss for one in expected_losses], rel=1e-5)
    most = 0
    with pytest.raises(OutOfMemoryError):
        example_losses(model, published_examples())


def test_an_image_that_has_gone_is_told() -> None:
    first, *_ = published_examples()
    gone = dataclasses.replace(first, image=dataclasses.replace(first.image, place="/nowhere/a.png"))
    with pytest.raises(DataError, match=r"nowhere/a\.png"):
        example_losses(load_for_loss(REFERENCE), [gone])
