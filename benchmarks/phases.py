"""Where the time goes: the four phases of our engine apart, each against its own floor."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from ..captioning import open_image
from ..florence2 import Florence2Model
from ..inference import GenerationOptions
from .case import PROMPT, Case, picture_files
from .clock import now
from .floors import PHASES, Load, Rates, measure_rates, work_of
from .rows import FAST_DTYPE

_REPEATS = 3


def measure_phases(case: Case, dtype: str, counts: Sequence[int]) -> dict[str, Any]:
    """Seconds, work and floor of each phase.

    Args:
        counts: so many pictures together; one measurement each.
    """
    model = Florence2Model.load(case.checkpoint("original"), device=case.device, dtype=dtype)
    rates = measure_rates(case.device, model.dtype, int8=dtype == FAST_DTYPE)
    return {
        "dtype": dtype,
        "flops_per_second": rates.flops_per_second,
        "bytes_per_second": rates.bytes_per_second,
        "phases": [phase for count in counts for phase in _against_floors(case, model, dtype, count, rates)],
    }


def _against_floors(
    case: Case, model: Florence2Model, dtype: str, count: int, rates: Rates
) -> list[dict[str, Any]]:
    seconds = _median_seconds(case, model, picture_files(count))
    works = work_of(
        Load(
            config=model.config,
            pictures=count,
            prompt_tokens=model.count_tokens(PROMPT),
            new_tokens=case.new_tokens,
            num_beams=case.num_beams,
            weight_bytes=1 if dtype == FAST_DTYPE else model.dtype.itemsize,
            state_bytes=model.dtype.itemsize,
        )
    )
    phases = []
    for phase, work in works.items():
        floor, bound = rates.floor(work)
        phases.append(
            {
                "pictures": count,
                "phase": phase,
                "seconds": seconds[phase],
                "flops": work.flops,
                "bytes": work.nbytes,
                "floor_seconds": floor,
                "bound_by": bound,
            }
        )
    return phases


def _median_seconds(case: Case, model: Florence2Model, files: list[bytes]) -> dict[str, float]:
    options = GenerationOptions(
        num_beams=case.num_beams, max_new_tokens=case.new_tokens, min_new_tokens=case.new_tokens
    )
    _clock(case.device, model, files, options)  # to warm up
    rounds = [_clock(case.device, model, files, options) for _ in range(_REPEATS)]
    return {phase: statistics.median(marks[place] for marks in rounds) for place, phase in enumerate(PHASES)}


def _clock(
    device: str, model: Florence2Model, files: list[bytes], options: GenerationOptions
) -> tuple[float, ...]:
    """Seconds of each of ``PHASES``."""
    marks = [now(device)]
    pixel_values = model.preprocess([open_image(file) for file in files])
    marks.append(now(device))
    together = 1 if device == "cpu" else len(files)  # on a CPU as the engine does it: one by one
    features = torch.cat([model.encode_images(part) for part in pixel_values.split(together)])
    marks.append(now(device))

    def on_step(tokens: int) -> None:
        if tokens and len(marks) == 3:  # before the first step: the encoder is done
            marks.append(now(device))

    model.generate(features, [PROMPT] * len(files), options, on_step)
    marks.append(now(device))
    return tuple(end - start for start, end in pairwise(marks))
