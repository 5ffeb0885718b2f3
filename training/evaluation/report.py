"""The report of an evaluation: one page that shows scores, curves and answers side by side."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ...captioning.errors import ImageError
from ...captioning.overlay import draw_overlay
from ...captioning.pages.thumbnails import data_uri
from ...captioning.results import Regions, Result, parse_answer
from ...captioning.runs.report_file import check_page_place, write_page
from .curves import Curve
from .differences import differing
from .evaluation import Evaluation
from .losses import mean_loss
from .metrics import length_of
from .questions import Question
from .report_page import GENERATOR, Shown, ShownAnswer, page

__all__ = ["ReportOptions", "check_report_place", "write_report"]

_SIDE = 384  # pixels of a picture with regions on it, which are to be told apart


@dataclass(frozen=True)
class ReportOptions:
    """How much a report shows."""

    sample: int = 24  # questions with their answers
    seed: int = 0  # of the choice of these


def check_report_place(path: Path) -> None:
    """See that a report can go there before hours are spent.

    Raises:
        OutputError: there is something that is no such report.
    """
    check_page_place(path, GENERATOR)


def write_report(
    path: Path,
    evaluation: Evaluation,
    curves: Mapping[str, Sequence[Curve]],
    settings: Mapping[str, str],
    options: ReportOptions = ReportOptions(),
) -> None:
    """Write the report.

    Args:
        path: where; a report of that kind that is there is replaced.
        curves: how the training of contestants went, by label.
        settings: what holds for all of them, for people, by what it is called.

    Raises:
        OutputError: it cannot be written.
    """
    sample = _sample(evaluation.questions, options)
    pictures = (_shown(evaluation, question) for question in sample)
    write_page(path, page(evaluation, curves, settings, pictures, len(sample), datetime.now().astimezone()))


def _sample(questions: Sequence[Question], options: ReportOptions) -> list[Question]:
    """Questions by chance, of each instruction as many as of each other as far as there are, in order."""
    order = list(questions)
    random.Random(options.seed).shuffle(order)
    turns: dict[str, int] = {}
    ranked = []
    for question in order:
        turn = turns[question.instruction.name] = turns.get(question.instruction.name, 0) + 1
        ranked.append((turn, question))
    ranked.sort(key=lambda entry: entry[0])  # stable: by chance within a turn
    chosen = {question.key for _, question in ranked[: options.sample]}
    names = list(dict.fromkeys(question.instruction.name for question in questions))
    found = [question for question in questions if question.key in chosen]
    return sorted(found, key=lambda question: names.index(question.instruction.name))


def _shown(evaluation: Evaluation, question: Question) -> Shown:
    truths = evaluation.truths[question.key]
    answers = [model.answers[question.key] for model in evaluation.models]
    picture = _Picture(question, evaluation.conditions.background)
    shown = [
        ShownAnswer(
            "ground truth" if len(truths) == 1 else f"ground truth {number}",
            tuple(differing(truth, answers)),
            f"length {length_of(truth)}",
            picture.with_regions(truth),
            is_true=True,
        )
        for number, truth in enumerate(truths, start=1)
    ]
    for model, answer in zip(evaluation.models, answers, strict=True):
        facts = [f"length {length_of(answer)}"]
        loss = mean_loss(model.losses.get(question.key, ()))
        if loss is not None:
            facts.append(f"loss {loss:.4f}")
        if answer.truncated:
            facts.append("cut off")
        shown.append(
            ShownAnswer(
                model.contestant.label,
                tuple(differing(answer, truths)),
                ", ".join(facts),
                picture.with_regions(answer),
            )
        )
    return Shown(question, picture.thumbnail, picture.problem, tuple(shown))


class _Picture:
    """A picture of the sample, as small as the page wants it; or why it cannot be shown any more."""

    def __init__(self, question: Question, background: str) -> None:
        self.thumbnail: tuple[str, tuple[int, int]] | None = None
        self.problem = ""
        try:
            self._image = question.image.open(background)
        except ImageError as error:
            self.problem = str(error)
            return
        self.thumbnail = data_uri(self._image)

    def with_regions(self, result: Result) -> tuple[str, tuple[int, int]] | None:
        """The picture with what was found on it; None where nothing was."""
        if self.thumbnail is None or not isinstance(result, Regions) or not result.regions:
            return None
        scale = min(1.0, _SIDE / max(self._image.size))
        size = (max(1, round(self._image.width * scale)), max(1, round(self._image.height * scale)))
        # Read for the small picture: lines and letters are drawn for the size that is seen.
        placed = parse_answer(result.instruction, result.raw, size, truncated=result.truncated)
        if not isinstance(placed, Regions):
            return None
        return data_uri(draw_overlay(self._image.resize(size), placed.regions, fill=False), _SIDE)
