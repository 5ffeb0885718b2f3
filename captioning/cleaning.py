"""Cleaning up what a model writes badly: chopped ends, stray characters, brackets, endless words."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CleaningOptions"]


@dataclass(frozen=True)
class CleaningOptions:
    """What is taken out of captions, tags and mixed answers. The defaults change nothing.

    It is done before all that :class:`~.tags.TagOptions` asks for, so prefix and suffix stay as they are
    given; the answer as it was generated stays in ``Result.raw``. Analyses, OCR, regions and answers to
    questions are never touched.

    Raises:
        ValueError: a value is outside its range; the message names the setting, the value and the range.
    """

    complete_sentences: bool = False  # cut a chopped end back to the last full stop or comma
    remove_characters: str = ""  # each of these characters goes; white space between them is nothing
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
