"""The node that asks a caption server, which may run on another computer."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .. import captioning
from .inputs import (
    CATEGORY,
    generation_inputs,
    image_input,
    instruction_input,
    known_instructions,
    preset_input,
    rows,
    sampling_inputs,
    shown,
    tag_inputs,
    text_output,
)
from .long_prompt import with_notes

DEFAULT_URL = "http://127.0.0.1:54880"


class PromptGenRemoteTagger(io.ComfyNode):
    """What the Tagger does, done by ``promptgen serve``. No model is loaded here."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenRemoteTagger",
            display_name="PromptGen Remote Tagger",
            category=CATEGORY,
            description="Tags or captions images on a caption server ('promptgen serve'), on another GPU or "
            "another computer, with the texts that PromptGen Tagger gives. No model is loaded here.",
            is_input_list=True,
            is_output_node=True,
            inputs=[
                image_input(),
                io.String.Input(
                    "url",
                    default=DEFAULT_URL,
                    tooltip="Where the server listens. Your images are sent there: look at it before you run "
                    "a workflow that you did not make. Empty: the environment variable PROMPTGEN_URL.",
                ),
                instruction_input(tuple(captioning.INSTRUCTIONS)),
                io.String.Input(
                    "checkpoint",
                    optional=True,
                    default="",
                    tooltip="Which of the server's models to use, by name. Empty: its first.",
                ),
                *generation_inputs(),
                *sampling_inputs(),
                *tag_inputs(),
                io.String.Input(
                    "text_input",
                    optional=True,
                    default="",
                    tooltip="For instructions about something that you name: a caption for "
                    "CAPTION_TO_PHRASE_GROUNDING, a box left,top,right,bottom for REGION_TO_ ones, a "
                    "question for DOCVQA. The others do not read it.",
                ),
                io.Int.Input(
                    "timeout",
                    optional=True,
                    default=300,
                    min=1,
                    max=3600,
                    tooltip="How many seconds to wait for the answer to a request. The server has a limit of "
                    "its own, too.",
                ),
                io.String.Input(
                    "api_key",
                    optional=True,
                    default="",
                    force_input=True,
                    tooltip="The server's key, if it wants one. Better set the environment variable "
                    "PROMPTGEN_API_KEY: what stands in a workflow is saved with it, and with every image. If "
                    "connected, it is used instead.",
                ),
                preset_input(),
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
                text_output(
                    "json",
                    is_output_list=True,
                    tooltip="Everything about the answer, as 'promptgen caption --format json' has it, with "
                    "regions. One text per image.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, instruction: Any = None) -> bool | str:
        """See :meth:`.caption.PromptGenTagger.validate_inputs`."""
        return known_instructions([instruction] if isinstance(instruction, str) else instruction or ())

    @classmethod
    def execute(cls, **lists: list[Any]) -> Any:
        from .remote_work import Question, Work, caption_remotely, json_of, tags_of

        inputs = [one for one in cls.define_schema().inputs if one.id != "image"]
        work = []
        for row in rows(lists) if lists.get("image") else []:
            work.append(Work(row.pop("image", None), Question.of(row, inputs)))
        answers = caption_remotely(work)
        texts = [answer.results[0]["text"] for answer in answers]
        tags, records = [tags_of(answer) for answer in answers], [json_of(answer) for answer in answers]
        told = with_notes("PromptGen Remote Tagger", texts, [answer.results[0] for answer in answers])
        return io.NodeOutput(texts, tags, records, ui=shown(told))
