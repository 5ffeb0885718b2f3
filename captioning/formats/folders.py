"""Formats with a file for each picture: LabelMe's JSON, YOLO's text."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..regions import Points, Region
from .entries import AnyResult, Classes, FormatError, box_of, class_of, outlines_of, regions_of, relative

__all__ = ["LabelMeWriter", "YoloWriter", "labelme_text", "yolo_class_files", "yolo_text"]


class _Folder:
    """Writes a file for each picture as soon as the next one comes; each whole or not at all."""

    suffix = ""

    def __init__(self, folder: Path, *, overwrite: bool) -> None:
        from ..runs.outputs.collisions import Targets
        from ..runs.outputs.disk import Disk

        self._folder = folder
        self._overwrite = overwrite
        self._disk = Disk()
        self._targets = Targets()
        self._image = ""
        self._size = (0, 0)
        self._path: Path | None = None  # of the picture's own file, where it is known
        self._regions: list[Region] | None = None  # of the picture at hand; None: there is none

    def write(
        self, image: str, size: tuple[int, int], result: AnyResult, *, path: Path | None = None
    ) -> None:
        """Add an answer about a picture that has ``size`` (width, height) pixels.

        Args:
            path: the picture's file, for formats that point to it; by default what ``image`` says.

        Raises:
            FormatError: another picture has asked for the same file, or somebody else's file is there.
            OSError: it cannot be written.
        """
        regions = regions_of(result)
        if self._regions is not None and image != self._image:
            self._finish_picture()
        if self._regions is None:
            self._image, self._size, self._path = image, size, path
            target = self._target()
            self._regions = []
            self._claim(target)
        self._regions += regions

    def close(self) -> None:
        """Write what is left."""
        try:
            self._finish_picture()
            self._disk.sync_folders()
        finally:
            self._targets.close()

    def _target(self) -> Path:
        name = relative(self._image)
        return self._folder / name.with_name(name.name + self.suffix)

    def _claim(self, target: Path) -> None:
        self._targets.add(self._image, [target])
        if self._targets.came_late(self._image):
            image, self._regions = self._image, None
            raise FormatError(
                f"{image!r} asks for the file of another picture: {target}. Give the pictures names that "
                "differ in more than their extension, or write one file for all (coco, csv, json)."
            )
        self._check_free(target)

    def _check_free(self, target: Path) -> None:
        if target.exists() and not self._overwrite:
            self._regions = None
            raise FormatError(
                f"{str(target)!r} is there already. Choose another folder, or allow overwriting."
            )

    def _finish_picture(self) -> None:
        if self._regions is None:
            return
        regions, self._regions = self._regions, None
        self._put(self._target(), self._content(regions))

    def _put(self, target: Path, text: str) -> None:
        self._disk.make_folder(target.parent)
        self._disk.write_whole(target, text.encode("utf-8", "backslashreplace"))

    def _content(self, regions: list[Region]) -> str:
        raise NotImplementedError


class LabelMeWriter(_Folder):
    """``NAME.json`` for each picture, as LabelMe opens it: beside the picture if the folder is the picture's.

    A box is a rectangle, all else a polygon; several polygons of one object share a ``group_id``. A piece of
    text is labelled ``text`` and has its words as description; what has no label is an ``object``.
    """

    suffix = ".json"

    def _content(self, regions: list[Region]) -> str:
        return labelme_text(regions, self._size, self._path or Path(self._image), self._target().parent)


def labelme_text(regions: Iterable[Region], size: tuple[int, int], picture: Path, folder: Path) -> str:
    """The content of LabelMe's file.

    Args:
        size: width and height of the picture in pixels.
        picture: its file.
        folder: where the content is to be put.
    """
    try:
        place = os.path.relpath(picture, folder)
    except ValueError:  # on another drive
        place = str(picture.absolute())
    data: dict[str, Any] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": [shape for number, region in enumerate(regions) for shape in _shapes(region, number)],
        "imagePath": place.replace(os.sep, "/"),
        "imageData": None,
        "imageHeight": size[1],
        "imageWidth": size[0],
    }
    return json.dumps(data, ensure_ascii=False, indent=2) + "\n"


def _shapes(region: Region, number: int) -> Iterable[dict[str, Any]]:
    boxed = region.polygons is None and region.quad is None
    outlines = [box_of(region)] if boxed else list(outlines_of(region))
    for outline in outlines:
        shape: dict[str, Any] = {
            "label": class_of(region),
            "points": [[round(x, 2), round(y, 2)] for x, y in zip(outline[::2], outline[1::2], strict=True)],
            "group_id": number if len(outlines) > 1 else None,
            "description": region.label if region.quad is not None else "",
            "shape_type": "rectangle" if boxed else "polygon",
            "flags": {},
            "mask": None,
        }
        if region.score is not None:
            shape["score"] = region.score
        yield shape


class YoloWriter(_Folder):
    """``labels/NAME.txt`` for each picture, and ``classes.txt`` and ``data.yaml`` at the end.

    A line is a class and numbers in parts of the picture: ``class x y width height`` (of a box, x and y its
    centre), or with ``outlines`` ``class x0 y0 x1 y1 …``, as a dataset for segmentation has it throughout:
    boxes are rectangles there. Polygons of one object become one outline, with bridges of no width between
    them, since a line is an object. A picture without regions has an empty file, which makes it background.
    """

    suffix = ".txt"

    def __init__(
        self, folder: Path, classes: Iterable[str] = (), *, outlines: bool = False, overwrite: bool = False
    ) -> None:
        super().__init__(folder, overwrite=overwrite)
        self._classes = Classes(classes)
        self._outlines = outlines
        for name in yolo_class_files(()):
            self._check_free(folder / name)

    def close(self) -> None:
        """Write the last picture's file and the names of the classes."""
        super().close()
        for name, content in yolo_class_files(self._classes.names).items():
            self._put(self._folder / name, content)
        self._disk.sync_folders()

    def _target(self) -> Path:
        name = relative(self._image)
        return self._folder / "labels" / name.with_name(name.name + self.suffix)

    def _content(self, regions: list[Region]) -> str:
        return yolo_text(regions, self._size, self._classes, outlines=self._outlines)


