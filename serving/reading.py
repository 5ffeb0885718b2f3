"""From the file of a picture to what the model looks at."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ..captioning import ImageError, InstructionError
from ..captioning.images import stored_size
from ..captioning.pictures import Picture
from ..captioning.tiles import tile_boxes
from ..models_cache import ModelFilesError
from .errors import BadRequestError, EngineFailedError
from .requests import Job
from .settings import Limits

if TYPE_CHECKING:
    from ..captioning.answering import Asked


class _File(io.BytesIO):
    """A file in memory with a name, for errors."""

    name = ""


def read_picture(job: Job, limits: Limits) -> Asked | None:
    """What is asked about the picture of ``job``; None if it cannot be read, which the job is told.

    Raises:
        BadRequestError: what is asked does not go with this picture: a region beyond it, too many tiles.
        EngineFailedError: the model's files are not to be had.
    """
    file = _File(job.image or b"")
    file.name = job.name
    job.image = None
    inquiry = job.request.inquiry
    try:
        processor = job.request.model.captioner.image_processor()
    except (ModelFilesError, ValueError) as error:
        raise EngineFailedError(str(error)) from error
    try:
        size = stored_size(file)
        _check_size(job.name, size, limits)
        tile = inquiry.options.vision.tile
        if tile is not None and (tiles := len(tile_boxes(size, tile, processor.size))) > limits.tiles:
            raise InstructionError(f"{tiles} tiles; this server allows {limits.tiles}. Choose larger ones.")
        file.seek(0)
        picture = inquiry.reader(processor)(file)
    except (ImageError, InstructionError) as error:
        picture = error
    if isinstance(picture, ImageError):
        job.refuse(picture)
        return None
    if not isinstance(picture, Picture):
        raise BadRequestError(f"{job.name}: {picture}") from picture
    asked = inquiry.asked(picture)
    if asked.answers > limits.answers:
        raise BadRequestError(
            f"{job.name}: {asked.answers} answers of the model would be needed; this server allows "
            f"{limits.answers}. Ask about fewer regions or tiles."
        )
    return asked


def _check_size(name: str, size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.pixels:
        raise ImageError(
            f"{name}: {width} × {height} pixels are too many; this server takes {limits.pixels} in all. Make "
            "the image smaller."
        )
