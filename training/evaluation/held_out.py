"""Which examples checkpoints are compared on: those that a training run held out, or all that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...captioning.instructions import PALIGEMMA, find_instruction
from ...florence2 import Florence2Config
from ...models_cache import ModelNotFoundError
from ...paligemma import PaliGemmaConfig
from ..config import TrainConfig
from ..config_files import read_config
from ..data.checks import Encode, TokenLimits, check_examples
from ..data.examples import Example, Problem
from ..data.layouts import load_examples
from ..data.options import DataSource
from ..data.report import CheckReport
from ..data.split import read_split
from ..errors import DataError, TrainingError
from ..folder import CONFIG, FINAL, SPLIT
from ..metrics import METRICS
from .predictions import as_asked, prompts_for

if TYPE_CHECKING:
    from ...florence2.text_processing import TextProcessor
    from .evaluation import Contestant

__all__ = ["TrainedRun", "check_for", "curves_of", "examples_of", "find_run", "prompts_of"]


@dataclass(frozen=True)
class TrainedRun:
    """A training run that has come to a model."""

    folder: Path
    config: TrainConfig

    @property
    def base(self) -> str:
        """The checkpoint that it began with, by name, Hub id or folder."""
        return self.config.checkpoint.model_name

    @property
    def trained(self) -> Path:
        """The folder of its final checkpoint or adapter.

        Raises:
            TrainingError: it has not come to its end.
        """
        final = self.folder / FINAL
        if not final.is_dir():
            raise TrainingError(
                f"{self.folder} has no {FINAL}: the run has not come to its end. Name a checkpoint of it by "
                "--model, or go on with it by promptgen train --resume."
            )
        return final

    def prompts(self) -> dict[str, str]:
        """The literal prompts that it was trained with in place of the usual ones, by instruction.

        Raises:
            ModelFilesError: the name of the checkpoint that it began with stands for nothing.
        """
        return prompts_for(self.base, self.config.data.prompts)

    def examples(self, on_problem: Callable[[Problem], None]) -> list[Example]:
        """What the run held out.

        Raises:
            DataError: it held nothing out, or the data are not there any more.
        """
        data = self.config.data
        if data.eval_sources:
            return examples_of(data.eval_sources, on_problem)
        return examples_of(data.sources, on_problem, read_split(self.folder / SPLIT))


def find_run(given: Path) -> TrainedRun:
    """The run of a folder, or of the configuration in a file.

    Raises:
        TrainingError: there is no run, or its configuration cannot be read.
    """
    if given.is_dir():
        if not (given / CONFIG).is_file():
            raise TrainingError(
                f"{given} is no folder of a training run: it has no {CONFIG}. Data are named by --data, "
                "checkpoints by --model."
            )
        return TrainedRun(given, read_config(given / CONFIG))
    if not given.exists():
        raise TrainingError(f"There is no {given}. Name the folder of a training run, or its configuration.")
    config = read_config(given)
    folder = config.run.folder
    if not (folder / SPLIT).is_file():
        raise TrainingError(f"{given}: its run has not begun: there is no {folder / SPLIT}.")
    return TrainedRun(folder, config)


def examples_of(
    sources: Sequence[DataSource],
    on_problem: Callable[[Problem], None],
    images: frozenset[str] | None = None,
) -> list[Example]:
    """The examples of the sources, of these images only if any are named.

    Raises:
        DataError: a source cannot be read, or nothing is left.
    """
    examples = load_examples(sources, on_problem)
    if images is None:
        return list(examples)
    found = [example for example in examples if example.image.name in images]
    if not found:
        raise DataError(
            f"None of the {len(images):,} images that were held out is in the data. Were they moved since?"
            if images
            else "The run held no images out. Name images that it has not seen by --data."
        )
    return found


def curves_of(checkpoint: Path) -> Path | None:
    """The notes of the run that a checkpoint is of, if they lie with it or above it."""
    return _of_run(checkpoint, METRICS)


def prompts_of(checkpoint: Path) -> dict[str, str]:
    """The literal prompts that a checkpoint or adapter was trained with in place of the usual ones, by
    instruction, if its run's configuration lies with it or above it.

    Raises:
        ConfigError: that cannot be read.
    """
    path = _of_run(checkpoint, CONFIG)
    if path is None:
        return {}
    run = TrainedRun(path.parent, read_config(path))
    try:
        return run.prompts()
    except ModelNotFoundError:  # what it began with was a folder that has gone
        return dict(run.config.data.prompts)


def _of_run(checkpoint: Path, name: str) -> Path | None:
    """A file of the run that a checkpoint is of."""
    places = (checkpoint / name, checkpoint.absolute().parent / name)
    return next((place for place in places if place.is_file()), None)


def check_for(
    contestants: Sequence[Contestant],
    examples: Sequence[Example],
    prompts: Mapping[str, str],
    problems: Sequence[Problem] = (),
    *,
    max_target_tokens: int | None = None,
) -> CheckReport:
    """Which examples all contestants can be asked, and why others cannot. No image is decoded.

    Args:
        prompts: literal prompts by instruction that replace the usual ones.
        problems: that are known before.
        max_target_tokens: longer answers are left out, also where checkpoints take them.

    Raises:
        DataError: none is left.
        InstructionError: the family of a checkpoint cannot be asked one of the instructions.
        CheckpointError: the tokenizer of a checkpoint cannot be read.
    """
    found = list(problems)
    for number, contestant in enumerate(contestants):
        own = contestant.prompts_with(prompts)
        for name in dict.fromkeys(example.instruction for example in examples):
            as_asked(find_instruction(name), contestant.family, own)
        encode, limits = _texts_of(contestant)
        report = check_examples(
            examples,
            encode,
            limits.at_most(max_target_tokens),
            prompts=own,
            images="none" if number else "header",
            drop_duplicates=True,
        )
        found += report.problems
        examples = report.examples
    report = replace(report, problems=tuple(found))
    if not report.examples:
        raise DataError(f"No example can be used:\n{report.table()}")
    return report


def _texts_of(contestant: Contestant) -> tuple[Encode, TokenLimits]:
    """How a checkpoint counts texts, and how long they may be."""
    if contestant.family == PALIGEMMA:
        return _paligemma_texts(contestant.folder)
    config = Florence2Config.from_folder(contestant.folder)
    return _text_processor(contestant.folder, config).encode, TokenLimits.of(config)


def _paligemma_texts(folder: Path) -> tuple[Encode, TokenLimits]:
    from ...paligemma.text_processing import TextProcessor as PaliGemmaText

    config = PaliGemmaConfig.from_folder(folder)
    text = PaliGemmaText(folder, config.text.vocab_size, config.text.bos_token_id, ())
    return text.encode, TokenLimits(config.max_prompt_tokens, config.max_new_tokens)


def _text_processor(folder: Path, config: Florence2Config) -> TextProcessor:
    from ...florence2.text_processing import TextProcessor

    special = (config.text.bos_token_id, config.text.eos_token_id, config.text.pad_token_id)
    return TextProcessor(folder, config.text.vocab_size, special)
