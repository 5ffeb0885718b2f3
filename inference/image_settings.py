"""How a checkpoint wants its pictures, as its files say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .json_files import read_json

# Pillow's numbers.
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


@dataclass(frozen=True)
class ImageProcessingConfig:
    """How a picture becomes ``pixel_values``: resize, scale, normalise."""

    height: int  # the checkpoint's: there is no size that holds for all of them
    width: int
    resample: int = 3  # Pillow's number; 3 is bicubic
    rescale_factor: float = 1 / 255
    image_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: tuple[float, ...] = (0.229, 0.224, 0.225)
    do_resize: bool = True
    do_rescale: bool = True
    do_normalize: bool = True


def image_settings(folder: Path, defaults: Mapping[str, Any] | None = None) -> ImageProcessingConfig:
    """Read ``processor_config.json`` or ``preprocessor_config.json`` of a checkpoint folder.

    Args:
        defaults: what holds where the file says nothing, in a family that differs there from the defaults of
            :class:`ImageProcessingConfig`.

    Raises:
        CheckpointError: neither is there, or it states no size, a crop, or what no setting can be.
    """
    path = folder / "processor_config.json"
    raw: Any = None
    if path.exists():  # transformers 5 nests it there
        raw = read_json(path).get("image_processor")
    if raw is None:
        path = folder / "preprocessor_config.json"
        raw = read_json(path)
    if not isinstance(raw, dict):
        raise _wrong(path, "image_processor", raw, "an object of settings")
    if raw.get("do_center_crop"):
        raise CheckpointError(f"{path}: do_center_crop is on; the whole picture is resized.")
    size = raw.get("size")
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if not isinstance(size, dict) or not {"height", "width"} <= size.keys():
        raise CheckpointError(
            f"{path}: the picture settings state no size of height and width, but {size!r}."
        )
    sides = {"height": size["height"], "width": size["width"]}
    if not all(isinstance(side, int) and side >= 1 for side in sides.values()):
        raise _wrong(path, "size", size, "whole numbers of pixels")
    known: dict[str, Any] = {**(defaults or {}), **sides}
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if raw.get(name) is not None:
            known[name] = raw[name]
            if not isinstance(raw[name], bool):
                raise _wrong(path, name, raw[name], "true or false")
    if (resample := raw.get("resample")) is not None:
        known["resample"] = resample
        if not _is_number(resample) or resample not in _RESAMPLING:
            filters = ", ".join(f"{number} ({name})" for number, name in _RESAMPLING.items())
            raise _wrong(path, "resample", resample, f"the number of one of Pillow's filters: {filters}")
    if (factor := raw.get("rescale_factor")) is not None:
        known["rescale_factor"] = factor
        if not _is_number(factor):
            raise _wrong(path, "rescale_factor", factor, "a number")
    for name in ("image_mean", "image_std"):
        if (value := raw.get(name)) is not None:
            known[name] = _of_channels(path, name, value)
    return ImageProcessingConfig(**known)


def _of_channels(path: Path, name: str, value: Any) -> tuple[float, ...]:
    """A number for each of red, green and blue; one number is that of all three."""
    numbers = [value] * 3 if _is_number(value) else value
    if not isinstance(numbers, list) or len(numbers) != 3 or not all(map(_is_number, numbers)):
        raise _wrong(path, name, value, "three numbers, for red, green and blue")
    if name == "image_std" and min(numbers) <= 0:
        raise _wrong(path, name, value, "numbers above 0")
    return tuple(numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(path: Path, name: str, value: Any, allowed: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {name} is {value!r}; it takes {allowed}. Correct the file, or fetch it again from where it "
        "was published."
    )