def yolo_text(regions: Iterable[Region], size: tuple[int, int], classes: Classes, *, outlines: bool) -> str:
    """The content of a picture's file, whose classes get numbers if they have none yet.

    Args:
        size: width and height of the picture in pixels.
    """
    return "".join(_yolo_line(region, size, classes, outlines) + "\n" for region in regions)


def _yolo_line(region: Region, size: tuple[int, int], classes: Classes, outlines: bool) -> str:
    if outlines:
        numbers: Points = _bridged(outlines_of(region))
    else:
        left, top, right, bottom = box_of(region)
        numbers = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    parts = [number / size[axis % 2] for axis, number in enumerate(numbers)]
    number = classes.number(class_of(region))
    return " ".join([str(number), *(f"{min(max(part, 0), 1):.6f}" for part in parts)])


def _bridged(outlines: tuple[Points, ...]) -> Points:
    """One outline of several: each is entered and left at the point that is nearest to those before it."""
    points = list(zip(outlines[0][::2], outlines[0][1::2], strict=True))
    for outline in outlines[1:]:
        other = list(zip(outline[::2], outline[1::2], strict=True))
        _, at, start = min(
            ((x - u) ** 2 + (y - v) ** 2, i, j)
            for i, (x, y) in enumerate(points)
            for j, (u, v) in enumerate(other)
        )
        points[at : at + 1] = [points[at], *other[start:], *other[: start + 1], points[at]]
    return tuple(value for point in points for value in point)


def yolo_class_files(names: Sequence[str]) -> dict[str, str]:
    """The files, by name, that say what the classes are called, which are numbered from 0."""
    return {"classes.txt": "".join(name + "\n" for name in names), "data.yaml": _data_yaml(names)}


def _data_yaml(names: Sequence[str]) -> str:
    lines = [f"  {number}: {_yaml_string(name)}\n" for number, name in enumerate(names)]
    return (  # without "path", which would not count from this file but from where the trainer is started
        "# Pictures belong into images/, in the same folders as their files below labels/.\n"
        "train: images\nval: images\n" + ("names:\n" + "".join(lines) if lines else "names: {}\n")
    )


def _yaml_string(text: str) -> str:
    """In JSON's spelling, which is YAML's too but for a few characters that YAML wants to see escaped."""
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


_NOT_IN_YAML = re.compile("[\\x7f-\\x9f\\ud800-\\udfff\\ufeff\\ufffe\\uffff]")
