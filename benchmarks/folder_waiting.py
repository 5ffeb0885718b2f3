"""The share of a run's time in which its model waits for pictures."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .case import INSTRUCTION, random_weights
from .folder_pictures import PHOTOGRAPH_SIZE, make_photographs

MOST_WAITING = 0.05  # share of the time from the first batch to the last


@dataclass(frozen=True)
class WaitingCase:
    """The pictures, the checkpoint and how it captions."""

    images: int
    model: str | None = None  # a checkpoint's name or folder; None: base, with random weights
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    new_tokens: int = 64  # every answer has exactly that many
    num_beams: int = 3

    def __post_init__(self) -> None:
        if self.images < 2:
            raise ValueError(f"images is {self.images}; it takes 2 or more.")


def measure_waiting(case: WaitingCase, folder: Path) -> dict[str, Any]:
    """Caption photographs to caption files, in this process.

    Args:
        folder: where random weights are kept, and the pictures for as long as they are needed.

    Raises:
        RuntimeError: a picture failed.
    """
    from ..captioning import Captioner, CaptionOptions
    from ..captioning.runs.outputs import Column, OutputOptions
    from ..captioning.runs.run import RunOptions, run_folder
    from ..inference import GenerationOptions, resolve_device, resolve_dtype

    device = resolve_device(case.device)
    dtype = resolve_dtype(case.dtype, device)
    model = case.model or random_weights(folder)
    captioner = Captioner(str(model), device=device, dtype=dtype, batch_size=case.batch_size)
    generation = GenerationOptions(
        num_beams=case.num_beams, max_new_tokens=case.new_tokens, min_new_tokens=case.new_tokens
    )
    with tempfile.TemporaryDirectory(prefix="waiting-", dir=folder) as name:
        nbytes = make_photographs(Path(name), case.images)
        reading = _reading_seconds(Path(name))
        options = RunOptions(
            inputs=(name,),
            output=OutputOptions(columns=(Column(INSTRUCTION),)),
            captions=CaptionOptions(generation),
        )
        report = run_folder(options, captioner)
    if report.captioned != case.images or report.waited is None:
        raise RuntimeError(f"Not every image was captioned, or all in one batch: {report}")
    return {
        "model": str(model),
        "images": case.images,
        "megabytes": nbytes / case.images / 1e6,  # of one
        "reading_seconds": reading,  # of one, with nothing else going on
        "device": device,
        "dtype": dtype,
        "new_tokens": case.new_tokens,
        "num_beams": case.num_beams,
        "seconds": report.seconds,
        "waited": report.waited,
        "met": report.waited < MOST_WAITING,
    }


def waiting_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    width, height = PHOTOGRAPH_SIZE
    head = [
        "model", "device", "dtype", f"images, {width} x {height}", "MB each", "s to read one", "images/s",
        "model waited", "verdict",
    ]  # fmt: skip
    return head, [
        [
            Path(row["model"]).name,
            row["device"],
            row["dtype"],
            str(row["images"]),
            f"{row['megabytes']:.2f}",
            f"{row['reading_seconds']:.3f}",
            f"{row['images'] / row['seconds']:.3g}",
            f"{100 * row['waited']:.2f} %",
            f"below {100 * MOST_WAITING:.0f} %: {'met' if row['met'] else 'MISSED'}",
        ]
        for row in rows
    ]


def _reading_seconds(folder: Path) -> float:
    """Of one picture, from the file to upright RGB."""
    from ..captioning import open_image

    first = min(folder.glob("*.jpg"))
    open_image(first)  # what is loaded once is loaded now
    started = time.perf_counter()
    open_image(first)
    return time.perf_counter() - started
