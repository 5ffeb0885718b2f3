"""The one table of instructions: what users may ask of a model, and what the model is really asked.

An instruction is a *name* (``MIXED_CAPTION``), a *literal prompt* that the tokenizer gets
(``<MIXED_CAPTION>``, or ``Locate {input} in the image.``), the input it needs, and the kind of answer
that comes back. The literal prompts of Florence-2 are those of its published processor; PromptGen's own
instructions are not in that processor and reach the tokenizer as they stand, brackets included. Those of
PaliGemma are the task prefixes that it was trained with
(https://ai.google.dev/gemma/docs/paligemma/prompt-system-instructions).

A family of checkpoints may have a prompt of its own for an instruction, or none: then its checkpoints cannot
do it at all. Which checkpoint of a family knows which instruction is the model catalogue's business
(:mod:`promptgen.models_cache`); ``known_by`` here only says it for people. A catalogue entry may replace a
literal prompt. How a prompt is filled in is told in :mod:`.prompts`.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from .errors import InstructionError

__all__ = [
    "FAMILY_NAMES",
    "FLORENCE2",
    "INPUT_SLOT",
    "INSTRUCTIONS",
    "LANGUAGE_SLOT",
    "PALIGEMMA",
    "AnswerKind",
    "FamilyPrompt",
    "Instruction",
    "InstructionError",
    "check_text_input",
    "find_instruction",
    "find_instructions",
    "instructions_of",
    "missing_input",
]

INPUT_SLOT = "{input}"
LANGUAGE_SLOT = "{language}"

_PICTURE = "<image>"  # what stands for a place of the picture in PaliGemma's prompts

FLORENCE2, PALIGEMMA = "florence2", "paligemma"
FAMILY_NAMES = {FLORENCE2: "Florence-2", PALIGEMMA: "PaliGemma"}
"""The families by the ``model_type`` of their ``config.json``, and what people call them."""


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
    DETECTIONS = "detections"  # boxes as PaliGemma writes them, each before its label → Regions


TextForm = Literal["kept", "line", "things"]
"""How a text input goes into a prompt: as it is, in one line, or as a list with ``;`` between."""


@dataclass(frozen=True)
class FamilyPrompt:
    """How another family of checkpoints is asked, and what it answers with."""

    prompt: str
    answer: AnswerKind
    text_form: TextForm = "kept"


@dataclass(frozen=True)
class Instruction:
    """One thing that can be asked about an image."""

    name: str  # as the model card spells it, without brackets
    prompt: str  # what the tokenizer gets; "{input}" is where the text or region goes, "{language}" a code
    answer: AnswerKind
    summary: str  # one line for people
    known_by: str  # which generations of checkpoints were trained on it, for people
    input: Literal["none", "text", "region"] = "none"
    aliases: tuple[str, ...] = ()  # other names that find it, upper case; also those of other node packs
    family: str = FLORENCE2  # whose prompt and answer these are
    family_prompts: Mapping[str, FamilyPrompt] = field(default_factory=dict, hash=False)  # of the others
    text_form: TextForm = "kept"
    tags_first: bool = False  # of a mixed answer: in one line the tags stand before the prose

    @property
    def needs_input(self) -> bool:
        """Whether a text or a region must be given along with the image."""
        return self.input != "none"

    @property
    def families(self) -> tuple[str, ...]:
        """The families whose checkpoints can be asked."""
        return (self.family, *self.family_prompts)

    @property
    def is_free(self) -> bool:
        """Whether the prompt is the user's own, word for word."""
        return self.prompt == INPUT_SLOT

    def for_family(self, family: str) -> Instruction:
        """The same with the prompt and the kind of answer that a family has for it.

        Raises:
            InstructionError: its checkpoints cannot be asked that; the message says what they can.
        """
        if family == self.family:
            return self
        own = self.family_prompts.get(family)
        if own is None:
            raise InstructionError(_foreign(self, family))
        others = {name: prompt for name, prompt in self.family_prompts.items() if name != family}
        others[self.family] = FamilyPrompt(self.prompt, self.answer, self.text_form)
        return replace(
            self,
            prompt=own.prompt,
            answer=own.answer,
            text_form=own.text_form,
            family=family,
            family_prompts=others,
        )


_FLORENCE = "Florence-2 and its fine-tunes"
_CAPTIONERS = "all Florence-2 and PromptGen checkpoints"
_PROMPTGEN = "PromptGen v1.5 and v2.0"
_PROMPTGEN_2 = "PromptGen v2.0"
_PALIGEMMA = "PaliGemma's mix and pt checkpoints"
_BOTH = "Florence-2 and its fine-tunes; PaliGemma's mix and pt checkpoints"

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
        "One line about the image; longer with PaliGemma's captioners.",
        f"{_CAPTIONERS}; all PaliGemma checkpoints",
        aliases=("SIMPLE",),
        family_prompts={PALIGEMMA: FamilyPrompt("caption {language}", AnswerKind.CAPTION)},
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
        "LONG_PROMPT",
        "caption en",
        AnswerKind.MIXED,
        "Tags and then a long description, in one line, for Flux's two text encoders.",
        "PaliGemma's long-prompt checkpoints",
        aliases=("LONGPROMPT",),
        family=PALIGEMMA,
        tags_first=True,
    ),
    Instruction(
        "DESCRIBE",
        "describe {language}",
        AnswerKind.CAPTION,
        "A longer caption.",
        _PALIGEMMA,
        family=PALIGEMMA,
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
        _BOTH,
        family_prompts={PALIGEMMA: FamilyPrompt("ocr", AnswerKind.OCR)},
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
        _BOTH,
        input="text",
        aliases=("DETECT",),
        family_prompts={PALIGEMMA: FamilyPrompt("detect {input}", AnswerKind.DETECTIONS, "things")},
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
    Instruction(
        "VQA",
        "answer {language} {input}",
        AnswerKind.TEXT,
        "The answer to your question about the image.",
        _PALIGEMMA,
        input="text",
        aliases=("ANSWER", "QUESTION"),
        family=PALIGEMMA,
        text_form="line",
    ),
    Instruction(
        "PROMPT",
        INPUT_SLOT,
        AnswerKind.TEXT,
        "The answer to a prompt of your own, both word for word.",
        "all checkpoints, each those prompts that it was trained with",
        input="text",
        aliases=("FREE_PROMPT", "CUSTOM"),
        family_prompts={PALIGEMMA: FamilyPrompt(INPUT_SLOT, AnswerKind.TEXT)},
    ),
)

