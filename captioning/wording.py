"""Signs by which prose and tags are told apart: words, sentences, what stands between commas."""

from __future__ import annotations

import re

__all__ = [
    "CONJUNCTIONS",
    "FUNCTION_WORDS",
    "LONGEST_TAG",
    "SEPARATORS",
    "breaks",
    "looks_like_sentence",
    "pieces_of",
    "reads_like_prose",
    "sentence_ends",
]

LONGEST_TAG = 6  # words; what is longer between two commas reads like prose

# Words that tags of one to six words hardly ever contain, and sentences soon do.
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an the is are was were be been has have had does appears seems depicts shows features includes
        stands sits this that these those there here it he she they his its their which who whose while where
        what""",
    )
)
CONJUNCTIONS = frozenset(["and", "or", "but", "nor", "with", "as"])  # at the beginning of a piece
_ABBREVIATIONS = frozenset(
    ["mr", "mrs", "ms", "dr", "st", "vs", "no", "jr", "sr", "prof", "vol", "fig", "ft", "feat", "etc"]
)
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|\Z)|[。！？]+[”’」』]*")
SEPARATORS = ", \t\r\n\v\f\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029"


def pieces_of(text: str) -> list[str]:
    """What stands between commas, without the empty."""
    return [piece.strip() for piece in text.split(",") if piece.strip()]


def reads_like_prose(piece: str) -> bool:
    """Whether it is too long for a tag, or has words that tags hardly ever have."""
    words = piece.lower().split()
    if len(words) > LONGEST_TAG:
        return True
    return len(words) > 1 and (words[0] in CONJUNCTIONS or not FUNCTION_WORDS.isdisjoint(words))


def looks_like_sentence(text: str) -> bool:
    """A capital at the beginning and a full stop at the end."""
    text = text.strip(SEPARATORS)
    return (
        bool(text)
        and not text[0].islower()
        and text[0].isalpha()
        and bool(re.search(r"[.!?。！？][\"'”’)\]]*\Z", text))
    )


def sentence_ends(text: str) -> list[int]:
    """Positions after a full stop (or ! or ?) with more text to come. "Mr." and the like end nothing."""
    last = len(text.rstrip(SEPARATORS))
    ends = []
    for match in _SENTENCE_END.finditer(text):
        word = re.search(r"\w*\Z", text[max(0, match.start() - 12) : match.start()])
        if match.end() < last and not (word and word[0].lower() in _ABBREVIATIONS):
            ends.append(match.end())
    return ends


def breaks(text: str) -> bool:
    """Whether a sentence ends within the text and another begins, not just a word (as in "love live! x")."""
    following = (re.compile(r"\s*(\S)").match(text, end) for end in sentence_ends(text))
    return any(match and not (match[1].islower() or match[1].isdigit()) for match in following)
