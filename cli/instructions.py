"""``promptgen instructions``: what can be asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .choices import ListFormat
from .reporting import configure_logging, reported_errors
from .tables import print_table

if TYPE_CHECKING:
    from ..captioning.instructions import Instruction


def instructions(
    format: Annotated[ListFormat, typer.Option(help="Form of the list.")] = ListFormat.TEXT,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, show_default=False, help="Log what is done.")
    ] = 0,
) -> None:
    """List the instructions: what each answers, what it needs, which checkpoints know it.

    A checkpoint of another family than those named cannot be asked at all.
    """
    configure_logging(verbose)
    with reported_errors(verbose):
        from ..captioning.instructions import INSTRUCTIONS

        rows = [_row(instruction) for instruction in INSTRUCTIONS.values()]
        if format is ListFormat.JSON:
            typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
            return
        print_table(
            ["instruction", "answer", "--text-input", "family", "known to"],
            [
                [
                    row["name"],
                    row["summary"],
                    _INPUTS[row["input"]],
                    _families(row["families"]),
                    row["known_by"],
                ]
                for row in rows
            ],
        )


_INPUTS = {"none": "", "text": "a text", "region": "a region"}


def _families(names: list[str]) -> str:
    from ..captioning.instructions import FAMILY_NAMES

    return ", ".join(FAMILY_NAMES[name] for name in names)


def _row(instruction: Instruction) -> dict[str, Any]:
    from ..models_cache import catalogue

    return {
        "name": instruction.name,
        "aliases": list(instruction.aliases),
        "prompt": instruction.prompt,
        "families": list(instruction.families),
        "prompts": {family: instruction.for_family(family).prompt for family in instruction.families},
        "input": instruction.input,
        "answer": instruction.answer.value,
        "summary": instruction.summary,
        "known_by": instruction.known_by,
        "models": [entry.name for entry in catalogue().values() if instruction.name in entry.instructions],
    }
