"""The server under load: that nothing is lost, that it stays responsive, and that it is as fast as a run.

    python benchmarks/run_serving.py load [--clients 32 64] [--seconds 120]
    python benchmarks/run_serving.py throughput [--clients 32] [--images 32] [--model NAME] [--device auto]

load: ``promptgen serve --model demo`` and so many clients on the loopback address. They ask with all three
faces and mixed instructions; 5 % leave before the answer, 5 % send rubbish, 2 % send slowly. Every answer
must be the one that the engine gives to that picture alone, /health must answer within 100 ms, ten times a
second and throughout, and the server's memory in the last third must not be above that of the first by more
than 64 MB. At the end the server gets SIGTERM while clients wait: what it accepted must be answered.

throughput: a full-size checkpoint (random weights, unless one is given) captions pictures, first in one
offline stream, then the same ones again, by a server without a cache of them, for so many clients. It must
reach 0.9 of the offline rate.

Prints tables, and writes everything as JSON into --folder. The exit status is 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .case import picture_files, random_weights
from .command import keep_rows, run_promptgen, say
from .serving_clients import Load, Tally, run_clients, run_requests
from .serving_process import HealthProbe, ServerProcess
from .table import table

OUT = Path(__file__).parent / "out"

MOST_HEALTH_SECONDS = 0.1
MOST_GROWTH = 64 * 10**6  # bytes
LEAST_SHARE = 0.9  # of the offline rate

INSTRUCTIONS = (
    "GENERATE_TAGS",
    "CAPTION",
    "DETAILED_CAPTION",
    "MORE_DETAILED_CAPTION",
    "MIXED_CAPTION",
    "OD",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["promptgen"]:
        return run_promptgen(arguments)
    options = _parser().parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / f"serving-{options.what}.json"
    rows = keep_rows(_load(options) if options.what == "load" else _throughput(options), options, path)
    print(table(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows]))
    print(f"\nNumbers: {path}")
    return 0 if all(row["met"] for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_serving.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="what", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--folder", type=Path, default=OUT, help="for checkpoints and numbers")

    add = parts.add_parser("load", parents=[shared]).add_argument
    add("--clients", type=int, nargs="+", default=[32, 64])
    add("--seconds", type=float, default=120, help="for each number of clients")
    add("--pictures", type=int, default=40, help="drawn scenes among which clients choose")

    add = parts.add_parser("throughput", parents=[shared]).add_argument
    add("--clients", type=int, nargs="+", default=[32])
    add("--images", type=int, default=32)
    add("--model", help="a checkpoint's name or folder (default: --size with random weights, made once)")
    add("--size", default="base", help="base or large")
    add("--device", default="auto")
    add("--dtype", default="auto")
    add("--new-tokens", type=int, default=64, help="every answer has exactly that many; 0: as they come")
    add("--num-beams", type=int, default=3)
    return parser


# ---- load


def _load(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from ..captioning import Captioner

    pictures = _scenes(options.pictures)
    captioner = Captioner("demo", device="cpu", dtype="fp32")
    expected = {
        (number, answer.instruction): answer.text
        for number, result in enumerate(captioner.caption(pictures, INSTRUCTIONS))
        for answer in result.results
    }
    load = Load(pictures, INSTRUCTIONS, {}, expected)
    for clients in options.clients:
        say(f"load: {clients} clients, {options.seconds:g} s")
        yield _loaded(load, clients, options.seconds)


def _loaded(load: Load, clients: int, seconds: float) -> dict[str, Any]:
    with ServerProcess(["--model", "demo", "--device", "cpu", "--dtype", "fp32", "--preload"]) as server:
        memory = _MemoryWatch(server)
        with HealthProbe(server.host, server.port) as probe, memory:
            tally = asyncio.run(run_clients(server.host, server.port, load, clients, seconds))
        last, status = _ended_under_load(server, load, clients)
    worst = max(probe.seconds)
    problems = [*tally.problems, *last.problems]
    for problem in problems[:10]:
        say(problem)
    return {
        "clients": clients,
        "seconds": tally.seconds,
        "requests": tally.total,
        "answered": tally.answered,
        "left": tally.left,
        "rubbish refused": tally.refused,
        "429": tally.busy,
        "lost or wrong": len(problems),
        "requests/s": tally.total / tally.seconds,
        "health asked": len(probe.seconds),
        "health, worst ms": 1000 * worst,
        "health, 99 % ms": 1000 * sorted(probe.seconds)[int(0.99 * len(probe.seconds))],
        "memory, first third MB": memory.most_of_first / 1e6,
        "last third MB": memory.most_of_last / 1e6,
        "answered after SIGTERM": last.answered,
        "exit status": status,
        "met": not problems and worst <= MOST_HEALTH_SECONDS and memory.growth <= MOST_GROWTH and not status,
    }


def _ended_under_load(server: ServerProcess, load: Load, clients: int) -> tuple[Tally, int]:
    """So many clients wait when the server is asked to end."""

    async def ask() -> tuple[Tally, int]:
        asked = Load(load.pictures[:clients], load.instructions, {}, load.expected, is_kind=True)
        waiting = asyncio.create_task(run_requests(server.host, server.port, asked, clients))
        while await asyncio.to_thread(_waiting, server) < len(asked.pictures):
            if waiting.done():  # too fast to be caught
                break
        status = await asyncio.to_thread(server.end)
        return await waiting, status

    return asyncio.run(ask())


def _waiting(server: ServerProcess) -> int:
    """Pictures that were accepted and have no answer."""
    import urllib.request

    with urllib.request.urlopen(f"http://{server.host}:{server.port}/ready", timeout=30) as answer:
        return int(json.load(answer)["waiting"])


class _MemoryWatch(threading.Thread):
    """Looks at a server's memory for the length of a ``with`` block."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._ended = threading.Event()
        self._seen: list[int] = []

    def __enter__(self) -> _MemoryWatch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(0.5):
            self._seen.append(self._server.resident)

    @property
    def most_of_first(self) -> int:
        return max(self._seen[: max(1, len(self._seen) // 3)])

    @property
    def most_of_last(self) -> int:
        return max(self._seen[-max(1, len(self._seen) // 3) :])

    @property
    def growth(self) -> int:
        return self.most_of_last - self.most_of_first


def _scenes(count: int) -> list[bytes]:
    import io

    from ..training.demo.scenes import draw_scene

    files = []
    for seed in range(900_000, 900_000 + count):
        file = io.BytesIO()
        draw_scene(seed)[0].save(file, "PNG")
        files.append(file.getvalue())
    return files


# ---- throughput


def _throughput(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    model = options.model or random_weights(options.folder, options.size)
    pictures = _scenes(options.images) if model == "demo" else picture_files(options.images)
    generation: dict[str, Any] = {"num_beams": options.num_beams}
    if options.new_tokens:
        generation |= {"min_new_tokens": options.new_tokens, "max_new_tokens": options.new_tokens}
    case = {
        "model": str(model), "device": options.device, "dtype": options.dtype, "generation": generation,
        "pictures": [picture.hex() for picture in pictures],
    }  # fmt: skip
    say(f"offline: {options.images} images")
    offline = _offline(case)
    settings = ["--model", str(model), "--device", options.device, "--dtype", options.dtype, "--preload"]
    for clients in options.clients:
        say(f"throughput: {clients} clients")
        load = Load(pictures, INSTRUCTIONS, generation, is_kind=True, faces=("captions", "openai"))
        with ServerProcess(settings) as server:
            first = Load(pictures[:1], INSTRUCTIONS[:1], generation, is_kind=True, faces=("captions",))
            asyncio.run(run_requests(server.host, server.port, first, 1))  # what is done once is done now
            with HealthProbe(server.host, server.port) as probe:
                tally = asyncio.run(run_requests(server.host, server.port, load, clients))
        if tally.answered != len(pictures):
            raise RuntimeError(f"Not every image was captioned: {tally.problems[:3]}")
        rate = tally.answered / tally.seconds
        again = _offline(case)
        best = max(offline, again)
        yield {
            "model": Path(model).name,
            "clients": clients,
            "images": len(pictures),
            "offline images/s, before": offline,
            "offline, after": again,
            "server images/s": rate,
            "share of the better": rate / best,
            "health, worst ms": 1000 * max(probe.seconds),
            "met": rate >= LEAST_SHARE * best,
        }
        offline = again


def _offline(case: dict[str, Any]) -> float:
    """Images a second of one stream, in a process of its own, the model loaded and used once before."""
    script = str(Path(__file__).with_name("run_serving.py"))
    command = [sys.executable, "-c", _OFFLINE, script]
    done = subprocess.run(command, input=json.dumps(case), capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RuntimeError(f"The offline stream failed: {done.stderr[-2000:]}")
    return float(done.stdout)


_OFFLINE = """
import pathlib, sys
sys.path.insert(0, str(pathlib.Path(sys.argv[1]).parent))
from run import register_package
register_package()
from promptgen.benchmarks.serving import offline_rate
print(offline_rate(sys.stdin.read()))
"""


def offline_rate(case_text: str) -> float:
    """Each picture once, with the instructions in turn; the pictures of one instruction in one stream."""
    from ..captioning import Captioner, CaptionOptions, GenerationOptions
    from ..inference import resolve_device, resolve_dtype

    case = json.loads(case_text)
    pictures = [bytes.fromhex(picture) for picture in case["pictures"]]
    device = resolve_device(case["device"])
    captioner = Captioner(case["model"], device=device, dtype=resolve_dtype(case["dtype"], device))
    options = CaptionOptions(generation=GenerationOptions(**case["generation"]))
    captioner.caption(pictures[:1], INSTRUCTIONS[0], options)
    began = time.perf_counter()
    for number, instruction in enumerate(INSTRUCTIONS):
        captioner.caption(pictures[number :: len(INSTRUCTIONS)], instruction, options)
    return len(pictures) / (time.perf_counter() - began)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "met" if value else "MISSED"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
