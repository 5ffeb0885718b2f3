"""Answers that fall short are asked again: when, with which chance, and what is told about them."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from promptgen.captioning import (
    Captioner,
    CaptionOptions,
    CleaningOptions,
    FeatureCache,
    GenerationOptions,
    Result,
    RetryOptions,
    TagOptions,
    parse_answer,
)
from promptgen.captioning.answering import Answerer, Begun, Onlookers
from promptgen.captioning.words import count_words
from promptgen.models_cache import LoadedModel, ModelManager

from .checkpoints import REFERENCE, expected
from .paligemma_checkpoints import make_paligemma

PICTURES = [REFERENCE / "images" / name for name in expected()["images"]]
INSTRUCTION = "MORE_DETAILED_CAPTION"
SEED = 6  # with which some first answers are good, and some pictures have none
DRAWN = GenerationOptions(do_sample=True, temperature=1.5, num_beams=1, max_new_tokens=60, seed=SEED)
LIMIT = 2


@pytest.fixture(scope="module")
def manager() -> Iterator[ModelManager]:
    manager = ModelManager(idle_seconds=None)
    yield manager
    manager.close()


@pytest.fixture(scope="module")
def alone(manager: ModelManager) -> list[list[Result]]:
    """What each picture is answered by each attempt, for itself and without retries."""
    seeds = [dataclasses.replace(DRAWN, seed=seed_of(SEED, attempt)) for attempt in range(LIMIT + 1)]
    return [
        [
            captioner(manager, 1).caption(path, INSTRUCTION, CaptionOptions(drawn))[0].results[0]
            for drawn in seeds
        ]
        for path in PICTURES
    ]


def seed_of(first: int, attempt: int) -> int:
    """With which an answer is drawn when it is asked again."""
    return (first + attempt * 0x9E3779B97F4A7C15) % 2**64


def captioner(manager: ModelManager, batch_size: int | None = None, model: Path = REFERENCE) -> Captioner:
    return Captioner(
        str(model),
        device="cpu",
        dtype="fp32",
        manager=manager,
        feature_cache=FeatureCache(),
        batch_size=batch_size,
    )


def fewest_words(alone: Sequence[Sequence[Result]]) -> int:
    """So many words that some first answers have them, some that come later, and of some pictures none."""
    for words in range(1, 50):
        counts = [max(count_words(answer.text) for answer in answers) for answers in alone]
        if min(counts) < words and {0, LIMIT} < {kept(answers, words) for answers in alone}:
            return words
    raise AssertionError("the answers are too much alike")


def kept(answers: Sequence[Result], words: int) -> int:
    """The attempt whose answer is kept."""
    good = (number for number, answer in enumerate(answers) if count_words(answer.text) >= words)
    return next(good, LIMIT)


@contextmanager
def rows_of(manager: ModelManager, most: int = 10**9) -> Iterator[list[int]]:
    """How many rows go through the encoder each time; its memory ends above ``most``."""
    rows: list[int] = []

    def note(_: object, args: object, arguments: dict[str, Any]) -> None:
        rows.append(arguments["inputs_embeds"].shape[0])
        if rows[-1] > most:
            torch.empty(2**50)

    with manager.acquire(str(REFERENCE), device="cpu", dtype="fp32") as model:
        encoder = model.network.language_model.get_encoder()  # type: ignore[operator, union-attr]
        hook = encoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield rows
    finally:
        hook.remove()


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_what_falls_short_is_asked_again_together_with_the_next_seeds(
    manager: ModelManager, alone: list[list[Result]], batch_size: int
) -> None:
    words = fewest_words(alone)
    options = CaptionOptions(DRAWN, retries=RetryOptions(LIMIT, words))
    with rows_of(manager) as rows:
        answered = captioner(manager, batch_size).caption(PICTURES, INSTRUCTION, options)
    numbers = [kept(answers, words) for answers in alone]
    for one, answers, number in zip(answered, alone, numbers, strict=True):
        (result,) = one.results
        assert result.text == answers[number].text
        assert result.truncated == answers[number].truncated
        assert result.attempts == number + 1
        count = count_words(result.text)
        assert result.unmet == (None if count >= words else f"{count} words of at least {words}")
    if batch_size == 64:
        assert rows == [sum(number >= attempt for number in numbers) for attempt in range(LIMIT + 1)]


def test_memory_that_runs_out_on_the_way_changes_no_answer(
    manager: ModelManager, alone: list[list[Result]], caplog: pytest.LogCaptureFixture
) -> None:
    options = CaptionOptions(DRAWN, retries=RetryOptions(LIMIT, fewest_words(alone)))
    want = captioner(manager, 6).caption(PICTURES, INSTRUCTION, options)
    with caplog.at_level(logging.WARNING), rows_of(manager, most=2) as rows:
        assert captioner(manager, 6).caption(PICTURES, INSTRUCTION, options) == want
    assert rows[:2] == [6, 3]
    assert max(rows[2:]) <= 2
    assert len(caplog.records) == 2


def test_the_last_answer_is_kept_and_marked(manager: ModelManager, alone: list[list[Result]]) -> None:
    options = CaptionOptions(DRAWN, retries=RetryOptions(LIMIT, 1000))
    (result,) = captioner(manager).caption(PICTURES[0], INSTRUCTION, options)[0].results
    assert result.raw == alone[0][LIMIT].raw
    count = count_words(result.text)
    assert result.to_dict() == alone[0][LIMIT].to_dict() | {
        "attempts": LIMIT + 1,
        "unmet": f"{count} words of at least 1000",
    }
    once = dataclasses.replace(options, retries=RetryOptions(0, 1000))
    (first,) = captioner(manager).caption(PICTURES[0], INSTRUCTION, once)[0].results
    assert (first.raw, first.attempts) == (alone[0][0].raw, 1)
    assert first.unmet is not None


def test_a_retry_word_is_looked_for_in_what_was_generated(
    manager: ModelManager, alone: list[list[Result]]
) -> None:
    word = next(word for word in re.findall(r"[a-z]{3,}", alone[0][0].raw))
    options = CaptionOptions(
        DRAWN,
        TagOptions(replace=f"{word}:another"),
        cleaning=CleaningOptions(remove_characters=word[0]),
        retries=RetryOptions(1, retry_words=(word,)),
    )
    (result,) = captioner(manager).caption(PICTURES[0], INSTRUCTION, options)[0].results
    assert result.attempts == 2
    assert result.raw == alone[0][1].raw


def test_without_a_seed_each_attempt_draws_another_answer(manager: ModelManager) -> None:
    drawn = dataclasses.replace(DRAWN, seed=None)
    first = CaptionOptions(drawn, retries=RetryOptions(0, 1000))
    texts = {captioner(manager).caption(PICTURES[0], INSTRUCTION, first)[0].results[0].raw for _ in range(4)}
    assert len(texts) > 1
    again = CaptionOptions(
        drawn, retries=RetryOptions(20, retry_words=tuple(word_of(text) for text in texts))
    )
    (result,) = captioner(manager).caption(PICTURES[0], INSTRUCTION, again)[0].results
    assert result.attempts >= 1
    assert result.unmet is None or result.attempts == 21


def word_of(text: str) -> str:
    return max(re.findall(r"\w+", text), key=len)


def test_others_of_the_picture_and_of_the_batch_are_answered_once(
    manager: ModelManager, alone: list[list[Result]]
) -> None:
    names = ["OCR", INSTRUCTION, "OD"]
    plain = captioner(manager, 6).caption(PICTURES, names, CaptionOptions(DRAWN))
    options = CaptionOptions(DRAWN, retries=RetryOptions(LIMIT, 1000))
    for before, after in zip(plain, captioner(manager, 6).caption(PICTURES, names, options), strict=True):
        assert [result.attempts for result in after.results] == [1, LIMIT + 1, 1]
        assert (after.results[0], after.results[2]) == (before.results[0], before.results[2])


class Watched:
    """Answers pictures as a server has them answered, and notes what is told."""

    def __init__(self, manager: ModelManager, retries: Sequence[RetryOptions]) -> None:
        self.told: list[tuple[int, int]] = []
        self.left: set[int] = set()  # pictures that nobody wants any more
        self._manager = manager
        self._retries = retries

    def answer(self, on_step: Any = None) -> list[tuple[Result, ...]]:
        engine = captioner(self._manager)
        with engine.loaded() as model:
            return Answerer(FeatureCache()).answer(
                model,
                [
                    self._asked(engine, model, path, retries)
                    for path, retries in zip(PICTURES, self._retries, strict=False)
                ],
                8,
                Onlookers(on_step, self._tell, lambda number: number not in self.left),
            )

    def _asked(self, engine: Captioner, model: LoadedModel, path: Path, retries: RetryOptions) -> Any:
        inquiry = engine.inquire(INSTRUCTION, CaptionOptions(DRAWN, retries=retries))
        return inquiry.asked(inquiry.reader(model.image_processor)(path))

    def _tell(self, number: int, results: tuple[Result, ...]) -> None:
        self.told.append((number, results[0].attempts))


def test_those_whose_answer_is_good_are_told_at_once_and_all_are_told_once(manager: ModelManager) -> None:
    watched = Watched(manager, [RetryOptions(2, 1000), RetryOptions(), RetryOptions(1, 1000)])
    results = watched.answer()
    assert watched.told == [(1, 1), (2, 2), (0, 3)]
    assert [result.attempts for (result,) in results] == [3, 1, 2]


def test_what_nobody_wants_any_more_is_not_asked_again(manager: ModelManager) -> None:
    watched = Watched(manager, [RetryOptions(50, 1000), RetryOptions()])
    with rows_of(manager) as rows:
        tell = watched._tell

        def leave(number: int, results: tuple[Result, ...]) -> None:
            tell(number, results)
            watched.left.add(0)

        watched._tell = leave  # type: ignore[method-assign]
        assert watched.answer()[0] == ()
    assert watched.told == [(1, 1)]
    assert len(rows) <= 2


def test_what_is_left_for_others_goes_on_where_it_was(
    manager: ModelManager, alone: list[list[Result]]
) -> None:
    """Each batch does one attempt, as when others always wait, and one picture comes later."""
    words = fewest_words(alone)
    options = CaptionOptions(DRAWN, retries=RetryOptions(LIMIT, words))
    engine = captioner(manager)
    names = ["OCR", INSTRUCTION]
    inquiry = engine.inquire(names, options)
    results: dict[Path, tuple[Result, ...]] = {}
    begun: Counter[Path] = Counter()
    latest = next(path for path, one in zip(PICTURES, alone, strict=True) if kept(one, words) == LIMIT)
    with engine.loaded() as model:
        read = inquiry.reader(model.image_processor)
        now = [(path, inquiry.asked(read(path))) for path in PICTURES]
        later = now.pop(PICTURES.index(latest))
        answerer = Answerer(FeatureCache())
        for batch in itertools.count():
            if not now:
                break
            left: dict[int, Begun] = {}
            watching = Onlookers(others_wait=lambda: True, on_left=left.__setitem__)
            asked = [one for _, one in now]
            for (path, _), result in zip(now, answerer.answer(model, asked, 8, watching), strict=True):
                results.update({path: result} if result else {})
            assert len(results) + len(left) == len(PICTURES) - (not batch)
            now = [
                (now[number][0], dataclasses.replace(asked[number], begun=left[number])) for number in left
            ]
            begun.update(path for path, _ in now)
            for path, one in now:
                assert one.answers == 1, "OCR was answered"
                assert one.generation.seed == seed_of(SEED, begun[path])
            if not batch:
                now.append(later)
    assert batch == LIMIT + 2
    expected = captioner(manager, 8).caption(PICTURES, names, options)
    assert [results[path] for path in PICTURES] == [one.results for one in expected]
    assert [results[path][1].attempts for path in PICTURES] == [kept(one, words) + 1 for one in alone]


def test_a_run_can_be_cancelled_while_it_asks_again(manager: ModelManager) -> None:
    class StoppedError(Exception):
        pass

    starts = itertools.count()

    def on_step(tokens: int) -> None:
        if tokens == 1 and next(starts) == 2:
            raise StoppedError

    watched = Watched(manager, [RetryOptions(50, 1000)])
    with pytest.raises(StoppedError):
        watched.answer(on_step)
    assert watched.told == []
    assert next(starts) == 3


def test_a_paligemma_is_asked_again_as_well(manager: ModelManager, tmp_path: Path) -> None:
    checkpoint = make_paligemma(tmp_path / "paligemma")
    options = CaptionOptions(
        GenerationOptions(do_sample=True, max_new_tokens=12, seed=1), retries=RetryOptions(2, 1000)
    )
    (result,) = captioner(manager, model=checkpoint).caption(PICTURES[0], "LONG_PROMPT", options)[0].results
    assert result.attempts == 3
    third = CaptionOptions(dataclasses.replace(options.generation, seed=seed_of(1, 2)))
    (last,) = captioner(manager, model=checkpoint).caption(PICTURES[0], "LONG_PROMPT", third)[0].results
    assert result.raw == last.raw


def test_seeds_that_follow_one_another_give_other_answers_also_when_asked_again(
    manager: ModelManager,
) -> None:
    engine = captioner(manager)
    answers = [
        engine.caption(
            PICTURES[0],
            INSTRUCTION,
            CaptionOptions(dataclasses.replace(DRAWN, seed=seed), retries=RetryOptions(limit, 1000)),
        )[0].results[0]
        for seed, limit in ((1, 3), (2, 2), (3, 1), (4, 0))
    ]
    assert [one.attempts for one in answers] == [4, 3, 2, 1]
    assert len({one.raw for one in answers}) == 4


def test_words_may_stand_in_one_text_with_commas_between_them() -> None:
    for words in ("gray, a zebra,", ["gray, a zebra"], ("gray", "a zebra", "")):
        assert RetryOptions(retry_words=words).retry_words == ("gray", "a zebra")


@pytest.mark.parametrize("generation", [GenerationOptions(), GenerationOptions(do_sample=False, num_beams=3)])
def test_asking_again_takes_sampling(manager: ModelManager, generation: GenerationOptions) -> None:
    engine = captioner(manager)
    with pytest.raises(ValueError, match=r"without sampling \(do_sample\) every attempt gives the same"):
        engine.caption(PICTURES[0], INSTRUCTION, CaptionOptions(generation, retries=RetryOptions(1, 5)))
    engine.inquire(INSTRUCTION, CaptionOptions(generation, retries=RetryOptions(0, 5)))
    engine.inquire(INSTRUCTION, CaptionOptions(generation, retries=RetryOptions(5)))  # nothing falls short


def test_conditions_are_judged_after_clean_up_and_without_affixes() -> None:
    options = {
        "tag_options": TagOptions(prefix="one two three four"),
        "cleaning": CleaningOptions(remove_brackets="()"),
        "retries": RetryOptions(0, 4, ("no_parallel",)),
    }

    def unmet(raw: str, instruction: str = "CAPTION") -> str | None:
        return parse_answer(instruction, raw, (10, 10), **options).unmet  # type: ignore[arg-type]

    assert unmet("a cat on it") is None
    assert unmet("a cat (on it)") == "2 words of at least 4"
    assert unmet("cat (no parallel)") == "1 word of at least 4; holds no_parallel"
    assert unmet("cat, red_hat, no_parallel, sky", "GENERATE_TAGS") == "holds no_parallel"
    assert unmet("cat, red_hat, sky", "GENERATE_TAGS") == "3 words of at least 4"
    assert unmet("a", "OCR") is None
    assert unmet("yes", "DOCVQA") is None
    assert unmet("yes", "PROMPT") == "1 word of at least 4"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"limit": -1}, "limit of retries is -1; it takes a whole number from 0 to 100"),
        ({"limit": 101}, "limit of retries is 101"),
        ({"limit": True}, "limit of retries is True"),
        ({"min_words": -1}, "min_words is -1; it takes a whole number of at least 0"),
        ({"retry_words": (1,)}, "retry_words is (1,); it takes texts"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        RetryOptions(**options)


def test_retry_words_in_one_text_have_commas_between() -> None:
    assert RetryOptions(retry_words=" a b, c,,c ") == RetryOptions(retry_words=("a b", "c"))
