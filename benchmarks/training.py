"""Training: samples per second and the most memory, by size, method and gradient checkpointing.

    python benchmarks/run_training.py [--size base large] [--method full lora] [--checkpointing off on]
        [--device auto] [--mixed-precision auto] [--batch-size 8 | auto] [--steps 10] [--warmup-steps 3]

Each row is a run of this package's own trainer, data loading and all, in a process of its own: checkpoints
of full size with random weights (made once, in --folder), pictures of 1024 x 768 as JPEG files, answers of
--answer-tokens tokens, AdamW, clipping. Steps are timed from the end of the warm-up to the end of the last
one; "waited" is how much of that the model waited for pictures. Memory is the most that tensors took of the
GPU, or on a CPU the most resident of the process, libraries and loading included.

With --batch-size auto a row's batch is the largest power of two that fits the memory of the GPU, found by
trying some for two steps each. A row that does not fit is a row that says so.

Prints a table, and writes everything as JSON into --folder. The exit status is 1 if a row failed for another
reason than memory. It needs the extra ``train``.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from .case import picture_files, random_weights
from .command import keep_rows, say
from .table import table
from .training_row import TrainingCase

OUT = Path(__file__).parent / "out"

_TRIAL_STEPS = 2
_SMALL = (2, 8)  # batches from which the memory of larger ones is guessed
_MOST_BATCH = 1024
_HEAD = (
    "size", "method", "checkpointing", "precision", "batch", "samples/s", "s/step", "peak GiB", "waited %",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = _parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.json or options.folder / "training.json"
    rows = keep_rows(_rows(options), options, path)
    print(table(_HEAD, [_cells(row) for row in rows]))
    for row in rows:
        if "failed" in row:
            reason = row["failed"].splitlines()[-1]
            print(f"\n{row['size']}, {row['method']}, checkpointing {row['checkpointing']}: {reason}")
    print(f"\nNumbers: {path}")
    return 1 if any("failed" in row for row in rows) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_training.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--folder", type=Path, default=OUT, help="for checkpoints, pictures and numbers")
    add("--json", type=Path, help="the file of numbers (default: training.json in --folder)")
    add("--size", nargs="+", default=["base", "large"], help="of the checkpoints: base, large, tiny")
    add("--method", nargs="+", choices=("full", "lora"), default=["full", "lora"])
    add("--checkpointing", nargs="+", choices=("off", "on"), default=["off", "on"])
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--mixed-precision", "--dtype", choices=("auto", "no", "bf16", "fp16"), default="auto")
    add("--batch-size", type=_batch_size, default="auto", help="a number, or auto: as large as fits")
    add("--steps", type=int, default=10, help="that are timed")
    add("--warmup-steps", type=int, default=3, help="before those")
    add("--answer-tokens", type=int, default=96, help="of each answer")
    add("--lora-rank", type=int, default=16)
    add("--workers", type=int, default=8, help="processes that read pictures")
    return parser


def _batch_size(text: str) -> str:
    if text != "auto" and (not text.isdecimal() or int(text) < 1):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number from 1 nor auto")
    return text


def _rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    device = _device(options.device)
    if options.batch_size == "auto" and device == "cpu":
        raise SystemExit("--batch-size auto needs a GPU, whose memory has an end; give a number.")
    pictures = _pictures(options.folder)
    for size, method, checkpointing in product(options.size, options.method, options.checkpointing):
        case = TrainingCase(
            checkpoint=str(random_weights(options.folder, size)),
            pictures=str(pictures),
            method=method,
            checkpointing=checkpointing == "on",
            device=device,
            mixed_precision=options.mixed_precision,
            batch_size=1 if options.batch_size == "auto" else int(options.batch_size),
            answer_tokens=options.answer_tokens,
            steps=options.steps,
            warmup_steps=options.warmup_steps,
            workers=options.workers,
            lora_rank=options.lora_rank,
        )
        say(f"{size}, {method}, checkpointing {checkpointing}")
        try:
            measured = _largest(case) if options.batch_size == "auto" else _measured(case)
        except RuntimeError as error:
            measured = {"failed": str(error)}
        yield {"size": size, "method": method, "checkpointing": checkpointing} | measured


def _device(wanted: str) -> str:
    """Resolved, in a process of its own: CUDA must not be begun in this one."""
    if wanted != "auto":
        return wanted
    code = "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def _pictures(folder: Path, count: int = 64) -> Path:
    """So many JPEG files, made once."""
    pictures = folder / "training-pictures"
    if len(list(pictures.glob("*.jpg"))) < count:
        pictures.mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(picture_files(count)):
            (pictures / f"{number:03}.jpg").write_bytes(file)
    return pictures


def _largest(case: TrainingCase) -> dict[str, Any]:
    """The row with the largest batch that fits: guessed from two small ones, then tried."""
    size = _guessed([_tried(case, batch) for batch in _SMALL])
    while size > 1 and "samples/s" not in _tried(case, size):
        size //= 2
    while 2 * size <= _MOST_BATCH and "samples/s" in _tried(case, 2 * size):
        size *= 2
    measured = _measured(replace(case, batch_size=size))
    while "out of memory" in measured and size > 1:  # more steps may take a little more
        size //= 2
        measured = _measured(replace(case, batch_size=size))
    return measured


def _tried(case: TrainingCase, batch: int) -> dict[str, Any]:
    row = _measured(replace(case, batch_size=batch, steps=_TRIAL_STEPS, warmup_steps=0))
    if "failed" in row:
        raise RuntimeError(row["failed"])
    say(f"  batch {batch}: " + (f"{row['peak GiB']:.2f} GiB" if "samples/s" in row else "does not fit"))
    return row


def _guessed(rows: Sequence[dict[str, Any]]) -> int:
    """A power of two: memory grows by as much with each sample, and all of the GPU's may be taken."""
    if any("samples/s" not in row for row in rows):
        return 1
    first, last = rows[0], rows[-1]
    each = (last["peak GiB"] - first["peak GiB"]) / (last["batch"] - first["batch"])
    most = last["batch"] + (last["device GiB"] - last["peak GiB"]) / max(each, 1e-3)
    return min(_MOST_BATCH, 2 ** int(math.log2(max(1, most))))


def _measured(case: TrainingCase) -> dict[str, Any]:
    """A row, from a process of its own."""
    script = str(Path(__file__).with_name("run_training.py"))
    command = [sys.executable, "-c", _ROW, script, json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    row: dict[str, Any] = {"batch": case.batch_size}
    if not done.returncode:
        return row | json.loads(done.stdout.splitlines()[-1])
    if done.returncode == -9:  # how Linux ends a process when the machine has no memory left
        return row | {"out of memory": "the process was ended"}
    return row | {"failed": (done.stderr.strip() or f"exit status {done.returncode}")[-2000:]}


_ROW = """
import pathlib, sys
sys.path.insert(0, str(pathlib.Path(sys.argv[1]).parent))
from run import register_package
register_package()
from promptgen.benchmarks.training_row import measure
print(measure(sys.argv[2]))
"""


def _cells(row: dict[str, Any]) -> list[str]:
    lacking = next((word for word in ("out of memory", "failed") if word in row), "")
    shown = {name: row.get(name, lacking if name == "samples/s" else "") for name in _HEAD}
    return [f"{value:.4g}" if isinstance(value, float) else str(value) for value in shown.values()]
