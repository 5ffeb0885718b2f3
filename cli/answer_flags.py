"""The options that every captioning command has: model, device, generation, tags. Spelled once, here."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ..captioning.captioner import DEFAULT_MODEL
from .choices import Dtype, EarlyStopping, Underscores
from .completion import complete_model
from .reporting import UsageError
from .streams import is_terminal

if TYPE_CHECKING:
    from ..captioning import Captioner, CaptionOptions, TileOptions, VisionOptions

ASK = "What is asked"
OUTPUT = "Output"

_GENERATION = "Generation (default: the checkpoint's own settings)"
_TAGS = "Tags"
_REGIONS = "Regions (detection, grounding, segmentation, OCR)"
_DEVICE = "Model and device"
_WHITE = "white"

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|HUB_ID|FOLDER",
        help="Checkpoint by catalogue name (see 'promptgen models list'), Hub id or folder. "
        "'demo' is built in and knows drawn shapes only.",
        autocompletion=complete_model,
        rich_help_panel=_DEVICE,
    ),
]


@dataclass(frozen=True, kw_only=True)
class AnswerFlags:
    """What was given for the options that captioning commands share."""

    model: Model = DEFAULT_MODEL
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADAPTER[:STRENGTH]",
            help="LoRA adapter in PEFT form, by name, Hub id or folder, to add to the checkpoint; 1 strong "
            "unless said otherwise. May be given again; adapters add up.",
            rich_help_panel=_DEVICE,
            show_default=False,
        ),
    ] = None
    text_input: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Text or region that some instructions need, such as the phrase to locate.",
            rich_help_panel=ASK,
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
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda[:N]|mps", help="Where to run.", rich_help_panel=_DEVICE)
    ] = "auto"
    dtype: Annotated[
        Dtype,
        typer.Option(
            metavar="TYPE",  # the list would take the room of the default model's name
            help="Number format: auto, fp32, fp16, bf16 or int8; auto is fp16 on a GPU, bf16 on a CPU that "
            "has it, else fp32.",
            rich_help_panel=_DEVICE,
        ),
    ] = Dtype.AUTO
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="On a CPU: weights of 8 bits. Nearly the same answers, see the README for how nearly.",
            rich_help_panel=_DEVICE,
        ),
    ] = False
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="The most answers to compute at a time. Default: as many as the device's memory takes, up "
            "to 8 on a CPU and 64 on a GPU. It changes no answer.",
            rich_help_panel=_DEVICE,
        ),
    ] = None
    offline: Annotated[
        bool, typer.Option("--offline", help="Never touch the network.", rich_help_panel=_DEVICE)
    ] = False
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
            help="With --tile: the part of a tile's side, 0-0.75, that the next one shares. [default: 0.25]",
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
        from ..captioning import CaptionOptions, TagOptions
        from ..captioning.images import DEFAULT_BACKGROUND, parse_background
        from ..florence2 import GenerationOptions

        early_stopping = {"true": True, "false": False, "never": "never", None: None}[self.early_stopping]
        try:
            # The usual one is known without Pillow, which so comes after the command line is checked.
            usual = self.background == _WHITE
            colour = DEFAULT_BACKGROUND if usual else parse_background(self.background)
            return CaptionOptions(
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
            )
        except ValueError as error:
            raise UsageError(str(error)) from error

    @property
    def watched(self) -> bool:
        """Whether somebody is to see how far we are."""
        return is_terminal(sys.stderr) and not self.quiet

    def captioner(self, *, fetch: bool = True) -> Captioner:
        """A captioner whose checkpoint is there, downloaded first if need be.

        Args:
            fetch: False where none will be loaded.

        Raises:
            UsageError: the device or the number format is not to be had.
            ModelFilesError: the checkpoint is not.
        """
        from ..captioning import Captioner
        from ..florence2 import resolve_device, resolve_dtype

        try:  # before a download, which a mistyped device should not start
            device = resolve_device(self.device)
            dtype = resolve_dtype(self.precision(), device)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if fetch:
            self.fetch()
        return Captioner(
            self.model, device=device, dtype=dtype, batch_size=self.batch_size, loras=self.loras()
        )

    def loras(self) -> list[tuple[str, float]]:
        """The adapters of ``--lora``, each with its strength.

        Raises:
            UsageError: a strength is no number.
        """
        return [_strength_of(given) for given in self.lora or ()]

    def fetch(self) -> None:
        """See that the checkpoint and the adapters are there, downloading them if need be.

        Raises:
            ModelFilesError: one cannot be had.
        """
        from ..models_cache import ensure_adapter, ensure_checkpoint

        ensure_checkpoint(self.model, offline=self.offline, progress=self.watched)
        for name, _ in self.loras():
            ensure_adapter(name, offline=self.offline, progress=self.watched)

    def precision(self) -> str:
        """The number format that ``--dtype`` and ``--fast`` ask for together; may be ``auto``.

        Raises:
            UsageError: they ask for two.
        """
        if self.fast and self.dtype not in (Dtype.AUTO, Dtype.INT8):
            raise UsageError(
                f"--fast is --dtype int8, and --dtype {self.dtype.value} is another. Give one of them."
            )
        return Dtype.INT8.value if self.fast else self.dtype.value


def _strength_of(given: str) -> tuple[str, float]:
    """``NAME:STRENGTH`` taken apart. A folder may have colons in its name, and on Windows a drive."""
    name, colon, strength = given.rpartition(":")
    if not colon or not name or Path(given).is_dir():
        return given, 1.0
    try:
        number = float(strength)
    except ValueError:
        return given, 1.0
    if not math.isfinite(number):
        raise UsageError(f"--lora {given}: the strength is no number. Write {name}:0.8, for example.")
    return name, number


def expand_flags(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` as typer wants it: each parameter that is a dataclass of options, such as
    :class:`AnswerFlags`, becomes one option per field of that class.
    """
    groups: dict[str, tuple[type, list[inspect.Parameter]]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        options = _options_of(kind) if isinstance(kind, type) and is_dataclass(kind) else [parameter]
        if options != [parameter]:
            groups[parameter.name] = (kind, options)
        parameters += options

    @functools.wraps(command)
    def expanded(**given: Any) -> None:
        made = {
            name: kind(**{option.name: given.pop(option.name) for option in options if option.name in given})
            for name, (kind, options) in groups.items()
        }
        command(**made, **given)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _options_of(kind: type) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(kind)
        if field.default is not MISSING
    ]
