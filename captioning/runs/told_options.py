"""What shapes the answers of a run besides the checkpoint, in words, for the page about the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...inference import GenerationOptions
    from ..captioner import CaptionOptions
    from ..retries import RetryOptions

__all__ = ["told_options"]


def told_options(options: CaptionOptions) -> dict[str, str]:
    """By what it is called; nothing of what was left as it is."""
    generation = options.generation
    told = {
        "beams": str(generation.num_beams or ""),
        "new tokens, at most": str(generation.max_new_tokens or ""),
        "language": options.language or "",
        "generation": _generation(generation),
        "clean-up": _listed(_changed(options.cleaning)),
        "conditions": _conditions(options.retries),
    }
    return {name: value for name, value in told.items() if value}


def _generation(options: GenerationOptions) -> str:
    """But for what has a line of its own."""
    given = options.given()
    if options.seed is not None:
        given["seed"] = options.seed
    return _listed(
        (name, value) for name, value in given.items() if name not in ("num_beams", "max_new_tokens")
    )


def _conditions(options: RetryOptions) -> str:
    if not options.judges:
        return ""
    conditions = [f"at least {options.min_words} words"] if options.min_words else []
    if options.retry_words:
        conditions.append(f"without {', '.join(options.retry_words)}")
    return f"{' and '.join(conditions)}; {_asked_again(options.limit)}"


def _asked_again(limit: int) -> str:
    if not limit:
        return "not asked again"
    return f"asked again {'once' if limit == 1 else f'{limit} times'} at most"


def _changed(options: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a dataclass that are not as by default."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != field.default:
            yield field.name, value


def _listed(settings: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings)
