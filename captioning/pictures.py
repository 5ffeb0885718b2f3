"""From a source of a picture to what the device needs of it: what it looks at, and what it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import ImageError, InstructionError, without_tracebacks
from .features import pixels_key
from .images import Background, ImageSource, open_image
from .instructions import Instruction
from .prompts import build_prompts
from .tile_answers import tile_instruction
from .tiles import TileBox, TileOptions, is_tileable, tile_boxes

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..models_cache import ImageProcessor
    from .regions import Box


@dataclass(frozen=True)
class Question:
    """What is asked about a view for the sake of one of the run's instructions."""

    number: int  # of that instruction
    asked: Instruction  # the instruction itself, or what it comes to for a part of the picture
    prompts: tuple[str, ...]  # one, or one per region that is asked about
    of_part: bool  # whether the answer is one of several that become one result


@dataclass(frozen=True)
class View:
    """What the model sees at a time: the whole picture or a tile of it."""

    box: TileBox  # in pixels of the picture
    pixels: Tensor  # [H, W, 3] uint8, on the CPU, in the checkpoint's size
    key: str  # of the pixels
    questions: tuple[Question, ...]
    tiles: int = 0  # that its picture has, if it is one of them

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of the picture."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]


@dataclass(frozen=True)
class Picture:
    """A picture that was read."""

    size: tuple[int, int]  # width and height in pixels, after EXIF rotation
    views: tuple[View, ...]  # the whole picture, unless all is asked about tiles alone; then the tiles
    boxes: tuple[Box, ...] = ()  # that were asked about, in pixels


@dataclass(frozen=True)
class PictureReader:
    """Reads pictures for one run. Has no weights and no state: any thread may call it."""

    processor: ImageProcessor
    instructions: tuple[Instruction, ...]
    prompts: Mapping[str, str]  # literal prompts that the checkpoint has of its own, by instruction
    text_input: str | None
    background: Background
    tile: TileOptions | None = None  # how to cut it
    known: tuple[str, ...] = ()  # what the checkpoint was trained on; empty if that is not known
    language: str | None = None  # to answer in, for prompts that name one

    def __call__(self, source: ImageSource) -> Picture | ImageError | InstructionError:
        """The picture, or why it cannot be read or does not fit the text input."""
        try:
            image = open_image(source, background=self.background)
            tiles = self._tiles(image.size)
            whole, parts = self._questions(image.size, tiled=bool(tiles))
            boxes = self._boxes(image.size)
        except (ImageError, InstructionError) as error:
            return without_tracebacks(error)
        views = [self._view(image, (0, 0, *image.size), whole)] if whole else []
        views += [self._view(image.crop(box), box, parts, len(tiles)) for box in tiles]
        return Picture(image.size, tuple(views), boxes)

    def _tiles(self, image_size: tuple[int, int]) -> tuple[TileBox, ...]:
        if self.tile is None:
            return ()
        return tile_boxes(image_size, self.tile, self.processor.size)

    def _questions(
        self, image_size: tuple[int, int], *, tiled: bool
    ) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
        """What is asked about the whole picture, and what about each tile."""
        whole: list[Question] = []
        parts: list[Question] = []
        for number, instruction in enumerate(self.instructions):
            of_part = tiled and is_tileable(instruction)
            asked = tile_instruction(instruction, self.known) if of_part else instruction
            prompts = build_prompts(asked, self.text_input, self.prompts, image_size, self.language)
            question = Question(number, asked, prompts, of_part)
            if of_part:
                parts.append(question)
            if not of_part or (self.tile is not None and self.tile.whole):
                whole.append(question)
        return tuple(whole), tuple(parts)

    def _view(self, image: Image, box: TileBox, questions: tuple[Question, ...], tiles: int = 0) -> View:
        pixels = self.processor.resize(image)
        return View(box, pixels, pixels_key(pixels), questions, tiles)

    def _boxes(self, image_size: tuple[int, int]) -> tuple[Box, ...]:
        if self.text_input is None or not any(one.input == "region" for one in self.instructions):
            return ()
        from .region_prompts import region_boxes

        return region_boxes(self.text_input, image_size)
