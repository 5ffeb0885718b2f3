"""``--devices``: on which devices a run's worker processes compute."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .answer_flags import AnswerFlags
from .reporting import UsageError

if TYPE_CHECKING:
    from ..captioning import Captioner


def captioners_on(given: str, flags: AnswerFlags) -> list[Captioner]:
    """One for each device of ``--devices``, in order. Nothing is downloaded for them.

    Raises:
        UsageError: one of the devices, or the number format on it, is not to be had.
    """
    if flags.device != "auto":
        raise UsageError("--device and --devices say the same. Give one of them.")
    names = [name.strip() for name in given.split(",") if name.strip()]
    if [name.lower() for name in names] == ["all"]:
        names = _every_gpu()
    if not names:
        raise UsageError("--devices is empty; write cuda:0,cuda:1 or all.")
    return [replace(flags, device=name).captioner(fetch=False) for name in names]


def _every_gpu() -> list[str]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise UsageError(
            f"--devices all: torch {torch.__version__} sees no CUDA devices. Name devices, such as cpu,cpu, "
            "or install a torch build for your GPUs."
        )
    return [f"cuda:{number}" for number in range(count)]
