"""From results to text: Markdown tables for people, rows of plain values for programs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from .case import Case
from .results import Results
from .rows import ROWS
from .table import table

_SPEED_HEAD = (
    "case", "row", "dtype", "images/s", "spread", "ratio", "ms/token", "first caption s", "peak MB", "load s",
    "load peak / weights", "same answers",
)  # fmt: skip
_PHASES_HEAD = (
    "case", "dtype", "pictures", "phase", "ms", "GFLOP", "MB", "floor ms", "bound by", "share of floor",
)  # fmt: skip
_LEGEND = (
    "Ratio: images/s over those of transformers one by one. Spread: from the slowest to the fastest round. "
    "ms/token: wall time over all tokens of all pictures. First caption: one picture, from its file's bytes "
    "to the text. Same answers: token ids against transformers' for the same pixels."
)


def speed_rows(results: Results) -> list[dict[str, Any]]:
    """The main table: medians over the rounds of each row of each case."""
    return [
        _speed_row(results, case, name) for case in results.cases() for name in results.names(case, "row")
    ]


def _speed_row(results: Results, case: Case, name: str) -> dict[str, Any]:
    records = results.of(case, "row", name)
    row = {"case": case.title, "row": name, "title": ROWS[name].title}
    for key in ("skipped", "failed"):
        reasons = [reason for record in records if (reason := getattr(record, key)) is not None]
        if reasons:
            return {**row, key: reasons[0]}
    rates = results.values(case, "row", name, "images_per_second")
    agreement = results.agreement(case, name) if ROWS[name].role != "transformers" else None
    return {
        **row,
        "dtype": results.values(case, "row", name, "dtype")[0],
        "rounds": len(rates),
        "spread": (max(rates) - min(rates)) / statistics.median(rates),
        "ratio": results.ratio(case, name),
        "same_answers": None if agreement is None else [agreement.equal, agreement.answers],
        "same_leading_tokens": None if agreement is None else agreement.leading,
        **{
            key: results.median(case, "row", name, key)
            for key in (
                "images_per_second",
                "ms_per_token",
                "first_caption_seconds",
                "peak_bytes",
                "load_seconds",
                "load_peak_ratio",
            )
        },
    }


def report(results: Results, judged: Sequence[dict[str, Any]]) -> str:
    """Everything, for people."""
    parts = [_conditions(results)]
    rows = speed_rows(results)
    if rows:
        parts.append(table(_SPEED_HEAD, [_speed_cells(row) for row in rows]))
    phases = _phase_rows(results)
    if phases:
        parts += [_rates(results), table(_PHASES_HEAD, phases)]
    lines = [*_instructions(results), *_agreements(results), *map(_verdict, judged)]
    return "\n\n".join(parts) + "".join(f"\n\n{line}" for line in lines)


def unequal_rows(results: Results) -> list[str]:
    """Rows of ours in fp32 whose answers are not all equal to transformers'."""
    unequal = []
    for case in results.cases():
        for name in results.names(case, "row"):
            agreement = results.agreement(case, name)
            exact = ROWS[name].role == "exact" and case.exact_dtype == "fp32"
            if exact and agreement is not None and not agreement.whole:
                unequal.append(f"{case.title}: {ROWS[name].title}")
    return unequal


def _speed_cells(row: dict[str, Any]) -> list[str]:
    reason = row.get("skipped") or row.get("failed")
    if reason:
        what = "skipped" if row.get("skipped") else "FAILED"
        return [row["case"], row["title"], f"{what}: {reason}", *[""] * (len(_SPEED_HEAD) - 3)]
    peak = row["peak_bytes"]
    return [
        row["case"],
        row["title"],
        row["dtype"],
        _short(row["images_per_second"]),
        f"{100 * row['spread']:.0f} %" if row["rounds"] > 1 else "–",
        _number(row["ratio"], ".2f"),
        _short(row["ms_per_token"]),
        _short(row["first_caption_seconds"]),
        "–" if peak is None else f"{peak / 1e6:.0f}",
        f"{row['load_seconds']:.2f}",
        _number(row["load_peak_ratio"], ".2f"),
        _same_answers(row),
    ]


