"""``--preset``: which there are, and what each sets."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..captioning import Preset

CLEANING = "Clean-up and retries (captions, tags, mixed answers)"

_FLAGS = {"limit": "retries", "retry_words": "retry_word"}  # settings whose flags have other names


def complete_preset(incomplete: str) -> list[str]:
    """Names that begin with ``incomplete``."""
    from ..captioning import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete.lower())]


def settings_of(preset: Preset) -> dict[str, Any]:
    """What the preset sets, by the names of the options."""
    found: dict[str, Any] = {}
    for options in (preset.generation, preset.cleaning, preset.retries):
        default = type(options)()
        for option in dataclasses.fields(options):
            value = getattr(options, option.name)
            if value != getattr(default, option.name):
                found[_FLAGS.get(option.name, option.name)] = value
    return found


def _list_presets(given: str | None) -> str | None:
    """For ``?`` print the table and end the command."""
    if given != "?":
        return given
    from ..captioning import PRESETS

    for preset in PRESETS.values():
        typer.echo(f"{preset.name}: {preset.summary}")
        for name, value in settings_of(preset).items():
            typer.echo(f"  --{name.replace('_', '-')}{_shown(value)}")
    raise typer.Exit


def _shown(value: Any) -> str:
    if value is True:
        return ""
    return f" {','.join(value) if isinstance(value, tuple) else value}"


PresetFlag = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Generation, clean-up and retries under one name, 'long-prompt' for example; what is given "
        "besides wins. --preset ? lists them.",
        autocompletion=complete_preset,
        callback=_list_presets,
        is_eager=True,
        rich_help_panel=CLEANING,
    ),
]
