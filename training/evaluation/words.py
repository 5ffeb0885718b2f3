"""Texts as the words that metrics count: lower case, without punctuation, in any script."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

__all__ = ["pieces_of", "spaced", "words_of"]

# Scripts that put no space between words: each character is one.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003134f"
)
_CLITIC = re.compile(r"(?:n['’]t|['’](?:s|re|ve|ll|d|m))$")


def words_of(text: str) -> list[str]:
    """The words of a text.

    Close to what the evaluation of COCO captions does with Stanford's PTB tokenizer, which needs Java: words
    with hyphens stay whole, ``man's`` and ``don't`` are two each, punctuation is left out. Of scripts that
    put no space between words each character is one.
    """
    found: list[str] = []
    for word in _patterns().word.findall(unicodedata.normalize("NFC", text.lower())):
        clitic = _CLITIC.search(word)
        if clitic and clitic.start():
            found += [word[: clitic.start()], clitic[0].replace("’", "'")]
        else:
            found.append(word)
    return found


def spaced(text: str) -> str:
    """With spaces around each character of scripts that have none between words, for who splits at them."""
    return _patterns().unspaced.sub(lambda match: f" {match[0]} ", text)


def pieces_of(text: str) -> list[str]:
    """Words, white space, and what is between; put together they are the text."""
    return _patterns().piece.findall(text)


class _Patterns:
    def __init__(self) -> None:
        # Vowel signs and accents, which are no letters by themselves, and what joins them: of all scripts.
        marks = "".join(filter(_is_mark, map(chr, range(0x300, 0x10000))))
        one = f"[{_UNSPACED}][{marks}]*"
        run = rf"(?:(?![{_UNSPACED}])[^\W_][{marks}\u200c\u200d]*)+"
        word = rf"{one}|{run}(?:[-'’]{run})*"
        self.unspaced = re.compile(one)
        self.word = re.compile(rf"(?=[^\W_])(?:{word})")
        self.piece = re.compile(rf"{word}|\s+|(?:(?![{_UNSPACED}])(?!\s)[\W_])+")


@lru_cache(maxsize=1)
def _patterns() -> _Patterns:
    return _Patterns()


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")
