"""All that happens to data before the first step: read, checked, split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..errors import DataError
from .checks import OVER_LONG, Encode, TokenLimits, check_examples
from .examples import Example, Problem
from .layouts import load_examples
from .options import DataOptions
from .report import CheckReport
from .split import Split, read_split, repeated, split_examples

__all__ = ["PreparedData", "prepare_data"]


@dataclass(frozen=True)
class PreparedData:
    """What a run trains on and what it is measured on."""

    split: Split
    report: CheckReport  # of both

    @property
    def train(self) -> tuple[Example, ...]:
        """In a fixed order; each as often as its source says."""
        return self.split.train

    @property
    def evaluation(self) -> tuple[Example, ...]:
        """Held out; may be empty where the options say so."""
        return self.split.evaluation


def prepare_data(
    options: DataOptions,
    seed: int,
    encode: Encode,
    limits: TokenLimits,
    *,
    prompts: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> PreparedData:
    """Read, check and split.

    Args:
        encode: of the checkpoint's own tokenizer.
        limits: what the checkpoint has positions for; the options may ask for less.
        prompts: literal prompts by instruction that the checkpoint's catalogue entry has; those of the
            options come before them.
        on_progress: told how many images of how many have been looked at.
        on_note: told what a user may want to know of the split.

    Raises:
        DataError: a source is not there or cannot be read, too much is wrong (with the table), or one side of
            the split is empty.
    """
    limits = limits.at_most(options.max_target_tokens)
    problems: list[Problem] = []
    train = load_examples(options.sources, problems.append)
    evaluation = load_examples(options.eval_sources, problems.append)
    checked = check_examples(
        (*evaluation, *train),  # so that of two that are the same the held-out one stays
        encode,
        limits,
        prompts={**(prompts or {}), **options.prompts},
        images=options.check_images,
        drop_duplicates=options.duplicates == "drop",
        on_progress=on_progress,
    )
    report = replace(checked, problems=(*problems, *checked.problems))
    _require_few_problems(report, options)
    if evaluation:
        return _with_own_evaluation(report, frozenset(evaluation))
    held_out = None if options.split_file is None else read_split(options.split_file)
    if held_out is not None:
        missing = held_out - {example.image.name for example in report.examples}
        if missing:
            on_note(
                f"{len(missing)} of {len(held_out)} images that split_file holds out are not in the data."
            )
    images = report.images
    split = split_examples(
        report.examples,
        options.eval_split,
        seed,
        held_out=held_out,
        twins=images.twins,
        identity=images.identity,
    )
    return PreparedData(split, report)


def _require_few_problems(report: CheckReport, options: DataOptions) -> None:
    """
    Raises:
        DataError: more is wrong than the options allow, or nothing is left.
    """
    if not report.examples:
        raise DataError(f"no example can be used:\n{report.table()}")
    if options.long_captions == "error" and report.counts().get(OVER_LONG):
        raise DataError(f"captions are too long, and long_captions is error:\n{report.table()}")
    if report.exceeds(options.max_problems):
        found = report.lost + len(report.examples)
        raise DataError(
            f"{report.lost} of {found} examples cannot be used, more than max_problems "
            f"({options.max_problems:g}) allows. Mend them, or raise it to go on without:\n{report.table()}"
        )


def _with_own_evaluation(report: CheckReport, evaluation: frozenset[Example]) -> PreparedData:
    """Held-out examples from sources of their own; their images are not trained on, whatever the names.

    Raises:
        DataError: one side is empty.
    """
    identity = report.images.identity
    held_out = [example for example in report.examples if example in evaluation]
    seen = {identity(example.image) for example in held_out}
    others = [example for example in report.examples if example not in evaluation]
    both = [
        Problem(
            "image held out", example.name, "eval_dataset_config has it, too; not trained on", counts=False
        )
        for example in others
        if identity(example.image) in seen
    ]
    train = [example for example in others if identity(example.image) not in seen]
    if not held_out:
        raise DataError(f"eval_dataset_config: no example of it can be used:\n{report.table()}")
    if not train:
        raise DataError(
            "dataset_config: all its images are in eval_dataset_config, too; none is left to train on"
        )
    split = Split(repeated(train), tuple(replace(example, repeats=1) for example in held_out))
    return PreparedData(split, replace(report, problems=(*report.problems, *both)))
