"""From the files of pictures to what the model looks at."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    from ..captioning import TileOptions
    from ..captioning.answering import Asked
    from ..models_cache import ImageProcessor


class PictureFiles:
    """Reads pictures for many threads, without more than two of the largest size in memory at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._free_pixels = 2 * limits.pixels
        self._freed = threading.Condition()

    def read(self, job: Job) -> Asked | None:
        """What is asked about the picture of ``job``; None if it cannot be read, which the job is told.

        Raises:
            BadRequestError: what is asked does not go with this picture: a region beyond it, too many tiles.
            EngineFailedError: the model's files are not to be had.
        """
        inquiry, limits = job.request.inquiry, self._limits
        picture = self._picture(job)
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

    def _picture(self, job: Job) -> Picture | ImageError | InstructionError:
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
            self._check(job.name, size, inquiry.options.vision.tile, processor)
        except (ImageError, InstructionError) as error:
            return error
        file.seek(0)
        with self._room_for(math.prod(size)):
            return inquiry.reader(processor)(file)

    def _check(
        self, name: str, size: tuple[int, int], tile: TileOptions | None, processor: ImageProcessor
    ) -> None:
        """What would take too much memory, before it does."""
        width, height = size
        if width * height > self._limits.pixels:
            raise ImageError(
                f"{name}: {width} × {height} pixels are too many; this server takes {self._limits.pixels} in "
                "all. Make the image smaller."
            )
        tiles = 0 if tile is None else len(tile_boxes(size, tile, processor.size))
        if tiles > self._limits.tiles:
            raise InstructionError(
                f"{tiles} tiles are too many; this server takes {self._limits.tiles}. Choose larger ones."
            )

    @contextmanager
    def _room_for(self, pixels: int) -> Iterator[None]:
        with self._freed:
            self._freed.wait_for(lambda: self._free_pixels >= pixels)
            self._free_pixels -= pixels
        try:
            yield
        finally:
            with self._freed:
                self._free_pixels += pixels
                self._freed.notify_all()


class _File(io.BytesIO):
    """A file in memory with a name, for errors."""

    name = ""
