"""One queue for the requests of all faces, and one thread that answers them in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from .asks import Ask
from .models import ServedModels
from .settings import Limits

if TYPE_CHECKING:
    from ..captioning import ImageResult
    from ..models_cache import ModelManager


class Watch(Protocol):
    """Told what happens, by any thread; must not take long."""

    def accepted(self, pictures: int) -> None:
        """So many pictures are in the queue now that were not."""

    def batch(self, model: str, pictures: int, answers: int, seconds: float) -> None:
        """A batch went through the model."""

    def answered(self, model: str, instructions: Sequence[str], waited: float, seconds: float) -> None:
        """A picture has its answers, ``seconds`` after it was accepted, ``waited`` of which in the queue."""

    def ended(self, model: str | None, outcome: str) -> None:
        """A request ended: ``answered``, ``dropped`` (the client went), or the code of its error."""


class Scheduler:
    """Answers requests from any number of coroutines of one event loop."""

    def __init__(
        self, models: ServedModels, limits: Limits, manager: ModelManager, watch: Watch | None = None
    ) -> None:
        self.models = models
        self.limits = limits
        self.manager = manager
        self.watch = watch

    async def answer(self, ask: Ask, images: Sequence[bytes]) -> list[ImageResult]:
        """One result per picture, in order; one that cannot be read has an error."""
        raise NotImplementedError
