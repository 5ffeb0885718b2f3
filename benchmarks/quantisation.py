"""Weights of 8 and 4 bits: memory and speed of each, and how many captions stay the same.

    python benchmarks/run_quantisation.py [--size base large] [--paligemma] [--quantization none 8 4]
        [--device auto] [--dtype auto] [--batch-size 1 8] [--new-tokens 64] [--scenes 20]

Each row is a process of its own with a checkpoint of full size and random weights (made once, in --folder);
--paligemma adds one of 3 B. "Weights" is what the model holds; "loading" and "answering" are the most memory
that was taken meanwhile, what the libraries need not counted: resident memory on a CPU, where pages of the
files count, or what torch allocates of a GPU. Answers have --new-tokens tokens at most, by one beam; times
are those of a batch from pictures to texts, with pictures already in memory, after one that is not timed.

The agreement is that of captions of the demo model, which unlike random weights has learnt something, with
those that it gives with none.

Prints tables, and writes everything as JSON into --folder. The exit status is 1 if a row failed. With 4 bits
it needs the extra ``quantization``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..inference import QUANTIZATIONS
from .case import random_weights
from .command import keep_rows, say
from .quantisation_row import QuantisationCase
from .table import table

OUT = Path(__file__).parent / "out"

_HEAD = ("model", "quantization", "dtype", "weights MB", "loading MB", "load s")
_BATCH_HEAD = ("answering MB", "s/caption", "tokens/s")
_AGREEMENT_HEAD = ("quantization", "dtype", "captions", "equal", "equal %")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = _parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.json or options.folder / "quantisation.json"
    rows = keep_rows(_rows(options), options, path)
    measured = [row for row in rows if "model" in row]
    head = [*_HEAD, *(f"{name}, batch {size}" for size in options.batch_size for name in _BATCH_HEAD)]
    print(table(head, [_cells(row, head) for row in measured]))
    agreement = [row for row in rows if "equal" in row]
    if agreement:
        print("\n" + table(_AGREEMENT_HEAD, [_cells(row, _AGREEMENT_HEAD) for row in agreement]))
    for row in rows:
        if "failed" in row:
            print(f"\n{row['model']}, {row['quantization']}: {row['failed'].splitlines()[-1]}")
    print(f"\nNumbers: {path}")
    return 1 if any("failed" in row for row in rows) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_quantisation.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--folder", type=Path, default=OUT, help="for checkpoints and numbers")
    add("--json", type=Path, help="the file of numbers (default: quantisation.json in --folder)")
    add("--size", nargs="*", default=["base", "large"], help="of Florence-2: base, large, tiny, or nothing")
    add("--paligemma", nargs="?", const="3b", help="a PaliGemma as well, of the size 3b or another")
    add("--quantization", nargs="+", choices=QUANTIZATIONS, default=list(QUANTIZATIONS))
    add("--device", default="auto")
    add("--dtype", default="auto", help="of everything that is not quantised, and of all products")
    add("--batch-size", type=int, nargs="*", default=[1, 8], help="nothing: loading alone")
    add("--batches", type=int, default=3, help="that are timed, of each size")
    add("--new-tokens", type=int, default=64, help="of each answer")
    add("--scenes", type=int, default=20, help="pictures for the agreement; 0: none")
    return parser


def _rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    models = {f"Florence-2 {size}": random_weights(options.folder, size) for size in options.size}
    if options.paligemma:
        models[f"PaliGemma {options.paligemma}"] = _random_paligemma(options.folder, options.paligemma)
    for name, folder in models.items():
        for quantization in options.quantization:
            say(f"{name}, {quantization}")
            case = QuantisationCase(
                checkpoint=str(folder), quantization=quantization, device=options.device, dtype=options.dtype,
                batch_sizes=options.batch_size, batches=options.batches, new_tokens=options.new_tokens,
            )  # fmt: skip
            yield {"model": name, "quantization": quantization} | _measured(case)
    if options.scenes:
        yield from _agreement(options)


def _agreement(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from ..inference import resolve_device, resolve_dtype
    from .agreement import measure_agreement

    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    for quantization in options.quantization:
        if quantization != "none":
            say(f"agreement, {quantization}")
            row = measure_agreement(device, dtype, dtype, options.scenes, quantization)
            yield row | {"equal %": 100 * row["share"]}


def _random_paligemma(folder: Path, size: str) -> Path:
    from .random_paligemma import write_checkpoint

    checkpoint = folder / f"paligemma-{size}-bf16"
    if not (checkpoint / "tokenizer_config.json").exists():
        write_checkpoint(checkpoint, size)
    return checkpoint


def _measured(case: QuantisationCase) -> dict[str, Any]:
    """A row, from a process of its own."""
    script = str(Path(__file__).with_name("run_quantisation.py"))
    command = [sys.executable, "-c", _ROW, script, json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if not done.returncode:
        measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return measured
    return {"failed": (done.stderr.strip() or f"exit status {done.returncode}")[-2000:]}


_ROW = """
import pathlib, sys
sys.path.insert(0, str(pathlib.Path(sys.argv[1]).parent))
from run import register_package
register_package()
from promptgen.benchmarks.quantisation_row import measure
print(measure(sys.argv[2]))
"""


def _cells(row: dict[str, Any], head: Sequence[str]) -> list[str]:
    shown = [row.get(name, "failed" if name == "weights MB" and "failed" in row else "") for name in head]
    return [f"{value:.4g}" if isinstance(value, float) else str(value) for value in shown]
