"""Named sets of options: how to generate, how to clean up, when to ask again."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..inference import GenerationOptions
from .cleaning import CleaningOptions
from .options import CaptionOptions
from .retries import RetryOptions

__all__ = ["PRESETS", "Preset", "PresetError", "apply_preset", "find_preset"]

_Options = TypeVar("_Options", GenerationOptions, CleaningOptions, RetryOptions)


class PresetError(ValueError):
    """A preset is unknown."""


@dataclass(frozen=True)
class Preset:
    """Options under one name. What it does not set stays as it is without it."""

    name: str
    summary: str  # one line for people
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    cleaning: CleaningOptions = field(default_factory=CleaningOptions)
    retries: RetryOptions = field(default_factory=RetryOptions)


_TABLE = (
    Preset(
        "long-prompt",
        "Long prompts, drawn at random, asked again where too short, and cleaned up.",
        # As the batch script that was published with mnemic/paligemma-longprompt-v1-safetensors has it, with
        # two exceptions: what is not ASCII stays, since captions have other languages; and tags stay.
        GenerationOptions(
            num_beams=1,
            max_new_tokens=256,
            do_sample=True,
            temperature=0.7,
            top_k=50,
            top_p=0.9,
            repetition_penalty=1.15,
            no_repeat_ngram_size=2,
        ),
        CleaningOptions(
            complete_sentences=True,
            remove_characters='#/、@|;~"*^',
            remove_brackets="()[]{}",
            max_word_length=30,
        ),
        RetryOptions(limit=10, min_words=20, retry_words=("no_parallel",)),
    ),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _TABLE}
"""Every known preset by its name. A new one is a row of the table; every command and client takes it."""


def find_preset(name: str) -> Preset:
    """Look up a preset in any case, with dashes, underscores or spaces.

    Raises:
        PresetError: the name is unknown; the message names the nearest and lists all.
    """
    key = "-".join(name.strip().casefold().replace("_", " ").replace("-", " ").split())
    found = PRESETS.get(key)
    if found is None:
        nearest = difflib.get_close_matches(key, PRESETS, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise PresetError(f"unknown preset {name!r}.{hint} Known are: {', '.join(PRESETS)}.")
    return found


def apply_preset(
    name: str | None, given: CaptionOptions | None = None, explicit: Collection[str] = ()
) -> CaptionOptions:
    """``given`` with what the preset says wherever nothing was chosen: what was chosen wins.

    Without sampling every attempt gives the same answer: where that was chosen, and no limit of retries, the
    limit is 0. The conditions stay, so that answers are marked which fail them.

    Args:
        name: None changes nothing.
        given: a generation, cleaning or retry setting that differs from its default counts as chosen; all
            other options stay.
        explicit: names of settings that were chosen although they may be at their defaults, such as
            ``complete_sentences`` or ``limit``.

    Raises:
        PresetError: the name is unknown.
    """
    given = given or CaptionOptions()
    if not name:
        return given
    preset = find_preset(name)
    retries = preset.retries
    if given.generation.do_sample is False:
        retries = dataclasses.replace(retries, limit=0)
    return dataclasses.replace(
        given,
        generation=_over(preset.generation, given.generation, explicit),
        cleaning=_over(preset.cleaning, given.cleaning, explicit),
        retries=_over(retries, given.retries, explicit),
    )


def _over(preset: _Options, given: _Options, explicit: Collection[str]) -> _Options:
    """The preset's options with the chosen ones of ``given`` on top."""
    default = type(given)()
    chosen: dict[str, Any] = {}
    for option in dataclasses.fields(given):
        value = getattr(given, option.name)
        if option.name in explicit or value != getattr(default, option.name):
            chosen[option.name] = value
    return dataclasses.replace(preset, **chosen)
