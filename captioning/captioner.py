"""The engine's public face: pictures and instructions in, typed results out."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..inference import QUANTIZATIONS, GenerationOptions
from ..models_cache import DEFAULT_MODEL
from .answering import Answerer, Asked, Onlookers, StepCallback
from .features import FeatureCache, shared_feature_cache
from .images import ImageSource, parse_background
from .instructions import (
    PALIGEMMA,
    Instruction,
    check_text_input,
    find_instructions,
    instructions_of,
)
from .options import CaptionOptions
from .pictures import Picture, PictureReader
from .prompts import check_language
from .read_ahead import MOST_THREADS, ReadAhead
from .results import Result
from .retries import check_retries
from .vision_options import check_vision

if TYPE_CHECKING:
    from ..models_cache import CheckpointEntry, ImageProcessor, LoadedModel, ModelManager

__all__ = [
    "DEFAULT_INSTRUCTION",
    "DEFAULT_MODEL",
    "CaptionOptions",
    "Captioner",
    "GenerationOptions",
    "ImageResult",
    "Inquiry",
    "default_instruction",
]

DEFAULT_INSTRUCTION = "GENERATE_TAGS"
"""What is asked of a Florence-2 checkpoint where nobody chooses; of others see `default_instruction`."""

logger = logging.getLogger(__name__)


def default_instruction(model: str = DEFAULT_MODEL) -> str:
    """The name of the instruction for ``model`` where nobody chooses one.

    It is tags of Florence-2's checkpoints; of PaliGemma's what the catalogue has first for them, or else a
    caption.

    Raises:
        ModelNotFoundError: the name stands for nothing.
        CatalogueError: the user's catalogue cannot be understood.
    """
    from ..models_cache import entry_of, family_of_model

    if family_of_model(model) != PALIGEMMA:
        return DEFAULT_INSTRUCTION
    entry = entry_of(model)
    able = instructions_of(PALIGEMMA)
    return next((name for name in (entry.instructions if entry else ()) if name in able), "CAPTION")


@dataclass(frozen=True)
class ImageResult:
    """What became of one picture: one result per instruction, or the reason why there is none."""

    image: str  # its path, or "image 3" for what came without a name
    results: tuple[Result, ...] = ()  # in the order of the instructions
    error: str | None = None
    exception: Exception | None = field(default=None, compare=False)
    size: tuple[int, int] | None = None  # width and height in pixels, of a picture that could be read

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass(frozen=True)
class Inquiry:
    """What is asked about each picture of a run or a request; checked as far as it can be without one."""

    instructions: tuple[Instruction, ...]
    options: CaptionOptions
    prompts: Mapping[str, str]  # literal prompts that the checkpoint has of its own, by instruction
    known: tuple[str, ...]  # what the checkpoint was trained on; empty if that is not known

    def reader(self, processor: ImageProcessor) -> PictureReader:
        """Reads pictures for a checkpoint with this processor."""
        options = self.options
        return PictureReader(
            processor, self.instructions, self.prompts, options.text_input, options.background,
            options.vision.tile, self.known, options.language,
        )  # fmt: skip

    def asked(self, picture: Picture) -> Asked:
        """About one that was read."""
        return Asked(picture, self.instructions, self.options)


class Captioner:
    """Captions pictures with one checkpoint. Cheap to make; the model is loaded at first use and shared.

    Args:
        model: catalogue name, Hub id or folder.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``auto``, ``fp32``, ``fp16``, ``bf16`` or ``int8`` (CPU; fast, nearly the same answers).
        manager: where models live; the process's shared one by default.
        feature_cache: where image features live; the process's shared one by default.
        batch_size: the most answers, one per picture and instruction, that are decoded together. By default
            as many as the device's free memory takes, up to 64 on CUDA, 16 on MPS and 8 on a CPU. When memory
            runs out it is halved, with a warning. It changes no answer in fp32, and otherwise by rounding
            only.
        loras: LoRA adapters as ``peft`` saves them, each by folder, Hub id or name, and with its strength (1
            as trained). Several add up. The checkpoint itself is loaded once, whatever is added to it.
        quantization: ``none``, or the bits in which the language model's weights are held, ``8`` or ``4``, as
            a text or a number. Less memory, and answers that are nearly the same. ``4`` needs bitsandbytes.

    Raises:
        ValueError: ``batch_size`` is below 1, a strength is no number, or an unknown ``quantization``.
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
        loras: Sequence[tuple[str | os.PathLike[str], float]] = (),
        quantization: str | int = "none",
    ) -> None:
        bits = str(quantization) if isinstance(quantization, int) else quantization
        if bits not in QUANTIZATIONS:
            raise ValueError(
                f"quantization is {quantization!r}; it takes {', '.join(map(repr, QUANTIZATIONS))}."
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it takes 1 or more.")
        for name, strength in loras:
            if not math.isfinite(strength):
                raise ValueError(f"The strength of LoRA {name} is {strength}; it takes a number.")
        self.model = str(model)
        self.device = device
        self.dtype = dtype
        self.quantization = bits
        self.batch_size = batch_size
        self.loras = tuple((os.fspath(name), float(strength)) for name, strength in loras)
        self._manager = manager
        self._features = shared_feature_cache() if feature_cache is None else feature_cache
        self._warned: set[str] = set()

    def caption(
        self,
        images: ImageSource | Iterable[ImageSource],
        instructions: str | Sequence[str] | None = None,
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
        instructions: str | Sequence[str] | None = None,
        options: CaptionOptions | None = None,
        on_step: StepCallback | None = None,
        *,
        keep_features: bool = True,
    ) -> Iterator[ImageResult]:
        """Like :meth:`caption`, yielding each picture's result as soon as it is there.

        ``images`` may be an endless iterator: two batches of it are held at a time. It is asked by the thread
        that asks for results, for a batch beyond the one that is worked on (but for the first, whose results
        wait for nothing), so that worker threads read those pictures meanwhile; what it gave must stay as it
        is until its result is there. If it fails, what it gave before is answered first.

        Args:
            images: one picture or many; see :data:`ImageSource`.
            instructions: names in any case, with or without brackets; None: :func:`default_instruction`.
            options: how to generate and how to clean up.
            on_step: called before each decoded token with the number of tokens so far, and many times with 0
                while pictures are being encoded; may raise to cancel.
            keep_features: keep what the vision tower makes of each picture in the feature cache, unless its
                tiles would take most of that. It is not worth its memory, and the loss of what is there, if
                the pictures will hardly be seen again.

        Raises:
            InstructionError: an unknown instruction, one that the checkpoint's family does not have, a text
                input or a language that is missing or that none takes, or scores of regions where none finds
                any.
            ModelFilesError: the checkpoint is not there and cannot be had.
            CheckpointError: the checkpoint cannot be loaded, or an adapter does not fit it.
            ValueError: an option that the checkpoint does not allow.
            OutOfMemoryError: torch's; the device has not enough memory for one picture.
        """
        self._learn_family()
        inquiry = self.inquire(instructions, options)
        pictures: ReadAhead[ImageSource, Any] = ReadAhead(_named(images))
        answerer = Answerer(self._features, self.batch_size, keep_features=keep_features)
        waits = hasattr(images, "__next__")  # an iterator may take its time, a list does not
        return self._run(_Run(inquiry, answerer, on_step), pictures, waits)

    def inquire(
        self, instructions: str | Sequence[str] | None = None, options: CaptionOptions | None = None
    ) -> Inquiry:
        """Check all that can be wrong for every picture, before the first is opened.

        Instructions become those of the checkpoint's family. Which that is, is a guess for a checkpoint that
        is neither in the built-in catalogue nor on this computer, see
        :func:`promptgen.models_cache.family_of_model`.

        Raises:
            InstructionError, ValueError: see :meth:`stream`.
        """
        options = options or CaptionOptions()
        entry = self._find_entry()
        prompts = self.prompts()
        table = self._of_family(instructions, prompts)
        check_text_input(table, options.text_input)
        check_language(table, options.language, prompts)
        check_vision(table, options.vision)
        check_retries(options.generation, options.retries)
        parse_background(options.background)
        if not any(strength for _, strength in self.loras):  # nobody knows what those were trained on
            for instruction in table:
                self._warn_if_unknown(instruction, entry)
        return Inquiry(table, options, prompts, () if entry is None else entry.instructions)

    def prompts(self) -> dict[str, str]:
        """Literal prompts of checkpoint and adapters in place of the usual ones, by instruction, see
        :func:`promptgen.models_cache.own_prompts`."""
        from ..models_cache import own_prompts

        return own_prompts(self.model, self.loras)

    def loaded(self) -> AbstractContextManager[LoadedModel]:
        """Hold the model in memory for the length of a ``with`` block, see :meth:`.ModelManager.acquire`."""
        manager = self._manager or _shared_manager()
        return manager.acquire(
            self.model, device=self.device, dtype=self.dtype, adapters=self.loras,
            quantization=self.quantization,
        )  # fmt: skip

    def image_processor(self) -> ImageProcessor:
        """What the model's is, without its weights, see :func:`.models_cache.image_processor`."""
        from ..models_cache import image_processor

        return image_processor(self.model)

    def answerer(self) -> Answerer:
        """Who answers batches of pictures that are not asked the same."""
        return Answerer(self._features, self.batch_size)

    def _run(
        self, run: _Run, pictures: ReadAhead[ImageSource, Any], first_alone: bool
    ) -> Iterator[ImageResult]:
        """Read and answer all pictures, a batch at a time, holding the model for no longer than a batch."""
        ahead = not first_alone
        with closing(pictures):
            while pictures.more():
                with self.loaded() as model:
                    results = run.answer_next(model, pictures, ahead)
                yield from results
                ahead = True

    def _learn_family(self) -> None:
        """Fetch a checkpoint of which nothing is known, since what it is asked depends on what it is."""
        from ..models_cache import ensure_checkpoint, told_family

        if told_family(self.model) is None:
            ensure_checkpoint(self.model)

    def _of_family(
        self, instructions: str | Sequence[str] | None, prompts: Mapping[str, str]
    ) -> tuple[Instruction, ...]:
        """The instructions as the checkpoint's family has them; one with a prompt of its own may be any."""
        from ..models_cache import family_of_model

        named = default_instruction(self.model) if instructions is None else instructions
        family = family_of_model(self.model)
        return tuple(
            one if family not in one.families and one.name in prompts else one.for_family(family)
            for one in find_instructions(named)
        )

    def _find_entry(self) -> CheckpointEntry | None:
        from ..models_cache import entry_of

        return entry_of(self.model)

    def _warn_if_unknown(self, instruction: Instruction, entry: CheckpointEntry | None) -> None:
        if entry is None or not entry.instructions or instruction.name in entry.instructions:
            return
        if instruction.name in self._warned or instruction.is_free:
            return
        self._warned.add(instruction.name)
        logger.warning(
            "%s was not trained on %s; its answer may make no sense. It knows %s.",
            entry.name, instruction.name, ", ".join(entry.instructions),
        )  # fmt: skip


class _Run:
    """Batches of pictures of which all are asked the same."""

    def __init__(self, inquiry: Inquiry, answerer: Answerer, on_step: StepCallback | None) -> None:
        self._inquiry = inquiry
        self._answerer = answerer
        self._onlookers = Onlookers(on_step)

    def answer_next(
        self, model: LoadedModel, pictures: ReadAhead[ImageSource, Any], ahead: bool
    ) -> list[ImageResult]:
        """Take and answer a batch of ``pictures``; with ``ahead`` the next one is read meanwhile."""
        inquiry = self._inquiry
        size = self._answerer.answers_at_a_time(model, inquiry.options.generation)
        # A CPU has enough to do: one thread is always in time, more would take its cores.
        threads = 1 if model.device.type == "cpu" else MOST_THREADS
        count = max(1, size // len(inquiry.instructions))
        group = self._take(pictures, count, ahead, inquiry.reader(model.image_processor), threads)

        asked = [inquiry.asked(picture) for _, picture in group if isinstance(picture, Picture)]
        results = iter(self._answerer.answer(model, asked, size, self._onlookers))
        return [
            ImageResult(name, next(results), size=picture.size)
            if isinstance(picture, Picture)
            else ImageResult(name, error=str(picture), exception=picture)
            for name, picture in group
        ]

    def _take(
        self,
        pictures: ReadAhead[ImageSource, Any],
        count: int,
        ahead: bool,
        reader: PictureReader,
        threads: int,
    ) -> list[tuple[str, Any]]:
        """Pictures that have ``count`` views, or as many as there are."""
        if reader.tile is None:
            return pictures.take(count, count if ahead else 0, reader, threads)
        # A page may have hundreds of tiles, which is seen when it is read: so not many pages at a time.
        group: list[tuple[str, Any]] = []
        views = 0
        while views < count and (taken := pictures.take(1, threads if ahead else 0, reader, threads)):
            group += taken
            views += len(taken[0][1].views) if isinstance(taken[0][1], Picture) else 1
        return group


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
