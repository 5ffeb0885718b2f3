"""What shapes the answers of a run besides the pictures, as one digest that the journal compares."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...florence2 import Florence2Config
from ...inference import GenerationOptions
from ...paligemma import PaliGemmaConfig
from ..instructions import PALIGEMMA
from ..prompts import DEFAULT_LANGUAGE
from ..vision_options import VisionOptions

if TYPE_CHECKING:
    from ..captioner import Captioner, CaptionOptions

_VERSION = 1  # to be raised when the same settings come to mean other answers


def settings_digest(captioner: Captioner, instructions: Sequence[str], options: CaptionOptions) -> str:
    """Equal for two runs whose answers are interchangeable, on whatever machine.

    A generation setting counts by its effect: one that is given counts like the same one of the checkpoint's,
    and without sampling neither a seed nor a temperature counts.

    The checkpoint counts by the bytes of its files, and so do LoRA adapters. Device and batch size do not
    count, nor which of the floating-point formats is used (what ``auto`` takes depends on the machine);
    ``int8`` does, and so does quantisation.

    Args:
        captioner: its checkpoint is not loaded, and not downloaded. One that is not here equals no other.
        instructions: canonical names, in order.

    Raises:
        ModelFilesError: the name of the checkpoint stands for nothing.
        CheckpointError: its settings cannot be read.
    """
    from ...models_cache import checkpoint_digest, find_checkpoint

    folder = find_checkpoint(captioner.model)
    settings = {
        "version": _VERSION,
        "model": f"not here: {captioner.model}" if folder is None else checkpoint_digest(folder),
        "prompts": captioner.prompts(),
        "instructions": list(instructions),
        "generation": _generation(folder, options.generation),
        "tags": _fields(options.tags),
        "text_input": options.text_input,
        "background": options.background,
        "kind": "int8" if captioner.dtype == "int8" else "float",
    }
    if options.vision != VisionOptions():  # as it was before there were any
        settings["vision"] = _vision(options.vision)
    for name, shaping in (("cleaning", options.cleaning), ("retries", options.retries)):
        if shaping != type(shaping)():
            settings[name] = _fields(shaping)
    language = (options.language or DEFAULT_LANGUAGE).strip().lower()
    if language != DEFAULT_LANGUAGE:
        settings["language"] = language
    if captioner.quantization != "none":
        settings["quantization"] = captioner.quantization
    if loras := _loras(captioner.loras):
        settings["loras"] = loras
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _loras(loras: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Adapters that have an effect, by the bytes of their files, each once."""
    from ...models_cache import adapter_digest, find_adapter

    strengths: dict[str, float] = {}
    for name, strength in loras:
        folder = find_adapter(name)
        digest = f"not here: {name}" if folder is None else adapter_digest(folder)
        strengths[digest] = strengths.get(digest, 0.0) + strength
    return sorted((digest, strength) for digest, strength in strengths.items() if strength)


def _generation(folder: Path | None, options: GenerationOptions) -> dict[str, Any]:
    """All settings that take effect, the checkpoint's own too."""
    if folder is None:
        return _fields(options)
    effective = options.over(*_own_generation(folder))
    if effective["do_sample"]:
        effective["seed"] = options.seed
    return effective | {"output_scores": options.output_scores}


def _own_generation(folder: Path) -> tuple[Mapping[str, Any], int]:
    """The checkpoint's own settings, and how many tokens an answer has at most."""
    from ...models_cache.families import family_of

    if family_of(folder) == PALIGEMMA:
        paligemma = PaliGemmaConfig.from_folder(folder)
        return paligemma.generation, paligemma.max_new_tokens
    florence2 = Florence2Config.from_folder(folder)
    return florence2.generation, florence2.text.max_position_embeddings


def _vision(options: VisionOptions) -> dict[str, Any]:
    """By what they do: choosing among regions gives them scores, too."""
    settings = _fields(dataclasses.replace(options, scores=options.with_scores))
    tile = settings.pop("tile")  # as it was before there were any
    return settings if tile is None else settings | {"tile": _fields(tile)}


def _fields(options: Any) -> dict[str, Any]:
    """The public fields of a dataclass."""
    names = [field.name for field in dataclasses.fields(options) if not field.name.startswith("_")]
    return {name: getattr(options, name) for name in names}
