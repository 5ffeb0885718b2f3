"""From the files of pictures to what the model looks at, within bounds of memory."""

from __future__ import annotations

import io
import math
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..captioning import ImageError, InstructionError
from ..captioning.errors import without_tracebacks
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
    """Reads pictures for many threads.

    No more than two of the largest size are decoded at a time, and none while those that were read and are
    still held take more than ``limits.read_bytes``: a small file may become many tiles.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._free_pixels = 2 * limits.pixels
        self._held_bytes = 0
        self._freed = threading.Condition()

    def read(self, job: Job) -> Asked | None:
        """What is asked about the picture of ``job``; None if nobody waits for it any more, or if it cannot
        be read, which the job is told.

        Raises:
            BadRequestError: what is asked does not go with the only picture of a request: a region beyond it,
                too many tiles. Of several, only this one is refused.
            EngineFailedError: the model's files are not to be had.
        """
        picture = self._picture(job)
        if isinstance(picture, Picture):
            asked = job.request.inquiry.asked(picture)
            if asked.answers <= self._limits.answers:
                return asked
            picture = InstructionError(
                f"{asked.answers} answers of the model would be needed; this server allows "
                f"{self._limits.answers}. Ask about fewer regions or tiles."
            )
        if isinstance(picture, InstructionError) and job.request.pictures == 1:
            raise BadRequestError(f"{job.name}: {picture}")
        if picture is not None:
            job.refuse(picture)
        return None

    def _picture(self, job: Job) -> Picture | ImageError | InstructionError | None:
        file = _File(job)
        job.image = None
        inquiry = job.request.inquiry
        try:
            processor = job.request.model.captioner.image_processor()
        except (ModelFilesError, ValueError) as error:
            raise EngineFailedError(str(error)) from error
        unknown = self._limits.pixels if file.hides_its_size else 0
        try:
            with self._room_for(unknown):
                size = stored_size(file)
            self._check(job.name, size, inquiry.options.vision.tile, processor)
        except (ImageError, InstructionError) as error:
            return without_tracebacks(error)
        file.seek(0)
        with self._room_for(max(math.prod(size), unknown)):
            if not job.is_wanted:
                return None
            picture = inquiry.reader(processor)(file)
            if isinstance(picture, Picture):
                self._hold(picture)
            return picture

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
            self._freed.wait_for(
                lambda: self._free_pixels >= pixels and self._held_bytes < self._limits.read_bytes
            )
            self._free_pixels -= pixels
        try:
            yield
        finally:
            with self._freed:
                self._free_pixels += pixels
                self._freed.notify_all()

    def _hold(self, picture: Picture) -> None:
        """Count what the model looks at for as long as anybody has the picture."""
        size = sum(view.pixels.nbytes for view in picture.views)
        with self._freed:
            self._held_bytes += size
        weakref.finalize(picture, self._let_go, size).atexit = False

    def _let_go(self, size: int) -> None:
        with self._freed:
            self._held_bytes -= size
            self._freed.notify_all()


class _File(io.BytesIO):
    """The file of a job in memory, with a name for errors.

    Pillow asks for every segment of a JPEG, chunk of a PNG and pixel of a QOI by itself; megabytes of the
    smallest would keep a thread busy for minutes, and some of them take much memory.
    """

    _MOST_READS = 1_000_000
    _CONTAINERS = b"\0\0\1\0", b"icns", b"BLP1", b"BLP2"  # how those begin that hold files of other formats

    def __init__(self, job: Job) -> None:
        super().__init__(job.image or b"")
        self.name = job.name
        self._job = job
        self._reads = 0

    @property
    def hides_its_size(self) -> bool:
        """Whether the image may be larger than its header says, which shows only as it is decoded."""
        return self.getvalue().startswith(self._CONTAINERS)

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > self._MOST_READS:
            raise ImageError(f"{self.name}: it is made of too many small parts. Save it as PNG or JPEG anew.")
        if not self._job.is_wanted:
            raise ImageError(f"{self.name}: nobody waits for it any more.")
        return super().read(size)
