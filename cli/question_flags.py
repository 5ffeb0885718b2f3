"""The options of every captioning command about what is asked: generation, tags, regions. Spelled once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from .choices import EarlyStopping, Underscores
from .preset_flag import CLEANING, PresetFlag
from .reporting import UsageError
from .streams import is_terminal

if TYPE_CHECKING:
    from ..captioning import CaptionOptions, TileOptions, VisionOptions

ASK = "What is asked"
OUTPUT = "Output"

_GENERATION = "Generation (default: the checkpoint's own settings)"
_TAGS = "Tags"
_REGIONS = "Regions (detection, grounding, segmentation, OCR)"
_WHITE = "white"


@dataclass(frozen=True, kw_only=True)
class QuestionFlags:
    """What was given for the options about what is asked, and about how it is told; the same wherever the
    answers come from."""

    text_input: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Text or region that some instructions need, such as the phrase to locate.",
            rich_help_panel=ASK,
        ),
    ] = None
    language: Annotated[
        str | None,
        typer.Option(
            metavar="CODE",
            help="Language of captions, such as de, where the checkpoint has several (PaliGemma).",
            show_default="en",
            rich_help_panel=ASK,
        ),
    ] = None
    preset: PresetFlag = None
    complete_sentences: Annotated[
        bool | None,
        typer.Option(
            "--complete-sentences/--no-complete-sentences",
            help="Cut a chopped end back to the last full stop or comma, or by a word.",
            rich_help_panel=CLEANING,
        ),
    ] = None
    remove_characters: Annotated[
        str | None,
        typer.Option(metavar="CHARS", help="Each of these goes, e.g. '#*~'.", rich_help_panel=CLEANING),
    ] = None
    remove_brackets: Annotated[
        str | None,
        typer.Option(
            metavar="PAIRS",
            help="Brackets that go with all that is between them, e.g. '()[]'.",
            rich_help_panel=CLEANING,
        ),
    ] = None
    max_word_length: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Words with more letters or digits in a row go; 0 is off.",
            rich_help_panel=CLEANING,
        ),
    ] = None
    drop_underscored: Annotated[
        bool | None,
        typer.Option(
            "--drop-underscored/--no-drop-underscored",
            help="Words with an underscore go, as most tags have one; ^_^ stays.",
            rich_help_panel=CLEANING,
        ),
    ] = None
    retries: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="With --do-sample: ask up to N times again for an answer that is too short or holds a retry "
            "word. The last one is kept, with a warning.",
            rich_help_panel=CLEANING,
        ),
    ] = None
    min_words: Annotated[
        int | None,
        typer.Option(metavar="N", help="The fewest words of an answer.", rich_help_panel=CLEANING),
    ] = None
    retry_word: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD",
            help="A word that no answer may hold, or several with commas between them. May be given again; "
            "'' for none.",
            rich_help_panel=CLEANING,
            show_default=False,
        ),
    ] = None
    num_beams: Annotated[
        int | None,
        typer.Option(metavar="N", help="Beams of the beam search; 1 is greedy.", rich_help_panel=_GENERATION),
    ] = None
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Longest answer, in tokens.", rich_help_panel=_GENERATION)
    ] = None
    min_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Shortest answer, in tokens.", rich_help_panel=_GENERATION)
    ] = None
    do_sample: Annotated[
        bool | None,
        typer.Option(
            "--do-sample/--no-do-sample", help="Draw tokens at random.", rich_help_panel=_GENERATION
        ),
    ] = None
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="With --do-sample: above 1 wilder, below 1 tamer.", rich_help_panel=_GENERATION
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="With --do-sample: only the K likeliest tokens.", rich_help_panel=_GENERATION
        ),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="With --do-sample: only the likeliest tokens that sum to P.",
            rich_help_panel=_GENERATION,
        ),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Above 1 discourages tokens already used.", rich_help_panel=_GENERATION
        ),
    ] = None
    length_penalty: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="With beams: above 0 prefers longer answers.", rich_help_panel=_GENERATION
        ),
    ] = None
    no_repeat_ngram_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="No run of N tokens twice; 0 is off.", rich_help_panel=_GENERATION),
    ] = None
    early_stopping: Annotated[
        EarlyStopping | None,
        typer.Option(
            metavar="WHEN", help="When beam search stops: true, false or never.", rich_help_panel=_GENERATION
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="With --do-sample: repeat the same draws.", rich_help_panel=_GENERATION
        ),
    ] = None
    background: Annotated[
        str,
        typer.Option(
            metavar="COLOUR",
            help="Colour behind transparent pixels: a name or #RRGGBB.",
            rich_help_panel=ASK,
        ),
    ] = _WHITE
    prefix: Annotated[str, typer.Option(help="Put before every answer.", rich_help_panel=_TAGS)] = ""
    suffix: Annotated[str, typer.Option(help="Put after every answer.", rich_help_panel=_TAGS)] = ""
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG,...", help="Tags to leave out.", rich_help_panel=_TAGS, show_default=False),
    ] = None
    replace: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OLD:NEW;...",
            help="Whole tags or whole words to replace; an empty NEW takes them out.",
            rich_help_panel=_TAGS,
            show_default=False,
        ),
    ] = None
    underscores: Annotated[
        Underscores,
        typer.Option(
            metavar="HOW",
            help="keep, spaces ('long hair') or underscores ('long_hair'); ^_^ stays.",
            rich_help_panel=_TAGS,
        ),
    ] = Underscores.KEEP
    escape_parentheses: Annotated[
        bool | None,
        typer.Option(
            "--escape-parentheses/--bare-parentheses",
            help="Write \\( \\) or ( ); the default keeps what the model wrote.",
            rich_help_panel=_TAGS,
        ),
    ] = None
    deduplicate: Annotated[
        bool, typer.Option("--deduplicate", help="Drop repeated tags.", rich_help_panel=_TAGS)
    ] = False
    scores: Annotated[
        bool,
        typer.Option(
            "--scores", help="Say how sure the model is of each region, 0-1.", rich_help_panel=_REGIONS
        ),
    ] = False
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE", help="Leave out regions that score below, 0-1.", rich_help_panel=_REGIONS
        ),
    ] = None
    max_regions: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Of each answer only the N best-scored regions.", rich_help_panel=_REGIONS
        ),
    ] = None
    nms: Annotated[
        float | None,
        typer.Option(
            metavar="IOU",
            help="Non-maximum suppression: of two boxes of one label that overlap more than this "
            "(intersection over union, 0-1), only the better-scored.",
            rich_help_panel=_REGIONS,
        ),
    ] = None
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="PIXELS|auto",
            help="Look for small things and words in large pictures: in overlapping tiles with sides of so "
            "many pixels. auto: twice the side of what the checkpoint sees, larger for huge pictures.",
            rich_help_panel=_REGIONS,
        ),
    ] = None
    tile_overlap: Annotated[
        float | None,
        typer.Option(
            metavar="PART",
            help="With --tile: the part of a tile's side, 0-0.75, that the next one shares.",
            show_default="0.25",
            rich_help_panel=_REGIONS,
        ),
    ] = None
    tiles_only: Annotated[
        bool,
        typer.Option(
            "--tiles-only",
            help="With --tile: do not look at the whole picture as well, where there are tiles.",
            rich_help_panel=_REGIONS,
        ),
    ] = False
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="No progress and no closing line; errors stay.", rich_help_panel=OUTPUT
        ),
    ] = False
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            show_default=False,
            help="Log what is done; -vv logs more.",
            rich_help_panel=OUTPUT,
        ),
    ] = 0

    def find_instructions(self, values: Sequence[str]) -> list[str]:
        """The canonical names of the instructions, each once, in the order given.

        Args:
            values: each a name, or several with commas between them.

        Raises:
            InstructionError: one is unknown, or does not go with ``--text-input`` or with what is asked about
                regions.
            UsageError: a value of what is asked about regions is outside its range.
        """
        from ..captioning.instructions import check_text_input, find_instructions
        from ..captioning.vision_options import check_vision

        found = find_instructions(",".join(values))
        check_text_input(found, self.text_input)
        check_vision(found, self.vision_options())
        return list(dict.fromkeys(instruction.name for instruction in found))

    def vision_options(self) -> VisionOptions:
        """What is asked about regions.

        Raises:
            UsageError: a value is outside its range.
        """
        from ..captioning import VisionOptions

        for name, share in (("--threshold", self.threshold), ("--nms", self.nms)):
            if share is not None and not 0 <= share <= 1:
                raise UsageError(f"{name} is {share:g}; it takes a number from 0 to 1.")
        if self.max_regions is not None and self.max_regions < 1:
            raise UsageError(f"--max-regions is {self.max_regions}; it takes a whole number of at least 1.")
        return VisionOptions(self.scores, self.threshold, self.max_regions, self.nms, self._tile_options())

    def _tile_options(self) -> TileOptions | None:
        from ..captioning import TileOptions

        if self.tile is None:
            if self.tile_overlap is not None or self.tiles_only:
                given = "--tiles-only" if self.tile_overlap is None else "--tile-overlap"
                raise UsageError(f"{given} has no use without --tile. Give --tile auto, for example.")
            return None
        size = None
        if self.tile.strip().lower() != "auto":
            try:
                size = int(self.tile)
            except ValueError as error:
                raise UsageError(f"--tile is {self.tile!r}; it takes a number of pixels, or auto.") from error
        overlap = TileOptions.overlap if self.tile_overlap is None else self.tile_overlap
        try:
            return TileOptions(size, overlap, whole=not self.tiles_only)
        except ValueError as error:
            said = str(error).replace("tile size", "--tile").replace("tile overlap", "--tile-overlap")
            raise UsageError(said) from error

    def caption_options(self) -> CaptionOptions:
        """How to generate and how to clean up.

        Raises:
            UsageError: a value is outside its range.
        """
        from ..captioning import CaptionOptions, CleaningOptions, RetryOptions, TagOptions, apply_preset
        from ..captioning.images import DEFAULT_BACKGROUND, parse_background
        from ..captioning.retries import check_retries
        from ..inference import GenerationOptions

        if self.retries and not self.preset and not (self.min_words or self.retry_word):
            raise UsageError("--retries has no use without --min-words or --retry-word. Give one of them.")
        early_stopping = {"true": True, "false": False, "never": "never", None: None}[self.early_stopping]
        try:
            # The usual one is known without Pillow, which so comes after the command line is checked.
            usual = self.background == _WHITE
            colour = DEFAULT_BACKGROUND if usual else parse_background(self.background)
            options = CaptionOptions(
                generation=GenerationOptions(
                    num_beams=self.num_beams,
                    max_new_tokens=self.max_new_tokens,
                    min_new_tokens=self.min_new_tokens,
                    do_sample=self.do_sample,
                    temperature=self.temperature,
                    top_k=self.top_k,
                    top_p=self.top_p,
                    repetition_penalty=self.repetition_penalty,
                    length_penalty=self.length_penalty,
                    no_repeat_ngram_size=self.no_repeat_ngram_size,
                    early_stopping=early_stopping,  # type: ignore[arg-type]
                    seed=self.seed,
                ),
                tags=TagOptions(
                    prefix=self.prefix,
                    suffix=self.suffix,
                    exclude=",".join(self.exclude or ()),
                    replace=";".join(self.replace or ()),
                    underscores=self.underscores.value,
                    escape_parentheses=self.escape_parentheses,
                    deduplicate=self.deduplicate,
                ),
                text_input=self.text_input,
                background=colour,
                vision=self.vision_options(),
                language=self.language,
                cleaning=CleaningOptions(
                    complete_sentences=bool(self.complete_sentences),
                    remove_characters=self.remove_characters or "",
                    remove_brackets=self.remove_brackets or "",
                    max_word_length=self.max_word_length or None,
                    drop_underscored=bool(self.drop_underscored),
                ),
                retries=RetryOptions(self.retries or 0, self.min_words or 0, tuple(self.retry_word or ())),
            )
            options = apply_preset(self.preset, options, self._explicit())
            check_retries(options.generation, options.retries)
            return options
        except ValueError as error:
            raise UsageError(str(error)) from error

    def _explicit(self) -> list[str]:
        """The settings of clean-up and retries that were given, though it be their default."""
        given = {
            "complete_sentences": self.complete_sentences,
            "remove_characters": self.remove_characters,
            "remove_brackets": self.remove_brackets,
            "max_word_length": self.max_word_length,
            "drop_underscored": self.drop_underscored,
            "limit": self.retries,
            "min_words": self.min_words,
            "retry_words": self.retry_word or None,
        }
        return [name for name, value in given.items() if value is not None]

    @property
    def watched(self) -> bool:
        """Whether somebody is to see how far we are."""
        return is_terminal(sys.stderr) and not self.quiet
