"""The one table of instructions: what users may ask of a model, and what the model is really asked.

An instruction is a *name* (``MIXED_CAPTION``), a *literal prompt* that the tokenizer gets
(``<MIXED_CAPTION>``, or ``Locate {input} in the image.``), the input it needs, and the kind of answer
that comes back. The literal prompts of Florence-2 are those of its published processor; PromptGen's own
instructions are not in that processor and reach the tokenizer as they stand, brackets included.

Which checkpoint knows which instruction is the model catalogue's business (:mod:`promptgen.models_cache`);
``known_by`` here only says it for people. A catalogue entry may replace a literal prompt.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import InstructionError

__all__ = [
    "INSTRUCTIONS",
    "AnswerKind",
    "Instruction",
    "InstructionError",
    "build_prompt",
    "build_prompts",
    "check_text_input",
    "find_instruction",
    "find_instructions",
]

INPUT_SLOT = "{input}"


class AnswerKind(enum.Enum):
    """What an answer is, which decides how it is parsed and which result type it becomes."""

    CAPTION = "caption"  # prose → Caption
    TAGS = "tags"  # comma-separated tags → Tags
    MIXED = "mixed"  # prose and tags, perhaps an analysis → Mixed
    ANALYSIS = "analysis"  # "field: value, field: value" → AnalysisResult
    TEXT = "text"  # a short answer about a region or to a question → Caption, never edited
    OCR = "ocr"  # the words in the picture → OcrText
    OCR_REGIONS = "ocr_regions"  # words, each with a quadrilateral → Regions
    BOXES = "boxes"  # labels, each with boxes → Regions
    PROPOSALS = "proposals"  # boxes without labels → Regions
    PHRASES = "phrases"  # phrases of the given text, each with boxes → Regions
    POLYGONS = "polygons"  # outlines → Regions
    OPEN_VOCABULARY = "open_vocabulary"  # boxes or outlines, as the model likes → Regions


@dataclass(frozen=True)
class Instruction:
    """One thing that can be asked about an image."""

    name: str  # as the model card spells it, without brackets
    prompt: str  # what the tokenizer gets; "{input}" is where the text or region goes
    answer: AnswerKind
    summary: str  # one line for people
    known_by: str  # which generations of checkpoints were trained on it, for people
    input: Literal["none", "text", "region"] = "none"
    aliases: tuple[str, ...] = ()  # other names that find it, upper case; also those of other node packs

    @property
    def needs_input(self) -> bool:
        """Whether a text or a region must be given along with the image."""
        return self.input != "none"


_FLORENCE = "Florence-2 and its fine-tunes"
_CAPTIONERS = "all Florence-2 and PromptGen checkpoints"
_PROMPTGEN = "PromptGen v1.5 and v2.0"
_PROMPTGEN_2 = "PromptGen v2.0"

_TABLE = (
    Instruction(
        "GENERATE_TAGS",
        "<GENERATE_TAGS>",
        AnswerKind.TAGS,
        "Danbooru-style tags, comma separated.",
        _PROMPTGEN,
        aliases=(
            "GENERATE_PROMPT",
            "PROMPT_GEN_TAGS",
            "TAGS",
        ),  # GENERATE_PROMPT is PromptGen v1.0's, deprecated
    ),
    Instruction(
        "CAPTION",
        "What does the image describe?",
        AnswerKind.CAPTION,
        "One line about the image.",
        _CAPTIONERS,
        aliases=("SIMPLE",),
    ),
    Instruction(
        "DETAILED_CAPTION",
        "Describe in detail what is shown in the image.",
        AnswerKind.CAPTION,
        "A few sentences; with PromptGen structured, with the subjects' positions.",
        _CAPTIONERS,
        aliases=("DETAILED",),
    ),
    Instruction(
        "MORE_DETAILED_CAPTION",
        "Describe with a paragraph what is shown in the image.",
        AnswerKind.CAPTION,
        "A paragraph in much detail.",
        _CAPTIONERS,
        aliases=("EXTRA",),
    ),
    Instruction(
        "MIXED_CAPTION",
        "<MIXED_CAPTION>",
        AnswerKind.MIXED,
        "A paragraph and tags, for Flux's two text encoders (T5-XXL and CLIP-L).",
        _PROMPTGEN,
        aliases=("MIX_CAPTION", "PROMPT_GEN_MIXED_CAPTION", "MIXED"),
    ),
    Instruction(
        "MIXED_CAPTION_PLUS",
        "<MIXED_CAPTION_PLUS>",
        AnswerKind.MIXED,
        "A paragraph, tags, and an analysis of the image.",
        _PROMPTGEN_2,
        aliases=("MIX_CAPTION_PLUS", "PROMPT_GEN_MIXED_CAPTION_PLUS", "EXTRA_MIXED"),
    ),
    Instruction(
        "ANALYZE",
        "<ANALYZE>",
        AnswerKind.ANALYSIS,
        "Camera angle, style, place, clothing and so on, as named fields.",
        _PROMPTGEN_2,
        aliases=("PROMPT_GEN_ANALYZE", "ANALYSE"),
    ),
    Instruction(
        "OCR",
        "What is the text in the image?",
        AnswerKind.OCR,
        "The words written in the image.",
        _FLORENCE,
    ),
    Instruction(
        "OCR_WITH_REGION",
        "What is the text in the image, with regions?",
        AnswerKind.OCR_REGIONS,
        "The words written in the image, each with its four corners.",
        _FLORENCE,
    ),
    Instruction(
        "OD",
        "Locate the objects with category name in the image.",
        AnswerKind.BOXES,
        "Object detection: category names with boxes.",
        _FLORENCE,
        aliases=("REGION_CAPTION",),
    ),
    Instruction(
        "DENSE_REGION_CAPTION",
        "Locate the objects in the image, with their descriptions.",
        AnswerKind.BOXES,
        "Short descriptions of the image's parts, with boxes.",
        _FLORENCE,
    ),
    Instruction(
        "REGION_PROPOSAL",
        "Locate the region proposals in the image.",
        AnswerKind.PROPOSALS,
        "Boxes around whatever stands out, without labels.",
        _FLORENCE,
    ),
    Instruction(
        "CAPTION_TO_PHRASE_GROUNDING",
        "Locate the phrases in the caption: {input}",
        AnswerKind.PHRASES,
        "Boxes for the phrases of a caption that you give.",
        _FLORENCE,
        input="text",
    ),
    Instruction(
        "REFERRING_EXPRESSION_SEGMENTATION",
        "Locate {input} in the image with mask",
        AnswerKind.POLYGONS,
        "The outline of what your words refer to.",
        _FLORENCE,
        input="text",
    ),
    Instruction(
        "REGION_TO_SEGMENTATION",
        "What is the polygon mask of region {input}",
        AnswerKind.POLYGONS,
        "The outline of the object in a box that you give.",
        _FLORENCE,
        input="region",
    ),
    Instruction(
        "OPEN_VOCABULARY_DETECTION",
        "Locate {input} in the image.",
        AnswerKind.OPEN_VOCABULARY,
        "Boxes or outlines of the things that you name.",
        _FLORENCE,
        input="text",
    ),
    Instruction(
        "REGION_TO_CATEGORY",
        "What is the region {input}?",
        AnswerKind.TEXT,
        "The category of what is in a box that you give.",
        _FLORENCE,
        input="region",
    ),
    Instruction(
        "REGION_TO_DESCRIPTION",
        "What does the region {input} describe?",
        AnswerKind.TEXT,
        "A description of what is in a box that you give.",
        _FLORENCE,
        input="region",
    ),
    Instruction(
        "REGION_TO_OCR",
        "What text is in the region {input}?",
        AnswerKind.OCR,
        "The words written in a box that you give.",
        _FLORENCE,
        input="region",
    ),
    Instruction(
        "DOCVQA",
        "<DocVQA>{input}",
        AnswerKind.TEXT,
        "The answer to your question about a document.",
        "Florence-2-DocVQA",
        input="text",
    ),
)

INSTRUCTIONS: dict[str, Instruction] = {instruction.name: instruction for instruction in _TABLE}
"""Every known instruction by its name, in the order in which people should see them."""

_BY_ANY_NAME: dict[str, Instruction] = {
    name: instruction for instruction in _TABLE for name in (instruction.name, *instruction.aliases)
}


def find_instruction(name: str) -> Instruction:
    """Look up an instruction by name or alias, in any case, with or without ``<>``.

    Dashes and spaces count as underscores. A free prompt is not an instruction.

    Raises:
        InstructionError: the name is unknown; the message names the nearest and lists all.
    """
    key = "_".join(
        name.strip().removeprefix("<").removesuffix(">").replace("-", " ").replace("_", " ").split()
    )
    found = _BY_ANY_NAME.get(key.upper())
    if found is None:
        nearest = difflib.get_close_matches(key.upper(), _BY_ANY_NAME, n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise InstructionError(f"unknown instruction {name!r}.{hint} Known are: {', '.join(INSTRUCTIONS)}.")
    return found


def find_instructions(names: str | Iterable[str]) -> tuple[Instruction, ...]:
    """Look up several: an iterable of names, or one string with commas between them.

    Raises:
        InstructionError: a name is unknown, or there is none at all.
    """
    if isinstance(names, str):
        names = [name for name in names.split(",") if name.strip()]
    found = tuple(find_instruction(name) for name in names)
    if not found:
        raise InstructionError(f"no instruction given. Known are: {', '.join(INSTRUCTIONS)}.")
    return found


def check_text_input(instructions: Iterable[Instruction], text_input: str | None) -> None:
    """Check before any image is opened that a text input is there if, and only if, an instruction takes one.

    One text goes to every instruction that takes one, and :func:`build_prompt` leaves it out of the others;
    a text that none of them takes is a mistake worth telling. Whether a box in pixels is within the image is
    seen later, by :func:`build_prompt`, which knows the image.

    Raises:
        InstructionError: the text is missing, or nobody takes it, or it should be a region and is not.
    """
    instructions = tuple(instructions)
    takers = [instruction for instruction in instructions if instruction.needs_input]
    given = bool(text_input and text_input.strip())
    if takers and not given:
        raise InstructionError(_missing_input(takers[0]))
    if given and not takers:
        names = ", ".join(instruction.name for instruction in instructions)
        able = ", ".join(name for name, instruction in INSTRUCTIONS.items() if instruction.needs_input)
        raise InstructionError(
            f"the text input {_shorten(text_input or '')!r} has no use: {names} take none. Leave it out, or"
            f" ask for one of {able}."
        )
    if text_input and any(instruction.input == "region" for instruction in takers):
        from .region_prompts import split_regions

        split_regions(text_input)


def build_prompts(
    instruction: Instruction,
    text_input: str | None = None,
    entry_prompts: Mapping[str, str] | None = None,
    image_size: tuple[int, int] | None = None,
) -> tuple[str, ...]:
    """The literal prompts for the tokenizer: one, or one for each region that the text input holds.

    See :func:`build_prompt`, and :func:`promptgen.captioning.region_prompts.split_regions` for how several
    regions are written.
    """
    if instruction.input != "region" or not (text_input and text_input.strip()):
        return (build_prompt(instruction, text_input, entry_prompts, image_size),)
    from .region_prompts import split_regions

    regions = split_regions(text_input)
    return tuple(build_prompt(instruction, region, entry_prompts, image_size) for region in regions)


def build_prompt(
    instruction: Instruction,
    text_input: str | None = None,
    entry_prompts: Mapping[str, str] | None = None,
    image_size: tuple[int, int] | None = None,
) -> str:
    """The literal prompt for the tokenizer.

    Args:
        instruction: what is asked.
        text_input: the text or region, for an instruction that takes one (others ignore it, see
            :func:`check_text_input`). It is stripped of surrounding white space. A region is four ``<loc_…>``
            tokens, or a box ``x0,y0,x1,y1`` in pixels of the original image or in fractions of it, see
            :func:`promptgen.captioning.regions.region_tokens`.
        entry_prompts: literal prompts by instruction name that a checkpoint wants instead of the usual ones.
        image_size: ``(width, height)`` of the original image; needed only for a region in numbers.

    Raises:
        InstructionError: the input is missing or cannot be read, or the checkpoint's prompt has no place
        for it.
    """
    prompt = (entry_prompts or {}).get(instruction.name, instruction.prompt)
    if not instruction.needs_input:
        return prompt
    text = (text_input or "").strip()
    if not text:
        raise InstructionError(_missing_input(instruction))
    if INPUT_SLOT not in prompt:
        raise InstructionError(
            f"the model's catalogue entry gives the prompt {prompt!r} for {instruction.name}, which has no"
            f" {INPUT_SLOT} for the text to go to; add it to the entry."
        )
    if instruction.input == "region":
        from .regions import region_tokens

        text = region_tokens(text, image_size)
    return prompt.replace(INPUT_SLOT, text)


def _missing_input(instruction: Instruction) -> str:
    if instruction.input == "region":
        return (
            f"{instruction.name} needs a region: a box x0,y0,x1,y1 in pixels or in fractions of the image"
            f" (0.1,0.2,0.5,0.9), or four location tokens (<loc_100><loc_200><loc_500><loc_900>)."
        )
    return f"{instruction.name} needs a text input: {instruction.summary[0].lower()}{instruction.summary[1:]}"


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
