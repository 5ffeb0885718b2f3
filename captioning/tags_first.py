"""Where prose begins in a line that has tags first: PaliGemma's long prompts.

Their tags are written like those of image boards, in lower case, most of them one word, those of several with
underscores (``blue_sky``). Prose follows after a comma, in lower case too, so that only the words tell. It
begins

* with the first piece between two commas that is too long for a tag, holds the end of a sentence, begins with
  an article or a conjunction, or has a pronoun or a verb as only sentences have them;
* but never before the last tag with underscores, or the last count (``2girls``), that stands before the first
  long piece or end of a sentence;
* and, where tags have underscores, with the pieces of several words without them that stand right before it:
  ``forest, golden light, the water is calm``.

Tags may also end with a full stop. One plain word alone before prose is a part of it (``outdoors, a woman
stands``), and so is a list in a sentence (``red, green, and blue balloons``).
"""

from __future__ import annotations

import re

from .wording import CONJUNCTIONS, FUNCTION_WORDS, LONGEST_TAG, breaks, reads_like_prose, sentence_ends

__all__ = ["begins_with_tags", "prose_position"]

_LEAST_TAGS = 3  # by which an unknown text is recognised
_ARTICLES = frozenset(["a", "an", "the"])
_VERBS = frozenset(
    [
        "is", "are", "was", "were", "has", "have", "had", "does", "appears", "seems", "depicts", "shows",
        "features", "includes", "stands", "sits",
    ]
)  # fmt: skip
_COUNT = re.compile(r"[0-9]+\+?(?:girl|boy|other)s?")
_FULL_STOP = re.compile(r"[.。][\"'”’)\]]*\Z")
_STOP = re.compile(r"[.!?。！？][\"'”’)\]]*\Z")


def begins_with_tags(line: str) -> bool:
    """Whether a line of unknown origin is surely of this form: three tags or more, one with an underscore and
    none with a full stop, and prose that is more than words which tags may have, too (``looking at viewer``).
    """
    if "_" not in line:
        return False
    position = prose_position(line)
    tags = [tag.strip() for tag in line[:position].split(",") if tag.strip()]
    if len(tags) < _LEAST_TAGS or not any(map(_has_underscore, tags)):
        return False
    return not any(map(_FULL_STOP.search, tags[:-1])) and _is_surely_prose(line[position:])


def _is_surely_prose(text: str) -> bool:
    """Whether it ends in a full stop, or holds a sentence or a verb; it may be short, and cut off."""
    pieces = text.split(",")
    has_verb = any(not _VERBS.isdisjoint(piece.lower().split()[1:]) for piece in pieces)
    return has_verb or bool(_STOP.search(text.strip())) or any(map(_is_sentence, pieces))


def prose_position(line: str) -> int:
    """The position of the first character that belongs to the prose: 0 without tags, all without prose.

    Args:
        line: tags, then prose, in one line; either may be missing, and the end may be.
    """
    pieces = line.split(",")
    boundary = _boundary(pieces)
    has_prose = boundary < len(pieces)
    tags = [piece for piece in pieces[:boundary] if piece.strip()]
    if has_prose and not any(map(_is_telling, tags)) and _is_one_sentence(tags, pieces[boundary]):
        return 0
    position = sum(len(piece) + 1 for piece in pieces[:boundary])
    if has_prose and tags:
        position += _closed_tag(pieces[boundary], underscored=any(map(_has_underscore, tags)))
    return min(position, len(line))


def _boundary(pieces: list[str]) -> int:
    """The number of the first piece of prose; that of the pieces if there is none."""
    boundary = next((i for i, piece in enumerate(pieces) if _is_sentence(piece)), len(pieces))
    told = max((i for i in range(boundary) if _is_telling(pieces[i])), default=-1)  # the last sure tag
    last = len(pieces) - 1
    for number in range(told + 1, boundary):
        if _begins_prose(pieces, number, last):
            boundary = number
            break
    if not any(map(_has_underscore, pieces[:boundary])):
        return boundary
    start = boundary
    while start > told + 1 and _has_spaces(pieces[start - 1]):
        start -= 1
    if boundary <= last or any(len(piece.split()) > 2 for piece in pieces[start:boundary]):
        return start
    return boundary  # a tag whose underscore was forgotten ends the list: "star wars"


def _is_sentence(piece: str) -> bool:
    """Whether no tag is like this: too long, or with the end of a sentence in it."""
    ends = sentence_ends(piece)
    return (
        len(piece.split()) > LONGEST_TAG
        or breaks(piece)
        or any(_FULL_STOP.search(piece[:end]) for end in ends)
    )


def _begins_prose(pieces: list[str], number: int, last: int) -> bool:
    """Whether a short piece begins prose: by its first word, or by its words and what follows."""
    words = pieces[number].lower().split()
    if not reads_like_prose(pieces[number]):
        return False
    if words[0] in _ARTICLES or words[0] in CONJUNCTIONS or number == last:
        return True
    following = pieces[number + 1 :]
    return pieces[last].rstrip().endswith((".", "!", "?")) or any(
        reads_like_prose(piece) or _is_sentence(piece) for piece in following
    )


def _is_one_sentence(tags: list[str], first: str) -> bool:
    """Whether what looks like tags, none of which is surely one, is the beginning of a sentence."""
    words = first.split()
    if not words:
        return False
    if len(tags) == 1:
        return not _has_spaces(tags[0])
    if words[0].lower() in CONJUNCTIONS:
        return True
    begins_capitalised = bool(tags) and tags[0].lstrip()[0].isupper()
    return begins_capitalised and not (words[0][0].isupper() and words[0].lower() in FUNCTION_WORDS)


def _closed_tag(piece: str, *, underscored: bool) -> int:
    """The length of a last tag and the full stop after it at the beginning of the first piece of prose."""
    end = next(iter(sentence_ends(piece)), 0)
    head = piece[:end].strip()
    if not _FULL_STOP.search(head):
        return 0
    most = 1 if underscored else 3
    return 0 if reads_like_prose(head) or len(head.split()) > most else end


def _is_telling(piece: str) -> bool:
    """Whether this is a tag by its looks alone."""
    return _has_underscore(piece) or bool(_COUNT.fullmatch(piece.strip()))


def _has_underscore(piece: str) -> bool:
    """Whether it is a tag of several words; an emoticon such as ^_^ says nothing."""
    return len(piece.split()) == 1 and bool(re.search(r"[^\W_]_+\(?[^\W_]", piece))


def _has_spaces(piece: str) -> bool:
    return len(piece.split()) > 1
