"""The loss of true answers: the published one, however they are batched, also with adapters."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from promptgen.training.errors import TrainingError
from promptgen.training.evaluation.losses import example_losses, load_for_loss, mean_loss

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
