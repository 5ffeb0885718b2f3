"""An evaluation as tables and as JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...captioning.instructions import AnswerKind, Instruction
from .evaluation import Evaluation
from .losses import mean_loss
from .metrics import LOSS, METRICS, Scores, length_of
from .questions import Question

__all__ = [
    "COLUMNS",
    "Row",
    "Table",
    "compared",
    "markdown",
    "metrics_json",
    "question_json",
    "scores_csv",
    "tables",
]

_KIND = "promptgen evaluate"

COLUMNS = ("checkpoint", "instruction", "metric", "value")
"""Of :func:`scores_csv`."""


@dataclass(frozen=True)
class Row:
    """The numbers of one contestant."""

    label: str
    cells: tuple[str, ...]  # for people
    best: tuple[bool, ...]  # whether no other contestant is better, and one is worse


@dataclass(frozen=True)
class Table:
    """How the answers to one instruction, or to all, compare."""

    title: str
    about: str  # how much it is of
    columns: tuple[str, ...]  # names of metrics
    rows: tuple[Row, ...]


def tables(evaluation: Evaluation) -> list[Table]:
    """One for each instruction; where there are several, and losses, first that of all together."""
    made = []
    instructions = evaluation.instructions
    if len(instructions) > 1 and any(model.losses for model in evaluation.models):
        about = f"{evaluation.images:,} images, {len(evaluation.questions):,} questions"
        losses: dict[str, Scores] = {
            model.contestant.label: {LOSS: model.loss} for model in evaluation.models
        }
        made.append(compared("all", about, losses))
    for instruction in instructions:
        scores = {model.contestant.label: model.scores[instruction.name] for model in evaluation.models}
        made.append(compared(instruction.name, _about(evaluation, instruction), scores))
    return made


def _about(evaluation: Evaluation, instruction: Instruction) -> str:
    truths = _truths(evaluation, instruction)
    length = sum(map(length_of, truths)) / len(truths)
    asked = sum(question.instruction == instruction for question in evaluation.questions)
    parts = ""
    if instruction.answer is AnswerKind.MIXED:
        parts = "; n-grams are those of the prose, precision and recall those of the tags"
    return f"{asked:,} answers; the true ones have a length of {length:.1f} on average{parts}"


def _truths(evaluation: Evaluation, instruction: Instruction) -> list[Any]:
    return [
        truth
        for question in evaluation.questions
        if question.instruction == instruction
        for truth in evaluation.truths[question.key]
    ]


def compared(title: str, about: str, scores: Mapping[str, Scores]) -> Table:
    """A row for each contestant, by its label."""
    columns = tuple(name for name in METRICS if any(name in one for one in scores.values()))
    best = {name: _best(name, [one.get(name) for one in scores.values()]) for name in columns}
    rows = tuple(
        Row(
            label,
            tuple(_cell(name, one.get(name)) for name in columns),
            tuple(_shown(name, one.get(name)) in best[name] for name in columns),
        )
        for label, one in scores.items()
    )
    return Table(title, about, columns, rows)


def _best(name: str, values: Sequence[float | None]) -> set[float | None]:
    """The best of them as they are shown; nothing where all are equal, or none is better by its nature."""
    known = {_shown(name, value) for value in values} - {None}
    higher = METRICS[name].higher_is_better
    if higher is None or len(known) < 2:
        return set()
    return {max(known) if higher else min(known)}  # type: ignore[type-var]


def _shown(name: str, value: float | None) -> float | None:
    """As much of a number as people see."""
    return None if value is None or not math.isfinite(value) else round(value, METRICS[name].digits)


def _cell(name: str, value: float | None) -> str:
    return "–" if value is None else f"{value:.{METRICS[name].digits}f}"


def markdown(evaluation: Evaluation) -> str:
    """The tables for a model card, the best of each column in bold."""
    parts = []
    for table in tables(evaluation):
        parts.append(f"### {table.title}\n\n{table.about[0].upper()}{table.about[1:]}.\n")
        lines = [["checkpoint", *table.columns], ["---", *("---:" for _ in table.columns)]]
        for row in table.rows:
            cells = zip(row.cells, row.best, strict=True)
            lines.append([_escaped(row.label), *(f"**{cell}**" if best else cell for cell, best in cells)])
        parts.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
    names = dict.fromkeys(name for table in tables(evaluation) for name in table.columns)
    parts.append("".join(f"- **{name}**: {METRICS[name].about}\n" for name in names))
    return "\n".join(parts)


def _numbers(scores: Mapping[str, float | None]) -> Scores:
    return {name: _number(value) for name, value in scores.items()}


def _number(value: float | None) -> float | None:
    """JSON has no infinite loss, nor one that is no number."""
    return value if value is not None and math.isfinite(value) else None


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def metrics_json(evaluation: Evaluation, settings: Mapping[str, str]) -> dict[str, Any]:
    """All numbers, as a program wants them, and how they came about."""
    models = []
    for model in evaluation.models:
        tokens = sum(one.tokens for losses in model.losses.values() for one in losses)
        models.append(
            {
                "label": model.contestant.label,
                "model": model.contestant.captioner.model,
                "loras": [list(lora) for lora in model.contestant.captioner.loras],
                "quantization": model.contestant.captioner.quantization,
                "loss": _number(model.loss),
                "tokens": tokens or None,
                "instructions": {name: _numbers(scores) for name, scores in model.scores.items()},
            }
        )
    names = {name for model in evaluation.models for scores in model.scores.values() for name in scores}
    return {
        "kind": _KIND,
        "images": evaluation.images,
        "questions": {
            instruction.name: sum(one.instruction == instruction for one in evaluation.questions)
            for instruction in evaluation.instructions
        },
        "settings": dict(settings),
        "failed": [{"question": name, "reason": reason} for name, reason in evaluation.failed],
        "models": models,
        "metrics": {name: METRICS[name].about for name in METRICS if name in names},
    }


def scores_csv(evaluation: Evaluation) -> str:
    """A line for each number, whose place is empty where there was nothing to measure."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(COLUMNS)
    for model in evaluation.models:
        label = model.contestant.label
        if model.loss is not None:
            writer.writerow((label, "all", LOSS, _number(model.loss)))
        for instruction, scores in model.scores.items():
            writer.writerows((label, instruction, name, _number(value)) for name, value in scores.items())
    return lines.getvalue()


def question_json(evaluation: Evaluation, question: Question) -> dict[str, Any]:
    """What was asked, what is true, and what each contestant answered."""
    losses = {model.contestant.label: model.losses.get(question.key) for model in evaluation.models}
    return {
        "kind": _KIND,
        "image": question.image.name,
        "instruction": question.instruction.name,
        "text_input": question.text_input,
        "true": [example.target for example in question.examples],
        "answers": {model.contestant.label: model.answers[question.key].raw for model in evaluation.models},
        "losses": {label: _number(mean_loss(found)) for label, found in losses.items() if found},
    }
