"""From pictures that were read to results, in batches; each picture has its own instructions and options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..inference import GeneratedSequence, GenerationOptions
from .features import FeatureCache
from .instructions import AnswerKind, Instruction
from .options import CaptionOptions
from .pictures import Picture, Question, View
from .results import Result, parse_answer
from .scores import TokenScores
from .tile_answers import join_tile_answers, tile_vision
from .vision_options import VisionOptions

if TYPE_CHECKING:
    from torch import Tensor

    from ..models_cache import LoadedModel

StepCallback = Callable[[int], None]

# The most that is computed together unless the user says otherwise, by the device's type. Beyond it a batch
# is hardly faster, but larger, later to come and slower to cancel.
_MOST_PICTURES = {"cuda": 16, "cpu": 1}
_MOST_PICTURES_ELSEWHERE = 4
_MOST_ANSWERS = {"cuda": 64, "cpu": 8}
_MOST_ANSWERS_ELSEWHERE = 16

# Of the feature cache: what the tiles of one picture may take. More of them would push each other out, and
# everything else, before they are asked for again.
_TILES_SHARE = 0.5

# From the seed of one attempt to that of the next: 2^64 over the golden ratio, after which none comes again.
_SEED_STEP = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Begun:
    """What there is to a picture that is to be asked again: by the number of the answer, those that are good,
    and how often the others were asked."""

    answers: Mapping[int, Result]
    attempts: Mapping[int, int]


@dataclass(frozen=True)
class Asked:
    """A picture that was read, and what is asked about it."""

    picture: Picture
    instructions: tuple[Instruction, ...]
    options: CaptionOptions
    begun: Begun | None = field(default=None, compare=False)  # by a batch that was left, see `Onlookers`

    @property
    def generation(self) -> GenerationOptions:
        """How its answers are generated next; what is generated alike can be in one batch."""
        if self.begun is None:
            return self.generation_of(0)
        numbers = set(range(self._count)) - set(self.begun.answers)
        return self.generation_of(min(self.begun.attempts.get(number, 0) for number in numbers))

    def generation_of(self, attempt: int) -> GenerationOptions:
        """How an answer is generated for the first time (0), or when it is asked again.

        Each attempt has a seed of its own, far from those that users count through, so that the next one of
        them gives other answers too; without one, chance is another every time anyhow.
        """
        generation = self.options.generation
        if self.options.vision.with_scores:
            generation = dataclasses.replace(generation, output_scores=True)
        if generation.seed is None or not attempt:
            return generation
        return dataclasses.replace(generation, seed=(generation.seed + attempt * _SEED_STEP) % 2**64)

    @property
    def answers(self) -> int:
        """How many answers of the model are still to be had for its results."""
        return self._count - (len(self.begun.answers) if self.begun else 0)

    @property
    def _count(self) -> int:
        return sum(len(question.prompts) for view in self.picture.views for question in view.questions)


@dataclass(frozen=True)
class Onlookers:
    """Who is told about a batch while it is answered. Pictures are named by their number in it."""

    on_step: StepCallback | None = None  # see `Captioner.stream`
    on_results: Callable[[int, tuple[Result, ...]], None] | None = None  # all of a picture's, once
    is_wanted: Callable[[int], bool] | None = None  # asked often; if not, no more is done for the picture
    # Asked before answers that fall short are asked again: if others wait for the model, the pictures that
    # are not done are left, for another batch to go on with, and `on_left` is told of each.
    others_wait: Callable[[], bool] | None = None
    on_left: Callable[[int, Begun], None] | None = None


@dataclass(frozen=True, eq=False)
class _Pair:
    """One answer of the model. Equal to itself alone: a picture may be asked the same twice."""

    asked: int
    view: View
    question: Question
    prompt: str


class Answerer:
    """Answers batches, and learns how large they may be. One at a time.

    Args:
        cache: where image features are looked for and kept.
        batch_size: the most answers that are decoded together; None: as many as the memory takes.
        keep_features: see :meth:`.Captioner.stream`.
    """

    def __init__(
        self, cache: FeatureCache, batch_size: int | None = None, *, keep_features: bool = True
    ) -> None:
        from .batches import BackOff

        self._cache = cache
        self._batch_size = batch_size
        self._keep_features = keep_features
        self._pictures = BackOff("pictures")
        self._answers = BackOff("answers")

    def answers_at_a_time(self, model: LoadedModel, generation: GenerationOptions) -> int:
        """How many answers are decoded together."""
        from .batches import fitting

        if self._batch_size is not None:
            return self._answers.limit(self._batch_size)
        most = _MOST_ANSWERS.get(model.device.type, _MOST_ANSWERS_ELSEWHERE)
        each = model.generating_bytes(1, generation)
        return self._answers.limit(fitting(model.device, each, most))

    def answer(
        self, model: LoadedModel, asked: Sequence[Asked], size: int, onlookers: Onlookers | None = None
    ) -> list[tuple[Result, ...]]:
        """The results of each picture, in the order of its instructions; none for one that nobody wants, or
        that was left to a later batch.

        An instruction about several regions, or about the tiles of a picture, has several answers, which
        become one result.

        Args:
            size: so many answers are decoded together.
        """
        book = _Book(asked, onlookers or Onlookers())
        for pairs in _parts(book.pairs, size):
            self._look(_Work(model, size, book), pairs)
        book.leave()
        return book.results

    def _look(self, work: _Work, pairs: Sequence[_Pair]) -> None:
        """Answer ``pairs``, those together that are generated alike, and again those that fall short."""
        book = work.book
        pairs = book.open_ones(pairs)
        features = self._encode(work.model, [pair.view for pair in pairs], book.onlookers.on_step)
        while pairs:
            alike: dict[GenerationOptions, list[_Pair]] = {}
            for pair in pairs:
                generation = book.asked[pair.asked].generation_of(book.attempts(pair))
                alike.setdefault(generation, []).append(pair)
            for generation, group in alike.items():
                self._generate(work, group, features, generation)
            pairs = book.open_ones(pairs)
            if pairs and book.onlookers.others_wait is not None and book.onlookers.others_wait():
                return

    def _generate(
        self,
        work: _Work,
        pairs: Sequence[_Pair],
        features: Mapping[str, Tensor],
        generation: GenerationOptions,
    ) -> None:
        """Answer ``pairs``, which are generated alike."""
        import torch

        model, book = work.model, work.book
        onlookers = book.onlookers
        attempts = {pair: book.attempts(pair) for pair in pairs}

        def is_open(pair: _Pair) -> bool:
            return book.is_open(pair, attempts[pair])

        def answer(part: Sequence[_Pair]) -> Sequence[_Pair]:
            # Where memory ran out, some of them were there already.
            left = [pair for pair in part if is_open(pair)]
            if left:
                model.generate(
                    torch.stack([features[pair.view.key] for pair in left]),
                    [pair.prompt for pair in left],
                    generation,
                    onlookers.on_step,
                    lambda row, sequence: book.put(left[row], sequence),
                    None if onlookers.is_wanted is None else lambda row: is_open(left[row]),
                )
            return part

        self._answers.run(answer, pairs, work.size, model.device)

    def _encode(
        self, model: LoadedModel, views: Sequence[View], on_step: StepCallback | None
    ) -> dict[str, Tensor]:
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
            return list(model.encode_images(model.image_processor.normalise(batch), on_step))

        if missing:
            size = self._pictures_at_a_time(model)
            pixels = [view.pixels for view in missing.values()]
            rows = self._pictures.run(encode, pixels, size, model.device)
            for view, row in zip(missing.values(), rows, strict=True):
                features[view.key] = row
                if self._keep_features and view.tiles * row.nbytes <= _TILES_SHARE * self._cache.max_bytes:
                    self._cache.put(_cache_key(model, view.key), row)
        return features

    def _pictures_at_a_time(self, model: LoadedModel) -> int:
        from .batches import fitting

        most = _MOST_PICTURES.get(model.device.type, _MOST_PICTURES_ELSEWHERE)
        if self._batch_size is not None:
            most = min(most, self._batch_size)
        return fitting(model.device, model.encoding_bytes(1), most)


class _Book:
    """The answers that there are to each picture of a batch, and its results once there are all."""

    def __init__(self, asked: Sequence[Asked], onlookers: Onlookers) -> None:
        self.asked = asked
        self.results: list[tuple[Result, ...]] = [() for _ in asked]
        self.onlookers = onlookers
        self._pairs = [list(_pairs_of(number, one)) for number, one in enumerate(asked)]
        self._answers: list[dict[_Pair, Result]] = [{} for _ in asked]
        self._attempts: dict[_Pair, int] = {}  # made in vain
        for number, (pairs, one) in enumerate(zip(self._pairs, asked, strict=True)):
            if one.begun is not None:
                self._answers[number] = {pairs[at]: answer for at, answer in one.begun.answers.items()}
                self._attempts.update({pairs[at]: made for at, made in one.begun.attempts.items()})
            if not pairs:  # asked about no region
                self._complete(number)

    @property
    def pairs(self) -> Iterator[_Pair]:
        """Of all pictures, in their order."""
        return (pair for pairs in self._pairs for pair in pairs)

    def attempts(self, pair: _Pair) -> int:
        """How many were made in vain."""
        return self._attempts.get(pair, 0)

    def open_ones(self, pairs: Sequence[_Pair]) -> list[_Pair]:
        """Those of which an answer is wanted that is not there yet."""
        return [pair for pair in pairs if self.is_open(pair, self.attempts(pair))]

    def leave(self) -> None:
        """Tell of the pictures that are still wanted and not done."""
        for number, pairs in enumerate(self._pairs):
            if self.onlookers.on_left is None or not self.open_ones(pairs):
                continue
            answers = self._answers[number]
            self.onlookers.on_left(
                number,
                Begun(
                    {at: answers[pair] for at, pair in enumerate(pairs) if pair in answers},
                    {at: self.attempts(pair) for at, pair in enumerate(pairs) if pair in self._attempts},
                ),
            )

    def is_open(self, pair: _Pair, attempt: int) -> bool:
        """Whether an answer is wanted, not there yet, and to be had by this attempt (0 is the first)."""
        if pair in self._answers[pair.asked] or self.attempts(pair) != attempt:
            return False
        is_wanted = self.onlookers.is_wanted
        return is_wanted is None or is_wanted(pair.asked)

    def put(self, pair: _Pair, sequence: GeneratedSequence) -> None:
        """There is an answer; one that falls short is forgotten, if it can be asked again."""
        attempts = self.attempts(pair)
        if not self.is_open(pair, attempts):
            return
        asked, answers = self.asked[pair.asked], self._answers[pair.asked]
        vision = asked.options.vision
        answer = parse_answer(
            pair.question.asked,
            sequence.text,
            image_size=pair.view.size,
            truncated=sequence.truncated,
            tag_options=asked.options.tags,
            token_scores=_token_scores(sequence) if vision.with_scores else None,
            vision=_choosing(asked, pair.question),
            cleaning=asked.options.cleaning,
            retries=asked.options.retries,
        )
        if answer.unmet is not None and attempts < asked.options.retries.limit:
            self._attempts[pair] = attempts + 1
            return
        answers[pair] = dataclasses.replace(answer, attempts=attempts + 1)
        if len(answers) == len(self._pairs[pair.asked]):
            self._complete(pair.asked)

    def _complete(self, number: int) -> None:
        """All answers to a picture are there."""
        answers = [self._answers[number][pair] for pair in self._pairs[number]]
        results = tuple(_results_of(self.asked[number], iter(answers)))
        self.results[number] = results
        if self.onlookers.on_results is not None:
            self.onlookers.on_results(number, results)


@dataclass(frozen=True)
class _Work:
    """A batch that is being answered."""

    model: LoadedModel
    size: int  # so many answers are decoded together
    book: _Book


def _pairs_of(number: int, asked: Asked) -> Iterator[_Pair]:
    for view in asked.picture.views:
        for question in view.questions:
            for prompt in question.prompts:
                yield _Pair(number, view, question, prompt)


def _parts(pairs: Iterator[_Pair], size: int) -> Iterator[list[_Pair]]:
    """In parts of ``size``, or less: all that is asked about a view stays together, so that few are held."""
    part: list[_Pair] = []
    of_view: list[_Pair] = []
    for pair in pairs:
        if of_view and of_view[0].view is not pair.view:
            if part and len(part) + len(of_view) > size:
                yield part
                part = []
            part += of_view
            of_view = []
        of_view.append(pair)
    if part and len(part) + len(of_view) > size:
        yield part
        part = []
    if part or of_view:
        yield part + of_view


def _choosing(asked: Asked, question: Question) -> VisionOptions | None:
    """Which of the regions that an answer holds are kept, before it is joined with others."""
    if not question.of_part:
        return asked.options.vision
    of_text = asked.instructions[question.number].answer is AnswerKind.OCR  # which has no scores
    return None if of_text else tile_vision(asked.options.vision)


def _results_of(asked: Asked, answers: Iterator[Result]) -> Iterator[Result]:
    """One result for each instruction of the ``answers`` to all that was asked about a picture."""
    found: list[list[tuple[View, list[Result]]]] = [[] for _ in asked.instructions]
    for view in asked.picture.views:
        for question in view.questions:
            found[question.number].append((view, [next(answers) for _ in question.prompts]))
    for instruction, parts in zip(asked.instructions, found, strict=True):
        yield _join(asked, instruction, parts)


def _join(asked: Asked, instruction: Instruction, parts: Sequence[tuple[View, list[Result]]]) -> Result:
    from .region_prompts import join_region_answers

    answers = parts[0][1]
    if instruction.input == "region":
        return join_region_answers(instruction, answers, asked.picture.boxes)
    if len(parts) == 1:
        return answers[0]
    about = [(view.box, answer) for view, (answer,) in parts]
    return join_tile_answers(instruction, about, asked.picture.size, asked.options.vision)


def _token_scores(sequence: GeneratedSequence) -> TokenScores:
    """Of an answer that was generated with scores."""
    return TokenScores(sequence.token_spans or (), sequence.token_scores or ())


def _cache_key(model: LoadedModel, picture_key: str) -> tuple[str, str, str]:
    return model.identity, str(model.dtype), picture_key
