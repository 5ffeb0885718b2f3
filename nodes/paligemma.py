"""The node that captions with a PaliGemma, as the published long-prompt script does."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..captioning.instructions import PALIGEMMA, instructions_of
from .inputs import (
    CATEGORY,
    checkpoint_input,
    image_input,
    instruction_input,
    known_instructions,
    model_input,
    quantization_input,
    require_texts,
    rows,
    sampling_inputs,
    shown,
    text_output,
)
from .limits import MOST_BEAMS, MOST_NEW_TOKENS
from .long_prompt import AUTO, LONG_PROMPT, NONE, LongPromptSettings, with_notes

PALIGEMMA_CHECKPOINT = "paligemma-longprompt-v1-safetensors"
PALIGEMMA_INSTRUCTIONS = tuple(dict.fromkeys(["LONG_PROMPT", *instructions_of(PALIGEMMA)]))
_FIRST = LongPromptSettings()  # what the inputs of a new node hold


class PromptGenPaliGemma(io.ComfyNode):
    """A long prompt, a caption or an answer for each image."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenPaliGemma",
            display_name="PaliGemma Captioner",
            category=CATEGORY,
            description="Captions images with a PaliGemma: long prompts of tags and prose for Flux, captions "
            "in many languages, answers to questions. Every image of a batch or list gets its own text.",
            is_input_list=True,
            is_output_node=True,
            inputs=[
                image_input(),
                checkpoint_input(
                    PALIGEMMA_CHECKPOINT,
                    family=PALIGEMMA,
                    tooltip="Which PaliGemma to use. It is downloaded at first use, to models/LLM: about "
                    "11 GB, however few bits are chosen below. Folders there and in models/florence2 are "
                    "offered as well.",
                ),
                instruction_input(PALIGEMMA_INSTRUCTIONS),
                *_question_inputs(),
                quantization_input(),
                *_generation_inputs(),
                io.Combo.Input(
                    "preset",
                    options=[AUTO, LONG_PROMPT, NONE],
                    optional=True,
                    default=AUTO,
                    tooltip="Whether the inputs from do_sample on count, which begin with the settings of "
                    "the published long-prompt script. auto: with LONG_PROMPT they do. long-prompt: with "
                    "every instruction. none: with no instruction; the answer is the most likely one, as "
                    "the model writes it.",
                ),
                *sampling_inputs(
                    do_sample=_FIRST.do_sample,
                    temperature=_FIRST.temperature,
                    top_k=_FIRST.top_k,
                    top_p=_FIRST.top_p,
                ),
                *_penalty_inputs(),
                *_retry_inputs(),
                *_cleaning_inputs(),
                model_input(),
            ],
            outputs=[
                text_output(
                    "caption", is_output_list=True, tooltip="The answer to the instruction, one per image."
                ),
                text_output(
                    "prose",
                    is_output_list=True,
                    tooltip="The prose of a long prompt, for T5-XXL; of another answer in words all of it. "
                    "One text per image.",
                ),
                text_output(
                    "tags",
                    is_output_list=True,
                    tooltip="The tags of a long prompt, for CLIP-L; empty where the answer has none. One "
                    "text per image.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: Any = None, instruction: Any = None) -> bool | str:
        """See :meth:`.caption.PromptGenTagger.validate_inputs`."""
        return known_instructions([instruction] if isinstance(instruction, str) else instruction or ())

    @classmethod
    def execute(cls, **lists: list[Any]) -> Any:
        from .paligemma_work import PaliGemmaSettings, parts_of
        from .work import Work, caption_all

        work = []
        for row in rows(lists) if lists.get("image") else []:
            image, instruction = row.pop("image", None), row.pop("instruction", None)
            require_texts(instruction=instruction)
            work.append(Work(image, (instruction,), PaliGemmaSettings(instruction=instruction, **row)))
        results = [answer for (answer,) in caption_all(work)]
        texts = [result.text for result in results]
        prose, tags = zip(*map(parts_of, results), strict=True)
        told = with_notes("PaliGemma Captioner", texts, [result.to_dict() for result in results])
        return io.NodeOutput(texts, list(prose), list(tags), ui=shown(told))


def _question_inputs() -> list[Any]:
    """What the instruction is about, and in which language it is answered."""
    return [
        io.String.Input(
            "text_input",
            optional=True,
            multiline=True,
            default="",
            tooltip="VQA: the question. OPEN_VOCABULARY_DETECTION: what to look for, with ; between. PROMPT: "
            "what the model is given, word for word. The other instructions do not read it.",
        ),
        io.String.Input(
            "language",
            optional=True,
            default="en",
            tooltip="Of the answers to CAPTION, DESCRIBE and VQA, as two letters: en, de, es, fr, it, ja, "
            "zh ... Which ones a checkpoint knows depends on its training. The other instructions do not "
            "read it.",
        ),
    ]


def _generation_inputs() -> list[Any]:
    """How much work an answer may be."""
    return [
        io.Int.Input(
            "num_beams",
            optional=True,
            default=_FIRST.num_beams,
            min=1,
            max=MOST_BEAMS,
            tooltip="How many candidates the search keeps. 1 is fastest, and what PaliGemmas are used with.",
        ),
        io.Int.Input(
            "max_new_tokens",
            optional=True,
            default=_FIRST.max_new_tokens,
            min=1,
            max=MOST_NEW_TOKENS,
            tooltip="Cut an answer off after so many tokens. Long prompts are often longer than this.",
        ),
    ]


def _penalty_inputs() -> list[Any]:
    """Against repetition."""
    return [
        io.Int.Input(
            "no_repeat_ngram_size",
            optional=True,
            default=_FIRST.no_repeat_ngram_size,
            min=0,
            max=100,
            tooltip="So many tokens in a row never occur twice in an answer; 0: anything may be repeated.",
        ),
        io.Float.Input(
            "repetition_penalty",
            optional=True,
            default=_FIRST.repetition_penalty,
            min=0.05,
            max=10.0,
            step=0.05,
            tooltip="Above 1: words that were there are less likely to come again; 1 is no penalty.",
        ),
    ]


def _retry_inputs() -> list[Any]:
    """Asking again."""
    return [
        io.Int.Input(
            "retries",
            optional=True,
            default=_FIRST.retries,
            min=0,
            max=100,
            tooltip="Ask again, at most so many times and each time with another seed, while an answer is "
            "too short or holds a word of retry_words. If none will do, the last one is kept, and the node "
            "says so. Acts only with do_sample.",
        ),
        io.Int.Input(
            "min_words",
            optional=True,
            default=_FIRST.min_words,
            min=0,
            max=1000,
            tooltip="An answer of fewer words is asked for again; 0: none is too short.",
        ),
        io.String.Input(
            "retry_words",
            optional=True,
            default=_FIRST.retry_words,
            tooltip="An answer with one of these words, separated by commas, is asked for again.",
        ),
    ]


def _cleaning_inputs() -> list[Any]:
    """Tidying up answers; ids are those of ``captioning.CleaningOptions``."""
    return [
        io.Boolean.Input(
            "complete_sentences",
            optional=True,
            default=_FIRST.complete_sentences,
            tooltip="Cut an answer that breaks off back to its last full stop or comma, whichever comes "
            "later; a comma after a full stop becomes one. With neither, only its last word goes.",
        ),
        io.String.Input(
            "remove_characters",
            optional=True,
            default=_FIRST.remove_characters,
            tooltip="Take each of these characters out, but not those within a tag (fate/zero) or of a "
            "face (;d).",
        ),
        io.String.Input(
            "remove_brackets",
            optional=True,
            default=_FIRST.remove_brackets,
            tooltip="Pairs of brackets that are taken out with all that is between them.",
        ),
        io.Int.Input(
            "max_word_length",
            optional=True,
            default=_FIRST.max_word_length,
            min=0,
            max=1000,
            tooltip="Take out words with more letters or digits in a row than this; underscores and hyphens "
            "end a row. 0: none is too long.",
        ),
        io.Boolean.Input(
            "drop_underscored",
            optional=True,
            default=_FIRST.drop_underscored,
            tooltip="Take out words with an underscore, such as blue_sky.",
        ),
    ]
