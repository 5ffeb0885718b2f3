"""``promptgen evaluate``: checkpoints compared on images whose true answers are known."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .answer_flags import PlaceFlags
from .choices import Quantization
from .contestants import Named, contestant, label_all, parse_model
from .evaluate_flags import ContestantFlags, EvaluationDataFlags, EvaluationFlags, Run
from .expand_flags import expand_flags
from .reporting import FAILED, UsageError, configure_logging, reported_errors, say
from .tables import print_table

if TYPE_CHECKING:
    from ..training.data.examples import Example, Problem
    from ..training.data.options import DataOptions
    from ..training.data.report import CheckReport
    from ..training.evaluation.curves import Curve
    from ..training.evaluation.evaluation import Conditions, Contestant, Evaluation
    from ..training.evaluation.held_out import TrainedRun
    from ..training.evaluation.outputs import EvaluationFolder
    from ..training.evaluation.questions import Question
    from ..training.evaluation.report import ReportOptions

_FAILED = 5  # that are told


@expand_flags
def evaluate(
    *,
    run: Run = None,
    contestants: ContestantFlags,
    data: EvaluationDataFlags,
    place: PlaceFlags,
    flags: EvaluationFlags,
) -> None:
    """Compare checkpoints on images whose true answers are known.

    Each checkpoint answers the same questions; the answers are scored (loss, CIDEr-D, BLEU, ROUGE-L, METEOR,
    precision and recall of tags, average precision of boxes) and shown side by side in a report, a page that
    needs no other file. After an interruption the same command goes on where it was.

    The output folder gets report.html; metrics.json, scores.csv and questions.jsonl for programs; tables.md
    for model cards; and answers and losses as they come.

    Exit status: 0 all done, 1 something failed, such as an image (the others are done), 2 wrong usage, 130
    stopped with Ctrl-C.
    """
    configure_logging(flags.verbose)
    with reported_errors(flags.verbose):
        from ..training.evaluation.questions import draw_questions, questions_of

        trained = _find_run(run, data)
        models = label_all(*_models(trained, contestants, place.quantization))
        folder = _output(trained, flags)
        given = data.options()
        conditions = _conditions(trained, given, place, data, flags)
        problems: list[Problem] = []
        examples = _examples(trained, given, data, problems.append)
        folder.prepare()
        entered = [contestant(named, place, watched=flags.watched) for named in models]
        most = _most_tokens(given if given or trained is None else [trained.config.data])
        report = _checked(entered, examples, problems, conditions, most, quiet=flags.quiet)
        questions = draw_questions(questions_of(report.examples), data.images, data.seed)
        curves = _curves(entered)
        settings = _settings(entered, conditions, trained, data)
        found = _ask(entered, questions, conditions, folder, flags)
        folder.write(found, curves, settings, _report_options(data, flags))
        if not flags.quiet:
            _tell(found, folder)
        if found.failed:
            raise typer.Exit(FAILED)


def _ask(
    entered: Sequence[Contestant],
    questions: Sequence[Question],
    conditions: Conditions,
    folder: EvaluationFolder,
    flags: EvaluationFlags,
) -> Evaluation:
    from ..training.evaluation.evaluation import evaluate as compare

    return compare(entered, questions, conditions, folder.answers, _progress(flags))


def _report_options(data: EvaluationDataFlags, flags: EvaluationFlags) -> ReportOptions:
    from ..training.evaluation.report import ReportOptions

    return ReportOptions(flags.sample, data.seed)


def _find_run(given: Path | None, data: EvaluationDataFlags) -> TrainedRun | None:
    if given is None:
        if not data.data:
            raise UsageError("Name a training run, or images with true answers by --data.")
        return None
    from ..training.evaluation.held_out import find_run

    return find_run(given)


def _models(
    trained: TrainedRun | None, flags: ContestantFlags, bits: Quantization
) -> tuple[list[Named], list[str]]:
    """Those that were named; else of a run the one before and the one after.

    Args:
        bits: of those that are named without.
    """
    labels = list(flags.label or ())
    if flags.model:
        return [parse_model(given, bits) for given in flags.model], labels
    if trained is None:
        raise UsageError("Name a checkpoint by --model, or several to compare them.")
    after = parse_model(str(trained.trained), bits)
    if after.loras:
        after = replace(after, model=trained.base)
    models = [Named(trained.base, quantization=bits), after]
    return models, labels or ["original", "fine-tuned"]


def _output(trained: TrainedRun | None, flags: EvaluationFlags) -> EvaluationFolder:
    from ..training.evaluation.outputs import EvaluationFolder

    usual = Path("evaluation") if trained is None else trained.folder / "evaluation"
    folder = usual if flags.output is None else flags.output.expanduser()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {str(folder)!r} is a file. Name a folder.")
    return EvaluationFolder(folder)


def _conditions(
    trained: TrainedRun | None,
    given: Sequence[DataOptions],
    place: PlaceFlags,
    data: EvaluationDataFlags,
    flags: EvaluationFlags,
) -> Conditions:
    from ..captioning.images import parse_background
    from ..training.evaluation.evaluation import Conditions

    usual = Conditions.background if trained is None else trained.config.batches.background
    background = usual if data.background is None else data.background
    try:
        parse_background(background)
    except ValueError as error:
        raise UsageError(str(error)) from error
    prompts = {} if trained is None else trained.prompts()
    for options in given:
        prompts |= options.prompts
    return Conditions(
        generation=flags.generation(),
        prompts=prompts,
        background=background,
        with_loss=flags.loss,
        loss_batch_size=place.batch_size or Conditions.loss_batch_size,
    )


def _examples(
    trained: TrainedRun | None,
    given: Sequence[DataOptions],
    data: EvaluationDataFlags,
    on_problem: Callable[[Problem], None],
) -> list[Example]:
    """Images and true answers, as far as they were asked for."""
    from ..captioning.instructions import find_instructions

    examples = _all_examples(trained, given, data, on_problem)
    if not data.only:
        return examples
    wanted = {instruction.name for instruction in find_instructions(",".join(data.only))}
    found = [example for example in examples if example.instruction in wanted]
    if not found:
        present = ", ".join(dict.fromkeys(example.instruction for example in examples))
        raise UsageError(f"--only {', '.join(data.only)}: the data have {present} alone.")
    return found


def _all_examples(
    trained: TrainedRun | None,
    given: Sequence[DataOptions],
    data: EvaluationDataFlags,
    on_problem: Callable[[Problem], None],
) -> list[Example]:
    from ..training.data.split import read_split
    from ..training.evaluation.held_out import examples_of

    if given and data.split is not None:
        sources = [source for options in given for source in options.sources]
        return examples_of(sources, on_problem, read_split(data.split))
    found: list[Example] = []
    for options in given:
        images = None if options.split_file is None else read_split(options.split_file)
        found += examples_of(options.sources, on_problem, images)
    if given:
        return found
    without = {"--split": data.split, "--instruction": data.instruction}
    for name, value in without.items():
        if value is not None:
            raise UsageError(f"{name} has no use without --data; a run has data of its own.")
    if trained is None:
        raise UsageError("Name images with true answers by --data.")
    return trained.examples(on_problem)


def _most_tokens(given: Sequence[DataOptions]) -> int | None:
    """Of a true answer, where the data say that longer ones are not theirs."""
    return min((one.max_target_tokens for one in given if one.max_target_tokens is not None), default=None)


def _checked(
    entered: Sequence[Contestant],
    examples: Sequence[Example],
    problems: Sequence[Problem],
    conditions: Conditions,
    most: int | None,
    *,
    quiet: bool,
) -> CheckReport:
    """What all checkpoints can be asked; what not is told."""
    from ..training.evaluation.held_out import check_for

    report = check_for(entered, examples, conditions.prompts, problems, max_target_tokens=most)
    if not quiet and report.problems:
        say(report.table())
    return report


def _curves(entered: Sequence[Contestant]) -> dict[str, list[Curve]]:
    """How the training of each went, where that is known; of one run once."""
    from ..training.evaluation.curves import read_curves
    from ..training.evaluation.held_out import curves_of

    found: dict[Path, str] = {}
    for one in entered:
        for folder in (one.folder, *(path for path, _ in one.adapters)):
            path = curves_of(folder)
            if path is not None:
                found.setdefault(path, one.label)
    return {label: read_curves(path) for path, label in found.items()}


def _settings(
    entered: Sequence[Contestant],
    conditions: Conditions,
    trained: TrainedRun | None,
    data: EvaluationDataFlags,
) -> dict[str, str]:
    """For people, by what it is called."""
    from .._version import __version__

    settings = {f"checkpoint {one.label}": one.name for one in entered}
    if conditions.with_loss:
        settings |= {f"no loss of {one.label}": one.without_loss for one in entered if one.without_loss}
    if data.data:
        settings["data"] = ", ".join(map(str, data.data))
    elif trained is not None:
        settings["data"] = f"held out by {trained.folder}"
    if data.split is not None:
        settings["split"] = str(data.split)
    if data.images is not None:
        settings["images at most"] = f"{data.images}, seed {data.seed}"
    settings |= {name: str(value) for name, value in conditions.generation.given().items()}
    settings |= {f"prompt of {name}": prompt for name, prompt in conditions.prompts.items()}
    captioner = entered[0].captioner
    settings["device"] = f"{captioner.device}, {captioner.dtype}"
    settings["version"] = __version__
    return settings


def _tell(evaluation: Evaluation, folder: EvaluationFolder) -> None:
    """The tables, to standard output; where the report is, and what is not in it, to standard error."""
    from ..training.evaluation.metrics import NO_SYNONYMS
    from ..training.evaluation.tables import tables

    for number, table in enumerate(tables(evaluation)):
        typer.echo(f"{chr(10) if number else ''}{table.title} ({table.about})")
        print_table(["checkpoint", *table.columns], [[row.label, *row.cells] for row in table.rows])
    if any(NO_SYNONYMS in scores for model in evaluation.models for scores in model.scores.values()):
        say(
            f"{NO_SYNONYMS}: WordNet is not on this computer, so only equal words and stems count. Do: "
            f"{shlex.quote(sys.executable)} -m nltk.downloader wordnet"
        )
    for model in evaluation.models:
        reason_against = model.contestant.without_loss
        if evaluation.conditions.with_loss and reason_against is not None:
            say(f"{model.contestant.label} has no loss: {reason_against}.")
    for name, reason in evaluation.failed[:_FAILED]:
        say(f"left out: {name}: {reason}")
    if len(evaluation.failed) > _FAILED:
        say(f"… and {len(evaluation.failed) - _FAILED} more, see {folder.metrics}")
    say(f"Report: {folder.report}")


def _progress(flags: EvaluationFlags) -> Any:
    """A bar for each part of the work; without a terminal a line."""

    @contextmanager
    def show(name: str, total: int) -> Iterator[Callable[[int], None]]:
        if not flags.watched or not total:
            if total and not flags.quiet:
                say(f"{name}, {total}")
            yield lambda done: None
            return
        from tqdm import tqdm

        with tqdm(total=total, desc=name, file=sys.stderr, dynamic_ncols=True, smoothing=0.1) as bar:

            def advance(done: int) -> None:
                bar.update(done)

            yield advance

    return show
