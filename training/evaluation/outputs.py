"""The folder of an evaluation: answers as they come, and at the end scores and report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..atomic import write_text
from ..errors import TrainingError
from .curves import Curve
from .evaluation import Evaluation
from .report import ReportOptions, check_report_place, write_report
from .tables import COLUMNS, markdown, metrics_json, question_json, scores_csv

__all__ = ["EvaluationFolder"]

_MARK = "<!-- promptgen evaluate -->\n"


@dataclass(frozen=True)
class EvaluationFolder:
    """What lies where."""

    folder: Path

    @property
    def report(self) -> Path:
        """For people."""
        return self.folder / "report.html"

    @property
    def metrics(self) -> Path:
        """For programs."""
        return self.folder / "metrics.json"

    @property
    def tables(self) -> Path:
        """For model cards."""
        return self.folder / "tables.md"

    @property
    def scores(self) -> Path:
        """For spreadsheets."""
        return self.folder / "scores.csv"

    @property
    def questions(self) -> Path:
        """A line of JSON for each, with the true answers, those given, and their losses."""
        return self.folder / "questions.jsonl"

    @property
    def answers(self) -> Path:
        """A folder with a file for each checkpoint."""
        return self.folder / "answers"

    def prepare(self) -> None:
        """Make the folder, and see that nothing of somebody else's is in the way.

        Raises:
            OutputError, TrainingError: something is, or nothing can be written there.
        """
        check_report_place(self.report)
        _check(self.metrics, '"kind": "promptgen evaluate"')
        _check(self.tables, _MARK.strip())
        _check(self.scores, ",".join(COLUMNS))
        _check(self.questions, '"kind": "promptgen evaluate"')
        try:
            self.answers.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(
                f"{self.answers} cannot be made: {error.strerror or error}. Name another folder by --output."
            ) from error
        if not os.access(self.answers, os.W_OK) or not os.access(self.folder, os.W_OK):
            raise TrainingError(f"{self.folder} cannot be written to. Name another folder by --output.")

    def write(
        self,
        evaluation: Evaluation,
        curves: Mapping[str, Sequence[Curve]],
        settings: Mapping[str, str],
        options: ReportOptions,
    ) -> None:
        """Write scores and report, in place of those that are there.

        Raises:
            OutputError, OSError: one cannot be written.
        """
        numbers = json.dumps(metrics_json(evaluation, settings), indent=1, ensure_ascii=False)
        asked = (
            json.dumps(question_json(evaluation, one), ensure_ascii=False) for one in evaluation.questions
        )
        write_text(self.metrics, f"{_written(numbers)}\n")
        write_text(self.tables, _MARK + "\n" + _written(markdown(evaluation)))
        write_text(self.scores, _written(scores_csv(evaluation)))
        write_text(self.questions, "".join(f"{_written(line)}\n" for line in asked))
        write_report(self.report, evaluation, curves, settings, options)


def _check(path: Path, mark: str) -> None:
    if not path.exists():
        return
    try:
        with open(path, encoding="utf-8") as file:
            ours = mark in file.read(200)
    except (OSError, UnicodeDecodeError):
        ours = False
    if not ours:
        raise TrainingError(f"{path} is there and none of ours. Name another folder by --output.")


def _written(text: str) -> str:
    """Without lone surrogates, which names of files may have and UTF-8 has not."""
    return text.encode("utf-8", "backslashreplace").decode()
