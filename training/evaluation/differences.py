"""Where texts differ, word by word, for people to see."""

from __future__ import annotations

from collections.abc import Sequence

from ...captioning.results import Result, Tags
from ...captioning.tags import TagOptions, edit_tags
from .alignment import common_places
from .words import pieces_of

__all__ = ["Piece", "differing"]

Piece = tuple[str, bool]
"""A part of a text, and whether it differs. The parts put together are the text, or the tags in one line."""

_MOST = 4_000  # words of each text that are compared; what comes after counts as different
_SAME = TagOptions(underscores="spaces", escape_parentheses=False)


def differing(result: Result, others: Sequence[Result]) -> list[Piece]:
    """The text of an answer, with what none of the others has marked.

    Words of prose are the same if they come in the same order, in any case; tags wherever they stand.
    """
    if isinstance(result, Tags):
        return _joined(_tags(result.tags, {_key(tag) for other in others for tag in _tags_of(other)}))
    known = [_same_words(result.text, other.text) for other in others]
    pieces = pieces_of(result.text)
    return _joined([
        (piece, _is_word(piece) and not any(number in same for same in known))
        for number, piece in enumerate(pieces)
    ])  # fmt: skip


def _tags_of(result: Result) -> Sequence[str]:
    return result.tags if isinstance(result, Tags) else ()


def _tags(tags: Sequence[str], known: set[str]) -> list[Piece]:
    pieces = [piece for tag in tags for piece in ((tag, _key(tag) not in known), (", ", False))]
    return pieces[:-1]


def _key(tag: str) -> str:
    return ", ".join(edit_tags(tag, _SAME)).casefold()


def _same_words(text: str, other: str) -> set[int]:
    """The places of those pieces of ``text`` that ``other`` has in the same order."""
    ours, theirs = _words(text), _words(other)
    same = common_places([word for _, word in ours], [word for _, word in theirs])
    return {ours[place][0] for place in same}


def _words(text: str) -> list[tuple[int, str]]:
    """Each with its place among the pieces."""
    pieces = enumerate(pieces_of(text))
    return [(place, piece.casefold()) for place, piece in pieces if _is_word(piece)][:_MOST]


def _is_word(piece: str) -> bool:
    return piece[0].isalnum()


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Neighbours that are alike as one; white space between two marked words is marked."""
    joined: list[Piece] = []
    for number, (text, marked) in enumerate(pieces):
        if text.isspace() and 0 < number < len(pieces) - 1:
            marked = pieces[number - 1][1] and pieces[number + 1][1]
        if joined and joined[-1][1] == marked:
            joined[-1] = (joined[-1][0] + text, marked)
        else:
            joined.append((text, marked))
    return joined
