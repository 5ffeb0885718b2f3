"""Everything that can be measured, by name. A job runs in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .case import Case, ensure_checkpoint
from .rows import ROWS, Role, dtype_of, measure_row, reference_answers

OUR_ROLES: tuple[Role, ...] = ("exact", "auto", "fast")


@dataclass(frozen=True)
class Job:
    """One measurement under the conditions of a case.

    ``kind`` is ``checkpoint``, ``reference``, ``row``, ``phases``, ``instructions`` or ``agreement``.
    ``name`` is the format, the row or the role.
    """

    kind: str
    name: str
    case: Case
    counts: tuple[int, ...] = (1,)  # for phases: pictures together; for agreement: scenes

    @property
    def title(self) -> str:
        return f"{self.case.title}: {self.kind} {self.name}".strip()


def run_job(job: Job) -> dict[str, Any]:
    """Measure in this process.

    Raises:
        SkippedError: there is nothing to measure here.
    """
    case = job.case
    if job.kind == "checkpoint":
        ensure_checkpoint(case, job.name)
        return {}
    if job.kind == "reference":
        return reference_answers(case)
    if job.kind == "row":
        return measure_row(case, job.name)
    if job.kind == "phases":
        from .phases import measure_phases

        return measure_phases(case, dtype_of(_role(job.name), case), job.counts)
    if job.kind == "instructions":
        from .instructions import measure_instructions

        return measure_instructions(case, dtype_of(_role(job.name), case))
    if job.kind == "agreement":
        from .agreement import measure_agreement

        dtype = dtype_of(_role(job.name), case)
        return measure_agreement(case.device, case.exact_dtype, dtype, job.counts[0])
    raise ValueError(f"Nothing is known about the kind {job.kind!r}.")


def run_job_apart(job: Job) -> dict[str, Any]:
    """Measure in a process of its own.

    Raises:
        SkippedError: there is nothing to measure here.
        RuntimeError: the process failed; the message is its error.
    """
    check_job(job)
    command = [sys.executable, str(Path(__file__).with_name("run.py")), "--job", json.dumps(asdict(job))]
    child = subprocess.run(command, capture_output=True, encoding="utf-8")
    if child.returncode != 0:
        raise RuntimeError(_last_words(child.stderr) or f"exit status {child.returncode}")
    sys.stderr.write(child.stderr)  # warnings: of a batch that was too large, say
    result: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return result


def check_job(job: Job) -> None:
    """Tell whether there is something to measure, before a process is started for it.

    Raises:
        SkippedError: there is nothing.
    """
    if job.kind == "row":
        dtype_of(ROWS[job.name].role, job.case)
    elif job.kind in ("phases", "instructions", "agreement"):
        dtype_of(_role(job.name), job.case)


def parse_job(text: str) -> Job:
    """The job that a parent process wrote as JSON."""
    values = json.loads(text)
    return Job(values["kind"], values["name"], Case(**values["case"]), tuple(values["counts"]))


def _last_words(said: str) -> str:
    """The error of the last traceback, without its frames, which are indented."""
    lines = said.rpartition("Traceback (most recent call last):")[2].splitlines()
    return " ".join(line for line in lines if line and not line.startswith(" "))


def _role(name: str) -> Role:
    found: Sequence[Role] = [role for role in OUR_ROLES if role == name]
    if not found:
        raise ValueError(f"{name!r} is none of {', '.join(OUR_ROLES)}.")
    return found[0]
