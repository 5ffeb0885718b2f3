"""Runs of a folder: that their memory does not grow, and that the model does not wait for the disk.

    python benchmarks/run_folder.py memory [--images 10000] [--form sidecar jsonl] [--broken 0.05]
    python benchmarks/run_folder.py waiting [--images 24] [--model NAME] [--device auto]

memory: ``promptgen folder`` captions so many small images with the demo model in a process of its own, whose
resident memory is looked at all the while. From the 1000th image on it may not grow by more than 64 MB.

waiting: a full-size checkpoint (random weights, unless one is given) captions JPEGs of 4 megapixels that lie
on the disk, not in its cache. Of the time from the first batch to the last, the model may spend less than 5 %
waiting for them.

Prints tables, and writes everything as JSON into --folder. The exit status is 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .command import keep_rows, run_promptgen, say
from .folder_memory import FORMS, MemoryCase, measure_memory, memory_table
from .folder_waiting import WaitingCase, measure_waiting, waiting_table
from .table import table

OUT = Path(__file__).parent / "out"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["promptgen"]:
        return run_promptgen(arguments)
    options = _parser().parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.json or options.folder / f"folder-{options.what}.json"
    rows = keep_rows(_memory(options) if options.what == "memory" else _waiting(options), options, path)
    print(table(*(memory_table if options.what == "memory" else waiting_table)(rows)))
    print(f"\nNumbers: {path}")
    return 0 if all(row["met"] for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_folder.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="what", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--folder", type=Path, default=OUT, help="for images, checkpoints and numbers")
    shared.add_argument(
        "--json", type=Path, help="the file of numbers (default: folder-WHAT.json in --folder)"
    )

    add = parts.add_parser("memory", parents=[shared]).add_argument
    add("--images", type=int, default=10_000)
    add("--form", nargs="+", choices=FORMS, default=["sidecar", "jsonl"], help="forms of the captions")
    add("--broken", type=float, default=0.0, metavar="SHARE", help="of the images cannot be read, 0 to 1")

    add = parts.add_parser("waiting", parents=[shared]).add_argument
    add("--images", type=int, default=24)
    add(
        "--model",
        help="a checkpoint's name or folder (default: base with random weights, made once)",
    )
    add("--device", default="auto")
    add("--dtype", default="auto")
    add("--batch-size", type=int)
    add("--new-tokens", type=int, default=64)
    add("--num-beams", type=int, default=3)
    return parser


def _memory(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    case = MemoryCase(options.images, options.broken)
    for form in options.form:
        say(f"memory, {form}: {options.images} images")
        yield measure_memory(case, form, options.folder)


def _waiting(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    case = WaitingCase(
        images=options.images, model=options.model, device=options.device, dtype=options.dtype,
        batch_size=options.batch_size, new_tokens=options.new_tokens, num_beams=options.num_beams,
    )  # fmt: skip
    yield measure_waiting(case, options.folder)
