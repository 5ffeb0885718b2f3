"""The engine's public face: pictures and instructions in, typed results out."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..florence2 import GeneratedSequence, GenerationOptions
from ..models_cache import DEFAULT_MODEL
from .features import FeatureCache, shared_feature_cache
from .images import DEFAULT_BACKGROUND, Background, ImageSource, parse_background
from .instructions import AnswerKind, Instruction, check_text_input, find_instructions
from .pictures import Picture, PictureReader, Question, View
from .read_ahead import MOST_THREADS, ReadAhead
from .results import Result, parse_answer
from .scores import TokenScores
from .tags import TagOptions
from .tile_answers import join_tile_answers, tile_vision
from .vision_options import VisionOptions, check_vision

if TYPE_CHECKING:
    from torch import Tensor

    from ..models_cache import CheckpointEntry, LoadedModel, ModelManager

StepCallback = Callable[[int], None]

DEFAULT_INSTRUCTION = "GENERATE_TAGS"

# The most that is computed together unless the user says otherwise, by the device's type. Beyond it a batch
# is hardly faster, but larger, later to come and slower to cancel.
_MOST_PICTURES = {"cuda": 16, "cpu": 1}
_MOST_PICTURES_ELSEWHERE = 4
_MOST_ANSWERS = {"cuda": 64, "cpu": 8}
_MOST_ANSWERS_ELSEWHERE = 16

# Of the feature cache: what the tiles of one picture may take. More of them would push each other out, and
# everything else, before they are asked for again.
_TILES_SHARE = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionOptions:
    """Everything that shapes an answer besides the picture, the instruction and the checkpoint."""

    generation: GenerationOptions = field(default_factory=GenerationOptions)
    tags: TagOptions = field(default_factory=TagOptions)
    text_input: str | None = None  # for instructions that need a phrase or regions (several: ";" between)
    background: Background = DEFAULT_BACKGROUND  # behind transparent pixels: a name, #rrggbb or (r, g, b)
    vision: VisionOptions = field(default_factory=VisionOptions)  # for instructions that find regions


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
            runs out it is halved, with a warning. It does not change any answer.
        loras: LoRA adapters as ``peft`` saves them, each by folder, Hub id or name, and with its strength (1
            as trained). Several add up. The checkpoint itself is loaded once, whatever is added to it.

    Raises:
        ValueError: ``batch_size`` is below 1, or a strength is no number.
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
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it takes 1 or more.")
        for name, strength in loras:
            if not math.isfinite(strength):
                raise ValueError(f"The strength of LoRA {name} is {strength}; it takes a number.")
        self.model = str(model)
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.loras = tuple((os.fspath(name), float(strength)) for name, strength in loras)
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
            instructions: names in any case, with or without brackets.
            options: how to generate and how to clean up.
            on_step: called before each decoded token with the number of tokens so far, and many times with 0
                while pictures are being encoded; may raise to cancel.
            keep_features: keep what the vision tower makes of each picture in the feature cache, unless its
                tiles would take most of that. It is not worth its memory, and the loss of what is there, if
                the pictures will hardly be seen again.

        Raises:
            InstructionError: an unknown instruction, a text input that is missing or that none takes, or
                scores of regions where none finds any.
            ModelFilesError: the checkpoint is not there and cannot be had.
            CheckpointError: the checkpoint cannot be loaded, or an adapter does not fit it.
            ValueError: an option that the checkpoint does not allow.
            OutOfMemoryError: torch's; the device has not enough memory for one picture.
        """
        table = find_instructions(instructions)
        options = options or CaptionOptions()
        entry = self._find_entry()
        # what is wrong for every picture is said before the first is opened
        check_text_input(table, options.text_input)
        check_vision(table, options.vision)
        parse_background(options.background)
        if not any(strength for _, strength in self.loras):  # nobody knows what those were trained on
            for instruction in table:
                self._warn_if_unknown(instruction, entry)
        pictures: ReadAhead[ImageSource, Any] = ReadAhead(_named(images))
        known = () if entry is None else entry.instructions
        run = _Run(
            self._features, tuple(table), options, _prompts_of(entry), known, self.batch_size, on_step,
            keep_features,
        )  # fmt: skip
        waits = hasattr(images, "__next__")  # an iterator may take its time, a list does not
        return self._run(run, pictures, waits)

    def _run(
        self, run: _Run, pictures: ReadAhead[ImageSource, Any], first_alone: bool
    ) -> Iterator[ImageResult]:
        """Read and answer all pictures, a batch at a time, holding the model for no longer than a batch."""
        manager = self._manager or _shared_manager()
        ahead = not first_alone
        with closing(pictures):
            while pictures.more():
                with manager.acquire(
                    self.model, device=self.device, dtype=self.dtype, adapters=self.loras
                ) as model:
                    results = run.answer_next(model, pictures, ahead)
                yield from results
                ahead = True

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


