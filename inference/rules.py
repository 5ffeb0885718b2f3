"""What a checkpoint's settings forbid or force at each step, as transformers applies it and in its order.

The rules are transformers' own logits processors, except those that cost too much at each token: theirs
against repeated n-grams walks over Python lists, others look up the whole vocabulary or bring constants from
the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor

from .errors import CheckpointError

Rule = Callable[[Tensor, Tensor], Tensor]
"""``(input_ids [N, L], scores [N, V])`` to scores ``[N, V]``."""


class NoRepeatNGrams(LogitsProcessor):
    """No sequence of ``size`` tokens twice in an answer, what it goes on from included."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        size, length = self.size, input_ids.shape[1]
        if length + 1 <= size:
            return scores
        windows = input_ids.unfold(1, size, 1)  # [N, L - size + 1, size]
        ending = input_ids[:, None, length - size + 1 :]  # the start of an n-gram: what would complete it?
        repeated = (windows[..., :-1] == ending).all(dim=-1)
        bound = scores.new_full(repeated.shape, torch.inf).masked_fill(repeated, -torch.inf)
        return scores.scatter_reduce(1, windows[..., -1], bound, reduce="amin")


class _Tokens(LogitsProcessor):
    """A rule about certain tokens."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._token_ids = list(token_ids)
        self._mask: Tensor | None = None

    def _among(self, scores: Tensor) -> Tensor:
        """Which words of the vocabulary they are, ``[V]`` bool."""
        if self._mask is None:
            words = torch.arange(scores.shape[-1], device=scores.device)
            self._mask = torch.isin(words, torch.tensor(self._token_ids, device=scores.device))
        return self._mask


class Forbidden(_Tokens):
    """None of these tokens, while so many tokens are there, those it goes on from included."""

    def __init__(self, token_ids: Sequence[int], lengths: range | None = None) -> None:
        super().__init__(token_ids)
        self._lengths = lengths  # None: always

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._lengths is not None and input_ids.shape[1] not in self._lengths:
            return scores
        return scores.masked_fill(self._among(scores), -torch.inf)


class Forced(_Tokens):
    """One of these tokens and no other, when so many tokens are there, those it goes on from included."""

    def __init__(self, token_ids: Sequence[int], length: int) -> None:
        super().__init__(token_ids)
        self._length = length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] != self._length:
            return scores
        words = scores.shape[-1]
        if not all(0 <= token < words for token in self._token_ids):
            raise CheckpointError(
                f"The checkpoint's generation_config.json forces token {self._token_ids}; its vocabulary has "
                f"{words} tokens. Correct the file, or fetch it again."
            )
        return torch.zeros_like(scores).masked_fill(~self._among(scores), -torch.inf)


def rules_of(config: GenerationConfig, device: torch.device | str, begun: int = 1) -> list[Rule]:
    """The rules of ``config``, whose ``max_new_tokens`` is set, for answers that go on from ``begun`` tokens.

    Sources: ``GenerationMixin._get_logits_processor`` of transformers 4.50 to 5.23. Its processors take no
    whole numbers where a fraction may be.

    Raises:
        TypeError, ValueError: a setting that none of transformers' processors takes.
    """
    eos = config.eos_token_id
    eos_list = [eos] if isinstance(eos, int) else list(eos or [])
    rules: list[Rule] = []
    if config.repetition_penalty not in (None, 1.0):
        rules.append(transformers.RepetitionPenaltyLogitsProcessor(float(config.repetition_penalty)))
    if config.no_repeat_ngram_size:
        rules.append(NoRepeatNGrams(config.no_repeat_ngram_size))
    if config.bad_words_ids:
        rules.append(transformers.NoBadWordsLogitsProcessor(config.bad_words_ids, eos_token_id=eos_list))
    if config.min_new_tokens and eos_list:
        rules.append(Forbidden(eos_list, range(begun, begun + config.min_new_tokens)))
    if config.forced_bos_token_id is not None:
        rules.append(Forced([config.forced_bos_token_id], 1))  # after one token, as in transformers
    if config.forced_eos_token_id is not None:
        forced = config.forced_eos_token_id
        forced = [forced] if isinstance(forced, int) else list(forced)
        rules.append(Forced(forced, begun + config.max_new_tokens - 1))
    if config.remove_invalid_values:
        rules.append(transformers.InfNanRemoveLogitsProcessor())
    if config.exponential_decay_length_penalty is not None:
        rules.append(
            transformers.ExponentialDecayLengthPenalty(
                config.exponential_decay_length_penalty, eos_list, begun
            )
        )
    if config.suppress_tokens:
        rules.append(Forbidden(config.suppress_tokens))
    if config.begin_suppress_tokens:
        begin = begun if begun > 1 or config.forced_bos_token_id is None else begun + 1
        rules.append(Forbidden(config.begin_suppress_tokens, range(begin, begin + 1)))
    if config.do_sample:
        rules += _sampling_rules(config, len(eos_list), device)
    if config.renormalize_logits:
        rules.append(transformers.LogitNormalization())
    return rules


def _sampling_rules(config: GenerationConfig, ends: int, device: torch.device | str) -> list[Rule]:
    # Beams need tokens to go on with: as many candidates are kept as beams can end at, and one more.
    keep = ends + 1 if config.num_beams > 1 else 1
    rules: list[Rule] = []
    if config.temperature not in (None, 1.0):
        rules.append(transformers.TemperatureLogitsWarper(float(config.temperature)))
    top_k = 50 if config.top_k is None else config.top_k  # transformers' default, whatever the release
    if top_k:
        rules.append(transformers.TopKLogitsWarper(top_k, min_tokens_to_keep=keep))
    if config.top_p is not None and config.top_p < 1.0:
        rules.append(transformers.TopPLogitsWarper(config.top_p, min_tokens_to_keep=keep))
    if config.min_p is not None:
        rules.append(transformers.MinPLogitsWarper(config.min_p, min_tokens_to_keep=keep))
    if config.typical_p is not None and config.typical_p < 1.0:
        rules.append(transformers.TypicalLogitsWarper(config.typical_p, min_tokens_to_keep=keep))
    if config.epsilon_cutoff is not None and 0.0 < config.epsilon_cutoff < 1.0:
        rules.append(transformers.EpsilonLogitsWarper(config.epsilon_cutoff, min_tokens_to_keep=keep))
    if config.eta_cutoff is not None and 0.0 < config.eta_cutoff < 1.0:
        rules.append(
            transformers.EtaLogitsWarper(config.eta_cutoff, min_tokens_to_keep=keep, device=str(device))
        )
    return rules
