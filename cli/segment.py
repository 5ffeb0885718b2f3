"""``promptgen segment``: outlines and masks of what you name, or of what is in a box."""

from __future__ import annotations

from typing import Annotated

import typer

from .expand_flags import expand_flags
from .question_flags import ASK
from .region_command import find_regions, reported
from .region_flags import Images, RegionAnswerFlags, RegionFlags
from .reporting import UsageError


@expand_flags
def segment(
    *,
    image: Images,
    phrase: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What to outline (REFERRING_EXPRESSION_SEGMENTATION); --text-input is the same.",
            rich_help_panel=ASK,
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="BOX;...",
            help="Outline what is in these boxes: 10,20,200,300 in pixels or 0.1,0.2,0.5,0.9 "
            "(REGION_TO_SEGMENTATION).",
            rich_help_panel=ASK,
        ),
    ] = None,
    wanted: RegionFlags,
    flags: RegionAnswerFlags,
) -> None:
    """Outline what you name, or what is in a box; with --mask, as masks.

    Outputs, folders and exit status are as those of 'promptgen detect'.
    """

    def work() -> None:
        if phrase is not None and region is not None:
            raise UsageError("--phrase and --region are different questions; give one of them.")
        if region is not None:
            asked, instruction = flags.with_input(region, "--region"), "REGION_TO_SEGMENTATION"
        else:
            asked = flags if phrase is None else flags.with_input(phrase, "--phrase")
            instruction = "REFERRING_EXPRESSION_SEGMENTATION"
        if not (asked.text_input or "").strip():
            raise UsageError("name what to outline: --phrase 'the red car', or --region 10,20,200,300.")
        find_regions(instruction, image, asked, wanted)

    reported(flags, work)
