"""What is trained on: an image, what is asked about it, and what is to be answered."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...captioning.instructions import FLORENCE2, find_instruction
from ...captioning.prompts import build_prompt
from .pictures import ImageRef

__all__ = ["Dataset", "Example", "OnProblem", "Problem", "clean_text", "why_no_text"]

_SPACES = re.compile(r"[ \t\u00a0]+")


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
            InstructionError: see :func:`promptgen.captioning.prompts.build_prompt`.
        """
        instruction = find_instruction(self.instruction)
        if instruction.name not in (entry_prompts or {}):
            instruction = instruction.for_family(FLORENCE2)  # which is what is trained
        return build_prompt(instruction, self.text_input, entry_prompts, image_size)


Dataset = Sequence[Example]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the data that cannot be used, and so is left out."""

    kind: str  # short, for the table: "no image", "empty caption"
    place: str  # the file, or the line of a table
    reason: str  # one line
    counts: bool = True  # whether an example is lost; images without a caption are only told of


OnProblem = Callable[[Problem], None]


def why_no_text(text: str) -> str | None:
    """Why no tokenizer can learn a text; None for a good one."""
    if "\0" in text:
        return "it has zero bytes: it is damaged, or no text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it has halves of characters, which are no Unicode"
    return None


def clean_text(text: str) -> str:
    """A caption without white space that nobody sees: around it, at line ends, and several spaces in a row.

    Line breaks stay: mixed captions have them between prose and tags.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(_SPACES.sub(" ", line).strip() for line in lines).strip()
