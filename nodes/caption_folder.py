"""The node that captions a folder of any size, as ``promptgen folder`` does."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .folders import CAPTION_EXTENSIONS
from .inputs import (
    CATEGORY,
    EXISTING,
    FORMS,
    SAME_STEM,
    checkpoint_input,
    generation_inputs,
    instruction_input,
    known_instructions,
    model_input,
    preset_input,
    sampling_inputs,
    shown,
    tag_inputs,
    text_output,
)

_MOST_ERRORS = 2**31 - 1


class PromptGenCaptionFolder(io.ComfyNode):
    """Captions for a folder of pictures, in a run that can be cancelled and goes on where it ended."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenCaptionFolder",
            display_name="Caption Image Folder",
            category=CATEGORY,
            description="Captions all images of a folder, ten or millions, and writes each caption the "
            "moment it exists. Cancel it at any time and queue it again: it goes on where it ended, and "
            "captions only images that are new or have changed.",
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="An absolute path, or the name of a folder in ComfyUI's input folder.",
                ),
                checkpoint_input(),
                instruction_input(),
                *_output_inputs(),
                *_folder_inputs(),
                *generation_inputs(),
                *sampling_inputs(seed_changes=False),
                *tag_inputs(),
                *_run_inputs(),
                model_input(),
            ],
            outputs=[
                text_output(
                    "report", tooltip="How the run ended, what went wrong, and where everything was written."
                ),
                _count_output("captioned", "Images that this run has captioned."),
                _count_output("failed", "Images without a caption, in this run or since an earlier one."),
                _count_output("left", "Images with captions of earlier runs, or that were to be kept."),
                _count_output("total", "All images of the folder: captioned, failed and left."),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: Any = None, instruction: Any = None) -> bool | str:
        """See :meth:`.model.PromptGenModelLoader.validate_inputs`."""
        return known_instructions([instruction])

    @classmethod
    def fingerprint_inputs(cls, folder: Any = None, **inputs: Any) -> Any:
        """Another one when there is something to do. What is wrong is said when the node runs."""
        from .folder_run import fingerprint

        return fingerprint({"folder": folder, **inputs})

    @classmethod
    def execute(cls, **inputs: Any) -> Any:
        from .folder_run import caption_folder

        told = caption_folder(inputs)
        return io.NodeOutput(
            told.text, told.captioned, told.failed, told.left, told.total, ui=shown([told.text])
        )


def _output_inputs() -> list[Any]:
    """Which captions come out, and where."""
    return [
        io.String.Input(
            "instructions",
            optional=True,
            default="",
            tooltip="To ask several at once, used instead of 'instruction' if not empty: "
            "'GENERATE_TAGS:tags, MORE_DETAILED_CAPTION:txt', each with the extension or column for its "
            "answers.",
        ),
        io.Combo.Input(
            "form",
            options=FORMS,
            optional=True,
            default=FORMS[0],
            tooltip="sidecar: a text file for each image. jsonl, csv, parquet: one table. kohya: "
            "metadata.json for sd-scripts. imagefolder: metadata.jsonl for Hugging Face datasets. "
            "webdataset: tar shards with the images.",
        ),
        io.Combo.Input(
            "extension",
            options=CAPTION_EXTENSIONS,
            optional=True,
            default=CAPTION_EXTENSIONS[0],
            tooltip="Of caption files (form sidecar).",
        ),
        io.String.Input(
            "output_folder",
            optional=True,
            default="",
            tooltip="Where everything is written; made if it is not there. Caption files lie in folders "
            "like those of the images. One that is not absolute is looked for in ComfyUI's input folder, "
            "then made in its output folder. Empty: caption files lie beside the images, other forms in "
            "'folder'.",
        ),
        io.Combo.Input(
            "existing",
            options=EXISTING,
            optional=True,
            default=EXISTING[0],
            tooltip="Captions that are there and not of these runs: skip keeps them and leaves the image "
            "out, overwrite replaces them, append and prepend put the new text after or before the old one.",
        ),
        io.String.Input(
            "separator",
            optional=True,
            default=", ",
            tooltip="Between captions that share a file; \\n is a line break.",
        ),
        io.Combo.Input(
            "same_stem",
            options=SAME_STEM,
            optional=True,
            default=SAME_STEM[0],
            tooltip="If two images differ in the extension alone, as a.jpg and a.png do, and so ask for one "
            "file: error does not start, full-name calls all files like a.jpg.txt, first leaves the others "
            "out.",
        ),
        io.Boolean.Input(
            "redo_damaged",
            optional=True,
            default=False,
            tooltip="Caption anew where a caption file is empty or damaged. Off: it is reported and left.",
        ),
    ]


def _folder_inputs() -> list[Any]:
    """Which pictures."""
    return [
        io.Boolean.Input(
            "recursive",
            optional=True,
            default=True,
            tooltip="Look into the folders below, too; hidden ones are left out.",
        ),
        io.String.Input(
            "pattern",
            optional=True,
            default="",
            tooltip="Only files with such names, as '*.png' or 'cat*'; with a slash, such paths below the "
            "folder. Empty: all images.",
        ),
    ]


def _run_inputs() -> list[Any]:
    """How the run goes."""
    return [
        io.Int.Input(
            "max_errors",
            optional=True,
            default=-1,
            min=-1,
            max=_MOST_ERRORS,
            tooltip="Stop with an error when more images than this have failed; -1: never. What is done is "
            "kept.",
        ),
        io.Boolean.Input(
            "retry_errors",
            optional=True,
            default=False,
            tooltip="Try again what failed before, though it has not changed.",
        ),
        io.Boolean.Input(
            "report_page",
            optional=True,
            default=False,
            tooltip="At the end, write report.html with counts, lengths, frequent tags, errors and a sample "
            "of images with their captions.",
        ),
        io.Boolean.Input(
            "restart",
            optional=True,
            default=False,
            tooltip="Forget what earlier runs have done, but not their captions: those count as there, and "
            "'existing' says what becomes of them. Off: go on where the last run ended.",
        ),
        preset_input(),
    ]


def _count_output(name: str, tooltip: str) -> Any:
    return io.Int.Output(name, display_name=name, tooltip=tooltip)
