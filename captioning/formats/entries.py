"""What all formats need of a result: its regions, the class of each, names of files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from ..regions import Points, Region
from ..results import Result

__all__ = [
    "TEXT",
    "AnyResult",
    "Classes",
    "FormatError",
    "box_of",
    "class_of",
    "outlines_of",
    "record_of",
    "regions_of",
    "relative",
]

AnyResult = Result | Mapping[str, Any]
"""A result, or what its ``to_dict`` has given, also after JSON."""

TEXT = "text"  # the class of all pieces of text, whose words are no classes
OBJECT = "object"  # the class of what has no label


class FormatError(Exception):
    """Regions cannot be written in a format, or to a place. The message says why and what to do."""


class Classes:
    """Numbers of classes, counted from 0: those that were given, in their order, then as they come."""

    def __init__(self, given: Iterable[str] = ()) -> None:
        self._numbers = {name: number for number, name in enumerate(dict.fromkeys(given))}

    def number(self, name: str) -> int:
        return self._numbers.setdefault(name, len(self._numbers))

    @property
    def names(self) -> list[str]:
        """By number."""
        return list(self._numbers)


def record_of(result: AnyResult) -> dict[str, Any]:
    """The result as JSON has it."""
    return result.to_dict() if isinstance(result, Result) else dict(result)


def regions_of(result: AnyResult) -> tuple[Region, ...]:
    """Its regions.

    Raises:
        FormatError: it is a result without any, such as a caption.
    """
    if not isinstance(result, Result):
        if "regions" in result:
            return tuple(map(Region.from_dict, result["regions"]))
        name = result.get("instruction")
    elif hasattr(result, "regions"):
        return tuple(result.regions)
    else:
        name = result.instruction
    raise FormatError(
        f"an answer to {name} has no regions. Ask for an instruction that locates something, such as OD, or "
        "choose json or jsonl."
    )


def class_of(region: Region) -> str:
    """The class that detectors and editors of annotations know it by."""
    if region.quad is not None:
        return TEXT
    return region.label or OBJECT


def outlines_of(region: Region) -> tuple[Points, ...]:
    """Polygons, the quad, or the box's corners, clockwise from the left top one."""
    if region.polygons is not None:
        return region.polygons
    if region.quad is not None:
        return (region.quad,)
    left, top, right, bottom = box_of(region)
    return ((left, top, right, top, right, bottom, left, bottom),)


def box_of(region: Region) -> tuple[float, float, float, float]:
    """Left, top, right, bottom.

    Raises:
        FormatError: there is none.
    """
    if region.box is None:
        raise FormatError(f"the region {region.label!r} has no box")
    return region.box


def relative(image: str) -> PurePath:
    """Where the file of a picture belongs below a folder: as the picture is named, without its extension.

    A name that leads out of the folder, an absolute one or one with ``..``, counts by its last part alone.

    Raises:
        FormatError: there is no name.
    """
    path = PurePath(image)
    if path.is_absolute() or path.drive or ".." in path.parts:
        path = PurePath(path.name)
    if path.name in ("", ".."):
        raise FormatError(f"a picture called {image!r} cannot have a file of its own; give it a name.")
    return path.with_suffix("") if Path(image).suffix else path
