"""The node for what Florence-2 finds in a picture: boxes, outlines and text, and answers about regions."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .. import captioning
from ..captioning.instructions import FLORENCE2, instructions_of
from ..captioning.vision_options import DEFAULT_REGION_MODEL
from .inputs import (
    CATEGORY,
    PROMPTGEN_INSTRUCTIONS,
    checkpoint_input,
    generation_inputs,
    image_input,
    known_instructions,
    model_input,
    rows,
    shown,
    text_output,
)

_ELSEWHERE = (*PROMPTGEN_INSTRUCTIONS, "DOCVQA", "PROMPT")  # what other nodes ask
TASKS = [name for name in instructions_of(FLORENCE2) if name not in _ELSEWHERE]
TILING = ["off", "auto"]

BoundingBoxes = io.Custom("BOUNDING_BOX")  # core has it by name on newer hosts only


class PromptGenVision(io.ComfyNode):
    """Finds things, outlines and text in each image."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenVision",
            display_name="Florence-2 Vision Tasks",
            category=CATEGORY,
            description="Finds things in images with Florence-2: objects, phrases, outlines, text. Gives "
            "them as a mask, a drawing, boxes, cut-outs and JSON, for every frame of a batch.",
            is_input_list=True,
            is_output_node=True,
            inputs=[
                image_input(),
                checkpoint_input(DEFAULT_REGION_MODEL),
                io.Combo.Input(
                    "task",
                    options=TASKS,
                    default="OD",
                    tooltip="\n".join(f"{name}: {captioning.INSTRUCTIONS[name].summary}" for name in TASKS),
                ),
                io.String.Input(
                    "text_input",
                    multiline=True,
                    default="",
                    tooltip="What to look for: a caption for CAPTION_TO_PHRASE_GROUNDING, a phrase for "
                    "REFERRING_EXPRESSION_SEGMENTATION and OPEN_VOCABULARY_DETECTION. The other tasks do not "
                    "read it.",
                ),
                io.String.Input(
                    "select",
                    default="",
                    tooltip="Which of the things found to keep, by label or by number from 0, with commas "
                    "between: 'car, traffic light', '0, 2', '1-3', '-1' for the last. Empty or 'all': "
                    "everything.",
                ),
                io.Float.Input(
                    "threshold",
                    optional=True,
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Leave out what scores less; 0 leaves out nothing. A score says how sure the "
                    "model is, for comparing: 0.4 may be a good one.",
                ),
                *_optional_inputs(),
                *generation_inputs(),
                model_input(),
            ],
            outputs=[
                io.Image.Output(
                    "overlay",
                    display_name="overlay",
                    is_output_list=True,
                    tooltip="The image with outlines and labels drawn on it.",
                ),
                io.Mask.Output(
                    "mask",
                    display_name="mask",
                    is_output_list=True,
                    tooltip="One mask per frame with all that was found, of the image's size. Empty (0) "
                    "where nothing was.",
                ),
                io.Mask.Output(
                    "object_masks",
                    display_name="object masks",
                    is_output_list=True,
                    tooltip="A list with one mask for each thing found, in the order of 'crops'. If nothing "
                    "was found, what is connected does not run.",
                ),
                text_output(
                    "text",
                    is_output_list=True,
                    tooltip="The labels of what was found, or the answer of a task that answers in words. "
                    "One text per frame.",
                ),
                text_output(
                    "json",
                    is_output_list=True,
                    tooltip="Everything about the answer, as 'promptgen caption --format json' has it: "
                    "regions with label, box, outline and score, in pixels. One text per frame.",
                ),
                io.BBOX.Output(
                    "boxes",
                    display_name="boxes",
                    is_output_list=True,
                    tooltip="For each frame a list of boxes [left, top, right, bottom] in pixels, as "
                    "segment-anything packs take them. For a frame without any, what is connected does not "
                    "run.",
                ),
                BoundingBoxes.Output(
                    "bounding_boxes",
                    display_name="bounding boxes",
                    is_output_list=True,
                    tooltip="For each frame of a batch a list of x, y, width, height, label and score, as "
                    "newer versions of ComfyUI's own detection nodes give and take them.",
                ),
                io.Image.Output(
                    "crops",
                    display_name="crops",
                    is_output_list=True,
                    tooltip="A list with the cut-out of each thing found, frame by frame. If nothing was "
                    "found, what is connected does not run.",
                ),
                io.Int.Output(
                    "count",
                    display_name="count",
                    is_output_list=True,
                    tooltip="How many things were found, for each frame.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: Any = None, task: Any = None) -> bool | str:
        """See :meth:`.model.PromptGenModelLoader.validate_inputs`. A task may be any instruction that the
        engine knows: nodes of other packs, which this one replaces, had captions among their tasks."""
        return known_instructions([task] if isinstance(task, str) else task or ())

    @classmethod
    def execute(cls, **lists: list[Any]) -> Any:
        from .vision_work import Batch, see_all, with_their_frames

        # A list of switches would make holes in a list of objects: the first counts.
        per_object = (lists.pop("per_object", None) or [True])[0]
        lists = with_their_frames(lists)
        batches = [Batch.of(row) for row in (rows(lists) if lists.get("image") else [])]
        seen = see_all(batches, per_object=bool(per_object))
        return io.NodeOutput(*seen.outputs(), ui=shown(seen.shown))


def _optional_inputs() -> list[Any]:
    return [
        io.Boolean.Input(
            "scores",
            optional=True,
            default=False,
            tooltip="Say how sure the model is of each thing, from 0 to 1, also where 'threshold' is 0.",
        ),
        io.Int.Input(
            "max_regions",
            optional=True,
            default=0,
            min=0,
            max=1000,
            tooltip="Keep only so many, those of the highest scores; 0 keeps all.",
        ),
        io.Float.Input(
            "nms",
            optional=True,
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Of two boxes of one label that overlap more than this (intersection over union), keep "
            "the surer one. 1 keeps both.",
        ),
        io.Combo.Input(
            "tiling",
            options=TILING,
            optional=True,
            default=TILING[0],
            tooltip="auto: look at large images in overlapping tiles, too, which finds small things and "
            "small text. It takes as many times longer as there are tiles.",
        ),
        io.Int.Input(
            "tile_size",
            optional=True,
            default=0,
            min=0,
            max=16384,
            step=32,
            tooltip="With tiling: pixels of the image along a tile's side; 0 chooses by the image's size.",
        ),
        io.String.Input(
            "regions",
            optional=True,
            multiline=True,
            default="",
            tooltip="For REGION_TO_ tasks: boxes left,top,right,bottom in pixels or from 0 to 1, with ; "
            "between; or the JSON of an earlier result. Each is asked about.",
        ),
        io.Mask.Input(
            "region_mask",
            optional=True,
            tooltip="For REGION_TO_ tasks, instead of 'regions': each part of the mask is asked about.",
        ),
        io.Boolean.Input(
            "fill",
            optional=True,
            default=True,
            tooltip="Overlay: tint what is within the outlines.",
        ),
        io.Float.Input(
            "mask_grow",
            optional=True,
            default=0.0,
            min=-1024.0,
            max=1024.0,
            step=1.0,
            tooltip="Masks: add so many pixels all around; take away with a negative number.",
        ),
        io.Float.Input(
            "mask_feather",
            optional=True,
            default=0.0,
            min=0.0,
            max=512.0,
            step=1.0,
            tooltip="Masks: how much to blur the edges after growing: the blur's sigma in pixels. They "
            "become soft across about five times as many.",
        ),
        io.Int.Input(
            "crop_margin",
            optional=True,
            default=0,
            min=0,
            max=4096,
            tooltip="Crops: so many pixels more on each side, as far as the image goes.",
        ),
        io.Boolean.Input(
            "per_object",
            optional=True,
            default=True,
            display_name="object masks",
            tooltip="Make one mask for each thing found. Off: no memory for them, and what is connected to "
            "'object masks' does not run.",
        ),
    ]
