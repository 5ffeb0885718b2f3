"""How a checkpoint wants its pictures, as its files say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .json_files import read_json


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


def image_settings(folder: Path) -> ImageProcessingConfig:
    """Read ``processor_config.json`` or ``preprocessor_config.json`` of a checkpoint folder.

    Raises:
        CheckpointError: neither is there, or it states no size or a crop.
    """
    raw: Mapping[str, Any] | None = None
    if (folder / "processor_config.json").exists():  # transformers 5 nests it there
        raw = read_json(folder / "processor_config.json").get("image_processor")
    if raw is None:
        raw = read_json(folder / "preprocessor_config.json")
    if raw.get("do_center_crop"):
        raise CheckpointError(f"{folder}: do_center_crop is on; the whole picture is resized.")
    known = {
        name: raw[name]
        for name in ("resample", "rescale_factor", "do_resize", "do_rescale", "do_normalize")
        if raw.get(name) is not None
    }
    size = raw.get("size")
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if not isinstance(size, dict) or not {"height", "width"} <= size.keys():
        raise CheckpointError(
            f"{folder}: the picture settings state no size of height and width, but {size!r}."
        )
    known |= {"height": size["height"], "width": size["width"]}
    for name in ("image_mean", "image_std"):
        if raw.get(name) is not None:
            known[name] = tuple(raw[name])
    return ImageProcessingConfig(**known)
