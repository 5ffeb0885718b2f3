"""Who is told what a server does."""

from __future__ import annotations

from collections.abc import Sequence


class Watch:
    """Told what happens, by any thread; must not take long. This one does nothing with it."""

    def accepted(self, pictures: int) -> None:
        """So many pictures are in the queue now that were not."""

    def batch(self, model: str, pictures: int, answers: int, seconds: float) -> None:
        """A batch went through the model."""

    def answered(self, model: str, instructions: Sequence[str], waited: float, seconds: float) -> None:
        """A picture has its answers, ``seconds`` after it was accepted, ``waited`` of which in the queue."""

    def ended(self, model: str | None, outcome: str) -> None:
        """A request ended: ``answered``, ``dropped`` (the client went), or the code of its error."""
