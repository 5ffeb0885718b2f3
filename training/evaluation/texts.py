"""Metrics of prose, by the libraries that people know them from."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any
from zipfile import BadZipFile

from ..errors import TrainingError
from .words import spaced, words_of

__all__ = ["anls", "bleu", "character_error_rate", "edit_distance", "has_wordnet", "meteor", "rouge_l"]

References = Sequence[Sequence[str]]
"""One or several texts for each answer."""


def bleu(answers: Sequence[str], references: References) -> float:
    """BLEU-4 of all answers together, 0 to 100, as ``sacrebleu`` has it by default (``13a``, mixed case).

    Of scripts that put no space between words each character counts as a word, since ``13a`` would take a
    sentence for one.
    """
    from sacrebleu.metrics import BLEU

    split = [[spaced(text) for text in texts] for texts in references]
    columns = zip_longest(*split)  # of several references for some answers, None for the others
    return float(BLEU().corpus_score(list(map(spaced, answers)), list(map(list, columns))).score)


def rouge_l(answers: Sequence[str], references: References) -> float:
    """ROUGE-L, 0 to 1: the F1 of the longest common subsequence of words, on average over the answers.

    As ``rouge_score`` has it, without stemming, but for words in any script; of several references the best.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    best = [
        max(scorer.score(reference, answer)["rougeL"].fmeasure for reference in texts)
        for answer, texts in zip(answers, references, strict=True)
    ]
    return sum(best) / len(best)


class _Words:
    """A tokenizer as ``rouge_score`` takes one."""

    def tokenize(self, text: str) -> list[str]:
        return words_of(text)


def meteor(answers: Sequence[str], references: References) -> float:
    """METEOR, 0 to 1, as ``nltk`` has it, on average over the answers; of several references the best.

    Words are matched if they are equal, have the same stem or, where :func:`has_wordnet`, are synonyms.
    """
    from nltk.translate.meteor_score import meteor_score

    wordnet = _wordnet() or _NoSynonyms()
    scores = [
        meteor_score([words_of(reference) for reference in texts], words_of(answer), wordnet=wordnet)
        for answer, texts in zip(answers, references, strict=True)
    ]
    return sum(scores) / len(scores)


def has_wordnet() -> bool:
    """Whether the corpus of synonyms is on this computer (``python -m nltk.downloader wordnet``).

    Raises:
        TrainingError: it is, and cannot be read.
    """
    return _wordnet() is not None


@lru_cache(maxsize=1)
def _wordnet() -> Any | None:
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        return None
    except (OSError, BadZipFile) as error:
        raise TrainingError(
            f"NLTK's WordNet, which METEOR takes synonyms from, cannot be read: {error}. Do: "
            f"{shlex.quote(sys.executable)} -m nltk.downloader --force wordnet"
        ) from error
    return wordnet


class _NoSynonyms:
    """What METEOR asks WordNet, which is not there."""

    def synsets(self, word: str) -> list[Any]:
        return []


def character_error_rate(answers: Sequence[str], references: References) -> float:
    """Characters to insert, delete or replace, by the characters of the references; 0 is best, and it may be
    above 1. Runs of white space count as one space; of several references the nearest."""
    wrong = total = 0
    for answer, texts in zip(answers, references, strict=True):
        distances = [(edit_distance(_squeeze(answer), _squeeze(text)), len(_squeeze(text))) for text in texts]
        distance, length = min(distances, key=lambda one: one[0] / max(1, one[1]))
        wrong += distance
        total += length
    return wrong / max(1, total)


def anls(answers: Sequence[str], references: References) -> float:
    """Average normalised Levenshtein similarity, 0 to 1: how alike short answers are, in any case; one that
    is half wrong or more is wrong. Of several references the nearest.

    A. F. Biten and others, "Scene Text Visual Question Answering" (ICCV 2019), the metric of DocVQA.
    """
    found = [
        max(_similarity(_squeeze(answer).casefold(), _squeeze(text).casefold()) for text in texts)
        for answer, texts in zip(answers, references, strict=True)
    ]
    return sum(found) / len(found)


def _similarity(one: str, other: str) -> float:
    wrong = edit_distance(one, other) / max(1, len(one), len(other))
    return 1 - wrong if wrong < 0.5 else 0.0


def edit_distance(one: str, other: str) -> int:
    """Levenshtein's: the least number of characters to insert, delete or replace."""
    import numpy as np

    if not one or not other:
        return len(one) + len(other)
    target = np.frombuffer(other.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    places = np.arange(len(other) + 1)
    row = places.copy()
    for number, character in enumerate(one, start=1):
        changed = np.empty_like(row)
        changed[0] = number
        changed[1:] = np.minimum(row[:-1] + (target != ord(character)), row[1:] + 1)
        # An insertion costs one more than the place before: the least of all before, by how far they are.
        row = np.minimum.accumulate(changed - places) + places
    return int(row[-1])


def _squeeze(text: str) -> str:
    return " ".join(text.split())
