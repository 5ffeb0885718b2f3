"""What is looked at before the first step: texts that fit the checkpoint, pairs that are there once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...captioning.errors import ImageError, InstructionError
from ...captioning.instructions import INSTRUCTIONS
from ...florence2 import Florence2Config
from .examples import Example, OnProblem, Problem
from .image_checks import ImageCheck, ImageChecks, check_images
from .report import CheckReport
from .rows import has_places

__all__ = ["Encode", "TokenLimits", "check_examples"]

Encode = Callable[[str], Sequence[int]]
"""Token ids of a text, as :meth:`promptgen.florence2.text_processing.TextProcessor.encode` gives them."""

OVER_LONG = "over-long caption"
_SPECIAL = ("<s>", "</s>", "<pad>", "<mask>", "<unk>")  # of every checkpoint's tokenizer
DUPLICATE = "duplicate"


@dataclass(frozen=True)
class TokenLimits:
    """How long texts may be, in the checkpoint's tokens with ``<s>`` and ``</s>``."""

    prompt: int  # positions of the encoder that image tokens leave
    target: int  # positions of the decoder

    @classmethod
    def of(cls, config: Florence2Config) -> TokenLimits:
        """What a checkpoint has positions for."""
        positions = config.text.max_position_embeddings
        return cls(positions - config.num_image_tokens, positions)

    def at_most(self, target: int | None) -> TokenLimits:
        """With no more tokens for targets than that; None changes nothing."""
        return self if target is None else TokenLimits(self.prompt, min(self.target, target))


def check_examples(
    examples: Sequence[Example],
    encode: Encode,
    limits: TokenLimits,
    *,
    prompts: Mapping[str, str] | None = None,
    images: ImageCheck = "full",
    drop_duplicates: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Look at every example, and leave out what cannot be trained on.

    Args:
        prompts: literal prompts by instruction that replace the usual ones.
        images: decode each image, read its header, or neither.
        drop_duplicates: leave out what is there a second time, rather than tell of it.
        on_progress: told how many images of how many have been looked at.
    """
    problems: list[Problem] = []
    checks = check_images([example.image for example in examples], images, on_progress)
    good = list(_readable(examples, checks, problems.append))
    fitting, tokens = [], []
    for example, count in _fitting(good, _Texts(encode, limits, prompts or {}), checks, problems.append):
        fitting.append(example)
        tokens.append(count)
    once = _first_ones(fitting, checks, drop_duplicates, problems.append)
    kept = tuple(example for example, is_kept in zip(fitting, once, strict=True) if is_kept)
    lengths = tuple(count for count, is_kept in zip(tokens, once, strict=True) if is_kept)
    return CheckReport(kept, lengths, tuple(problems), checks)


def _readable(examples: Sequence[Example], checks: ImageChecks, on_problem: OnProblem) -> Iterator[Example]:
    for example in examples:
        reason = checks.errors.get(example.image)
        if reason is None:
            yield example
        else:
            where = example.image.place if example.image.column is None else example.name
            on_problem(Problem("unreadable image", where, reason))


class _Texts:
    """Prompts and targets in tokens."""

    def __init__(self, encode: Encode, limits: TokenLimits, prompts: Mapping[str, str]) -> None:
        self._encode = encode
        self._limits = limits
        self._prompts = prompts
        self._prompt_length = functools.lru_cache(maxsize=1024)(lambda prompt: len(encode(prompt)))

    def problem(self, example: Example, checks: ImageChecks) -> Problem | None:
        """Why the question of an example cannot be asked."""
        size = checks.sizes.get(example.image)
        try:
            if size is None and INSTRUCTIONS[example.instruction].input == "region":
                size = example.image.open().size
            prompt = example.prompt(self._prompts, size)
        except ImageError as error:
            return Problem("unreadable image", example.origin or example.name, str(error))
        except InstructionError as error:
            return Problem("unusable text input", example.origin or example.name, str(error))
        length = self._prompt_length(prompt)
        if length > self._limits.prompt:
            reason = f"the prompt has {length} tokens; beside the image {self._limits.prompt} fit"
            return Problem("over-long prompt", example.origin or example.name, reason)
        return None

    def length(self, example: Example) -> int:
        """Tokens of the target."""
        return len(self._encode(example.target))

    @property
    def most(self) -> int:
        """Tokens that a target may have."""
        return self._limits.target


def _fitting(
    examples: Sequence[Example], texts: _Texts, checks: ImageChecks, on_problem: OnProblem
) -> Iterator[tuple[Example, int]]:
    """Those whose texts can be learned, with the number of tokens of the target."""
    for example in examples:
        length = texts.length(example)
        problem = texts.problem(example, checks) or _wrong_answer(example, length, texts.most)
        if problem is None:
            yield example, length
        else:
            on_problem(problem)


def _wrong_answer(example: Example, length: int, most: int) -> Problem | None:
    """Why an answer of so many tokens cannot be learned."""
    where = example.origin or example.name
    special = next((token for token in _SPECIAL if token in example.target), None)
    if special is not None:
        return Problem(
            "special token", where, f"{special} would end or spoil the answer; take such tokens out"
        )
    if length > most:
        return Problem(OVER_LONG, where, f"it has {length} tokens; {most} fit")
    if _lacks_places(example):
        reason = f"answers of {example.instruction} are made of location tokens, <loc_0> to <loc_999>"
        return Problem("no location tokens", where, reason)
    return None


def _lacks_places(example: Example) -> bool:
    """Whether an answer that tells of regions does not tell where they are; an empty one tells of none."""
    if not example.target:
        return False
    return has_places(INSTRUCTIONS[example.instruction].answer) and "<loc_" not in example.target


def _first_ones(
    examples: Sequence[Example], checks: ImageChecks, drop: bool, on_problem: OnProblem
) -> list[bool]:
    """For each example whether it stays: all do, unless those that are there again are to go."""
    seen: dict[tuple[object, ...], Example] = {}
    stays = []
    for example in examples:
        key = (checks.identity(example.image), example.instruction, example.text_input, example.target)
        first = seen.setdefault(key, example)
        if first is not example:
            reason = f"the same as {first.origin or first.name}" + ("" if drop else "; kept")
            on_problem(Problem(DUPLICATE, example.origin or example.name, reason, counts=False))
        stays.append(first is example or not drop)
    return stays
