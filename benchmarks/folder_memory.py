"""The resident memory of ``promptgen folder``, by the number of images done."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .folder_pictures import make_small_pictures

FORMS = ("sidecar", "jsonl", "csv", "parquet", "kohya", "imagefolder", "webdataset")

MOST_GROWTH = 64 * 10**6  # bytes
STEPS = 10  # of the images, at whose ends memory is told; what grows in the first is the start

_OFTEN = 0.02  # seconds between two looks
_DONE = re.compile(r"(\d+) (?:of \d+ )?images(?! looked at)")  # what the command's lines begin with
_ENDED = "Images: "
_SETTINGS = (
    "--model", "demo", "--device", "cpu", "--num-beams", "1", "--max-new-tokens", "8",
    "--report-every", "0.1",
)  # fmt: skip
_SOME_FAILED = 1  # exit status


@dataclass(frozen=True)
class MemoryCase:
    """The pictures."""

    images: int
    broken: float = 0.0  # share that cannot be read

    def __post_init__(self) -> None:
        if self.images < STEPS or not 0 <= self.broken <= 1:
            raise ValueError(f"{self.images} images, {self.broken} broken: {STEPS} or more, and 0 to 1.")


@dataclass
class _Watch:
    """What was seen of a process."""

    steps: Sequence[int]
    resident: dict[int, int] = field(default_factory=dict)  # bytes when so many images were done
    last: int = 0
    most: int = 0  # since the first step

    def see(self, done: int, resident: int) -> None:
        if not resident:  # it has ended
            return
        for step in self.steps:
            if done >= step and step not in self.resident:
                self.resident[step] = resident
                print(f"{step:>9} images: {resident / 1e6:.1f} MB", file=sys.stderr, flush=True)
        self.last = resident
        if self.resident:
            self.most = max(self.most, resident)


def measure_memory(case: MemoryCase, form: str, folder: Path) -> dict[str, Any]:
    """Caption all pictures to one form, and look at the memory of it.

    Raises:
        RuntimeError: the command failed, or did not caption what it was to caption.
    """
    with tempfile.TemporaryDirectory(prefix="memory-", dir=folder) as name:
        pictures, captions = Path(name) / "images", Path(name) / "captions"
        failing = make_small_pictures(pictures, case.images, case.broken)
        step = case.images // STEPS
        watch = _Watch(range(step, case.images, step))
        started = time.perf_counter()
        arguments = ("folder", str(pictures), "--output-dir", str(captions), "--format", form, *_SETTINGS)
        said, status = _watched(arguments, watch)
        seconds = time.perf_counter() - started
    if status != (_SOME_FAILED if failing else 0) or f"{case.images - failing} captioned" not in said:
        raise RuntimeError(f"promptgen folder ended with {status}: {said}")
    growth = watch.most - watch.resident[step]
    return {
        "form": form,
        "images": case.images,
        "failing": failing,
        "seconds": seconds,
        "resident_bytes": watch.resident,  # by the number of images done
        "end_bytes": watch.last,
        "most_bytes": watch.most,
        "growth_bytes": growth,  # from the first step to the most after it
        "met": growth <= MOST_GROWTH,
    }


def memory_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows, in MB."""
    steps = list(rows[0]["resident_bytes"])
    head = ["form", "cannot be read", "images/s", *(f"{step:,} images" for step in steps), "end", "most"]
    head += [f"growth from {steps[0]:,} to the most", "verdict"]
    return head, [_cells(row) for row in rows]


def _cells(row: dict[str, Any]) -> list[str]:
    resident = (*row["resident_bytes"].values(), row["end_bytes"], row["most_bytes"], row["growth_bytes"])
    return [
        row["form"],
        str(row["failing"]),
        f"{row['images'] / row['seconds']:.1f}",
        *(f"{value / 1e6:.1f}" for value in resident),
        f"at most {MOST_GROWTH / 1e6:.0f}: {'met' if row['met'] else 'MISSED'}",
    ]


def _watched(arguments: Sequence[str], watch: _Watch) -> tuple[str, int]:
    """Run the command; its last words and its exit status."""
    import psutil

    script = str(Path(__file__).with_name("run_folder.py"))
    command = [sys.executable, script, "promptgen", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as child:
        assert child.stderr is not None
        lines = _Lines(child.stderr)
        try:
            process = psutil.Process(child.pid)
            while child.poll() is None and not lines.ended:
                watch.see(lines.done, process.memory_info().rss)
                time.sleep(_OFTEN)
            child.wait()
        except psutil.NoSuchProcess:  # it ended meanwhile
            child.wait()
        except BaseException:
            child.kill()
            raise
        finally:
            lines.join()
    return lines.last, child.returncode


class _Lines(threading.Thread):
    """Reads what the command says."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self.done = 0  # images
        self.ended = False  # the run; the interpreter's own end takes memory of another kind
        self.last = ""
        self.start()

    def run(self) -> None:
        for line in self._stream:
            self.last = (self.last + line)[-2000:]
            self.ended = self.ended or line.startswith(_ENDED)
            if told := _DONE.match(line):
                self.done = int(told[1])
