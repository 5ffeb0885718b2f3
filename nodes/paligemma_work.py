"""What the PaliGemma node does when it runs: its inputs to options, answers to texts.

Apart from the node's schema because it needs the engine, and ComfyUI's start must not.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..captioning import (
    Caption,
    CaptionOptions,
    CleaningOptions,
    GenerationOptions,
    Mixed,
    OcrText,
    Result,
    RetryOptions,
    find_instruction,
)
from ..captioning.instructions import LANGUAGE_SLOT, PALIGEMMA, Instruction
from .inputs import require_texts
from .long_prompt import AUTO, LONG_PROMPT, NONE, LongPromptSettings
from .model import ModelChoice
from .paligemma import PALIGEMMA_CHECKPOINT
from .work import Settings, tags_of


@dataclass(frozen=True)
class PaliGemmaSettings(LongPromptSettings, Settings):
    """Everything but the picture, as the node has it. The defaults are the node's."""

    instruction: str = "LONG_PROMPT"
    checkpoint: str = PALIGEMMA_CHECKPOINT
    quantization: str = "none"
    text_input: str = ""
    language: str = "en"
    preset: str = AUTO
    seed: int = 0

    @property
    def choice(self) -> ModelChoice:
        """See :meth:`.work.Settings.choice`."""
        if self.model is not None:
            return super().choice
        return ModelChoice(self.checkpoint, quantization=self.quantization)

    def options(self) -> CaptionOptions:
        """See :meth:`.work.Settings.options`."""
        require_texts(
            checkpoint=self.checkpoint,
            text_input=self.text_input,
            language=self.language,
            retry_words=self.retry_words,
            remove_characters=self.remove_characters,
            remove_brackets=self.remove_brackets,
        )
        instruction = find_instruction(self.instruction)
        if self.preset not in (AUTO, LONG_PROMPT, NONE):
            raise ValueError(f"preset is {self.preset!r}; it takes {AUTO}, {LONG_PROMPT} or {NONE}.")
        if instruction.needs_input and not self.text_input.strip():
            raise ValueError(
                f"{instruction.name} needs a text. Write into 'text_input' what it is about: "
                f"{instruction.summary[0].lower()}{instruction.summary[1:]}"
            )
        options = CaptionOptions(
            generation=GenerationOptions(
                num_beams=self.num_beams, max_new_tokens=self.max_new_tokens, do_sample=False
            ),
            text_input=self.text_input if instruction.needs_input else None,
            language=self._language(instruction),
        )
        if self.preset == NONE or (self.preset == AUTO and instruction.name != "LONG_PROMPT"):
            return options
        return dataclasses.replace(
            options, generation=self._generation(), cleaning=self._cleaning(), retries=self._retries()
        )

    def _language(self, instruction: Instruction) -> str | None:
        """That of the answer. As a text input, it stays as it is while instructions are chosen that take
        none."""
        if LANGUAGE_SLOT not in instruction.for_family(PALIGEMMA).prompt:
            return None
        return self.language.strip() or None

    def _generation(self) -> GenerationOptions:
        return GenerationOptions(
            num_beams=self.num_beams,
            max_new_tokens=self.max_new_tokens,
            do_sample=self.do_sample,
            temperature=float(self.temperature),
            top_k=self.top_k,
            top_p=float(self.top_p),
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            repetition_penalty=float(self.repetition_penalty),
            seed=self.seed,
        )

    def _cleaning(self) -> CleaningOptions:
        return CleaningOptions(
            complete_sentences=self.complete_sentences,
            remove_characters=self.remove_characters,
            remove_brackets=self.remove_brackets,
            max_word_length=self.max_word_length or None,
            drop_underscored=self.drop_underscored,
        )

    def _retries(self) -> RetryOptions:
        # Without sampling the same would be answered again.
        return RetryOptions(
            limit=self.retries if self.do_sample else 0,
            min_words=self.min_words,
            retry_words=self.retry_words,
        )


def parts_of(result: Result) -> tuple[str, str]:
    """The prose and the tags of an answer. In the prose of what has no parts is all that it says in words."""
    if isinstance(result, Mixed):
        return result.prose, tags_of(result)
    return (result.text if isinstance(result, (Caption, OcrText)) else ""), tags_of(result)
