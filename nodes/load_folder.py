"""The node that loads the pictures of a folder, a page at a time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .folders import CAPTION_EXTENSIONS, SHOWN, folder_to_read, printable
from .inputs import CATEGORY, ORDERS, require_texts, shown, text_output

if TYPE_CHECKING:
    from .folder_pictures import Page, PageOptions

logger = logging.getLogger(__name__)

NO_CAPTIONS = "none"

_LARGEST = 2**31 - 1


class PromptGenLoadFolder(io.ComfyNode):
    """The pictures of a folder, each in its own size, with their names and captions."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenLoadFolder",
            display_name="Load Image Folder",
            category=CATEGORY,
            description="Loads the images of a folder as a list, each in its own size, with their names and "
            "the captions that lie beside them. For more than memory holds, go on page by page, or use "
            "Caption Image Folder.",
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="An absolute path, or the name of a folder in ComfyUI's input folder.",
                ),
                io.String.Input(
                    "pattern",
                    optional=True,
                    default="",
                    tooltip="Only files with such names, as '*.png' or 'cat*'; with a slash, such paths "
                    "below the folder. Empty: all images.",
                ),
                io.Boolean.Input(
                    "recursive",
                    optional=True,
                    default=True,
                    tooltip="Look into the folders below, too; hidden ones are left out.",
                ),
                io.Combo.Input(
                    "sort",
                    options=ORDERS,
                    optional=True,
                    default=ORDERS[0],
                    tooltip="name: image2 before image10, folders after the files beside them. By "
                    "characters: image10 before image2. Oldest and newest go by the last change, smallest "
                    "and largest by the size of the file.",
                ),
                io.Int.Input(
                    "start",
                    optional=True,
                    default=0,
                    min=0,
                    max=_LARGEST,
                    control_after_generate=True,
                    tooltip="Which image comes first, counted from 0. With 'increment' below it, each run "
                    "goes on where the last one ended.",
                ),
                io.Int.Input(
                    "limit",
                    optional=True,
                    default=0,
                    min=0,
                    max=_LARGEST,
                    tooltip="How many images at most; 0 is all. All of them are held in memory together.",
                ),
                io.Combo.Input(
                    "extension",
                    options=[*CAPTION_EXTENSIONS, NO_CAPTIONS],
                    optional=True,
                    default=CAPTION_EXTENSIONS[0],
                    tooltip="Of the files with the captions that are there already. none: they are not read, "
                    "and new ones do not make this node run again.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images",
                    display_name="images",
                    is_output_list=True,
                    tooltip="One image per file, upright, each in its own size; transparent pixels are "
                    "white.",
                ),
                io.Mask.Output(
                    "masks",
                    display_name="masks",
                    is_output_list=True,
                    tooltip="One mask per image, of its size: 1 where it is transparent, as Load Image gives "
                    "it; all 0 for an image without transparency.",
                ),
                text_output(
                    "filenames",
                    is_output_list=True,
                    tooltip="The files' names below the folder; connect them to Save Captions.",
                ),
                text_output(
                    "captions",
                    is_output_list=True,
                    tooltip="The captions that lie beside the images; empty where there is none.",
                ),
                io.String.Output(
                    "folder_path",
                    display_name="folder",
                    tooltip="The folder's absolute path; connect it to Save Captions.",
                ),
                io.Int.Output(
                    "count",
                    display_name="count",
                    tooltip="How many images in the folder match, whatever 'start' and 'limit' say.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: Any = None, **inputs: Any) -> Any:
        """Another one when the node would give something else. What is wrong is said when it runs."""
        if folder is None or None in inputs.values():
            return float("nan")  # an input is connected, and not known yet: like nothing that was before
        from .folder_pictures import fingerprint

        try:
            return fingerprint(_options(folder, **inputs))
        except (ValueError, OSError):
            return float("nan")

    @classmethod
    def execute(cls, folder: str, **inputs: Any) -> Any:
        from .folder_pictures import load_page

        options = _options(folder, **inputs)
        page = load_page(options)
        for problem in page.problems:
            logger.warning("Load Image Folder: %s", problem)
        return io.NodeOutput(
            page.images,
            page.masks,
            page.names,
            page.captions,
            options.folder,
            page.count,
            ui=shown([_summary(options, page)]),
        )


def _options(
    folder: str,
    pattern: str = "",
    recursive: bool = True,
    sort: str = "name",
    start: int = 0,
    limit: int = 0,
    extension: str = CAPTION_EXTENSIONS[0],
) -> PageOptions:
    """
    Raises:
        ValueError: a value is outside its range, or there is no such folder.
    """
    from ..captioning.runs.sources.ordered import Order
    from .folder_pictures import PageOptions

    require_texts(pattern=pattern)
    if sort not in ORDERS:
        raise ValueError(f"sort is {sort!r:.80}; it takes {', '.join(map(repr, ORDERS))}.")
    if extension not in (*CAPTION_EXTENSIONS, NO_CAPTIONS):
        raise ValueError(
            f"extension is {extension!r:.80}; it takes {', '.join([*CAPTION_EXTENSIONS, NO_CAPTIONS])}."
        )
    return PageOptions(
        folder=folder_to_read(folder),
        pattern=pattern,
        recursive=bool(recursive),
        order=Order(sort),
        start=int(start),
        limit=int(limit),
        extension=None if extension == NO_CAPTIONS else extension,
    )


def _summary(options: PageOptions, page: Page) -> str:
    some = f"{len(page.images)} of {page.count} images" if len(page.images) < page.count else None
    lines = [f"{some or _all(page.count)} from {printable(options.folder)}"]
    if some and (options.start or options.limit):
        last = (min(page.count, options.start + options.limit) if options.limit else page.count) - 1
        one = options.start == last
        lines.append(f"number {last}" if one else f"numbers {options.start} to {last}")
    if page.problems:
        lines += ["", *page.problems[:SHOWN]]
        if len(page.problems) > SHOWN:
            lines.append(f"and {len(page.problems) - SHOWN} more; ComfyUI's log names them all")
    return "\n".join(lines)


def _all(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
