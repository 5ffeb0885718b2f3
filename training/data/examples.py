"""What is trained on: an image, what is asked about it, and what is to be answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...captioning.instructions import build_prompt, find_instruction
from .options import DataSource
from .pictures import ImageRef

__all__ = ["Dataset", "Example", "Problem", "load_examples"]


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to learn."""

    image: ImageRef
    instruction: str  # canonical name
    text_input: str | None  # text or region, for an instruction that takes one
    target: str  # the answer as the model is to write it
    origin: str = ""  # where the answer was read: a file, or the line of a table
    repeats: int = 1  # how often it comes in an epoch; 1 in what :func:`split_examples` gives

    @property
    def name(self) -> str:
        """For people: ``cats/1.jpg [CAPTION]``."""
        return f"{self.image.name} [{self.instruction}]"

    def prompt(
        self, entry_prompts: Mapping[str, str] | None = None, image_size: tuple[int, int] | None = None
    ) -> str:
        """The literal prompt for the tokenizer.

        Args:
            entry_prompts: literal prompts by instruction that replace the usual ones.
            image_size: ``(width, height)`` of the image as opened; needed for a region in pixels.

        Raises:
            InstructionError: see :func:`promptgen.captioning.instructions.build_prompt`.
        """
        return build_prompt(find_instruction(self.instruction), self.text_input, entry_prompts, image_size)


Dataset = Sequence[Example]


@dataclass(frozen=True)
class Problem:
    """Something in the data that cannot be used, and so is left out."""

    kind: str  # short, for the table: "no image", "empty caption"
    place: str  # the file, or the line of a table
    reason: str  # one line


def load_examples(
    sources: Sequence[DataSource], on_problem: Callable[[Problem], None]
) -> tuple[Example, ...]:
    """All examples of the sources, in an order that only depends on what is in them.

    No image is opened.

    Args:
        on_problem: told of what is left out, one at a time.

    Raises:
        DataError: a source is not there, cannot be read, or its layout is not known.
    """
    raise NotImplementedError  # to come within the hour
