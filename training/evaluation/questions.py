"""What checkpoints are asked: each thing once, with all the true answers that there are to it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...captioning.instructions import Instruction, find_instruction
from ...captioning.regions import REGION_KINDS
from ..data.examples import Example
from ..data.pictures import ImageRef

__all__ = ["Question", "QuestionKey", "draw_questions", "questions_of"]

QuestionKey = tuple[str, str, str]
"""The image's name, the instruction's, and the text input."""


@dataclass(frozen=True)
class Question:
    """One thing that is asked about an image."""

    image: ImageRef
    instruction: Instruction
    text_input: str | None
    examples: tuple[Example, ...] = field(repr=False)  # with its true answers

    @property
    def key(self) -> QuestionKey:
        return self.image.name, self.instruction.name, self.text_input or ""

    @property
    def finds_regions(self) -> bool:
        """Whether the answer is places in the image."""
        return self.instruction.answer in REGION_KINDS

    def stamp(self) -> str:
        """Changes when the file that holds the image changes; empty if it is not there."""
        try:
            status = Path(self.image.place).stat()
        except OSError:
            return ""
        return f"{status.st_size} {status.st_mtime_ns}"


def questions_of(examples: Iterable[Example]) -> list[Question]:
    """In the order in which they first come; examples that differ in their answers alone are one question.

    Of images of several folders that are called alike each is known by its whole path.
    """
    same: dict[tuple[ImageRef, str, str], list[Example]] = {}
    for example in examples:
        name = find_instruction(example.instruction).name
        same.setdefault((example.image, name, example.text_input or ""), []).append(example)
    alike = Counter(image.name for image in {image for image, _, _ in same})
    return [
        Question(
            image if alike[image.name] == 1 else replace(image, name=_whole_name(image)),
            find_instruction(name),
            given[0].text_input,
            tuple(given),
        )
        for (image, name, _), given in same.items()
    ]


def _whole_name(image: ImageRef) -> str:
    return image.place if image.column is None else f"{image.place}#{image.row}"


def draw_questions(questions: Sequence[Question], images: int | None, seed: int) -> list[Question]:
    """All about so many images, chosen by chance, in their order; all questions if there are no more."""
    names = list(dict.fromkeys(question.image.name for question in questions))
    if images is None or images >= len(names):
        return list(questions)
    chosen = set(random.Random(seed).sample(names, images))
    return [question for question in questions if question.image.name in chosen]
