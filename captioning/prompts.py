"""From an instruction and what the user gave with it to the literal prompt that the tokenizer gets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from .errors import InstructionError
from .instructions import (
    FAMILY_NAMES,
    INPUT_SLOT,
    INSTRUCTIONS,
    LANGUAGE_SLOT,
    Instruction,
    TextForm,
    missing_input,
)

__all__ = ["DEFAULT_LANGUAGE", "build_prompt", "build_prompts", "check_language"]

DEFAULT_LANGUAGE = "en"

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]{2,4})?", re.IGNORECASE)


def check_language(
    instructions: Iterable[Instruction],
    language: str | None,
    entry_prompts: Mapping[str, str] | None = None,
) -> None:
    """Check before any image is opened that a language can be asked for, and that it is one.

    One language goes to every instruction whose prompt names one, and to no other. Which languages a
    checkpoint was trained on nobody tells.

    Args:
        instructions: as the checkpoint's family has them.
        language: a code such as ``de``; None is English.
        entry_prompts: see :func:`build_prompt`.

    Raises:
        InstructionError: it is no code, or no instruction is asked in a language.
    """
    if language is None:
        return
    if not _LANGUAGE.fullmatch(language.strip()):
        raise InstructionError(
            f"the language {language!r} is no code; write two or three letters, such as en, de, fr or zh."
        )
    instructions = tuple(instructions)
    prompts = [_literal(instruction, entry_prompts) for instruction in instructions]
    if _code(language) == DEFAULT_LANGUAGE or any(LANGUAGE_SLOT in prompt for prompt in prompts):
        return
    names = ", ".join(instruction.name for instruction in instructions)
    families = " and ".join(dict.fromkeys(FAMILY_NAMES.get(one.family, one.family) for one in instructions))
    able = ", ".join(
        name
        for name, one in INSTRUCTIONS.items()
        if any(LANGUAGE_SLOT in one.for_family(family).prompt for family in one.families)
    )
    raise InstructionError(
        f"the language {language!r} has no use: {names} of {families} is not asked in a language. Leave it"
        f" out, or ask a {FAMILY_NAMES['paligemma']} checkpoint for one of {able}."
    )


def build_prompts(
    instruction: Instruction,
    text_input: str | None = None,
    entry_prompts: Mapping[str, str] | None = None,
    image_size: tuple[int, int] | None = None,
    language: str | None = None,
) -> tuple[str, ...]:
    """The literal prompts for the tokenizer: one, or one for each region that the text input holds.

    See :func:`build_prompt`, and :func:`promptgen.captioning.region_prompts.split_regions` for how several
    regions are written.
    """
    if instruction.input != "region" or not (text_input and text_input.strip()):
        return (build_prompt(instruction, text_input, entry_prompts, image_size, language),)
    from .region_prompts import split_regions

    regions = split_regions(text_input)
    return tuple(build_prompt(instruction, region, entry_prompts, image_size, language) for region in regions)


def build_prompt(
    instruction: Instruction,
    text_input: str | None = None,
    entry_prompts: Mapping[str, str] | None = None,
    image_size: tuple[int, int] | None = None,
    language: str | None = None,
) -> str:
    """The literal prompt for the tokenizer.

    Args:
        instruction: what is asked, as the checkpoint's family has it.
        text_input: the text or region, for an instruction that takes one (others ignore it, see
            :func:`.instructions.check_text_input`). It is stripped of surrounding white space; questions
            become one line; of things to find, which stand in lines or have ``;`` or else commas between
            them, it makes the list that the family reads. A region is four ``<loc_…>`` tokens, or a box
            ``x0,y0,x1,y1`` in pixels of the original image or in fractions of it, see
            :func:`promptgen.captioning.regions.region_tokens`.
        entry_prompts: literal prompts by instruction name that a checkpoint wants instead of the usual ones.
        image_size: ``(width, height)`` of the original image; needed only for a region in numbers.
        language: the code of the language to answer in, for prompts that name one; None is English.

    Raises:
        InstructionError: the input is missing or cannot be read, or the checkpoint's prompt has no place
        for it.
    """
    prompt = _literal(instruction, entry_prompts).replace(LANGUAGE_SLOT, _code(language or DEFAULT_LANGUAGE))
    if not instruction.needs_input:
        return prompt
    text = _FORMS[instruction.text_form](text_input or "")
    if not text:
        raise InstructionError(missing_input(instruction))
    if INPUT_SLOT not in prompt:
        raise InstructionError(
            f"the model's catalogue entry gives the prompt {prompt!r} for {instruction.name}, which has no"
            f" {INPUT_SLOT} for the text to go to; add it to the entry."
        )
    if instruction.input == "region":
        from .regions import region_tokens

        text = region_tokens(text, image_size)
    return prompt.replace(INPUT_SLOT, text)


def _literal(instruction: Instruction, entry_prompts: Mapping[str, str] | None) -> str:
    return (entry_prompts or {}).get(instruction.name, instruction.prompt)


def _code(language: str) -> str:
    return language.strip().lower()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _things(text: str) -> str:
    """Things with ``;`` between them, as PaliGemma reads them. A comma is part of a name where ``;`` or line
    breaks stand between the things."""
    between = r"[;\n]" if re.search(r"[;\n]", text.strip()) else ","
    things = (_one_line(thing).strip(", ") for thing in re.split(between, text.strip()))
    return " ; ".join(thing for thing in things if thing)


_FORMS: Mapping[TextForm, Callable[[str], str]] = {"kept": str.strip, "line": _one_line, "things": _things}
