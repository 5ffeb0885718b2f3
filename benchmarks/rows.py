"""The rows of the table: one engine, one dtype, one way to hand it the pictures."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Literal

from ..inference import resolve_dtype
from .case import Case, picture_files
from .clock import PeakMemory, now
from .engines import Engine, Ours, Transformers

Role = Literal["transformers", "exact", "auto", "fast"]
FAST_DTYPE = "int8"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    role: Role
    batched: bool = False


ROWS = {
    "transformers": Row("transformers, one by one", "transformers"),
    "transformers-batched": Row("transformers, batched", "transformers", batched=True),
    "exact": Row("ours exact, one by one", "exact"),
    "exact-stream": Row("ours exact, stream", "exact", batched=True),
    "auto": Row("ours auto, one by one", "auto"),
    "auto-stream": Row("ours auto, stream", "auto", batched=True),
    "fast": Row("ours fast, one by one", "fast"),
    "fast-stream": Row("ours fast, stream", "fast", batched=True),
}
BASELINE = "transformers"


class SkippedError(Exception):
    """There is nothing to measure here; the message says why."""


def dtype_of(role: Role, case: Case) -> str:
    """The dtype that a role stands for on this device.

    Raises:
        SkippedError: the device has none, or it is that of another role.
    """
    exact = case.exact_dtype
    if role in ("transformers", "exact"):
        return exact
    if role == "auto":
        dtype = resolve_dtype("auto", case.device)
        if dtype == exact:
            raise SkippedError(f"dtype auto is {exact} here, the same as exact")
        return dtype
    try:
        return resolve_dtype(FAST_DTYPE, case.device)
    except ValueError as refusal:
        raise SkippedError(str(refusal)) from refusal


def measure_row(case: Case, name: str) -> dict[str, Any]:
    """Speed, latency, memory and answers of a row, warmed up."""
    row = ROWS[name]
    memory = PeakMemory(case.device)
    start = now(case.device)
    engine = _load(case, row)
    load_seconds = now(case.device) - start
    load_peak = memory.nbytes()
    try:
        measured = _clock_batches(case, engine) if row.batched else _clock_singles(case, engine)
        peak, reserved = memory.nbytes(), memory.reserved()
    finally:
        engine.close()
    return {
        "dtype": dtype_of(row.role, case),
        "load_seconds": load_seconds,
        "weights_bytes": engine.nbytes,
        "load_peak_ratio": None if load_peak is None else load_peak / engine.nbytes,
        "peak_bytes": peak,
        "reserved_bytes": reserved,
        **measured,
    }


def reference_answers(case: Case) -> dict[str, Any]:
    """What transformers answers to the same pixels, one picture at a time: what rows are compared with."""
    engine = Transformers(case, same_pixels=True)
    return {"answers": engine.answer(picture_files(case.single_images + 1)[1:])}


def _load(case: Case, row: Row) -> Engine:
    if row.role == "transformers":
        return Transformers(case, case.batch_size if row.batched else 1)
    return Ours(case, dtype_of(row.role, case), case.batch_size if row.batched else None)


def _clock_singles(case: Case, engine: Engine) -> dict[str, Any]:
    first, *files = picture_files(case.single_images + 1)
    engine.answer([first])
    answers, seconds = [], []
    for file in files:
        start = now(case.device)
        answers += engine.answer([file])
        seconds.append(now(case.device) - start)
    return _summary(case, len(files), answers, sum(seconds), statistics.median(seconds))


def _clock_batches(case: Case, engine: Engine) -> dict[str, Any]:
    first, *files = picture_files(case.images + 1)
    if case.on_gpu:  # where the first batch of a shape costs more than others
        engine.answer(files[: case.batch_size])
    engine.answer([first])
    start = now(case.device)
    engine.answer([first])
    latency = now(case.device) - start
    start = now(case.device)
    answers = engine.answer(files)
    return _summary(case, len(files), answers, now(case.device) - start, latency)


def _summary(
    case: Case, files: int, answers: list[list[int]], seconds: float, latency: float
) -> dict[str, Any]:
    tokens = sum(len(answer) - 1 for answer in answers)
    if tokens != files * case.new_tokens:
        raise RuntimeError(
            f"{files} pictures want {case.new_tokens} tokens each; {len(answers)} answers have {tokens}."
        )
    return {
        "images": len(answers),
        "seconds": seconds,
        "images_per_second": len(answers) / seconds,
        "ms_per_token": 1000 * seconds / tokens,
        "first_caption_seconds": latency,
        "answers": answers,
    }