class _Run:
    """All that stays the same from batch to batch, and what was learnt about the memory."""

    def __init__(
        self,
        cache: FeatureCache,
        instructions: tuple[Instruction, ...],
        options: CaptionOptions,
        prompts: dict[str, str],
        known: tuple[str, ...],
        batch_size: int | None,
        on_step: StepCallback | None,
        keep_features: bool,
    ) -> None:
        from .batches import BackOff

        self._cache = cache
        self._instructions = instructions
        self._options = options
        self._prompts = prompts
        self._known = known
        self._batch_size = batch_size
        self._on_step = on_step
        self._keep_features = keep_features
        self._pictures = BackOff("pictures")
        self._answers = BackOff("answers")

    def answer_next(
        self, model: LoadedModel, pictures: ReadAhead[ImageSource, Any], ahead: bool
    ) -> list[ImageResult]:
        """Take and answer a batch of ``pictures``; with ``ahead`` the next one is read meanwhile."""
        options = self._options
        reader = PictureReader(
            model.image_processor, self._instructions, self._prompts, options.text_input, options.background,
            options.vision.tile, self._known,
        )  # fmt: skip
        answers = self._answers_at_a_time(model)
        # A CPU has enough to do: one thread is always in time, more would take its cores.
        threads = 1 if model.device.type == "cpu" else MOST_THREADS
        group = self._take(pictures, max(1, answers // len(self._instructions)), ahead, reader, threads)

        readable = [picture for _, picture in group if isinstance(picture, Picture)]
        results = iter(self._answer(model, readable, answers))
        done = []
        for name, picture in group:
            if isinstance(picture, Picture):
                answers_of = tuple(next(results) for _ in self._instructions)
                done.append(ImageResult(name, answers_of, size=picture.size))
            else:
                done.append(ImageResult(name, error=str(picture), exception=picture))
        return done

    def _take(
        self,
        pictures: ReadAhead[ImageSource, Any],
        count: int,
        ahead: bool,
        reader: PictureReader,
        threads: int,
    ) -> list[tuple[str, Any]]:
        """Pictures that have ``count`` views, or as many as there are."""
        if self._options.vision.tile is None:
            return pictures.take(count, count if ahead else 0, reader, threads)
        # A page may have hundreds of tiles, which is seen when it is read: so not many pages at a time.
        group: list[tuple[str, Any]] = []
        views = 0
        while views < count and (taken := pictures.take(1, threads if ahead else 0, reader, threads)):
            group += taken
            views += len(taken[0][1].views) if isinstance(taken[0][1], Picture) else 1
        return group

    def _answers_at_a_time(self, model: LoadedModel) -> int:
        from .batches import fitting

        if self._batch_size is not None:
            return self._answers.limit(self._batch_size)
        most = _MOST_ANSWERS.get(model.device.type, _MOST_ANSWERS_ELSEWHERE)
        each = model.generating_bytes(1, self._options.generation)
        return self._answers.limit(fitting(model.device, each, most))

    def _pictures_at_a_time(self, model: LoadedModel) -> int:
        from .batches import fitting

        most = _MOST_PICTURES.get(model.device.type, _MOST_PICTURES_ELSEWHERE)
        if self._batch_size is not None:
            most = min(most, self._batch_size)
        return fitting(model.device, model.encoding_bytes(1), most)

    def _encode(self, model: LoadedModel, views: Sequence[View]) -> dict[str, Tensor]:
        """Image features ``[N, d_model]`` on the device, by the key of the view."""
        import torch

        features: dict[str, Tensor] = {}
        missing: dict[str, View] = {}
        for view in views:
            if view.key in features or view.key in missing:
                continue
            cached = self._cache.get(_cache_key(model, view.key))
            if cached is None:
                missing[view.key] = view
            else:
                features[view.key] = cached.to(model.device)

        def encode(pixels: Sequence[Tensor]) -> list[Tensor]:
            batch = torch.stack(list(pixels)).to(model.device)
            return list(model.encode_images(model.image_processor.normalise(batch), self._on_step))

        if missing:
            size = self._pictures_at_a_time(model)
            pixels = [view.pixels for view in missing.values()]
            rows = self._pictures.run(encode, pixels, size, model.device)
            for view, row in zip(missing.values(), rows, strict=True):
                features[view.key] = row
                if self._keep_features and view.tiles * row.nbytes <= _TILES_SHARE * self._cache.max_bytes:
                    self._cache.put(_cache_key(model, view.key), row)
        return features

    def _answer(self, model: LoadedModel, pictures: Sequence[Picture], size: int) -> list[Result]:
        """One result for each (picture, instruction) pair; ``size`` answers are decoded together.

        An instruction about several regions, or about the tiles of a picture, counts as many times, and its
        answers become one result.
        """
        views = [view for picture in pictures for view in picture.views]
        at_a_time = max(1, size // len(self._instructions))
        answers: list[Result] = []
        for first in range(0, len(views), at_a_time):
            answers += self._look(model, views[first : first + at_a_time], size)
        left = iter(answers)
        return [result for picture in pictures for result in self._results_of(picture, left)]

    def _look(self, model: LoadedModel, views: Sequence[View], size: int) -> list[Result]:
        """The answers to all questions about ``views``, one for each prompt, in order."""
        import torch

        features = self._encode(model, views)
        vision, generation = self._options.vision, self._options.generation
        if vision.with_scores:
            generation = dataclasses.replace(generation, output_scores=True)

        def answer(pairs: Sequence[tuple[View, Question, str]]) -> list[Result]:
            batch = torch.stack([features[view.key] for view, _, _ in pairs])
            prompts = [prompt for _, _, prompt in pairs]
            sequences = model.generate(batch, prompts, generation, on_step=self._on_step)
            return [
                parse_answer(
                    question.asked,
                    sequence.text,
                    image_size=view.size,
                    truncated=sequence.truncated,
                    tag_options=self._options.tags,
                    token_scores=_token_scores(sequence) if vision.with_scores else None,
                    vision=self._choosing(question),
                )
                for (view, question, _), sequence in zip(pairs, sequences, strict=True)
            ]

        pairs = [
            (view, question, prompt)
            for view in views
            for question in view.questions
            for prompt in question.prompts
        ]
        return self._answers.run(answer, pairs, size, model.device)

    def _choosing(self, question: Question) -> VisionOptions | None:
        """Which of the regions that an answer holds are kept, before it is joined with others."""
        if not question.of_part:
            return self._options.vision
        of_text = self._instructions[question.number].answer is AnswerKind.OCR  # which has no scores
        return None if of_text else tile_vision(self._options.vision)

    def _results_of(self, picture: Picture, answers: Iterator[Result]) -> list[Result]:
        """One result for each instruction of the ``answers`` to all that was asked about a picture."""
        found: list[list[tuple[View, list[Result]]]] = [[] for _ in self._instructions]
        for view in picture.views:
            for question in view.questions:
                found[question.number].append((view, [next(answers) for _ in question.prompts]))
        return [
            self._join(picture, instruction, parts)
            for instruction, parts in zip(self._instructions, found, strict=True)
        ]

    def _join(
        self, picture: Picture, instruction: Instruction, parts: Sequence[tuple[View, list[Result]]]
    ) -> Result:
        from .region_prompts import join_region_answers

        answers = parts[0][1]
        if instruction.input == "region":
            return join_region_answers(instruction, answers, picture.boxes)
        if len(parts) == 1:
            return answers[0]
        about = [(view.box, answer) for view, (answer,) in parts]
        return join_tile_answers(instruction, about, picture.size, self._options.vision)


def _token_scores(sequence: GeneratedSequence) -> TokenScores:
    """Of an answer that was generated with scores."""
    return TokenScores(sequence.token_spans or (), sequence.token_scores or ())


def _cache_key(model: LoadedModel, picture_key: str) -> tuple[str, str, str]:
    return model.identity, str(model.dtype), picture_key


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
