"""``promptgen detect``: objects, things that you name, or whatever stands out, with boxes."""

from __future__ import annotations

from typing import Annotated

import typer

from .expand_flags import expand_flags
from .question_flags import ASK
from .region_command import find_regions, reported
from .region_flags import Images, RegionAnswerFlags, RegionFlags
from .reporting import UsageError


@expand_flags
def detect(
    *,
    image: Images,
    phrase: Annotated[
        str | None,
        typer.Option(
            "--phrase",
            "--text",
            "-t",
            metavar="TEXT",
            help="Only what you name (OPEN_VOCABULARY_DETECTION); with PaliGemma several things: 'cat; dog'.",
            rich_help_panel=ASK,
        ),
    ] = None,
    dense: Annotated[
        bool,
        typer.Option(
            "--dense", help="Descriptions instead of categories (DENSE_REGION_CAPTION).", rich_help_panel=ASK
        ),
    ] = False,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="BOX;...",
            help="What is in these boxes: 10,20,200,300 in pixels or 0.1,0.2,0.5,0.9 (REGION_TO_CATEGORY); "
            "with --dense: descriptions (REGION_TO_DESCRIPTION).",
            rich_help_panel=ASK,
        ),
    ] = None,
    proposals: Annotated[
        bool,
        typer.Option("--proposals", help="Boxes without labels (REGION_PROPOSAL).", rich_help_panel=ASK),
    ] = False,
    wanted: RegionFlags,
    flags: RegionAnswerFlags,
) -> None:
    """Find objects in images: category names with boxes (OD). PaliGemma finds what you name with --phrase.

    A table on the screen, or one of the forms of --format; --overlay, --mask and --crop make pictures.
    Folders whose regions go to files are runs as those of 'promptgen folder', which go on where they ended.
    Exit status: 0 all done, 1 something failed, 2 wrong usage, 130 stopped with Ctrl-C.
    """

    def work() -> None:
        asked = flags
        if phrase is not None:
            asked = flags.with_input(phrase, "--phrase")
        named = asked.text_input is not None
        boxed = region is not None
        if (dense and not boxed) + proposals + named + boxed > 1:
            raise UsageError(
                "--phrase, --dense, --proposals and --region are different questions; give one of them, or "
                "--region with --dense."
            )
        if region is not None:
            asked = flags.with_input(region, "--region")
            instruction = "REGION_TO_DESCRIPTION" if dense else "REGION_TO_CATEGORY"
        elif named:
            instruction = "OPEN_VOCABULARY_DETECTION"
        elif dense:
            instruction = "DENSE_REGION_CAPTION"
        else:
            instruction = "REGION_PROPOSAL" if proposals else "OD"
        find_regions(instruction, image, asked, wanted, instead="name what to look for: --phrase 'cat; dog'.")

    reported(flags, work)
