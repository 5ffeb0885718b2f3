"""The nodes that caption: one instruction, or all of them at once."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from .. import captioning
from .inputs import (
    CATEGORY,
    checkpoint_input,
    generation_inputs,
    headed,
    image_input,
    instruction_input,
    known_instructions,
    model_input,
    require_texts,
    rows,
    sampling_inputs,
    shown,
    tag_inputs,
    text_output,
)

# Output -> instruction; its switch is called want_OUTPUT.
ANSWERS = {
    "tags": "GENERATE_TAGS",
    "caption": "CAPTION",
    "detailed": "DETAILED_CAPTION",
    "more_detailed": "MORE_DETAILED_CAPTION",
    "mixed": "MIXED_CAPTION",
    "analysis": "ANALYZE",
}


class PromptGenTagger(io.ComfyNode):
    """Tags or a caption for each image."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenTagger",
            display_name="PromptGen Tagger",
            category=CATEGORY,
            description="Tags or captions images with Florence-2 PromptGen and shows the text on the node. "
            "Every image of a batch or list gets its own text.",
            is_input_list=True,
            is_output_node=True,
            inputs=[
                image_input(),
                checkpoint_input(),
                instruction_input(),
                *generation_inputs(),
                *sampling_inputs(),
                *tag_inputs(),
                model_input(),
            ],
            outputs=[
                text_output(
                    "caption", is_output_list=True, tooltip="The answer to the instruction, one per image."
                ),
                text_output(
                    "tags",
                    is_output_list=True,
                    tooltip="The tags of GENERATE_TAGS and of mixed captions, one text per image; empty for "
                    "instructions that give no tags.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: Any = None, instruction: Any = None) -> bool | str:
        """See :meth:`.model.PromptGenModelLoader.validate_inputs`. An instruction may have any name by which
        the engine knows it, as those that replaced nodes of other packs had."""
        return known_instructions([instruction] if isinstance(instruction, str) else instruction or ())

    @classmethod
    def execute(cls, **lists: list[Any]) -> Any:
        from .work import CaptionSettings, Work, caption_all, tags_of

        work = []
        for row in rows(lists) if lists.get("image") else []:
            image, instruction = row.pop("image", None), row.pop("instruction", None)
            require_texts(instruction=instruction)
            work.append(Work(image, (instruction,), CaptionSettings(**row)))
        results = [answer for (answer,) in caption_all(work)]
        texts = [result.text for result in results]
        return io.NodeOutput(texts, [tags_of(result) for result in results], ui=shown(texts))


class PromptGenCaptions(io.ComfyNode):
    """Several answers about each image for little more than the price of the longest."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenCaptions",
            display_name="PromptGen Captions (all at once)",
            category=CATEGORY,
            description="Several captions of each image in one go: the image is looked at once, and all "
            "answers are written together. Switch off what you do not need; it is not generated.",
            is_input_list=True,
            is_output_node=True,
            inputs=[
                image_input(),
                checkpoint_input(),
                *(
                    io.Boolean.Input(
                        f"want_{name}",
                        display_name=name.replace("_", " "),
                        optional=True,
                        default=True,
                        tooltip=f"{captioning.INSTRUCTIONS[instruction].summary} ({instruction}) Off: not "
                        "generated, and what is connected to this output does not run.",
                    )
                    for name, instruction in ANSWERS.items()
                ),
                *generation_inputs(),
                model_input(),
            ],
            outputs=[
                text_output(
                    name,
                    is_output_list=True,
                    tooltip=f"{captioning.INSTRUCTIONS[instruction].summary} One text per image.",
                )
                for name, instruction in ANSWERS.items()
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: Any = None) -> bool:
        """See :meth:`.model.PromptGenModelLoader.validate_inputs`."""
        return True

    @classmethod
    def execute(cls, **lists: list[Any]) -> Any:
        from .work import CaptionSettings, Work, caption_all

        # The switches decide about outputs, which a list of switches cannot do one by one: the first counts.
        wanted = [name for name in ANSWERS if (lists.pop(f"want_{name}", None) or [True])[0]]
        if not wanted:
            raise ValueError(f"All answers are switched off. Switch on at least one of {', '.join(ANSWERS)}.")
        instructions = tuple(ANSWERS[name] for name in wanted)
        work = []
        for row in rows(lists) if lists.get("image") else []:
            work.append(Work(row.pop("image", None), instructions, CaptionSettings(**row)))
        results = caption_all(work)
        texts = {name: [answers[place].text for answers in results] for place, name in enumerate(wanted)}
        together = [
            headed({name: answer.text for name, answer in zip(wanted, answers, strict=True)})
            for answers in results
        ]
        return io.NodeOutput(
            *(texts[name] if name in texts else _blocker(name) for name in ANSWERS), ui=shown(together)
        )


def _blocker(name: str) -> Any:
    return ExecutionBlocker(
        f"the {name.replace('_', ' ')} answer of PromptGen Captions is switched off. Switch it on, or "
        "disconnect what hangs on it."
    )
