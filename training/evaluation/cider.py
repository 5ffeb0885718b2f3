"""CIDEr-D: how much of what people say of this picture, and not of every picture, an answer says.

R. Vedantam, C. L. Zitnick and D. Parikh, "CIDEr: Consensus-based Image Description Evaluation" (CVPR 2015),
in the variant that counts no word more often than the reference has it, and minds the length. N-grams of one
to four words are weighted by how rare they are among the references of all pictures; so a value holds for one
set of pictures, and is not to be compared with that of another. Agrees with ``pycocoevalcap``, as which it
takes the number of bigrams for the length.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

__all__ = ["cider_d"]

_MOST = 4  # words of an n-gram
_SIGMA = 6.0  # words by which lengths may differ: of the Gaussian that says how much it matters
_SCALE = 10.0

Words = Sequence[str]
Ngram = tuple[str, ...]


def cider_d(answers: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """One value, 0 to 10, for each picture.

    Args:
        answers: the words of the one answer to each picture.
        references: the words of each of the picture's references, one at least.

    Raises:
        ValueError: there are fewer than two pictures, among which nothing can be rare; or they are not as
            many as there are references; or a picture has none.
    """
    if len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers came with references of {len(references)} pictures.")
    if len(answers) < 2:
        raise ValueError(f"CIDEr-D weighs words by how rare they are; {len(answers)} pictures are too few.")
    if not all(references):
        raise ValueError("CIDEr-D needs a reference for each picture.")
    rarity = _Rarity([[_ngrams(reference) for reference in of_picture] for of_picture in references])
    return [
        _SCALE * sum(rarity.likeness(answer, reference) for reference in of_picture) / len(of_picture)
        for answer, of_picture in zip(map(_ngrams, answers), rarity.references, strict=True)
    ]


class _Rarity:
    """What each n-gram weighs, by the number of pictures whose references have it."""

    def __init__(self, references: list[list[Counter[Ngram]]]) -> None:
        self.references = references
        self._pictures: Counter[Ngram] = Counter()
        for of_picture in references:
            self._pictures.update(set().union(*of_picture))
        self._all = math.log(len(references))

    def likeness(self, answer: Counter[Ngram], reference: Counter[Ngram]) -> float:
        """0 to 1: the cosine of the vectors of weighted counts, on average over the lengths of n-grams."""
        ours, theirs = self._vectors(answer), self._vectors(reference)
        off = _length(answer) - _length(reference)
        total = 0.0
        for one, other in zip(ours, theirs, strict=True):
            norms = _norm(one) * _norm(other)
            if norms:
                common = [(value, other[ngram]) for ngram, value in one.items() if ngram in other]
                total += sum(min(value, true) * true for value, true in common) / norms
        return total / _MOST * math.exp(-(off**2) / (2 * _SIGMA**2))

    def _vectors(self, counts: Counter[Ngram]) -> list[dict[Ngram, float]]:
        """Term frequency times inverse document frequency, apart for each length of n-grams."""
        vectors: list[dict[Ngram, float]] = [{} for _ in range(_MOST)]
        for ngram, count in counts.items():
            vectors[len(ngram) - 1][ngram] = count * (self._all - math.log(max(1, self._pictures[ngram])))
        return vectors


def _ngrams(words: Words) -> Counter[Ngram]:
    return Counter(
        tuple(words[start : start + size])
        for size in range(1, _MOST + 1)
        for start in range(len(words) - size + 1)
    )


def _length(counts: Counter[Ngram]) -> int:
    return sum(count for ngram, count in counts.items() if len(ngram) == 2)


def _norm(vector: dict[Ngram, float]) -> float:
    return math.sqrt(sum(value * value for value in vector.values()))
