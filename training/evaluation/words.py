"""Texts as the words that metrics count: lower case, without punctuation, in any script."""

from __future__ import annotations

import re

__all__ = ["words_of"]

_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*|[^\W_]")
_CLITIC = re.compile(r"(?:n['’]t|['’](?:s|re|ve|ll|d|m))$")
# Scripts that put no space between words: each character is one.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003134f]"
)


def words_of(text: str) -> list[str]:
    """The words of a text.

    Close to what the evaluation of COCO captions does with Stanford's PTB tokenizer, which needs Java: words
    with hyphens stay whole, ``man's`` and ``don't`` are two each, punctuation is left out.
    """
    spaced = _UNSPACED.sub(lambda match: f" {match[0]} ", text.lower())
    found: list[str] = []
    for match in _WORD.finditer(spaced):
        word = match[0]
        clitic = _CLITIC.search(word)
        if clitic and clitic.start():
            found += [word[: clitic.start()], clitic[0].replace("’", "'")]
        else:
            found.append(word)
    return found
