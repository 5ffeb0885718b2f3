"""What was measured so far, and medians over its rounds."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .case import Case
from .jobs import Job
from .rows import BASELINE


@dataclass(frozen=True)
class Record:
    """What became of a job in one round: a result, or the reason why there is none."""

    job: Job
    round: int
    result: dict[str, Any] | None = None
    skipped: str | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Agreement:
    """How far answers are those of the published implementation."""

    equal: int  # answers that are the same to the last token
    answers: int
    leading: float  # share of tokens before the first that differs, 0 to 1

    @property
    def whole(self) -> bool:
        return self.equal == self.answers


@dataclass
class Results:
    """The records of a run in the order of their making."""

    conditions: dict[str, Any]
    records: list[Record] = field(default_factory=list)

    def cases(self) -> list[Case]:
        return list(dict.fromkeys(record.job.case for record in self.records))

    def of(self, case: Case, kind: str, name: str) -> list[Record]:
        """One record per round."""
        wanted = (case, kind, name)
        return [one for one in self.records if (one.job.case, one.job.kind, one.job.name) == wanted]

    def names(self, case: Case, kind: str) -> list[str]:
        """What was asked for of a kind, in order."""
        jobs = (record.job for record in self.records)
        return list(dict.fromkeys(job.name for job in jobs if (job.case, job.kind) == (case, kind)))

    def values(self, case: Case, kind: str, name: str, key: str) -> list[Any]:
        """A number of each round in which it was measured."""
        found = [one.result[key] for one in self.of(case, kind, name) if one.result is not None]
        return [value for value in found if value is not None]

    def median(self, case: Case, kind: str, name: str, key: str) -> float | None:
        values = self.values(case, kind, name, key)
        return statistics.median(values) if values else None

    def ratio(self, case: Case, name: str) -> float | None:
        """How many times the pictures per second of transformers, one by one."""
        own = self.median(case, "row", name, "images_per_second")
        baseline = self.median(case, "row", BASELINE, "images_per_second")
        return None if own is None or baseline is None else own / baseline

    def agreement(self, case: Case, name: str) -> Agreement | None:
        """A row's answers against transformers' for the same pixels, in the round with the fewest equal."""
        references = self.values(case, "reference", "", "answers")
        rounds = self.values(case, "row", name, "answers")
        if not references or not rounds:
            return None
        return min((_agreement(answers, references[0]) for answers in rounds), key=lambda one: one.equal)

    def save(self, path: Path, **summaries: Any) -> None:
        """Write everything as JSON, whole or not at all."""
        whole = {
            "conditions": self.conditions,
            **summaries,
            "records": [asdict(record) for record in self.records],
        }
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(whole, indent=1), encoding="utf-8")
        part.replace(path)


def _agreement(answers: list[list[int]], reference: list[list[int]]) -> Agreement:
    pairs = list(zip(answers, reference, strict=False))  # batched rows answer more pictures
    shares = [_leading(own, theirs) / len(theirs) for own, theirs in pairs]
    return Agreement(sum(own == theirs for own, theirs in pairs), len(pairs), statistics.mean(shares))


def _leading(own: list[int], theirs: list[int]) -> int:
    """Tokens before the first that differs."""
    together = min(len(own), len(theirs))
    return next((place for place in range(together) if own[place] != theirs[place]), together)
