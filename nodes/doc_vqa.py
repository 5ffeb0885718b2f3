"""The node that answers questions about documents."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .inputs import (
    CATEGORY,
    checkpoint_input,
    generation_inputs,
    image_input,
    model_input,
    require_texts,
    rows,
    shown,
    text_output,
)

DOCUMENT_CHECKPOINT = "Florence-2-DocVQA"


class PromptGenDocVQA(io.ComfyNode):
    """An answer for each image."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenDocVQA",
            display_name="Florence-2 Document Question",
            category=CATEGORY,
            description="Answers a question about a document, a receipt or a form. Every image of a batch or "
            "list gets its own answer.",
            is_input_list=True,
            is_output_node=True,
            inputs=[
                image_input(),
                checkpoint_input(DOCUMENT_CHECKPOINT),
                io.String.Input(
                    "question",
                    multiline=True,
                    default="",
                    tooltip="What to find out, for example 'What is the total amount?' A list of questions "
                    "goes with a list of images one by one.",
                ),
                *generation_inputs(),
                model_input(),
            ],
            outputs=[
                text_output("answer", is_output_list=True, tooltip="The answer, one text per image."),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: Any = None) -> bool:
        """See :meth:`.model.PromptGenModelLoader.validate_inputs`."""
        return True

    @classmethod
    def execute(cls, **lists: list[Any]) -> Any:
        from .vision_work import VisionSettings, not_trained
        from .work import Work, caption_all

        work = []
        for row in rows(lists) if lists.get("image") else []:
            image, question = row.pop("image", None), row.pop("question", None)
            require_texts(question=question)
            if not question.strip():
                raise ValueError("There is no question. Write one, such as: What is the total amount?")
            settings = VisionSettings(text_input=question, **{"checkpoint": DOCUMENT_CHECKPOINT, **row})
            work.append(Work(image, ("DOCVQA",), settings))
        texts = [answer.text for (answer,) in caption_all(work)]
        note = not_trained(work[0].settings.choice, "DOCVQA")
        return io.NodeOutput(texts, ui=shown(f"{note}\n\n{text}" if note else text for text in texts))
