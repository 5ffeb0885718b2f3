"""The options of ``promptgen evaluate``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .answer_flags import DEVICE
from .completion import complete_instruction, complete_model
from .question_flags import OUTPUT
from .reporting import UsageError
from .streams import is_terminal

if TYPE_CHECKING:
    from ..inference import GenerationOptions
    from ..training.data.options import DataOptions

DATA = "Data"
_GENERATION = "Generation (default: each checkpoint's own settings)"

Run = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN",
        help="Folder of a training run, or its configuration: compares the checkpoint that it began with to "
        "what came out, on the images that it held out.",
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class ContestantFlags:
    """What was given for the options about which checkpoints take part."""

    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|HUB_ID|FOLDER",
            help="Checkpoint by catalogue name, Hub id or folder; NAME+ADAPTER[:STRENGTH] is one with a LoRA "
            "adapter, NAME@4 or NAME@8 one with weights of so many bits. Give it again for each one that is "
            "compared.",
            autocompletion=complete_model,
            rich_help_panel=DEVICE,
            show_default=False,
        ),
    ] = None
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="What a checkpoint is called in tables; given as often as --model, in the same order.",
            rich_help_panel=DEVICE,
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EvaluationDataFlags:
    """What was given for the options about images and true answers."""

    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            "-d",
            metavar="FOLDER|TABLE|FILE.yaml",
            help="Images with true answers, in any form that training takes: folders with text files, JSONL, "
            "CSV, Parquet, Hugging Face datasets; or a file with the keys of a training configuration, whose "
            "eval_dataset_config (or else dataset_config) says more: columns, extensions, prompts. May be "
            "given again.",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None
    layout: Annotated[
        str,
        typer.Option(
            metavar="LAYOUT",
            help="How --data lies there: tasks, sidecar, table, imagefolder, datasets; auto is what it looks "
            "like.",
            rich_help_panel=DATA,
        ),
    ] = "auto"
    instruction: Annotated[
        str | None,
        typer.Option(
            "--instruction",
            "-i",
            metavar="NAME",
            help="What the texts of --data answer, where their place does not say it.",
            autocompletion=complete_instruction,
            rich_help_panel=DATA,
        ),
    ] = None
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,...",
            help="Evaluate these instructions alone.",
            autocompletion=complete_instruction,
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None
    split: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A split.json of a training run: only the images of --data that it held out.",
            rich_help_panel=DATA,
            show_default=False,
        ),
    ] = None
    images: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="At most so many images, chosen by chance.", rich_help_panel=DATA
        ),
    ] = None
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of all that is chosen by chance.", rich_help_panel=DATA)
    ] = 0
    background: Annotated[
        str | None,
        typer.Option(
            metavar="COLOUR",
            help="Colour behind transparent pixels: a name or #RRGGBB. Default: white, or what RUN says.",
            rich_help_panel=DATA,
        ),
    ] = None

    def options(self) -> list[DataOptions]:
        """What each ``--data`` says about examples and how they are asked about.

        Raises:
            InstructionError: ``--instruction`` is unknown.
            UsageError: ``--layout`` is, or has no use, or a file cannot be understood.
        """
        from ..captioning.instructions import find_instruction
        from ..training.config_files import is_configuration, read_evaluation_data
        from ..training.data.options import DataOptions, DataSource, Layout
        from ..training.errors import ConfigError

        try:
            layout = Layout(self.layout.strip().lower())
        except ValueError as error:
            known = ", ".join(one.value for one in Layout)
            raise UsageError(f"--layout is {self.layout!r}; known are {known}.") from error
        name = None if self.instruction is None else find_instruction(self.instruction).name
        found = []
        for path in (one.expanduser() for one in self.data or ()):
            if not is_configuration(path):
                found.append(DataOptions(sources=(DataSource(path=path, layout=layout, instruction=name),)))
                continue
            if name is not None or layout is not Layout.AUTO:
                raise UsageError(f"--instruction and --layout have no use with {path}: it says that itself.")
            try:
                found.append(read_evaluation_data(path))
            except ConfigError as error:
                raise UsageError(str(error)) from error
        return found


@dataclass(frozen=True, kw_only=True)
class EvaluationFlags:
    """What was given for the options about how checkpoints are asked, and what is written."""

    num_beams: Annotated[
        int | None,
        typer.Option(metavar="N", help="Beams of the beam search; 1 is greedy.", rich_help_panel=_GENERATION),
    ] = None
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Longest answer, in tokens.", rich_help_panel=_GENERATION)
    ] = None
    no_repeat_ngram_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="No run of N tokens twice; 0 is off.", rich_help_panel=_GENERATION),
    ] = None
    length_penalty: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="With beams: above 0 prefers longer answers.", rich_help_panel=_GENERATION
        ),
    ] = None
    loss: Annotated[
        bool,
        typer.Option(
            "--loss/--no-loss",
            help="Also compute the loss of the true answers, in fp32; of Florence-2 checkpoints with weights "
            "that are not quantised.",
            rich_help_panel=_GENERATION,
        ),
    ] = True
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="For the report, tables and answers. Default: evaluation, in RUN if there is one.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None
    sample: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Questions that the report shows with their answers. Each adds about 20 KB, or with "
            "boxes 40 KB for each checkpoint.",
            rich_help_panel=OUTPUT,
        ),
    ] = 24
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no tables.", rich_help_panel=OUTPUT)
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

    def generation(self) -> GenerationOptions:
        """How answers are generated.

        Raises:
            UsageError: a value is outside its range.
        """
        from ..inference import GenerationOptions

        try:
            return GenerationOptions(
                num_beams=self.num_beams,
                max_new_tokens=self.max_new_tokens,
                no_repeat_ngram_size=self.no_repeat_ngram_size,
                length_penalty=self.length_penalty,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error

    @property
    def watched(self) -> bool:
        """Whether somebody is to see how far we are."""
        return is_terminal(sys.stderr) and not self.quiet
