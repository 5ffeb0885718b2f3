"""``promptgen ocr``: the words in images, with their places or without."""

from __future__ import annotations

from typing import Annotated

import typer

from .expand_flags import expand_flags
from .question_flags import ASK
from .region_command import find_regions, reported
from .region_flags import Images, RegionAnswerFlags, RegionFlags
from .reporting import UsageError


@expand_flags
def ocr(
    *,
    image: Images,
    plain: Annotated[
        bool, typer.Option("--plain", help="The text alone, without places (OCR).", rich_help_panel=ASK)
    ] = False,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="BOX;...",
            help="The text in these boxes: 10,20,200,300 in pixels or 0.1,0.2,0.5,0.9 (REGION_TO_OCR); "
            "--text-input is the same.",
            rich_help_panel=ASK,
        ),
    ] = None,
    wanted: RegionFlags,
    flags: RegionAnswerFlags,
) -> None:
    """Read the words in images, each piece with its place (OCR_WITH_REGION; PaliGemma has --plain alone).

    Outputs, folders and exit status are as those of 'promptgen detect'.
    """

    def work() -> None:
        asked = flags if region is None else flags.with_input(region, "--region")
        if asked.text_input is not None and plain:
            raise UsageError("--plain is about the whole image, --region about a part; give one of them.")
        if asked.text_input is not None:
            instruction = "REGION_TO_OCR"
        else:
            instruction = "OCR" if plain else "OCR_WITH_REGION"
        find_regions(instruction, image, asked, wanted, instead="--plain reads the text without places.")

    reported(flags, work)
