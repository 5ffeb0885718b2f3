"""What a report says about many records, gathered in one pass and in memory that does not grow with them."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .records import Record

__all__ = ["AnswerLengths", "FrequentTags", "Lengths", "Sample", "Statistics", "Unmet"]

_LONGEST = 100_000  # words, characters or tags that are told apart; bounds how many lengths there can be
_TAGS_KEPT = 30_000  # twice as many are in memory at most
_TAG_LENGTH = 200  # characters of a tag that count


class Lengths:
    """How long texts are: exact, but for those longer than any model writes."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._sum = 0

    def add(self, length: int) -> None:
        """One more text."""
        self._counts[min(length, _LONGEST)] += 1
        self._sum += length

    @property
    def count(self) -> int:
        """How many texts there are."""
        return self._counts.total()

    @property
    def mean(self) -> float:
        """0 if there is no text."""
        return self._sum / max(1, self.count)

    def quantile(self, part: float) -> int:
        """The length that a ``part`` of all texts, from 0 to 1, does not exceed; 0 if there is no text."""
        due = part * self.count
        seen = 0
        for length in sorted(self._counts):
            seen += self._counts[length]
            if seen >= due:
                return length
        return 0

    def bins(self, most: int = 30) -> tuple[list[int], int]:
        """The texts in each of at most ``most`` steps of one width, a round number.

        A few texts far longer than all others are counted in the last step, so that the others can be seen.

        Returns:
            How many texts are in each step, of which the first begins at 0, and the width.
        """
        longest, usual = self.quantile(1), self.quantile(0.995)
        end = longest if longest <= 2 * usual else usual
        width = next(width for width in _round_numbers() if end // width < most)
        steps = [0] * (end // width + 1)
        for length, count in self._counts.items():
            steps[min(length // width, len(steps) - 1)] += count
        return steps, width


def _round_numbers() -> Iterator[int]:
    """1, 2, 5, 10, 20, …"""
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


@dataclass
class AnswerLengths:
    """The lengths of all answers to one instruction, by words, characters and, where it has them, tags."""

    words: Lengths = field(default_factory=Lengths)
    characters: Lengths = field(default_factory=Lengths)
    tags: Lengths = field(default_factory=Lengths)
    has_prose: bool = False  # also beside tags
    empty: int = 0
    truncated: int = 0  # ended by the limit of tokens
    retried: int = 0  # asked more than once

    def add(self, answer: dict[str, Any]) -> None:
        """One more answer, as :meth:`Result.to_dict` gives it."""
        text = answer["text"]
        self.words.add(len(text.split()))
        self.characters.add(len(text))
        if "tags" in answer:
            self.tags.add(len(answer["tags"]))
        self.has_prose = self.has_prose or "prose" in answer or "tags" not in answer
        self.empty += not text.strip()
        self.truncated += bool(answer.get("truncated"))
        self.retried += answer.get("attempts", 1) > 1


@dataclass(frozen=True)
class Unmet:
    """An answer that was kept though it fails the conditions that were set."""

    name: str  # the picture's
    instruction: str
    reason: str  # which condition, and how far it is from that
    attempts: int


class FrequentTags:
    """Counts tags, of which there may be any number, exactly as long as they are not too many.

    Then the rarest are forgotten. A tag that comes, or comes back, later may have been among those as often
    as the most frequent of them, so its count may be too low by that: Metwally, Agrawal and El Abbadi's
    space-saving algorithm ("Efficient computation of frequent and top-k elements in data streams", 2005),
    done for many tags at a time.

    Args:
        kept: how many tags are kept when the rarest are forgotten, which is at twice that.
    """

    def __init__(self, kept: int = _TAGS_KEPT) -> None:
        self._kept = kept
        self._counts: dict[str, int] = {}
        self._missed: dict[str, int] = {}  # what a count may lack, where it may
        self._forgotten = 0  # a forgotten tag was there at most so often

    @property
    def is_exact(self) -> bool:
        """Whether none was forgotten."""
        return self._forgotten == 0

    def add(self, tags: Iterable[str]) -> None:
        """The tags of one picture; one that comes twice counts once."""
        for tag in {tag[:_TAG_LENGTH] for tag in tags}:
            known = self._counts.get(tag, 0)
            self._counts[tag] = known + 1
            if not known and self._forgotten:
                self._missed[tag] = self._forgotten
        if len(self._counts) > 2 * self._kept:
            self._forget()

    def most(self, number: int) -> list[tuple[str, int, int]]:
        """The most frequent tags: each with its count, and how much that may be too low."""
        best = heapq.nsmallest(number, self._counts.items(), key=lambda entry: (-entry[1], entry[0]))
        return [(tag, count, self._missed.get(tag, 0)) for tag, count in best]

    def __len__(self) -> int:
        return len(self._counts)

    def _forget(self) -> None:
        best = dict(heapq.nlargest(self._kept, self._counts.items(), key=lambda entry: entry[1]))
        gone = self._counts.keys() - best.keys()
        self._forgotten = max(self._counts[tag] + self._missed.get(tag, 0) for tag in gone)
        self._missed = {tag: missed for tag, missed in self._missed.items() if tag in best}
        self._counts = best


class Sample:
    """So many of all records, each as likely as any other (Vitter's algorithm R).

    Args:
        size: how many.
        seed: equal records in equal order, and an equal seed, give an equal sample.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._random = random.Random(seed)
        self._seen = 0
        self._chosen: list[tuple[int, Record]] = []

    def add(self, record: Record) -> None:
        """One more record, which may take the place of another."""
        entry = (self._seen, record)
        self._seen += 1
        if len(self._chosen) < self._size:
            self._chosen.append(entry)
            return
        place = self._random.randrange(self._seen)
        if place < self._size:
            self._chosen[place] = entry

    @property
    def records(self) -> list[Record]:
        """Those chosen, in the order in which they came."""
        return [record for _, record in sorted(self._chosen, key=lambda entry: entry[0])]


class Statistics:
    """All that a report says about the records.

    Args:
        sample: how many records to choose for people to look at.
        seed: of that choice.
        errors: how many errors, and answers that fail their conditions, to keep; all are counted.
    """

    def __init__(self, *, sample: int, seed: int, errors: int) -> None:
        self.captioned = 0
        self.failed = 0
        self.answers: dict[str, AnswerLengths] = {}  # by instruction, of which there are not many
        self.tagged = 0  # pictures with tags
        self.tags = FrequentTags()
        self.sample = Sample(sample, seed)
        self.errors: list[tuple[str, str]] = []  # the first: name and reason
        self.unmet: list[Unmet] = []  # the first
        self.unmet_count = 0
        self._most_errors = errors

    def add(self, record: Record) -> None:
        """One more picture."""
        if record.error is not None:
            self.failed += 1
            if len(self.errors) < self._most_errors:
                self.errors.append((record.name, record.error))
            return
        self.captioned += 1
        self.sample.add(record)
        for answer in record.results:
            self.answers.setdefault(answer["instruction"], AnswerLengths()).add(answer)
            self._add_unmet(record.name, answer)
        tags = {tag for answer in record.results for tag in answer.get("tags", ())}
        self.tagged += bool(tags)
        self.tags.add(tags)

    def _add_unmet(self, name: str, answer: dict[str, Any]) -> None:
        reason = answer.get("unmet")
        if not reason:
            return
        self.unmet_count += 1
        if len(self.unmet) < self._most_errors:
            self.unmet.append(Unmet(name, answer["instruction"], reason, answer.get("attempts", 1)))
