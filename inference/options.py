"""How a caption is generated: one frozen record that travels whole."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

# Settings that act only while sampling, by transformers' names; those of checkpoints, too.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")

_MOST_LENGTH_PENALTY = 100  # beyond it the power of a long answer's length is no number any more


@dataclass(frozen=True)
class GenerationOptions:
    """Generation settings by transformers' names. ``None`` means: as the checkpoint's own files say.

    ``temperature``, ``top_k``, ``top_p`` and ``seed`` act only while sampling (``do_sample``).

    Raises:
        ValueError: a value is outside its range; the message names the setting, the value and the range.
    """

    num_beams: int | None = None  # 1 is greedy (or plain sampling); Florence-2's published default is 3
    # Florence-2: at most the decoder's positions (1024), also the default. PaliGemma: 256 by default.
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None  # above 0
    top_k: int | None = None  # 0 switches it off
    top_p: float | None = None  # above 0, at most 1
    repetition_penalty: float | None = None  # above 0; 1 is none
    length_penalty: float | None = None  # beam search only; exponent of the length, at most 100
    no_repeat_ngram_size: int | None = None  # 0 switches the rule off
    early_stopping: bool | Literal["never"] | None = None  # beam search only
    seed: int | None = None  # below 2**64; None draws a fresh one for every call
    output_scores: bool = False  # also answer log-probabilities

    def __post_init__(self) -> None:
        for name in ("num_beams", "max_new_tokens"):
            self._require_integer(name, minimum=1)
        for name in ("min_new_tokens", "top_k", "no_repeat_ngram_size"):
            self._require_integer(name, minimum=0)
        self._require_integer("seed", minimum=0, maximum=2**64 - 1)
        for name in ("temperature", "repetition_penalty"):
            self._require_number(name, above=0.0)
        self._require_number("top_p", above=0.0, maximum=1.0)
        self._require_number("length_penalty", maximum=_MOST_LENGTH_PENALTY)
        if self.do_sample is not None and not isinstance(self.do_sample, bool):
            raise ValueError(f"do_sample is {self.do_sample!r}; it takes True or False.")
        if not (
            self.early_stopping is None
            or isinstance(self.early_stopping, bool)
            or self.early_stopping == "never"
        ):
            raise ValueError(f"early_stopping is {self.early_stopping!r}; it takes True, False or 'never'.")
        if (
            self.min_new_tokens is not None
            and self.max_new_tokens is not None
            and self.min_new_tokens > self.max_new_tokens
        ):
            raise ValueError(
                f"min_new_tokens {self.min_new_tokens} is above max_new_tokens {self.max_new_tokens}."
            )

    def given(self) -> dict[str, Any]:
        """The settings that override the checkpoint's own, by transformers' names."""
        own = {"seed", "output_scores"}
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in own}
        return {name: value for name, value in values.items() if value is not None}

    def over(self, settings: Mapping[str, Any], positions: int) -> dict[str, Any]:
        """A checkpoint's own settings with these on top, without those that have no effect.

        Equal for two that are to give the same answers, whether a value was given or is the checkpoint's.

        Args:
            settings: the checkpoint's, by transformers' names.
            positions: places of the decoder; one answer has at most that many new tokens.
        """
        merged = dict(settings) | self.given()
        maximum = merged.pop("max_length", None)
        if merged.get("max_new_tokens") is None:
            # max_length counts the decoder start token
            merged["max_new_tokens"] = maximum - 1 if maximum else positions
        merged["max_new_tokens"] = min(merged["max_new_tokens"], positions)
        minimum = merged.pop("min_length", None)
        if minimum and merged.get("min_new_tokens") is None:
            merged["min_new_tokens"] = minimum - 1
        merged["num_beams"] = merged.get("num_beams") or 1
        merged["do_sample"] = bool(merged.get("do_sample"))
        if not merged["do_sample"]:  # they act only while sampling; transformers warns otherwise
            for name in _SAMPLING:
                merged.pop(name, None)
        if merged["num_beams"] == 1:
            for name in ("early_stopping", "length_penalty"):
                merged.pop(name, None)
        return merged

    def _require_integer(self, name: str, minimum: int, maximum: int | None = None) -> None:
        value = getattr(self, name)
        if value is None:
            return
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < minimum or (maximum is not None and value > maximum):
            limit = "" if maximum is None else f" and at most {maximum}"
            raise ValueError(f"{name} is {value!r}; it takes a whole number of at least {minimum}{limit}.")

    def _require_number(self, name: str, above: float = -math.inf, maximum: float = math.inf) -> None:
        value = getattr(self, name)
        if value is None:
            return
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not abs(value) <= sys.float_info.max or not above < value <= maximum:
            limits = [f"above {above:g}"] if above > -math.inf else []
            limits += [f"at most {maximum:g}"] if maximum < math.inf else []
            raise ValueError(
                f"{name} is {value!r}; it takes a finite number {' and '.join(limits)}".rstrip() + "."
            )


@dataclass(frozen=True)
class GeneratedSequence:
    """One answer of the model."""

    # First the token that it goes on from, the decoder's start token or the end of the prompt; then the
    # answer with the token that ends it, without padding.
    token_ids: tuple[int, ...]
    text: str  # decoded; start, end and padding taken out, location tokens kept, white space as generated
    truncated: bool  # max_new_tokens was reached: the answer may go on
    sequence_score: float | None = None  # summed log-probability over length ** length_penalty
    token_scores: tuple[float, ...] | None = None  # log-probability of each token after the first
    token_spans: tuple[tuple[int, int], ...] | None = None  # with them: each token's characters of the text