def _same_answers(row: dict[str, Any]) -> str:
    if row["same_answers"] is None:
        return "–"
    equal, answers = row["same_answers"]
    if equal == answers:
        return f"{equal} of {answers}"
    return f"{equal} of {answers}; {100 * row['same_leading_tokens']:.0f} % of leading tokens"


def _phase_rows(results: Results) -> list[list[str]]:
    rows = []
    for case, measured in _phases(results):
        for phase in measured["phases"]:
            rows.append(
                [
                    case.title,
                    measured["dtype"],
                    str(phase["pictures"]),
                    phase["phase"],
                    _short(1e3 * phase["seconds"]),
                    _short(phase["flops"] / 1e9),
                    _short(phase["bytes"] / 1e6),
                    _short(1e3 * phase["floor_seconds"]),
                    phase["bound_by"],
                    f"{100 * phase['floor_seconds'] / phase['seconds']:.0f} %",
                ]
            )
    return rows


def _rates(results: Results) -> str:
    """What floors stand on, each dtype once."""
    lines = {
        measured["dtype"]: (
            f"{measured['dtype']}: matrix products {measured['flops_per_second'] / 1e9:.4g} GFLOP/s, "
            f"memory {measured['bytes_per_second'] / 1e9:.3g} GB/s"
        )
        for _, measured in _phases(results)
    }
    return "Measured rates. " + "; ".join(lines.values())


def _phases(results: Results) -> list[tuple[Case, dict[str, Any]]]:
    return [
        (record.job.case, record.result)
        for record in results.records
        if record.job.kind == "phases" and record.result is not None
    ]


def _instructions(results: Results) -> list[str]:
    lines = []
    for case in results.cases():
        for role in results.names(case, "instructions"):
            one, four, ratio = (
                results.median(case, "instructions", role, key)
                for key in ("one_seconds", "four_seconds", "ratio")
            )
            if one is not None and four is not None:
                lines.append(
                    f"Four instructions on one picture ({case.title}, ours {role}): {four:.3g} s against "
                    f"{one:.3g} s for one, {_number(ratio, '.2f')} times."
                )
    return lines


def _agreements(results: Results) -> list[str]:
    return [
        f"Demo model, {one.job.name} ({one.result['dtype']}) against exact ({one.result['exact_dtype']}): "
        f"{one.result['equal']} of {one.result['captions']} captions equal "
        f"({100 * one.result['share']:.1f} %)."
        for one in results.records
        if one.job.kind == "agreement" and one.result is not None
    ]


def _verdict(judged: dict[str, Any]) -> str:
    limit = f"{'at least' if judged['at_least'] else 'at most'} {judged['bound']:g}"
    verdict = "met" if judged["met"] else "MISSED"
    return f"Target {judged['target']}: {judged['value']:.3g} {judged['unit']}, {limit}: {verdict}"


def _conditions(results: Results) -> str:
    known = results.conditions
    threads = f", {known['threads']} threads" if known["device"] == "cpu" else ""
    rounds = "one round" if known["rounds"] == 1 else f"median of {known['rounds']} rounds in turn"
    counts = {
        (case.single_images, case.images, case.batch_size): (
            f"{case.single_images} pictures one by one, {case.images} in batches of {case.batch_size}"
        )
        for case in results.cases()
    }
    return (
        f"Random weights in {known['stored']} files on {known['device_name']}{threads}; "
        f"{'; '.join(counts.values())}; {rounds}; torch {known['torch']}, "
        f"transformers {known['transformers']}, Python {known['python']}, {known['date']}.\n{_LEGEND}"
    )


def _short(value: float) -> str:
    """Three digits that count, and no exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
