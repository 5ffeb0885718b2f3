"""Speed, latency, memory and answers of this engine, against transformers' own Florence-2 class.

    python benchmarks/run.py [--size base large] [--new-tokens 64 128] [--num-beams 1 3] [--device auto]
    python benchmarks/run.py --targets           what the engine is meant to reach on this device

Makes full-size checkpoints with random weights once (in ``benchmarks/out``), in the original format for us
and in the converted format for transformers, which cannot read the original one. Every measurement runs in a
process of its own, all rows in turn and that several times, on the same pictures, settings and number of new
tokens. Prints one table of all rows; then where our time goes, phase by phase, each against its floor; what
four instructions on one picture cost; how often other dtypes change a caption of the demo model. Writes
everything as JSON beside the checkpoints.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from .case import Case, has_checkpoint
from .jobs import OUR_ROLES, Job, parse_job, run_job, run_job_apart
from .random_checkpoint import SIZES
from .report import report, speed_rows, unequal_rows
from .results import Record, Results
from .rows import ROWS, SkippedError
from .targets import PLANS, Plan, judge

OUT = Path(__file__).parent / "out"
PARTS = ("rows", "phases", "instructions", "agreement")


@dataclass(frozen=True)
class Amounts:
    """How much is measured where nothing else is asked for."""

    images: int
    single_images: int
    batch_size: int
    rounds: int


CPU_AMOUNTS = Amounts(images=4, single_images=2, batch_size=4, rounds=2)
GPU_AMOUNTS = Amounts(images=256, single_images=4, batch_size=64, rounds=2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. The exit status is 1 if a measurement failed or exact answers were not equal."""
    options = _parser().parse_args(arguments)
    if options.job is not None:
        print(json.dumps(run_job(parse_job(options.job))))
        return 0
    return _measure(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    # tiny is for the tests
    add("--size", nargs="+", choices=sorted(SIZES), metavar="{base,large}", default=["base"])
    add("--new-tokens", nargs="+", type=int, default=[64])
    add("--num-beams", nargs="+", type=int, default=[3])
    add("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add(
        "--targets", action="store_true", help="only what tells whether targets are met, instead of the above"
    )
    add("--device", default="auto")
    for name, what in (
        ("images", "pictures for the rows that work in batches"),
        ("single-images", "pictures for the rows that take one at a time"),
        ("batch-size", "pictures decoded together, by transformers and by us"),
        ("rounds", "how many times each row is measured"),
    ):
        on_cpu, on_gpu = (getattr(amounts, name.replace("-", "_")) for amounts in (CPU_AMOUNTS, GPU_AMOUNTS))
        add(f"--{name}", type=int, help=f"{what} (default: {on_cpu}, on a GPU {on_gpu})")
    add("--scenes", type=int, default=100, help="pictures for the agreement of the demo model")
    add("--stored", choices=("fp16", "fp32"), default="fp16", help="dtype of the checkpoints' files")
    add("--folder", type=Path, default=OUT, help="where checkpoints are made and found again")
    add("--json", type=Path, help="the file of numbers (default: speed-DEVICE.json in --folder)")
    add("--in-process", action="store_true",
        help="no processes of their own: quick, and the memory is not that of a row")  # fmt: skip
    add("--job", help=argparse.SUPPRESS)
    return parser


def _measure(options: argparse.Namespace) -> int:
    from ..inference import resolve_device

    device = resolve_device(options.device)
    _fill_in(options, device)
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.json or options.folder / f"speed-{device.replace(':', '')}.json"
    results = Results(_conditions(options, device))
    jobs = list(_jobs(options, device))
    stopped = False
    try:
        for number, (job, turn) in enumerate(jobs, start=1):
            print(f"[{number}/{len(jobs)}] {job.title}, round {turn + 1}", file=sys.stderr, flush=True)
            record = _record(job, turn, in_process=options.in_process)
            if job.kind != "checkpoint" or record.failed:
                results.records.append(record)
            results.save(path)  # an hour's work survives what interrupts it
    except KeyboardInterrupt:
        stopped = True
        print("Stopped; this is what there is:", file=sys.stderr)
    judged = judge(results)
    results.save(path, rows=speed_rows(results), targets=judged)
    print(report(results, judged))
    print(f"\nNumbers: {path}")
    return 130 if stopped else _status(results)


def _fill_in(options: argparse.Namespace, device: str) -> None:
    amounts = CPU_AMOUNTS if device == "cpu" else GPU_AMOUNTS
    for name in ("images", "single_images", "batch_size", "rounds"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(amounts, name))
    if options.rounds < 1:
        raise ValueError(f"rounds is {options.rounds}; it takes 1 or more.")
    options.single_images = min(options.single_images, options.images)


def _plans(options: argparse.Namespace, device: str) -> Sequence[Plan]:
    if options.targets:
        kind = device.split(":")[0]
        if kind not in PLANS:
            raise ValueError(f"There are targets for {' and '.join(PLANS)}, not for {kind}.")
        return PLANS[kind]
    grid = list(product(options.size, options.new_tokens, options.num_beams))
    return [
        Plan(
            *settings,
            rows=tuple(options.rows) if "rows" in options.parts else (),
            phases=OUR_ROLES if "phases" in options.parts else (),
            instructions=OUR_ROLES if "instructions" in options.parts else (),
            agreement=("auto", "fast") if "agreement" in options.parts and settings is grid[0] else (),
        )
        for settings in grid
    ]


def _jobs(options: argparse.Namespace, device: str) -> Iterator[tuple[Job, int]]:
    """Every job and the number of its round, in the order of their running."""
    for plan in _plans(options, device):
        images = plan.images or options.images
        case = Case(
            size=plan.size,
            new_tokens=plan.new_tokens,
            num_beams=plan.num_beams,
            device=device,
            images=images,
            single_images=min(options.single_images, images),
            batch_size=options.batch_size,
            folder=str(options.folder.resolve()),
            stored=options.stored,
        )
        for form in ("original", "converted") if plan.rows else ("original",):
            if not has_checkpoint(case, form):
                yield Job("checkpoint", form, case), 0
        if plan.rows:
            yield Job("reference", "", case), 0
        for turn in range(options.rounds):
            for row in plan.rows:
                yield Job("row", row, case), turn
            for role in plan.instructions:
                yield Job("instructions", role, case), turn
        counts = (1, case.batch_size) if case.on_gpu and case.batch_size > 1 else (1,)
        for role in plan.agreement:
            yield Job("agreement", role, case, (options.scenes,)), 0
        for role in plan.phases:
            yield Job("phases", role, case, counts), 0


def _record(job: Job, turn: int, *, in_process: bool) -> Record:
    try:
        return Record(job, turn, result=(run_job if in_process else run_job_apart)(job))
    except SkippedError as reason:
        return Record(job, turn, skipped=str(reason))
    except RuntimeError as reason:  # the other rows are measured all the same
        print(f"FAILED: {reason}", file=sys.stderr)
        return Record(job, turn, failed=str(reason))


def _status(results: Results) -> int:
    failed = [f"{one.job.title}: {one.failed}" for one in results.records if one.failed]
    unequal = [f"{row}: not the answers of transformers" for row in unequal_rows(results)]
    for line in (*failed, *unequal):
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if failed or unequal else 0


def _conditions(options: argparse.Namespace, device: str) -> dict[str, Any]:
    import torch
    import transformers

    from .._version import __version__

    return {
        "promptgen": __version__,
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else _cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "date": time.strftime("%Y-%m-%d"),
        "rounds": options.rounds,
        "stored": options.stored,
        "in_process": options.in_process,
    }


def _cpu_name() -> str:
    """As the system calls it; Linux tells it only in a file."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
