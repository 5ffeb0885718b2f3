"""Checkpoints that are compared: how they are named on the command line, and where they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .answer_flags import PlaceFlags, strength_of
from .choices import Quantization
from .quantized_names import split_quantization
from .reporting import UsageError

if TYPE_CHECKING:
    from ..training.evaluation.evaluation import Contestant

_ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Named:
    """A checkpoint as it was named, and what it is called in tables."""

    model: str
    loras: tuple[tuple[str, float], ...] = ()
    label: str = ""
    quantization: Quantization = Quantization.NONE


def parse_model(given: str, usual: Quantization = Quantization.NONE) -> Named:
    """``CHECKPOINT``, ``CHECKPOINT+ADAPTER[:STRENGTH]``, or the folder of an adapter, which names its base;
    and behind each of them perhaps ``@`` with a quantization.

    Args:
        usual: the quantization where none is named.

    Raises:
        UsageError: an adapter does not say what it belongs to, or there are no weights of so many bits.
    """
    given, bits = split_quantization(given, usual)
    if Path(given).is_dir():
        return replace(_of_adapter(given) if _is_adapter(Path(given)) else Named(given), quantization=bits)
    model, *adapters = given.split("+")
    if not model.strip() or not all(adapter.strip() for adapter in adapters):
        raise UsageError(
            f"--model {given!r}: write CHECKPOINT, or CHECKPOINT+ADAPTER for one with an adapter."
        )
    return Named(model, tuple(strength_of(adapter) for adapter in adapters), quantization=bits)


def label_all(models: Sequence[Named], labels: Sequence[str]) -> list[Named]:
    """With what they are called: the labels that were given, else the ends of their names that differ.

    Raises:
        UsageError: there are not as many labels as checkpoints, or two are equal.
    """
    if labels and len(labels) != len(models):
        raise UsageError(
            f"--label was given {len(labels)} times for {len(models)} checkpoints. Name all or none."
        )
    found = [model.label or _label(model, models) for model in models] if not labels else list(labels)
    folded = [label.casefold() for label in found]
    for label in found:
        if not label.strip():
            raise UsageError("--label is empty.")
        if folded.count(label.casefold()) > 1:
            raise UsageError(f"Two checkpoints are called {label}. Give each a name by --label.")
    return [replace(model, label=label) for model, label in zip(models, found, strict=True)]


def contestant(named: Named, place: PlaceFlags, *, watched: bool) -> Contestant:
    """The checkpoint, downloaded first if need be.

    Raises:
        UsageError: the device, the number format or the quantization is not to be had, or the checkpoint
            takes no adapters.
        ModelFilesError: the checkpoint or an adapter is not to be had.
        ConfigError: the configuration of the run that it is of cannot be read.
    """
    from ..captioning import Captioner
    from ..models_cache import ensure_adapter, ensure_checkpoint
    from ..training.evaluation.evaluation import Contestant
    from ..training.evaluation.held_out import prompts_of

    bits = named.quantization.value
    _placed(named, place)  # before a download
    folder = ensure_checkpoint(named.model, offline=place.offline, progress=watched)
    device, dtype = _placed(named, place)  # its family is known now
    adapters = tuple(
        (ensure_adapter(name, offline=place.offline, progress=watched), strength)
        for name, strength in named.loras
    )
    captioner = Captioner(
        named.model, device=device, dtype=dtype, batch_size=place.batch_size, loras=named.loras,
        quantization=bits,
    )  # fmt: skip
    prompts: dict[str, str] = {}
    for place_of_run in (folder, *(path for path, _ in adapters)):
        prompts |= prompts_of(place_of_run)
    return Contestant(named.label, captioner, folder, adapters, prompts)


def _placed(named: Named, place: PlaceFlags) -> tuple[str, str]:
    """The device and the number format for the checkpoint; perhaps ``auto`` while its family is not known.

    Raises:
        UsageError: one is not to be had, or not with the quantization; or the checkpoint takes no adapters.
        ModelFilesError: its name stands for nothing.
    """
    from ..inference import resolve_device, resolve_dtype
    from ..models_cache import shared_manager, told_family

    try:
        device, dtype = resolve_device(place.device), place.precision()
        shared_manager().check(
            named.model,
            device=device,
            dtype=dtype,
            adapters=named.loras,
            quantization=named.quantization.value,
        )
        family = told_family(named.model)
        return device, dtype if family is None else resolve_dtype(dtype, device, family)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _is_adapter(folder: Path) -> bool:
    return (folder / _ADAPTER).is_file() and not (folder / "config.json").is_file()


def _of_adapter(given: str) -> Named:
    path = Path(given, _ADAPTER)
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} does not say which checkpoint it belongs to: {error}") from error
    if not isinstance(base, str) or not base:
        raise UsageError(f"{path} does not say which checkpoint it belongs to. Write CHECKPOINT+{given}.")
    return Named(base, ((given, 1.0),))


def _label(model: Named, models: Sequence[Named]) -> str:
    """As much of the end of its name as no other one has."""
    parts = _parts(model)
    others = [_parts(other) for other in models if other is not model]
    length = next(
        (length for length in range(1, len(parts)) if all(o[-length:] != parts[-length:] for o in others)),
        len(parts),
    )
    return "/".join(parts[-length:])


def _parts(model: Named) -> list[str]:
    """Of the path of what it is named after: its last adapter, or itself."""
    name = model.loras[-1][0] if model.loras else model.model
    if model.quantization is not Quantization.NONE:
        name += f"@{model.quantization.value}"
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")] or [name]
