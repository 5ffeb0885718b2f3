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
    "sure_ends",
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
    [
        "mr", "mrs", "ms", "dr", "st", "vs", "no", "jr", "sr", "prof", "vol", "fig", "ft", "feat", "etc",
        "mt", "inc", "ltd", "corp", "bros", "ave", "blvd", "capt", "sgt", "gov", "approx",
    ]
)  # fmt: skip
# The ends of "J. R. R.", "u.s.", "p.m." and "Ph.D.", but not that of "a dog's."
_SHORT = re.compile(r"(?<![\w.])(?<!\w['’])(?:[^\W\d_]{1,2}\.)*[^\W\d_]\Z")
_NUMBER = re.compile(r"^ *\d+\.(?=\s)", re.MULTILINE)  # of an item of a list
_NEXT_WORD = re.compile(r"[\W_]*(?P<word>\w+)(?P<initial>\.)?")
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


def sure_ends(text: str, *, truncated: bool = False) -> list[int]:
    """Those of :func:`sentence_ends` that are the end of no initial, abbreviation or title.

    After "J.", "u.s." or "p.m." a sentence has ended only if another one plainly begins, with a capital and
    a word that sentences begin with ("The", "It"). So too after an exclamation mark, a question mark or an
    ellipsis, which titles and names have in their midst ("love live! school idol project"); but if the text
    was cut off, it is better cut back to one of these than left as it is.
    """
    numbers = {number.end() for number in _NUMBER.finditer(text)}
    return [
        end
        for end in sentence_ends(text)
        if end not in numbers
        and (_begins_after(text, end) or not _is_doubtful(text[max(0, end - 32) : end], truncated))
    ]


def _is_doubtful(text: str, truncated: bool) -> bool:
    """Whether the full stop that ``text`` ends with may be within a sentence."""
    text = re.sub(r"[\"'”’)\]」』]+\Z", "", text)
    if re.search(r"(?<![.!?…])\.\Z", text):
        return bool(_SHORT.search(text[:-1]))
    return not truncated and not text.endswith("。")


def _begins_after(text: str, end: int) -> bool:
    """Whether the next word is one by which a sentence plainly begins."""
    following = _NEXT_WORD.match(text, end)
    if following is None or following["initial"]:
        return False
    word = following["word"]
    return word[0].isupper() and word.lower() in FUNCTION_WORDS


def breaks(text: str) -> bool:
    """Whether a sentence ends within the text and another begins, not just a word (as in "love live! x")."""
    following = (re.compile(r"\s*(\S)").match(text, end) for end in sentence_ends(text))
    return any(match and not (match[1].islower() or match[1].isdigit()) for match in following)
