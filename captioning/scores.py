"""How sure the model is of a region: the probabilities of the tokens that it was read from.

As in the published post-processing of detections ("avg_loc_scores"), a region's score is the exponential of
the mean log-probability of its location tokens, that is, the geometric mean of their probabilities. An
outline has dozens of these, and for each its neighbours would do as well; so where outlines have a label, the
tokens of the label count instead ("avg_cat_name_scores"), and where they have none, all their location
tokens.

Probabilities are those that the search chose by: with beams transformers' transition scores, rules and all.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from .regions import Placed, Region, Span

__all__ = ["TokenScores", "scored_regions"]


class TokenScores:
    """The log-probability of each token of a raw answer.

    Args:
        spans: the characters of the raw answer that each token stands for, in order: the first, and the one
            after the last.
        log_probabilities: one per token.

    Raises:
        ValueError: there are not as many of the one as of the other.
    """

    def __init__(self, spans: Sequence[Span], log_probabilities: Sequence[float]) -> None:
        if len(spans) != len(log_probabilities):
            raise ValueError(f"{len(spans)} tokens came with {len(log_probabilities)} log-probabilities.")
        self._starts = [start for start, _ in spans]
        self._ends = [end for _, end in spans]
        self._log_probabilities = list(log_probabilities)

    def score(self, places: Iterable[Span]) -> float:
        """0–1: the geometric mean of the probabilities of all tokens that have a part in ``places``.

        Raises:
            ValueError: there is no such token.
        """
        tokens: set[int] = set()
        for start, end in places:
            tokens.update(range(bisect_right(self._ends, start), bisect_left(self._starts, end)))
        if not tokens:
            raise ValueError("no token stands there")
        return math.exp(math.fsum(self._log_probabilities[token] for token in tokens) / len(tokens))


def scored_regions(placed: Iterable[Placed], tokens: TokenScores) -> tuple[Region, ...]:
    """The regions, each with its score.

    Args:
        placed: where in the raw answer each stands.
        tokens: of the same raw answer.
    """
    return tuple(dataclasses.replace(one.region, score=tokens.score(_telling_places(one))) for one in placed)


def _telling_places(one: Placed) -> Sequence[Span]:
    """The characters whose tokens tell how sure the model is."""
    labelled = one.region.polygons is not None and one.region.label
    return [one.label] if labelled else one.locations
