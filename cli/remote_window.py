"""How many requests are with a server at a time, found out by how it fares."""

from __future__ import annotations

_FIRST = 4
_MOST = 64  # what a server answers in one batch at most
_SLOW_SECONDS = 10.0  # more at a time would only wait there, and keep whoever stops the run waiting
_LEAST_IF_SLOW = 2  # one at work, one waiting
_CAREFUL = 0.25  # of a request more per round, once the server has refused some


class Window:
    """The most requests at a time. Grows while answers come quickly, shrinks when the server refuses."""

    def __init__(self) -> None:
        self._size = float(_FIRST)
        self._was_refused = False

    @property
    def size(self) -> int:
        """The most requests now."""
        return int(self._size)

    def answered(self, seconds: float) -> None:
        """An answer came ``seconds`` after its request."""
        if seconds > _SLOW_SECONDS:
            self._size = min(self._size, max(_LEAST_IF_SLOW, self._size - 1))
        else:
            self._size = min(_MOST, self._size + (_CAREFUL / self._size if self._was_refused else 1))

    def refused(self, others: int) -> None:
        """The server took no more, or was away, while it had ``others`` of ours."""
        self._was_refused = True
        self._size = float(max(1, others))
