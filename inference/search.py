"""From scores to answers: greedy, sampling, beam search, for a batch of pairs at once.

The arithmetic of beam search is that of transformers' ``GenerationMixin._beam_search`` (since 4.54), step by
step, so that answers are equal to the token. Every pair is on its own: what it answers does not depend on
what else is in the batch, and it leaves the batch when it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .rules import Rule

_NEVER = -1.0e9  # the score of what must not be chosen, as in transformers
_CHECK_EVERY = (
    8  # steps on a device between two questions whether somebody is done, each of which waits for it
)


@dataclass(frozen=True)
class SearchSettings:
    """What a search needs to know, with nothing left open."""

    num_beams: int
    max_new_tokens: int
    end_token_ids: tuple[int, ...]
    pad_token_id: int
    do_sample: bool = False
    early_stopping: bool | Literal["never"] = False
    length_penalty: float = 1.0
    output_scores: bool = False


@dataclass(frozen=True)
class Found:
    """One answer: the last token of the history, then the new ones with the end token if it came to one."""

    token_ids: list[int]
    sequence_score: float | None = None
    token_scores: list[float] | None = None  # one per token after the first


@dataclass(frozen=True)
class Onlookers:
    """Who is told about a search while it runs, and may say that an answer is not wanted any more."""

    on_step: Callable[[int], None] | None = None  # before each step, with the number of new tokens and 1
    on_found: Callable[[int, Found], None] | None = None  # a pair has its answer, long before others perhaps
    is_wanted: Callable[[int], bool] | None = None  # asked often; a pair that is not ends where it is


class SearchState(Protocol):
    """What a decoder remembers of a batch between two steps. ``P`` pairs, ``K`` beams."""

    def reorder(self, beams: Tensor) -> None:
        """Beam ``k`` of each pair goes on from what was beam ``beams[p, k]``; ``[P, K]`` int64."""

    def gains_by_keeping(self, pairs: int) -> bool:
        """Whether a step gets cheaper if only so many pairs go on."""

    def keep(self, pairs: Tensor) -> None:
        """Go on with these pairs only, ``[P']`` int64."""

    def close(self) -> None:
        """No step follows."""


class Decoder(Protocol):
    """The part of a network that goes from token to token."""

    def step(self, tokens: Tensor, state: Any) -> Tensor:
        """Logits ``[P, K, V]`` for the token after ``tokens`` ``[P, K]``, valid until the next step."""

    def release(self) -> None:
        """Give up the memory that is kept from search to search."""


def search(
    decoder: Decoder,
    begin: Callable[[], SearchState],
    history: Tensor,
    settings: SearchSettings,
    rules: Sequence[Rule],
    generators: Sequence[torch.Generator] | None = None,
    onlookers: Onlookers | None = None,
    check_every: int | None = None,
) -> list[Found]:
    """Answer a batch of pairs.

    Args:
        begin: makes the state of the decoder in which the last token of ``history`` is the next to be given.
        history: the tokens that each answer goes on from and that the rules see, ``[P, H]`` int64, on the
            device: a start token, or a whole prompt.
        rules: applied to the scores of each step, in order.
        generators: one per pair, for sampling.
        onlookers: told of pairs by their number in the batch; any of them may raise to cancel.
        check_every: steps between two questions whether somebody is done. None: what suits the device.
    """
    if check_every is None:
        check_every = 1 if history.device.type == "cpu" else _CHECK_EVERY
    kind = _Beams if settings.num_beams > 1 else _Single
    answers = kind(settings, rules, history, generators)
    try:
        state = begin()
        try:
            return _run(decoder, state, answers, onlookers or Onlookers(), check_every)
        finally:
            state.close()
    except torch.cuda.OutOfMemoryError:
        decoder.release()
        raise


def _run(
    decoder: Decoder,
    state: SearchState,
    answers: _Answers,
    onlookers: Onlookers,
    check_every: int,
) -> list[Found]:
    pairs = answers.done.shape[0]
    found: list[Found | None] = [None] * pairs
    places: list[int | None] = list(range(pairs))  # where a row's answer belongs; None: it is there already
    while True:
        if onlookers.on_step is not None:
            onlookers.on_step(answers.length)
        logits = decoder.step(answers.last_tokens(), state)
        answers.advance(logits.float(), state)
        last = answers.length > answers.settings.max_new_tokens
        if not last and answers.length % check_every:
            continue
        done = [True] * len(places) if last else _ended(answers, places, onlookers)
        new = [row for row, place in enumerate(places) if done[row] and place is not None]
        if not new:
            continue
        for row, answer in zip(new, answers.answers(new), strict=True):
            place = places[row]
            found[place] = answer  # type: ignore[index] # not None, see above
            places[row] = None
            if onlookers.on_found is not None:
                onlookers.on_found(place, answer)  # type: ignore[arg-type]
        left = [row for row, place in enumerate(places) if place is not None]
        if not left:
            return [answer for answer in found if answer is not None]
        if state.gains_by_keeping(len(left)):
            places = [places[row] for row in left]
            kept = torch.tensor(left, device=answers.done.device)
            state.keep(kept)
            answers.keep(kept, left)


def _ended(answers: _Answers, places: Sequence[int | None], onlookers: Onlookers) -> list[bool]:
    """Which rows are done, or not wanted any more."""
    done: list[bool] = answers.done.tolist()
    if onlookers.is_wanted is None:
        return done
    wanted = (place is None or onlookers.is_wanted(place) for place in places)
    return [is_done or not is_wanted for is_done, is_wanted in zip(done, wanted, strict=True)]


class _Answers:
    """The answers of a batch as they grow. ``P`` pairs, ``K`` beams, ``L`` tokens with their history, ``V``
    words."""

    def __init__(
        self,
        settings: SearchSettings,
        rules: Sequence[Rule],
        history: Tensor,
        generators: Sequence[torch.Generator] | None,
    ) -> None:
        pairs, device = history.shape[0], history.device
        self.settings = settings
        self.rules = rules
        self.generators = list(generators or [])
        beams = settings.num_beams
        self.first = history.shape[1] - 1  # where an answer begins: at the last token of the history
        self.tokens = history[:, None].repeat(1, beams, 1)  # [P, K, L]
        self.token_scores = torch.zeros(pairs, beams, 0, device=device)  # [P, K, new tokens], if asked for
        self.done = torch.zeros(pairs, dtype=torch.bool, device=device)

    @property
    def length(self) -> int:
        """Tokens of the answers so far, the last one of the history included."""
        return self.tokens.shape[2] - self.first

    def last_tokens(self) -> Tensor:
        """``[P, K]``"""
        return self.tokens[:, :, -1]

    def advance(self, logits: Tensor, state: SearchState) -> None:
        """Choose the next tokens from ``logits`` ``[P, K, V]``, float32."""
        raise NotImplementedError

    def answers(self, rows: Sequence[int]) -> list[Found]:
        """What these rows of the batch answer."""
        raise NotImplementedError

    def keep(self, pairs: Tensor, rows: Sequence[int]) -> None:
        """Go on with these pairs only, which are given twice, on the device and on the host."""
        self.tokens, self.token_scores, self.done = (
            self.tokens[pairs],
            self.token_scores[pairs],
            self.done[pairs],
        )
        if self.generators:
            self.generators = [self.generators[row] for row in rows]

    def _obey(self, scores: Tensor) -> Tensor:
        """``scores`` ``[P, K, V]`` after the rules."""
        rows = self.tokens.flatten(0, 1)
        flat = scores.flatten(0, 1)
        for rule in self.rules:
            flat = rule(rows, flat)
        return flat.unflatten(0, scores.shape[:2])

    def _draw(self, scores: Tensor, count: int) -> Tensor:
        """Draw ``count`` of the ``N`` columns of each row of ``scores`` ``[P, N]``: ``[P, count]`` int64.

        As ``torch.multinomial`` without replacement does it, which would wait for the device twice per row.
        """
        chances = functional.softmax(scores, dim=-1)
        luck = torch.empty_like(chances)
        for row, generator in enumerate(self.generators):
            luck[row].exponential_(generator=generator)
        return (chances / luck).topk(count).indices

    def _is_end(self, tokens: Tensor) -> Tensor:
        ended = tokens == self.settings.end_token_ids[0]
        for end in self.settings.end_token_ids[1:]:
            ended = ended | (tokens == end)
        return ended


class _Single(_Answers):
    """One answer per pair: the likeliest token each time, or one that is drawn."""

    def advance(self, logits: Tensor, state: SearchState) -> None:
        scores = self._obey(logits)[:, 0]  # [P, V]
        chosen = self._draw(scores, 1) if self.settings.do_sample else scores.argmax(dim=-1, keepdim=True)
        chosen = chosen.masked_fill(self.done[:, None], self.settings.pad_token_id)
        self.tokens = torch.cat([self.tokens, chosen[:, None]], dim=2)
        if self.settings.output_scores:
            score = functional.log_softmax(scores, dim=-1).gather(1, chosen)
            self.token_scores = torch.cat([self.token_scores, score[:, None]], dim=2)
        self.done = self.done | self._is_end(chosen[:, 0])

    def answers(self, rows: Sequence[int]) -> list[Found]:
        tokens = self.tokens[:, 0, self.first :].tolist()
        scores = self.token_scores[:, 0].tolist() if self.settings.output_scores else None
        return [self._answer(tokens[row], None if scores is None else scores[row]) for row in rows]

    def _answer(self, ids: list[int], scores: list[float] | None) -> Found:
        ends = set(self.settings.end_token_ids)
        length = next((place for place, token in enumerate(ids) if place and token in ends), len(ids) - 1) + 1
        if scores is None:
            return Found(ids[:length])
        scores = scores[: length - 1]
        return Found(ids[:length], sum(scores) / max(1, len(scores)), scores)


class _Beams(_Answers):
    """Several candidates per pair, and the best that have come to an end."""

    def __init__(
        self,
        settings: SearchSettings,
        rules: Sequence[Rule],
        history: Tensor,
        generators: Sequence[torch.Generator] | None,
    ) -> None:
        super().__init__(settings, rules, history, generators)
        pairs, device = history.shape[0], history.device
        beams = settings.num_beams
        # so many candidates that enough are left to go on with if all others end
        self.candidates = max(2, 1 + len(settings.end_token_ids)) * beams
        self.scores = torch.zeros(pairs, beams, device=device)  # summed log-probabilities
        self.scores[:, 1:] = _NEVER  # all beams begin alike: only the first counts
        self.finished = self.tokens.clone()  # [P, K, L], best first
        self.finished_token_scores = self.token_scores.clone()
        self.finished_lengths = torch.ones(pairs, beams, dtype=torch.int64, device=device)
        self.finished_scores = torch.full((pairs, beams), _NEVER, device=device)
        self.is_finished = torch.zeros(pairs, beams, dtype=torch.bool, device=device)
        self.may_improve = torch.ones(pairs, 1, dtype=torch.bool, device=device)
        self.unmoved = torch.arange(beams, device=device)
        self.may_finish = torch.arange(self.candidates, device=device) < beams  # the rest is a reserve

    def advance(self, logits: Tensor, state: SearchState) -> None:
        beams, count, words = self.settings.num_beams, self.candidates, logits.shape[-1]
        log_probs = self._obey(functional.log_softmax(logits, dim=-1))  # [P, K, V]
        totals = (log_probs + self.scores[:, :, None]).flatten(1)  # [P, K * V]
        if self.settings.do_sample:
            chosen = self._draw(totals, count)
            top_scores = totals.gather(1, chosen)
        else:
            top_scores, chosen = totals.topk(count)
        origin, token = chosen // words, chosen % words  # [P, C] each
        top_tokens = _extend(_take(self.tokens, origin), token)
        top_token_scores = _take(self.token_scores, origin)
        if self.settings.output_scores:
            top_token_scores = _extend(top_token_scores, log_probs.flatten(1).gather(1, chosen))
        length = self.length + 1
        ended = self._is_end(token) | (length > self.settings.max_new_tokens)

        running_scores = _unless(ended, top_scores)
        kept = running_scores.topk(beams).indices  # [P, K]
        state.reorder(origin.gather(1, kept))
        self._finish(top_tokens, top_token_scores, top_scores, ended, length)
        self.tokens = _take(top_tokens, kept)
        self.token_scores = _take(top_token_scores, kept)
        self.scores = running_scores.gather(1, kept)
        self._judge(ended, length)

    def _finish(
        self, tokens: Tensor, token_scores: Tensor, scores: Tensor, ended: Tensor, length: int
    ) -> None:
        """Put the candidates that have just ended among the finished, if they are better."""
        beams = self.settings.num_beams
        ended = ended & self.may_finish
        scores = scores / ((length - 1) ** self.settings.length_penalty)
        if self.settings.early_stopping is True:
            scores = _unless(self.is_finished.all(dim=1, keepdim=True), scores)
        scores = _unless(~self.may_improve, scores)
        scores = _unless(~ended, scores)
        merged = torch.cat([self.finished_scores, scores], dim=1)
        best = merged.topk(beams).indices
        best = torch.where(self.done[:, None], self.unmoved, best)  # what is done stays as it is
        self.finished_scores = merged.gather(1, best)
        self.is_finished = torch.cat([self.is_finished, ended], dim=1).gather(1, best)
        lengths = functional.pad(self.finished_lengths, (0, self.candidates), value=length)
        self.finished_lengths = lengths.gather(1, best)
        padded = functional.pad(self.finished, (0, 1), value=self.settings.pad_token_id)
        self.finished = _take(torch.cat([padded, tokens], dim=1), best)
        if self.settings.output_scores:
            padded_scores = functional.pad(self.finished_token_scores, (0, 1))
            self.finished_token_scores = _take(torch.cat([padded_scores, token_scores], dim=1), best)

    def _judge(self, ended: Tensor, length: int) -> None:
        """Whether the running beams of a pair may still beat its finished ones."""
        penalty = self.settings.length_penalty
        forever = self.settings.early_stopping == "never" and penalty > 0.0
        hoped_for = self.settings.max_new_tokens if forever else length - 1
        best = self.scores[:, :1] / (hoped_for**penalty)
        worst = self.finished_scores.amin(dim=1, keepdim=True).expand_as(self.is_finished)
        worst = worst.masked_fill(~self.is_finished, _NEVER)
        self.may_improve = self.may_improve & (best > worst).any(dim=1, keepdim=True)
        stopped = ~self.may_improve[:, 0] | ended.all(dim=1)
        if self.settings.early_stopping is True:
            stopped = stopped | self.is_finished.all(dim=1)
        self.done = self.done | stopped

    def answers(self, rows: Sequence[int]) -> list[Found]:
        lengths = self.finished_lengths[:, 0].tolist()
        tokens = self.finished[:, 0, self.first :].tolist()
        if not self.settings.output_scores:
            return [Found(tokens[row][: lengths[row]]) for row in rows]
        totals = self.finished_scores[:, 0].tolist()
        scores = self.finished_token_scores[:, 0].tolist()
        return [
            Found(tokens[row][: lengths[row]], totals[row], scores[row][: lengths[row] - 1]) for row in rows
        ]

    def keep(self, pairs: Tensor, rows: Sequence[int]) -> None:
        super().keep(pairs, rows)
        for name in (
            "scores", "finished", "finished_token_scores", "finished_lengths", "finished_scores",
            "is_finished", "may_improve",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[pairs])


def _unless(unwanted: Tensor, scores: Tensor) -> Tensor:
    """``scores``, far below all others where they are unwanted."""
    return torch.add(scores, unwanted, alpha=_NEVER)


def _take(values: Tensor, rows: Tensor) -> Tensor:
    """Rows ``[P, R]`` of ``values`` ``[P, K, ...]``: ``[P, R, ...]``."""
    return values.gather(1, rows[:, :, None].expand(-1, -1, values.shape[2]))


def _extend(values: Tensor, last: Tensor) -> Tensor:
    """``values`` ``[P, R, L]`` with ``last`` ``[P, R]`` behind."""
    return torch.cat([values, last[:, :, None]], dim=2)
