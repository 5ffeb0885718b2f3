"""The options of a request: one flat object, named and understood as on the command line."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Literal

from pydantic import Field

from ..captioning import (
    PRESETS,
    CaptionOptions,
    CleaningOptions,
    GenerationOptions,
    RetryOptions,
    TagOptions,
    TileOptions,
    VisionOptions,
    apply_preset,
)
from ..captioning.tags import parse_replacements
from .errors import BadRequestError
from .strict import Strict

__all__ = ["AnswerOptions"]

_LONGEST_AFFIX = 1000  # characters
_LONGEST_RULES = 10_000
_MOST_RULES = 256  # replacements, each of which looks at each tag of an answer
_SETTINGS = {"retries": "limit", "retry_word": "retry_words"}  # fields of `RetryOptions` with other names
_OWN = "Default: the checkpoint's own setting."

Affix = Annotated[str, Field(max_length=_LONGEST_AFFIX)]
Rules = Annotated[str, Field(max_length=_LONGEST_RULES)]
RuleList = Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=500)]


class AnswerOptions(Strict):
    """Everything that shapes an answer besides the picture, the instruction and the model.

    ``null`` is the same as leaving an option out. The ranges are narrower than the command line's where
    numbers beyond them would only break the arithmetic.
    """

    num_beams: int | None = Field(
        default=None, ge=1, description=f"Beams of the beam search; 1 is greedy. {_OWN}", examples=[1]
    )
    max_new_tokens: int | None = Field(
        default=None, ge=1, description=f"Longest answer, in tokens. {_OWN}", examples=[256]
    )
    min_new_tokens: int | None = Field(
        default=None, ge=0, le=1024, description=f"Shortest answer, in tokens. {_OWN}"
    )
    do_sample: bool | None = Field(default=None, description=f"Draw tokens at random. {_OWN}")
    temperature: float | None = Field(
        default=None, ge=0.01, le=100, description=f"With do_sample: above 1 wilder, below 1 tamer. {_OWN}"
    )
    top_k: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description=f"With do_sample: only the K likeliest tokens; 0 is off. {_OWN}",
    )
    top_p: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description=f"With do_sample: only the likeliest tokens that sum to P. {_OWN}",
    )
    repetition_penalty: float | None = Field(
        default=None,
        ge=0.01,
        le=100,
        description=f"Above 1 discourages tokens already used; 1 is off. {_OWN}",
    )
    length_penalty: float | None = Field(
        default=None, ge=-10, le=10, description=f"With beams: above 0 prefers longer answers. {_OWN}"
    )
    no_repeat_ngram_size: int | None = Field(
        default=None, ge=0, le=1024, description=f"No run of N tokens twice; 0 is off. {_OWN}"
    )
    early_stopping: bool | Literal["never"] | None = Field(
        default=None, description=f"When beam search stops: true, false or never. {_OWN}"
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        le=2**64 - 1,
        description="With do_sample: repeat the same draws. Default: fresh ones.",
    )
    language: Annotated[str, Field(max_length=20)] | None = Field(
        default=None,
        description="Code of the language of captions and answers, for models that have several, as those of"
        " the family paligemma have. Default: en.",
        examples=["de"],
    )
    preset: Annotated[str, Field(max_length=100)] | None = Field(
        default=None,
        description="Named set of options for generation, clean-up and retries, "
        f"{' or '.join(PRESETS)}; what a request gives besides wins.",
        examples=["long-prompt"],
    )
    complete_sentences: bool | None = Field(
        default=None,
        description="Of captions, cut a chopped end back to the last full stop or comma. Default: false.",
    )
    remove_characters: Affix | None = Field(
        default=None,
        description="Take each of these characters out of captions and tags, but not those within a tag "
        "(fate/zero) or of a face (;d).",
        examples=["#@"],
    )
    remove_brackets: Annotated[str, Field(max_length=100)] | None = Field(
        default=None,
        description="Pairs of brackets that are taken out of captions and tags with all between them.",
        examples=["()[]"],
    )
    max_word_length: int | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="Take words with more letters or digits in a row out of captions and tags; 0 is off. "
        "Default: 0.",
    )
    drop_underscored: bool | None = Field(
        default=None,
        description="Take words with underscores, such as tags, out of captions. Default: false.",
    )
    retries: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="With do_sample: how often at most an answer is asked again, with other draws, that fails"
        " min_words or retry_word. The last one is given, marked as unmet if it fails, too. Default: 0.",
    )
    min_words: int | None = Field(
        default=None, ge=0, le=10_000, description="The fewest words of an answer. Default: 0."
    )
    retry_word: Rules | RuleList | None = Field(
        default=None,
        description="Words that no answer may hold, with commas between them or as a list.",
        examples=["no_parallel"],
    )
    text_input: str | None = Field(
        default=None,
        description="For instructions that take one: a text, such as the phrase to locate; or a region as"
        " x0,y0,x1,y1 in pixels or in fractions of the picture, several with ; between them.",
    )
    background: Annotated[str, Field(max_length=100)] | None = Field(
        default="white",
        description="Colour behind transparent pixels: a name or #RRGGBB.",
        examples=["#808080"],
    )
    prefix: Affix | None = Field(default="", description="Put before every answer.")
    suffix: Affix | None = Field(default="", description="Put after every answer.")
    exclude: Rules | RuleList | None = Field(
        default=None,
        description="Tags to leave out, with commas between them or as a list; * stands for any characters.",
        examples=["simple background, *hair"],
    )
    replace: Rules | RuleList | None = Field(
        default=None,
        description="Whole tags or whole words to replace, OLD:NEW, with ; between them or as a list; an"
        " empty NEW takes them out.",
        examples=["photo:picture;blurry:"],
    )
    underscores: Literal["keep", "spaces", "underscores"] | None = Field(
        default="keep",
        description="What becomes of those in tags: long_hair is long hair with spaces; ^_^ stays.",
    )
    escape_parentheses: bool | None = Field(
        default=None, description=r"In tags: true writes \( \), false ( ). Default: as the model wrote them."
    )
    deduplicate: bool | None = Field(default=False, description="Drop repeated tags.")
    scores: bool | None = Field(default=False, description="Say how sure the model is of each region, 0–1.")
    threshold: float | None = Field(
        default=None, ge=0, le=1, description="Leave out regions that score below. Default: none is left out."
    )
    max_regions: int | None = Field(
        default=None, ge=1, description="Of each answer only the N best-scored regions. Default: all."
    )
    nms: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Non-maximum suppression: of two boxes of one label that overlap more than this"
        " (intersection over union), only the better-scored. Default: all.",
    )
    tile: Literal["auto"] | Annotated[int, Field(ge=32)] | None = Field(
        default=None,
        description="Look for small things and words in large pictures: in overlapping tiles with sides of so"
        " many pixels; auto is twice the side of what the checkpoint sees. Default: no tiles.",
        examples=["auto"],
    )
    tile_overlap: float | None = Field(
        default=None,
        ge=0,
        le=0.75,
        description="With tile: the part of its side that the next one shares; 0.25.",
    )
    tiles_only: bool | None = Field(
        default=False,
        description="With tile: do not look at the whole picture as well, where there are tiles.",
    )

    def caption_options(self) -> CaptionOptions:
        """The engine's options.

        Raises:
            BadRequestError: a text cannot be read, or two options contradict each other.
        """
        names = {field.name for field in fields(GenerationOptions)} & set(AnswerOptions.model_fields)
        try:
            options = CaptionOptions(
                generation=GenerationOptions(**{name: getattr(self, name) for name in names}),
                tags=self._tag_options(),
                text_input=self.text_input,
                background=_colour(self.background),
                vision=VisionOptions(
                    bool(self.scores), self.threshold, self.max_regions, self.nms, self._tile_options()
                ),
                language=self.language,
                cleaning=CleaningOptions(
                    bool(self.complete_sentences),
                    self.remove_characters or "",
                    self.remove_brackets or "",
                    self.max_word_length or None,
                    bool(self.drop_underscored),
                ),
                retries=self._retry_options(),
            )
            return apply_preset(self.preset, options, self._explicit())
        except ValueError as error:
            raise BadRequestError(str(error)) from error

    def _explicit(self) -> set[str]:
        """What wins over a preset, also where it says what is so by default."""
        given = {name for name in self.model_fields_set if getattr(self, name, None) is not None}
        return {_SETTINGS.get(name, name) for name in given}

    def _retry_options(self) -> RetryOptions:
        words = self.retry_word if isinstance(self.retry_word, str) else tuple(self.retry_word or ())
        options = RetryOptions(self.retries or 0, self.min_words or 0, words)
        if len(options.retry_words) > _MOST_RULES:
            raise BadRequestError(
                f"retry_word has {len(options.retry_words)} words; {_MOST_RULES} is the most."
            )
        return options

    def _tag_options(self) -> TagOptions:
        options = TagOptions(
            prefix=self.prefix or "",
            suffix=self.suffix or "",
            exclude=_joined("exclude", self.exclude, ","),
            replace=_joined("replace", self.replace, ";"),
            underscores=self.underscores or "keep",
            escape_parentheses=self.escape_parentheses,
            deduplicate=bool(self.deduplicate),
        )
        rules = parse_replacements(options.replace)
        if len(rules) > _MOST_RULES:
            raise BadRequestError(f"replace has {len(rules)} rules; {_MOST_RULES} is the most.")
        if any(len(new) > _LONGEST_AFFIX for _, new in rules):
            raise BadRequestError(f"replace takes new texts of at most {_LONGEST_AFFIX} characters.")
        return options

    def _tile_options(self) -> TileOptions | None:
        if self.tile is None:
            if self.tile_overlap is not None or self.tiles_only:
                given = "tiles_only" if self.tile_overlap is None else "tile_overlap"
                raise BadRequestError(f'{given} has no use without tile; give tile, "auto" for example.')
            return None
        overlap = TileOptions.overlap if self.tile_overlap is None else self.tile_overlap
        return TileOptions(None if self.tile == "auto" else self.tile, overlap, whole=not self.tiles_only)


def _joined(name: str, texts: str | list[str] | None, separator: str) -> str:
    """One text of several, which is how the command line has them."""
    joined = texts if isinstance(texts, str) else separator.join(texts or ())
    if len(joined) > _LONGEST_RULES:
        raise BadRequestError(f"{name} has {len(joined)} characters; {_LONGEST_RULES} is the most.")
    return joined


def _colour(name: str | None) -> tuple[int, int, int]:
    from ..captioning.images import parse_background

    return parse_background(name or "white")
