"""The engine's public face: pictures and instructions in, typed results out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, Union

from ..florence2 import GenerationOptions
from ..models_cache import DEFAULT_MODEL
from .errors import ImageError, InstructionError
from .features import FeatureCache, image_key, shared_feature_cache
from .images import DEFAULT_BACKGROUND, Background, open_image, parse_background
from .instructions import Instruction, build_prompt, check_text_input, find_instructions
from .results import Result, parse_answer
from .tags import TagOptions

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image
    from torch import Tensor

    from ..models_cache import CheckpointEntry, ModelManager
    from ..models_cache.families import LoadedModel

ImageSource = Union[str, "os.PathLike[str]", bytes, BinaryIO, "Image", "numpy.ndarray"]
"""A path, the bytes of an image file, an open file, a Pillow image or an array ``[H, W, C]``."""

StepCallback = Callable[[int], None]

DEFAULT_INSTRUCTION = "GENERATE_TAGS"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionOptions:
    """Everything that shapes an answer besides the picture, the instruction and the checkpoint."""

    generation: GenerationOptions = field(default_factory=GenerationOptions)
    tags: TagOptions = field(default_factory=TagOptions)
    text_input: str | None = None  # for instructions that need a phrase or a region
    background: Background = DEFAULT_BACKGROUND  # behind transparent pixels: a name, #rrggbb or (r, g, b)


@dataclass(frozen=True)
class ImageResult:
    """What became of one picture: one result per instruction, or the reason why there is none."""

    image: str  # its path, or "image 3" for what came without a name
    results: tuple[Result, ...] = ()  # in the order of the instructions
    error: str | None = None
    exception: Exception | None = field(default=None, compare=False)

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass
class _Picture:
    """A picture on its way through a batch."""

    name: str
    size: tuple[int, int]  # width and height in pixels, after EXIF rotation
    prompts: list[str]
    key: tuple[str, str, str]
    features: Tensor | None = None  # [N, d_model]
    results: list[Result] = field(default_factory=list)


class Captioner:
    """Captions pictures with one checkpoint. Cheap to make; the model is loaded at first use and shared.

    Args:
        model: catalogue name, Hub id or folder.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``auto``, ``fp32``, ``fp16`` or ``bf16``.
        manager: where models live; the process's shared one by default.
        feature_cache: where image features live; the process's shared one by default.
        batch_size: (picture, instruction) pairs that are decoded together; by default 16 on a GPU and 4 on
            the CPU. It does not change any answer.

    Raises:
        ValueError: ``batch_size`` is below 1.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        device: str = "auto",
        dtype: str = "auto",
        manager: ModelManager | None = None,
        feature_cache: FeatureCache | None = None,
        batch_size: int | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it takes 1 or more.")
        self.model = str(model)
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self._manager = manager
        self._features = shared_feature_cache() if feature_cache is None else feature_cache
        self._warned: set[str] = set()

    def caption(
        self,
        images: ImageSource | Iterable[ImageSource],
        instructions: str | Sequence[str] = DEFAULT_INSTRUCTION,
        options: CaptionOptions | None = None,
        on_step: StepCallback | None = None,
    ) -> list[ImageResult]:
        """Answer every instruction for every picture; one :class:`ImageResult` per picture, in order.

        A picture that cannot be read, or that does not fit the text input, has an error and stops nothing.
        See :meth:`stream` for the arguments and for what is raised.
        """
        return list(self.stream(images, instructions, options, on_step))

    def stream(
        self,
        images: ImageSource | Iterable[ImageSource],
        instructions: str | Sequence[str] = DEFAULT_INSTRUCTION,
        options: CaptionOptions | None = None,
        on_step: StepCallback | None = None,
    ) -> Iterator[ImageResult]:
        """Like :meth:`caption`, yielding each picture's result as soon as it is there.

        ``images`` may be an endless iterator: a batch of it is held at a time.

        Args:
            images: one picture or many; see :data:`ImageSource`.
            instructions: names in any case, with or without brackets.
            options: how to generate and how to clean up.
            on_step: called before each decoded token with the number of tokens so far, and many times with 0
                while pictures are being encoded; may raise to cancel.

        Raises:
            InstructionError: an unknown instruction, or a text input that is missing or that none takes.
            ModelFilesError: the checkpoint is not there and cannot be had.
            CheckpointError: the checkpoint cannot be loaded.
            ValueError: an option that the checkpoint does not allow.
        """
        table = find_instructions(instructions)
        options = options or CaptionOptions()
        entry = self._find_entry()
        # what is wrong for every picture is said before the first is opened
        check_text_input(table, options.text_input)
        parse_background(options.background)
        for instruction in table:
            self._warn_if_unknown(instruction, entry)
        return self._run(_named(images), table, options, entry, on_step)

    def _run(
        self,
        images: Iterator[tuple[str, ImageSource]],
        instructions: Sequence[Instruction],
        options: CaptionOptions,
        entry: CheckpointEntry | None,
        on_step: StepCallback | None,
    ) -> Iterator[ImageResult]:
        manager = self._manager or _shared_manager()
        # The first batch is opened once the model is there, since its size depends on the device.
        while first := next(images, None):
            with manager.acquire(self.model, device=self.device, dtype=self.dtype) as model:
                pairs = self.batch_size or (4 if model.device.type == "cpu" else 16)
                group = [first, *islice(images, max(1, pairs // len(instructions)) - 1)]
                results = self._caption_group(model, group, instructions, options, entry, pairs, on_step)
            yield from results

    def _caption_group(
        self,
        model: LoadedModel,
        group: list[tuple[str, ImageSource]],
        instructions: Sequence[Instruction],
        options: CaptionOptions,
        entry: CheckpointEntry | None,
        pairs: int,
        on_step: StepCallback | None,
    ) -> list[ImageResult]:
        """Open, encode and answer a few pictures; ``pairs`` is how many answers are decoded together."""
        pictures: list[_Picture | ImageResult] = []
        missing: dict[tuple[str, str, str], Tensor] = {}  # pixel values of what is not in the cache
        for name, source in group:
            try:
                image = open_image(source, background=options.background)
                prompts = [
                    build_prompt(instruction, options.text_input, _prompts_of(entry), image_size=image.size)
                    for instruction in instructions
                ]
            except (ImageError, InstructionError) as error:
                pictures.append(ImageResult(name, error=str(error), exception=_without_tracebacks(error)))
                continue
            key = (model.identity, str(model.dtype), image_key(image))
            picture = _Picture(name, image.size, prompts, key, self._features.get(key))
            if picture.features is None and key not in missing:
                missing[key] = model.preprocess([image])[0]
            pictures.append(picture)

        encoded = self._encode(model, missing, pairs, on_step)
        readable = [picture for picture in pictures if isinstance(picture, _Picture)]
        for picture in readable:
            if picture.features is None:
                picture.features = encoded[picture.key]
        self._answer(model, readable, instructions, options, pairs, on_step)
        return [
            picture if isinstance(picture, ImageResult) else ImageResult(picture.name, tuple(picture.results))
            for picture in pictures
        ]

    def _encode(
        self,
        model: LoadedModel,
        missing: dict[tuple[str, str, str], Tensor],
        batch_size: int,
        on_step: StepCallback | None,
    ) -> dict[tuple[str, str, str], Tensor]:
        """Image features ``[N, d_model]`` of pictures that no cache knew, and put them there."""
        import torch

        encoded = {}
        if model.device.type == "cpu":  # where a batch is no faster, only larger and slower to cancel
            batch_size = 1
        keys = list(missing)
        for start in range(0, len(keys), batch_size):
            part = keys[start : start + batch_size]
            features = model.encode_images(torch.stack([missing.pop(key) for key in part]), on_step)
            for key, row in zip(part, features, strict=True):
                encoded[key] = row
                self._features.put(key, row)
        return encoded

    def _answer(
        self,
        model: LoadedModel,
        pictures: list[_Picture],
        instructions: Sequence[Instruction],
        options: CaptionOptions,
        pairs: int,
        on_step: StepCallback | None,
    ) -> None:
        """Decode all (picture, instruction) pairs, so many together, into ``picture.results``."""
        import torch

        work = [
            (picture, instruction, prompt)
            for picture in pictures
            for instruction, prompt in zip(instructions, picture.prompts, strict=True)
        ]
        for start in range(0, len(work), pairs):
            part = work[start : start + pairs]
            features = torch.stack([_features(picture).to(model.device) for picture, _, _ in part])
            answers = model.generate(
                features, [prompt for _, _, prompt in part], options.generation, on_step=on_step
            )
            for (picture, instruction, _), answer in zip(part, answers, strict=True):
                picture.results.append(
                    parse_answer(
                        instruction,
                        answer.text,
                        image_size=picture.size,
                        truncated=answer.truncated,
                        tag_options=options.tags,
                    )
                )

    def _find_entry(self) -> CheckpointEntry | None:
        from ..models_cache import entry_of

        return entry_of(self.model)

    def _warn_if_unknown(self, instruction: Instruction, entry: CheckpointEntry | None) -> None:
        if entry is None or instruction.name in entry.instructions or instruction.name in self._warned:
            return
        self._warned.add(instruction.name)
        logger.warning(
            "%s was not trained on %s; its answer may make no sense. It knows %s.",
            entry.name, instruction.name, ", ".join(entry.instructions),
        )  # fmt: skip


def _features(picture: _Picture) -> Tensor:
    if picture.features is None:
        raise RuntimeError(f"{picture.name} was not encoded.")
    return picture.features


def _without_tracebacks(error: Exception) -> Exception:
    """The error for a result that may be kept: the frames of its tracebacks hold the model and the batch."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__context__
    return error


def _prompts_of(entry: CheckpointEntry | None) -> dict[str, str]:
    return dict(entry.prompts) if entry is not None else {}


def _shared_manager() -> ModelManager:
    from ..models_cache import shared_manager

    return shared_manager()


def _named(images: ImageSource | Iterable[ImageSource]) -> Iterator[tuple[str, ImageSource]]:
    """Each picture with its name: the path, or its place for what has none."""
    single = (
        isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview))
        or hasattr(images, "read")
        or _is_picture(images)
    )
    pictures: Iterable[Any] = [images] if single else images  # type: ignore[assignment]
    for number, image in enumerate(pictures, start=1):
        named = isinstance(image, (str, os.PathLike))
        name = os.fspath(image) if named else getattr(image, "filename", "")
        yield str(name) or f"image {number}", image


def _is_picture(images: Any) -> bool:
    """Whether this is one Pillow image or one array ``[H, W]`` or ``[H, W, C]``, and not several."""
    return hasattr(images, "getbbox") or getattr(images, "ndim", 0) in (2, 3)