# What comes nearest in the other family; said to those who ask for what theirs has not.
_INSTEAD = {
    PALIGEMMA: {
        "GENERATE_TAGS": "CAPTION",
        "DETAILED_CAPTION": "DESCRIBE",
        "MORE_DETAILED_CAPTION": "DESCRIBE",
        "MIXED_CAPTION": "LONG_PROMPT",
        "MIXED_CAPTION_PLUS": "LONG_PROMPT",
        "OCR_WITH_REGION": "OCR",
        "OD": "OPEN_VOCABULARY_DETECTION",
        "CAPTION_TO_PHRASE_GROUNDING": "OPEN_VOCABULARY_DETECTION",
        "REFERRING_EXPRESSION_SEGMENTATION": "OPEN_VOCABULARY_DETECTION",
        "DOCVQA": "VQA",
    },
    FLORENCE2: {"LONG_PROMPT": "MIXED_CAPTION", "DESCRIBE": "DETAILED_CAPTION", "VQA": "DOCVQA"},
}

INSTRUCTIONS: dict[str, Instruction] = {instruction.name: instruction for instruction in _TABLE}
"""Every known instruction by its name, in the order in which people should see them."""

_BY_ANY_NAME: dict[str, Instruction] = {
    name: instruction for instruction in _TABLE for name in (instruction.name, *instruction.aliases)
}


def find_instruction(name: str) -> Instruction:
    """Look up an instruction by name or alias, in any case, with or without ``<>``.

    Dashes and spaces count as underscores. A free prompt is no name: it is the text input of ``PROMPT``.

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

    One text goes to every instruction that takes one, and :func:`.prompts.build_prompt` leaves it out of the
    others; a text that none of them takes is a mistake worth telling. Whether a box in pixels is within the
    image is seen later, by that function, which knows the image.

    Raises:
        InstructionError: the text is missing, or nobody takes it, or it should be a region and is not, or it
            holds what stands for the picture.
    """
    instructions = tuple(instructions)
    takers = [instruction for instruction in instructions if instruction.needs_input]
    given = bool(text_input and text_input.strip())
    for taker in takers:
        if not given or (taker.text_form == "things" and not (text_input or "").strip(", ;\t\r\n")):
            raise InstructionError(missing_input(taker))
        if taker.family == PALIGEMMA and _PICTURE in (text_input or ""):
            raise InstructionError(
                f"the text input {_shorten(text_input or '')!r} holds {_PICTURE}. Leave it out: the picture"
                " is put before it."
            )
    if given and not takers:
        names = ", ".join(instruction.name for instruction in instructions)
        families = [family for one in instructions for family in one.families]
        able = ", ".join(
            name
            for name, instruction in INSTRUCTIONS.items()
            if instruction.needs_input and any(family in instruction.families for family in families)
        )
        raise InstructionError(
            f"the text input {_shorten(text_input or '')!r} has no use: {names} take none. Leave it out, or"
            f" ask for one of {able}."
        )
    if text_input and any(instruction.input == "region" for instruction in takers):
        from .region_prompts import split_regions

        split_regions(text_input)


def instructions_of(family: str) -> tuple[str, ...]:
    """The names of those that checkpoints of a family can be asked, in the table's order."""
    return tuple(name for name, instruction in INSTRUCTIONS.items() if family in instruction.families)


def missing_input(instruction: Instruction) -> str:
    """What to tell one who asks without the input that it takes."""
    if instruction.input == "region":
        return (
            f"{instruction.name} needs a region: a box x0,y0,x1,y1 in pixels or in fractions of the image"
            f" (0.1,0.2,0.5,0.9), or four location tokens (<loc_100><loc_200><loc_500><loc_900>)."
        )
    return f"{instruction.name} needs a text input: {instruction.summary[0].lower()}{instruction.summary[1:]}"


def _foreign(instruction: Instruction, family: str) -> str:
    """Why a checkpoint of ``family`` cannot be asked, and what it can."""
    theirs = " and ".join(FAMILY_NAMES.get(one, one) for one in instruction.families)
    message = (
        f"{instruction.name} is for {theirs}; {FAMILY_NAMES.get(family, family)} checkpoints have no such"
        f" instruction."
    )
    instead = _INSTEAD.get(family, {}).get(instruction.name)
    if instead:
        needs = INSTRUCTIONS[instead].needs_input and not instruction.needs_input
        message += f" Ask for {instead}{', with what you look for as text input' if needs else ''}."
    return f"{message} They know {', '.join(instructions_of(family))}."


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
