"""Examples to evaluate on whose loss the published code has told."""

from __future__ import annotations

from promptgen.training.data.examples import Example
from promptgen.training.data.pictures import ImageRef

from .checkpoints import REFERENCE, expected


def published_examples() -> list[Example]:
    """Those of ``expected.json``'s ``training``."""
    training = expected()["training"]
    return [
        Example(ImageRef(name, str(REFERENCE / "images" / name)), training["instruction"], None, target)
        for name, target in zip(training["images"], training["targets"], strict=True)
    ]
