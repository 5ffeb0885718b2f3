"""The model that a run asks, wherever it is, as far as the run itself needs to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .settings import settings_digest
from .workers import InProcess, Waiting, Workers

if TYPE_CHECKING:
    from ..captioner import Captioner
    from .run import RunOptions

__all__ = ["AskedModel", "local_model"]


@dataclass(frozen=True)
class AskedModel:
    """A checkpoint with settings, wherever it is."""

    digest: Callable[[], str]  # of all that shapes the answers, see `settings_digest`
    told: Mapping[str, str]  # of the checkpoint and where it is, for the page about the run
    # Makes those who answer: they tell the first when they wait for pictures, and call the second, which may
    # raise to end the run, while they are at work.
    workers: Callable[[Waiting, Callable[[], None]], Workers]


def local_model(captioner: Captioner, options: RunOptions, workers: Workers | None = None) -> AskedModel:
    """``captioner``, in this process unless there are ``workers`` with the same checkpoint and options."""

    def make(waiting: Waiting, tell: Callable[[], None]) -> Workers:
        return workers or InProcess(captioner, options.instructions, options.captions, waiting, tell)

    checkpoint = [captioner.model, *(f"{name}:{strength:g}" for name, strength in captioner.loras)]
    return AskedModel(
        digest=lambda: settings_digest(captioner, options.instructions, options.captions),
        told={
            "checkpoint": " + ".join(checkpoint),
            "device and precision": ", ".join(_precision(captioner)),
        },
        workers=make,
    )


def _precision(captioner: Captioner) -> Iterator[str]:
    yield captioner.device
    yield captioner.dtype
    if captioner.quantization != "none":
        yield f"weights of {captioner.quantization} bits"
