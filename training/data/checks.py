"""What is looked at before the first step: images that open, captions that fit, pairs that are there once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .examples import Example, Problem

__all__ = ["CheckReport", "TokenLimits", "check_examples"]


@dataclass(frozen=True)
class TokenLimits:
    """How long texts may be, in the checkpoint's tokens with ``<s>`` and ``</s>``."""

    prompt: int  # positions of the encoder that image tokens leave
    target: int  # positions of the decoder


@dataclass(frozen=True)
class CheckReport:
    """What passed, what did not, and numbers about it."""

    examples: tuple[Example, ...]  # that passed, in their order
    problems: tuple[Problem, ...]

    def table(self) -> str:
        """For people: examples, images and tokens by instruction, and problems by kind with the first few."""
        raise NotImplementedError  # to come within the hour


def check_examples(
    examples: Sequence[Example],
    encode: Callable[[str], Sequence[int]],
    limits: TokenLimits,
    *,
    prompts: Mapping[str, str] | None = None,
    images: Literal["full", "header", "none"] = "full",
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Look at every example, and leave out what cannot be trained on.

    Args:
        encode: token ids of a text, as :meth:`promptgen.florence2.text_processing.TextProcessor.encode`.
        prompts: literal prompts by instruction that replace the usual ones.
        images: decode each image, read its header, or neither.
        on_progress: told how many images of how many have been looked at.
    """
    raise NotImplementedError  # to come within the hour
