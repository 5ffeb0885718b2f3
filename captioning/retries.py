"""What an answer must meet to be kept, and how often it is asked again if it does not.

Judged are captions, tags and mixed answers: their words are counted after clean-up (see :mod:`.words`), but
without prefix and suffix; a retry word is looked for in what was generated, since clean-up may have taken it
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..inference import GenerationOptions
from .words import count_words, holds_words

__all__ = ["RetryOptions", "check_retries"]

_MOST_RETRIES = 100


@dataclass(frozen=True)
class RetryOptions:
    """When an answer is asked again. The defaults accept all of them.

    The last answer is kept, and marked if it does not meet the conditions either (``Result.unmet``); with
    ``limit`` 0 the first one is. Each attempt draws with a seed of its own that follows from the given one,
    so that a seed gives the same answers whatever else is in the batch.

    Raises:
        ValueError: a value is outside its range; the message names the setting, the value and the range.
    """

    limit: int = 0  # the most times that one answer is asked again, 0-100; takes sampling
    min_words: int = 0  # the fewest words of an answer
    # Words or phrases that no answer may hold; each text may hold several, with commas between them.
    retry_words: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not _is_whole(self.limit) or not 0 <= self.limit <= _MOST_RETRIES:
            raise ValueError(
                f"the limit of retries is {self.limit!r}; it takes a whole number from 0 to {_MOST_RETRIES}."
            )
        if not _is_whole(self.min_words) or self.min_words < 0:
            raise ValueError(f"min_words is {self.min_words!r}; it takes a whole number of at least 0.")
        texts = [self.retry_words] if isinstance(self.retry_words, str) else self.retry_words
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"retry_words is {self.retry_words!r}; it takes texts.")
        words = [word.strip() for text in texts for word in text.split(",")]
        stripped = dict.fromkeys(filter(None, words))
        object.__setattr__(self, "retry_words", tuple(stripped))

    @property
    def judges(self) -> bool:
        """Whether there is a condition at all."""
        return bool(self.min_words or self.retry_words)

    def unmet(self, text: str, raw: str) -> str | None:
        """What an answer lacks or has too much, for people: ``12 words of at least 20``; None if it is good.

        Args:
            text: after clean-up.
            raw: as it was generated.
        """
        held = [word for word in self.retry_words if holds_words(raw, word)]
        reasons = [f"holds {', '.join(held)}"] if held else []
        if self.min_words and (count := count_words(text)) < self.min_words:
            reasons.insert(0, f"{count} {'word' if count == 1 else 'words'} of at least {self.min_words}")
        return "; ".join(reasons) or None


def check_retries(generation: GenerationOptions, retries: RetryOptions) -> None:
    """Check that another attempt can give another answer.

    Raises:
        ValueError: answers are to be asked again that are not drawn at random.
    """
    if retries.limit and retries.judges and not generation.do_sample:
        raise ValueError(
            f"answers that fall short are asked again, {retries.limit} times at most, but without sampling "
            "(do_sample) every attempt gives the same answer. Set do_sample, or the limit of retries to 0."
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
