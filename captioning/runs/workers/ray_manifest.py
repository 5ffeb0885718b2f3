"""What a cluster is to caption: chunks of pictures, kept from when they are found until they are answered.

An actor of Ray's holds one. Every stage asks it, so that whatever is done again after a worker was lost gets
the same pictures, and so that it is known how often work on a picture was begun.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence


class Manifest:
    """Chunks by number, from 0. Its methods run one at a time, but for the moments in which they wait.

    Ray may call them in another order than they were asked for.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, bytes] = {}
        self._given = 0  # chunks, without a gap
        self._ended = False
        self._stopping = False
        self._reads: Counter[int] = Counter()
        self._starts: Counter[int] = Counter()
        self._starts_alone: Counter[tuple[int, int]] = Counter()
        self._news = asyncio.Condition()

    async def give(self, chunk: int, content: bytes, answered: Sequence[int]) -> None:
        """A chunk; those in ``answered`` are not needed any more."""
        for number in answered:
            self._forget(number)
        self._chunks[chunk] = content
        while self._given in self._chunks:
            self._given += 1
        async with self._news:
            self._news.notify_all()

    async def end(self) -> None:
        """No chunk comes any more, and those that are there are answered."""
        self._ended = True
        async with self._news:
            self._news.notify_all()

    async def stop(self) -> None:
        """Chunks that are not begun shall not be begun."""
        self._stopping = True

    async def given(self, more_than: int) -> int:
        """How many chunks there are, once there are more than that many, or no more come."""
        async with self._news:
            await self._news.wait_for(lambda: self._given > more_than or self._ended)
        return self._given

    async def content(self, chunk: int) -> tuple[bytes | None, int]:
        """The pictures of a chunk, ``None`` if nothing is to be done about it; and how often they were asked
        for, with this time.
        """
        if not self._is_wanted(chunk):
            return None, 0
        self._reads[chunk] += 1
        return self._chunks[chunk], self._reads[chunk]

    async def begin(self, chunk: int) -> int:
        """How often work on a chunk was begun, with this time; 0 if it is not to be begun."""
        if not self._is_wanted(chunk):
            return 0
        self._starts[chunk] += 1
        return self._starts[chunk]

    async def begin_alone(self, chunk: int, number: int) -> int:
        """How often one picture of a chunk was begun while its worker had no other, with this time."""
        self._starts_alone[chunk, number] += 1
        return self._starts_alone[chunk, number]

    def _is_wanted(self, chunk: int) -> bool:
        return chunk in self._chunks and (not self._stopping or self._starts[chunk] > 0)

    def _forget(self, chunk: int) -> None:
        self._chunks.pop(chunk, None)
        self._reads.pop(chunk, None)
        self._starts.pop(chunk, None)
        for key in [key for key in self._starts_alone if key[0] == chunk]:
            del self._starts_alone[key]
