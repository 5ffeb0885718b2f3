"""The node that writes captions to files beside their images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from comfy_api.latest import io

from .folders import CAPTION_EXTENSIONS, folder_to_write, require_extension
from .inputs import CATEGORY, EXISTING, SAME_STEM, require_texts, shown, text_output

SEPARATOR = ", "


class PromptGenSaveCaptions(io.ComfyNode):
    """Caption files, one for each image."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenSaveCaptions",
            display_name="Save Captions",
            category=CATEGORY,
            description="Writes each caption to a text file that is called after its image. Takes the texts "
            "of any node; one text alone is written for every image.",
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "captions",
                    multiline=True,
                    default="",
                    tooltip="One text per image, in the order of the file names, or one for all.",
                ),
                io.String.Input(
                    "filenames",
                    force_input=True,
                    tooltip="The images' file names, from Load Image Folder or any node that gives a list of "
                    "names or absolute paths.",
                ),
                io.String.Input(
                    "folder",
                    optional=True,
                    default="",
                    tooltip="Where the file names begin: connect the folder of Load Image Folder, and "
                    "captions lie beside their images; or name a folder of their own, which is made if need "
                    "be. One that is not absolute is looked for in ComfyUI's input folder, then made in its "
                    "output folder. Empty: beside the images, whose names are then absolute paths.",
                ),
                io.Combo.Input(
                    "mode",
                    options=EXISTING,
                    optional=True,
                    default=EXISTING[0],
                    tooltip="If an image has a caption file: skip keeps it as it is, overwrite replaces it, "
                    "append and prepend put the new text after or before the old one.",
                ),
                io.String.Input(
                    "separator",
                    optional=True,
                    default=SEPARATOR,
                    tooltip="Between the old and the new text, for append and prepend; \\n is a line break.",
                ),
                io.Combo.Input(
                    "extension",
                    options=CAPTION_EXTENSIONS,
                    optional=True,
                    default=CAPTION_EXTENSIONS[0],
                    tooltip="Of the caption files.",
                ),
                io.Combo.Input(
                    "same_stem",
                    options=SAME_STEM,
                    optional=True,
                    default=SAME_STEM[0],
                    tooltip="If two images in a folder differ in the extension alone, as a.jpg and a.png do, "
                    "and so ask for one file, whether both are given here or not: error writes nothing, "
                    "full-name calls all files like a.jpg.txt, first gives the file to the first by name.",
                ),
            ],
            outputs=[
                text_output(
                    "saved_captions",
                    is_output_list=True,
                    tooltip="The texts as they came, one per file name.",
                ),
                text_output(
                    "paths",
                    is_output_list=True,
                    tooltip="The caption files that were written, as absolute paths.",
                ),
            ],
        )

    @classmethod
    def execute(cls, **lists: list[Any]) -> Any:
        from .caption_files import CaptionFiles, SaveOptions

        captions = _texts("captions", lists.get("captions"))
        names = _texts("filenames", lists.get("filenames"))
        captions = one_for_each(captions, names)
        # The settings are one for all files: of a list, the first counts.
        settings = {name: values[0] for name, values in lists.items() if values and values[0] is not None}
        options = SaveOptions(
            folder=folder_to_write(settings.get("folder", "")),
            existing=settings.get("mode", "skip"),
            separator=settings.get("separator", SEPARATOR),
            extension=require_extension(settings.get("extension", CAPTION_EXTENSIONS[0])),
            same_stem=settings.get("same_stem", "error"),
        )
        saved = CaptionFiles(options).save(names, captions)
        return io.NodeOutput(captions, saved.written, ui=shown([saved.summary()]))


def one_for_each(captions: list[str], names: list[str]) -> list[str]:
    """The caption of each file name.

    Raises:
        ValueError: there are others than one for each, or one for all.
    """
    if not names:
        raise ValueError("The list of file names is empty. Look at the node that makes it.")
    if len(captions) == 1:
        return captions * len(names)
    if len(captions) != len(names):
        raise ValueError(
            f"There are {len(captions)} captions and {len(names)} file names. Connect one caption for each "
            "file name, or a single one for all."
        )
    return captions


def _texts(name: str, values: Iterable[Any] | None) -> list[str]:
    """The texts of a list input; some nodes give a list as a single value.

    Raises:
        ValueError: one is no text.
    """
    texts: list[str] = []
    for value in values or ():
        for text in value if isinstance(value, (list, tuple)) else [value]:
            require_texts(**{name: text})
            texts.append(text)
    return texts
