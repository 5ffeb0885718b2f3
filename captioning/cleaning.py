"""Cleaning up what a model writes badly: chopped ends, stray characters, brackets, endless words.

What is taken out leaves no trace: no doubled comma or space, no space before a full stop. The order of work
is characters, brackets, words, and the chopped end last. Doing it twice gives what doing it once gives: the
second time nothing is truncated any more.

Among tags, those of a face (``;d``) and a slash or the like between two letters (``fate/stay_night``) are no
stray characters: without them it would be another tag.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .instructions import AnswerKind, Instruction
from .mixed import MixedParts, split_mixed
from .tags import is_emoticon, is_kaomoji
from .wording import SEPARATORS, sentence_ends, sure_ends
from .words import longest_run

__all__ = ["CleaningOptions", "clean_answer", "clean_tags", "clean_text", "is_cleaned"]

_KINDS = (AnswerKind.CAPTION, AnswerKind.TAGS, AnswerKind.MIXED)

_GONE = "\0"  # stands where something was taken out, until that is tidied up
_STOPS = ".!?…。！？"
_BEFORE = "([{\"'“‘"  # what may precede a word without being a part of it
_AFTER = f"{_STOPS};:)]}}\"'”’"  # what may follow it
_LONGEST_FACE = 16
_NOWHERE = slice(0, 0)
_WORD = re.compile(rf"[^\s,{_GONE}]+")
_CORE = re.compile(
    rf"(?P<before>[{re.escape(_BEFORE)}]*)(?P<core>.*?)(?P<after>[{re.escape(_AFTER)}]*)", re.DOTALL
)
_COMMA = re.compile(r",(?!\d)|[，、]")
_WITHIN_TAG = re.compile(r"(?<=[^\W_])[/:;](?=[^\W_])")  # fate/zero, re:zero, steins;gate
_ENDED = re.compile(rf"[{_STOPS}][\"'”’)\]」』]*\Z")

# A pair of brackets in which nothing is left.
_EMPTIED = re.compile(rf"\([{_GONE} ]*{_GONE}[{_GONE} ]*\)|\[[{_GONE} ]*{_GONE}[{_GONE} ]*\]")
# What was taken out, with the punctuation on both sides that is left facing each other.
_HOLE = re.compile(
    rf"(?P<before>[,;:{_STOPS}(\[{{“‘]?) ?(?:_*{_GONE}_* ?)+"
    rf"(?P<after>(?:[,;:{_STOPS}]+(?=[\s{_GONE}]|\Z))?)(?P<closes>(?=[)\]}}”’]))?"
)


@dataclass(frozen=True)
class CleaningOptions:
    """What is taken out of captions, tags and mixed answers. The defaults change nothing.

    It is done before all that :class:`~.tags.TagOptions` asks for, so prefix and suffix stay as they are
    given; the answer as it was generated stays in ``Result.raw``. Analyses, OCR, regions and answers to
    questions are never touched.

    Raises:
        ValueError: a value is outside its range; the message names the setting, the value and the range.
    """

    # Cut a chopped end back to the last full stop; or to a comma after it, which becomes one; or by a word.
    complete_sentences: bool = False
    # Each of these characters goes, but those within tags and of faces among tags, such as fate/zero and ;d.
    # White space between them is nothing.
    remove_characters: str = ""
    remove_brackets: str = ""  # pairs, such as "()[]", that go with all that is between them
    # The longest run of letters and digits that a word may have. Scripts without spaces have no such words.
    max_word_length: int | None = None
    drop_underscored: bool = False  # words with an underscore, tags for the most part; ^_^ stays

    def __post_init__(self) -> None:
        for name in ("complete_sentences", "drop_underscored"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it takes True or False.")
        for name in ("remove_characters", "remove_brackets"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it takes a text.")
        length = self.max_word_length
        if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
            raise ValueError(
                f"max_word_length is {length!r}; it takes a whole number of at least 1, or None."
            )
        brackets = "".join(self.remove_brackets.split())
        if len(brackets) % 2 or len(set(brackets)) != len(brackets):
            raise ValueError(
                f"remove_brackets is {self.remove_brackets!r}; it takes pairs of different characters, such "
                "as ()[]{}."
            )
        object.__setattr__(self, "remove_brackets", brackets)
        characters = dict.fromkeys("".join(self.remove_characters.split()))
        object.__setattr__(self, "remove_characters", "".join(characters))


def is_cleaned(instruction: Instruction) -> bool:
    """Whether the answers are captions, tags or both, which alone are cleaned up; or to a prompt of one's
    own."""
    return instruction.answer in _KINDS or instruction.is_free


def clean_answer(
    instruction: Instruction, text: str, options: CleaningOptions, *, truncated: bool = False
) -> str:
    """An answer after clean-up, in the same form; of other kinds than those of :func:`is_cleaned` unchanged.

    In a mixed answer with an analysis that is left alone.

    Args:
        instruction: what was asked.
        text: the answer, without white space around it.
        truncated: whether it ends because no more tokens were allowed.
    """
    if options == CleaningOptions() or not is_cleaned(instruction):
        return text
    if instruction.answer is AnswerKind.TAGS:
        return clean_tags(text, options, truncated=truncated)
    if instruction.answer is not AnswerKind.MIXED:
        return clean_text(text, options, truncated=truncated)
    parts = split_mixed(text, tags_first=instruction.tags_first)
    if not parts.analysis:
        return _clean_mixed(text, options, truncated, instruction.tags_first)
    start = text.find(parts.analysis.partition("\n")[0])
    captions, analysis = text[:start], text[start:]
    gap = captions[len(captions.rstrip()) :]
    cleaned = _clean_mixed(captions, options, False, instruction.tags_first)
    return cleaned + gap + analysis if cleaned else analysis


def clean_text(text: str, options: CleaningOptions, *, truncated: bool = False) -> str:
    """Prose after clean-up.

    With ``complete_sentences`` the end is chopped if the answer was cut off in the middle of a sentence, or
    if it has several of which the last has no full stop. One that was not cut off and surely has no full stop
    (the one of "u.s." is none) is a caption of that style, and stays.
    """
    if options == CleaningOptions():
        return text
    if not options.complete_sentences:
        return _tidied(_without(text, options))
    return _complete_prose(_open_ended(text, options), truncated, options)


def clean_tags(text: str, options: CleaningOptions, *, truncated: bool = False) -> str:
    """Comma-separated tags after clean-up; with ``complete_sentences`` the last goes if it was cut off."""
    if options == CleaningOptions():
        return text
    everything = slice(0, len(text))
    if not (options.complete_sentences and truncated):
        return _tidied(_without(text, options, everything))
    return _complete_tags(_open_ended(text, options, everything))


def _clean_mixed(text: str, options: CleaningOptions, truncated: bool, tags_first: bool) -> str:
    tags = _place_of_tags(text, tags_first) if options.remove_characters else _NOWHERE
    tidy = _tidied(_without(text, options, tags))
    if not options.complete_sentences:
        return tidy
    parts = split_mixed(tidy, tags_first=tags_first)
    if _ends_in_tags(tidy, parts):
        return _complete_tags(_open_ended(text, options, tags)) if truncated else tidy
    prose = parts.prose if tidy.endswith(parts.prose) else parts.prose.rpartition("\n")[2]
    start = len(tidy) - len(prose)
    completed = _complete_prose(_open_ended(text, options, tags)[start:], truncated, options)
    return (tidy[:start] + completed).rstrip(SEPARATORS)


def _place_of_tags(text: str, tags_first: bool) -> slice:
    """Where the tags of a mixed answer stand; nowhere if they are in several places."""
    parts = split_mixed(text, tags_first=tags_first)
    start = text.rfind(parts.tags) if _ends_in_tags(text, parts) else text.find(parts.tags)
    return slice(start, start + len(parts.tags)) if start >= 0 else _NOWHERE


def _open_ended(text: str, options: CleaningOptions, tags: slice = _NOWHERE) -> str:
    """``text`` without what is taken out, but with a comma at its end, which says that what precedes it is
    whole."""
    tidy = _tidied(_without(text, options, tags))
    return tidy + "," if tidy and text.rstrip().endswith(",") else tidy


def _ends_in_tags(text: str, parts: MixedParts) -> bool:
    """Whether tags are what a mixed answer ends with, and not prose."""
    if not parts.tags:
        return False
    last_line = parts.prose.rpartition("\n")[2]
    return not parts.prose or not text.rstrip(SEPARATORS).endswith(last_line)


def _complete_prose(text: str, truncated: bool, options: CleaningOptions) -> str:
    """Prose without the sentence that its end is in the middle of, or with as much of it as a comma ends; or
    else without its last word, if that may be half of one."""
    ends = sure_ends(text, truncated=truncated) or (sentence_ends(text) if truncated else [])
    if _ENDED.search(text) or not (truncated or ends):
        return text.rstrip(SEPARATORS)
    may_stop = "." not in options.remove_characters  # in the place of the comma
    stop = ends[-1] if ends else 0
    comma = max((match.start() for match in _COMMA.finditer(text, stop)), default=0)
    if comma and (may_stop or not ends):
        cut = text[:comma].rstrip(SEPARATORS)
        return cut + "." if ends and not _ENDED.search(cut) else cut
    if stop:
        return text[:stop].rstrip()
    whole = text.rstrip(SEPARATORS).rsplit(maxsplit=1)
    return whole[0].rstrip(SEPARATORS) if whole else ""


def _complete_tags(text: str) -> str:
    """Tags without the last one, unless a comma or a full stop ends it."""
    if text.endswith("."):
        return text
    comma = max((match.start() for match in re.finditer(r"(?<!\d),|,(?!\d)|\n", text)), default=0)
    return text[:comma].rstrip(SEPARATORS) if comma else text.rstrip(SEPARATORS)


def _without(text: str, options: CleaningOptions, tags: slice = _NOWHERE) -> str:
    """``text`` with a mark for all that is taken out; ``tags`` says where it has tags."""
    before, within, after = (
        part.replace(_GONE, "") for part in (text[: tags.start], text[tags], text[tags.stop :])
    )
    if characters := options.remove_characters:
        before, after = (_mark_characters(part, characters) for part in (before, after))
        within = _mark_in_tags(within, characters)
    text = before + within + after
    if options.remove_brackets:
        text = _mark_brackets(text, options.remove_brackets)
    if options.max_word_length is not None:
        length = options.max_word_length
        text = _mark_words(text, lambda word: longest_run(word) > length)
    if options.drop_underscored:
        text = _mark_words(text, lambda word: "_" in word and not _is_face(word))
    return text


def _mark_characters(text: str, characters: str) -> str:
    """Every one of ``characters`` marked, and all of a face that has one: what is left would be none."""
    one = re.compile(f"[{re.escape(characters)}]")

    def mark(match: re.Match[str]) -> str:
        word = match.group()
        face = _face(word)
        whole = _GONE if one.search(word[face]) else word[face]
        return one.sub(_GONE, word[: face.start]) + whole + one.sub(_GONE, word[face.stop :])

    return one.sub(_GONE, _WORD.sub(mark, text))


def _mark_in_tags(text: str, characters: str) -> str:
    """Every one of ``characters`` marked that is no part of a tag, as it is in faces and between letters."""

    def mark(match: re.Match[str]) -> str:
        word = match.group()
        kept = set(range(len(word))[_face(word)])
        for sign in _WITHIN_TAG.finditer(word):
            if word[sign.start() - 1] not in characters and word[sign.end()] not in characters:
                kept.add(sign.start())
        return "".join(
            _GONE if character in characters and position not in kept else character
            for position, character in enumerate(word)
        )

    text = _WORD.sub(mark, text)
    return text.replace(",", _GONE) if "," in characters else text


def _mark_brackets(text: str, brackets: str) -> str:
    """Every pair marked, with what is in it; one without a partner stays, and so do those of faces."""
    plain = {
        word.start() + position
        for word in _WORD.finditer(text)
        for position in range(len(word.group()))[_face(word.group())]
    }
    inside = bytearray(len(text))
    for opening, closing in zip(brackets[::2], brackets[1::2], strict=True):
        opened: list[int] = []
        for position, character in enumerate(text):
            if position in plain:
                continue
            if character == opening:
                opened.append(position)
            elif character == closing and opened:
                start = opened.pop()
                if start and text[start - 1] == "\\":  # as tags have them: \\(series\\)
                    start -= 1
                inside[start : position + 1] = b"\1" * (position + 1 - start)
    return "".join(_GONE if hidden else character for character, hidden in zip(text, inside, strict=True))


def _is_face(word: str) -> bool:
    """Whether brackets and underscores of ``word`` are those of a face, with punctuation about it perhaps."""
    return _face(word) != _NOWHERE


def _face(word: str) -> slice:
    """What of ``word`` is a face, with nothing but punctuation around it; nothing if it is none."""
    least = len(word.rstrip(_AFTER))
    opened = len(word) - len(word.lstrip(_BEFORE))
    for start in (0, opened) if opened else (0,):
        for end in range(min(len(word), least + _LONGEST_FACE), max(start, least - 1), -1):
            if is_emoticon(word[start:end]) or is_kaomoji(word[start:end]):
                return slice(start, end)
    return _NOWHERE


def _mark_words(text: str, goes: Callable[[str], bool]) -> str:
    """Every word marked that ``goes``, with and without the punctuation around it, which stays."""

    def mark(match: re.Match[str]) -> str:
        parts = _CORE.fullmatch(match.group())
        if parts is None or not (goes(match.group()) and goes(parts["core"])):
            return match.group()
        return parts["before"] + _GONE + parts["after"]

    return _WORD.sub(mark, text)


def _tidied(text: str) -> str:
    """``text`` without the marks, and without what they have left behind."""
    text = re.sub(r"[^\S\n]+", " ", text)
    while (closed := _EMPTIED.sub(_GONE, text)) != text:
        text = closed
    text = _HOLE.sub(_mended, text)
    text = re.sub(r"(?<![\s,]) \.(?=[\s,]|\Z)", ".", re.sub(r" {2,}", " ", text))
    text = re.sub(r" ?,(?: ?,)*", ",", text)
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n[ ,]*", "\n", text))
    return text.strip(SEPARATORS)


def _mended(hole: re.Match[str]) -> str:
    """What stands where something was taken out: of two punctuation marks that now meet, the stronger."""
    before, after = hole["before"], hole["after"]
    if not before:
        begins = hole.start() == 0 or hole.string[hole.start() - 1] == "\n"
        return "" if begins or (hole["closes"] is not None and not after) else after or " "
    if before in "([{“‘":
        return before
    if not after:
        return before if hole["closes"] is not None else before + " "
    if before in ",;:":
        return after
    return before if after[0] in _STOPS else before + after
