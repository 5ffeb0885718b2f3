"""``promptgen ground``: boxes for the phrases of a caption."""

from __future__ import annotations

from typing import Annotated

import typer

from .expand_flags import expand_flags
from .question_flags import ASK
from .region_command import find_regions, reported
from .region_flags import Images, RegionAnswerFlags, RegionFlags
from .reporting import UsageError


@expand_flags
def ground(
    *,
    image: Images,
    text: Annotated[
        str | None,
        typer.Option(
            "--text",
            "-t",
            metavar="CAPTION",
            help="What is looked for: a caption, whose phrases get boxes.",
            rich_help_panel=ASK,
        ),
    ] = None,
    wanted: RegionFlags,
    flags: RegionAnswerFlags,
) -> None:
    """Find the phrases of a caption in images (CAPTION_TO_PHRASE_GROUNDING).

    Outputs, folders and exit status are as those of 'promptgen detect'.
    """

    def work() -> None:
        asked = flags if text is None else flags.with_input(text, "--text")
        if not (asked.text_input or "").strip():
            raise UsageError("name the caption whose phrases are to be found: --text 'a cat on a red sofa'.")
        find_regions("CAPTION_TO_PHRASE_GROUNDING", image, asked, wanted)

    reported(flags, work)
