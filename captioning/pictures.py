"""From a source of a picture to what the device needs of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import ImageError, InstructionError
from .features import pixels_key
from .images import Background, ImageSource, open_image
from .instructions import Instruction, build_prompts

if TYPE_CHECKING:
    from torch import Tensor

    from ..models_cache import ImageProcessor
    from .regions import Box


@dataclass(frozen=True)
class Picture:
    """A picture that was read."""

    size: tuple[int, int]  # width and height in pixels, after EXIF rotation
    prompts: tuple[tuple[str, ...], ...]  # of each instruction: one, or one per region that it is asked about
    pixels: Tensor  # [H, W, 3] uint8, on the CPU, in the checkpoint's size
    key: str  # of the pixels
    boxes: tuple[Box, ...] = ()  # that were asked about, in pixels


@dataclass(frozen=True)
class PictureReader:
    """Reads pictures for one run. Has no weights and no state: any thread may call it."""

    processor: ImageProcessor
    instructions: tuple[Instruction, ...]
    prompts: Mapping[str, str]  # literal prompts that the checkpoint has of its own, by instruction
    text_input: str | None
    background: Background

    def __call__(self, source: ImageSource) -> Picture | ImageError | InstructionError:
        """The picture, or why it cannot be read or does not fit the text input."""
        try:
            image = open_image(source, background=self.background)
            prompts = tuple(
                build_prompts(instruction, self.text_input, self.prompts, image_size=image.size)
                for instruction in self.instructions
            )
            boxes = self._boxes(image.size)
        except (ImageError, InstructionError) as error:
            return _without_tracebacks(error)
        pixels = self.processor.resize(image)
        return Picture(image.size, prompts, pixels, pixels_key(pixels), boxes)

    def _boxes(self, image_size: tuple[int, int]) -> tuple[Box, ...]:
        if self.text_input is None or not any(one.input == "region" for one in self.instructions):
            return ()
        from .region_prompts import region_boxes

        return region_boxes(self.text_input, image_size)


def _without_tracebacks(error: ImageError | InstructionError) -> ImageError | InstructionError:
    """The error for a result that may be kept: the frames of its tracebacks hold pictures and files."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__context__
    return error
