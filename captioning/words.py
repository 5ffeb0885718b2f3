"""What a word of an answer is, for those who count words and for those who look for them.

A word stands between white space or commas and has a letter or a digit: ``blue_sky`` is one, ``blue sky`` are
two, and a dash by itself is none. Scripts that are written without spaces (Chinese, Japanese, Thai, …) count
by character, as word processors count them.
"""

from __future__ import annotations

import re

__all__ = ["count_words", "holds_words", "longest_run"]

# Thai and Lao, Burmese, Khmer, kana, ideographs.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u9fff\uf900-\ufaff\uff66-\uff9f"
    r"\U00020000-\U0003ffff"
)
_LETTER = rf"[^\W_{_UNSPACED}]"  # or a digit, of a script with spaces
_RUN = re.compile(f"{_LETTER}+")
_CHARACTER = re.compile(rf"(?=[{_UNSPACED}])\w")


def count_words(text: str) -> int:
    """How many words ``text`` has."""
    words = re.sub(r"(?<=\d),(?=\d)", "", text).replace(",", " ").split()  # 1,000 is one
    return sum(len(_CHARACTER.findall(word)) or bool(_RUN.search(word)) for word in words)


def longest_run(word: str) -> int:
    """How many letters and digits stand together in ``word``, at the most; 0 where there are none.

    Underscores and hyphens end a run, so that a tag of many words is not longer than the longest of them;
    scripts without spaces have none.
    """
    return max(map(len, _RUN.findall(word)), default=0)


def holds_words(text: str, phrase: str) -> bool:
    """Whether ``phrase`` is in ``text`` as whole words, without regard to case or to ``_`` for a space.

    An underscore ends a word: ``no_parallel`` is in ``no_parallel_lines``, but ``art`` is not in ``party``.
    """
    words = [re.escape(word) for word in re.split(r"[\s_]+", phrase) if word]
    body = r"[\s_]+".join(words) if words else re.escape(phrase)
    before = f"(?<!{_LETTER})" if re.match(_LETTER, phrase) else ""
    after = f"(?!{_LETTER})" if re.search(rf"{_LETTER}\Z", phrase) else ""
    return re.search(before + body + after, text, re.IGNORECASE) is not None
