"""Several instructions on one picture, against one: the picture is encoded once for all of them."""

from __future__ import annotations

import statistics
from typing import Any

from .case import Case, picture_files
from .clock import now
from .engines import Ours

FOUR = ("CAPTION", "DETAILED_CAPTION", "MORE_DETAILED_CAPTION", "MIXED_CAPTION")


def measure_instructions(case: Case, dtype: str) -> dict[str, Any]:
    """Seconds for each instruction alone (the median) and for all four together."""
    engine = Ours(case, dtype)
    try:
        (file,) = picture_files(1)

        def seconds(*instructions: str) -> float:
            start = now(case.device)
            engine.caption([file], instructions)
            return now(case.device) - start

        if case.on_gpu:  # where the first batch of a shape costs more than others
            seconds(*FOUR)
        seconds(FOUR[0])
        alone = [seconds(instruction) for instruction in FOUR]
        four = statistics.median(seconds(*FOUR) for _ in range(3 if case.on_gpu else 1))
    finally:
        engine.close()
    one = statistics.median(alone)
    return {"dtype": dtype, "one_seconds": one, "four_seconds": four, "ratio": four / one}
