"""Taking a mixed answer apart: prose, tags, and perhaps an analysis.

The forms that exist:

* PromptGen's MIXED_CAPTION: a paragraph, one or two line breaks, tags. MIXED_CAPTION_PLUS adds a third
  block, the analysis. Now and then a line break is missing, so that tags follow the last full stop.
* PaliGemma's long prompts: tags first and prose after, in one line, with nothing but a comma between them.
  Whoever knows that a line is of this form, or sees it by tags with underscores at its beginning, has it
  split by :mod:`.tags_first` alone.

No line is dropped for being short and no word is lost: the parts together hold all of the text, less the
commas and white space between the parts. How it is decided, from the surest to the least sure:

1. *The analysis* begins where a line begins with ``field: value`` of a known field, or has three fields
   of any name (but of single unknown words only if the line holds nothing else), or where two known fields
   with an underscore in their names follow one another within a line. It goes on to the end of its paragraph.
2. *A line is cut in two* after a full stop if nothing but short comma-separated pieces follow, three at
   least; or before the first piece that reads like a sentence if three short pieces or more precede it.
3. *Each piece of text gets a mark* from -1 (reads like prose) to 1 (reads like tags). What counts: how
   many words stand between commas, articles, verbs and conjunctions, full stops within, a capital at the
   beginning and a full stop at the end.
4. *Two lines* of which the second reads like tags are prose and tags, however the first one reads, unless a
   comma ends it: that is how PromptGen writes, and prose may be a list of short phrases too.
5. *The one place for the boundary* is otherwise that which agrees best with the marks. Prose first is
   preferred to tags first, both parts to one alone, and of several equal places the last is taken: two short
   lines without any sign are prose and then tags.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from .analysis import find_fields
from .tags_first import begins_with_tags, prose_position
from .wording import (
    CONJUNCTIONS,
    FUNCTION_WORDS,
    LONGEST_TAG,
    SEPARATORS,
    breaks,
    looks_like_sentence,
    pieces_of,
    reads_like_prose,
    sentence_ends,
)

__all__ = ["MixedParts", "split_mixed"]

_MOST_SENTENCES = 50  # how many full stops, from the end, are looked behind; keeps the work linear


@dataclass(frozen=True)
class MixedParts:
    """The parts of a mixed answer, each without the separators around it; empty where there is none."""

    prose: str = ""  # paragraphs, with the line breaks between them
    tags: str = ""  # comma separated, in one line
    analysis: str = ""  # "field: value, field: value"


def split_mixed(text: str, *, tags_first: bool = False) -> MixedParts:
    """Split any text into prose, tags and analysis; see the module's description for how.

    Args:
        text: a mixed answer.
        tags_first: it comes from a checkpoint that writes the tags before the prose, in one line, and no
            analysis. Several lines are split as if nothing were known.
    """
    if tags_first and len(only := _lines(text)) == 1:
        return _split_tags_first(only[0].text)
    analysis_lines: list[str] = []
    lines: list[_Line] = []  # of prose and tags
    in_analysis = False
    for line in _lines(text):
        if line.after_blank:
            in_analysis = False
        start = 0 if in_analysis else _find_analysis(line.text)
        if start is None:
            lines.append(line)
            continue
        in_analysis = True
        if start:
            lines.append(replace(line, text=line.text[:start]))
        analysis_lines.append(line.text[start:].strip(SEPARATORS))
    if len(lines) == 1 and begins_with_tags(lines[0].text):
        return replace(_split_tags_first(lines[0].text), analysis="\n".join(analysis_lines))
    prose, tags = _assign(_cut_all(lines))
    return MixedParts(
        "".join(piece.gap + piece.text for piece in prose).strip(SEPARATORS),
        _join_tags(tags),
        "\n".join(analysis_lines),
    )


def _split_tags_first(line: str) -> MixedParts:
    position = prose_position(line)
    return MixedParts(prose=line[position:].strip(SEPARATORS), tags=line[:position].strip(SEPARATORS))


def _join_tags(pieces: list[_Piece]) -> str:
    """Tags in one line, with a comma for each line break."""
    text = ""
    for piece in pieces:
        if "\n" in piece.gap:
            text = text.rstrip(SEPARATORS) + ", " + piece.text.lstrip(SEPARATORS)
        else:
            text += piece.gap + piece.text
    return text.strip(SEPARATORS)


@dataclass(frozen=True)
class _Line:
    text: str
    after_blank: bool  # whether an empty line precedes


@dataclass(frozen=True)
class _Piece:
    """A line or half a line, which belongs to one part as a whole."""

    text: str
    mark: float  # -1 reads like prose, 1 reads like tags
    gap: str  # what sets it off from prose before it


def _lines(text: str) -> list[_Line]:
    """The lines that hold a word."""
    lines: list[_Line] = []
    blank = False
    for line in text.splitlines():
        if line.strip(SEPARATORS):
            lines.append(_Line(line.strip(), blank))
        blank = not line.strip()
    return lines


def _find_analysis(line: str) -> int | None:
    """Where in the line an analysis begins, or None."""
    fields = find_fields(line)
    if fields and not fields[0].start():
        known = fields[0]["known"]
        if known and (len(fields) > 1 or known[0].islower()):
            return 0
        telling = any(field["known"] or "_" in field["unknown"] for field in fields)
        # "re:zero" and "honkai: star rail" are tags, even three of them among others
        if len(fields) >= 3 and (telling or len(fields) >= len(pieces_of(line))):
            return 0
    named = [bool(field["known"]) and bool(re.search(r"[ _]", field["known"])) for field in fields]
    for field, this, following in zip(fields, named, named[1:], strict=False):
        if this and following:
            return field.start("known")
    return _find_after_sentence(line)


def _find_after_sentence(line: str) -> int | None:
    """Where an analysis begins right after a full stop, a case that has no comma before the first field."""
    for end in sentence_ends(line)[-_MOST_SENTENCES:]:
        tail = line[end:].lstrip()
        fields = find_fields(tail)
        if len(fields) >= 2 and not fields[0].start() and fields[0]["known"] and fields[1]["known"]:
            return len(line) - len(tail)
    return None


def _cut_all(lines: list[_Line]) -> list[_Piece]:
    """The lines, each as one piece or as two."""
    pieces: list[_Piece] = []
    tags_follow = False  # then the tags are not behind a full stop of this line
    for line in reversed(lines):
        pieces[:0] = _cut(line, tags_follow)
        tags_follow |= _mark(line.text) > 0.5
    return pieces


def _cut(line: _Line, tags_follow: bool) -> list[_Piece]:
    """The line as one piece, or as two if it plainly holds prose and tags."""
    gap = "\n\n" if line.after_blank else "\n"
    whole = tags_follow and breaks(line.text) and not line.text.endswith(",")
    for find in (_prose_after_tags,) if whole else (_tags_after_prose, _prose_after_tags):
        position = find(line.text)
        if position is not None:
            head, tail = line.text[:position].rstrip(), line.text[position:].lstrip()
            return [
                _Piece(head, _mark(head), gap),
                _Piece(tail, _mark(tail), line.text[len(head) : len(line.text) - len(tail)]),
            ]
    return [_Piece(line.text, _mark(line.text), gap)]


def _tags_after_prose(line: str) -> int | None:
    """Where tags begin after the last full stop within the line, or None."""
    for end in sentence_ends(line)[-_MOST_SENTENCES:]:
        tail = line[end:]
        pieces = pieces_of(tail)
        if len(pieces) >= 3 and not any(map(reads_like_prose, pieces)) and not looks_like_sentence(tail):
            return end
    return None


def _prose_after_tags(line: str) -> int | None:
    """Where prose begins after three short pieces or more, or None."""
    position = 0
    pieces = line.split(",")
    for number, piece in enumerate(pieces):
        if _starts_prose(pieces, number):
            first = piece.split()[0]
            enumerating = first in CONJUNCTIONS
            if line[0].isupper():  # as sentences begin, but not tags; so what follows must plainly begin one
                enumerating |= not (first[0].isupper() and first.lower() in FUNCTION_WORDS)
            return None if number < 3 or enumerating else position
        position += len(piece) + 1
    return None


def _starts_prose(pieces: list[str], number: int) -> bool:
    """Whether a sentence begins here: too long for a tag, or short, like "a woman", with more to come."""
    piece = pieces[number]
    words = piece.split()
    if not words:
        return False
    if len(words) > LONGEST_TAG or words[0] in CONJUNCTIONS or breaks(piece):
        return True
    if not reads_like_prose(piece):
        return False
    return pieces[-1].rstrip().endswith((".", "!", "?")) or any(map(reads_like_prose, pieces[number + 1 :]))


def _mark(text: str) -> float:
    """How a piece of text reads, from -1 (prose) to 1 (tags); 0 says nothing."""
    pieces = pieces_of(text)
    if not pieces:
        return 0
    if breaks(text):
        return -1
    prose = sum(map(reads_like_prose, pieces))
    if len(pieces) == 1:
        mark = -1.0 if prose else 0.0
    else:
        mark = (len(pieces) - 2 * prose) / len(pieces) * (0.6 if len(pieces) == 2 else 1)
    if reads_like_prose(pieces[0]):  # tags may hold an article, but a list of them does not begin with one
        mark = min(mark, -0.5 if text[0].isupper() else 0)
    if looks_like_sentence(text):
        mark -= 1
    elif re.search(r"[.!?。！？]\Z", text):
        mark -= 0.25
    return max(-1.0, mark)


def _assign(pieces: list[_Piece]) -> tuple[list[_Piece], list[_Piece]]:
    """Prose and tags, each a run of pieces, so that the marks agree best."""
    if not pieces:
        return [], []
    two_lines = len(pieces) == 2 and "\n" in pieces[1].gap and not pieces[0].text.endswith(",")
    if two_lines and pieces[1].mark > 0.5:
        return pieces[:1], pieces[1:]
    best = (-math.inf, 0, True)  # agreement, boundary, whether prose is first
    difference = -sum(piece.mark for piece in pieces)  # marks after the boundary less those before it
    for boundary in range(len(pieces), -1, -1):
        both = 0 < boundary < len(pieces)
        prose_first = difference + (0.5 if both else 0)
        tags_first = -difference + (0.25 if both else 0)
        if prose_first > best[0]:
            best = (prose_first, boundary, True)
        if tags_first > best[0]:
            best = (tags_first, boundary, False)
        difference += 2 * pieces[boundary - 1].mark
    head, tail = pieces[: best[1]], pieces[best[1] :]
    return (head, tail) if best[2] else (tail, head)
