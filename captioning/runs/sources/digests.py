"""A set of 64-bit digests in 16 to 32 bytes each."""

from __future__ import annotations

from array import array

_FIRST_SIZE = 1024  # slots; always a power of two


class DigestSet:
    """Remembers what was there. A set of Python integers would take four times the memory."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * _FIRST_SIZE))  # 0 is free
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, digest: int) -> bool:
        """Whether ``digest``, from 1 to 2⁶⁴ − 1, is new."""
        place = self._place_of(digest)
        if self._slots[place]:
            return False
        self._slots[place] = digest
        self._count += 1
        if self._count * 2 > len(self._slots):
            self._grow()
        return True

    def _place_of(self, digest: int) -> int:
        """Where it is, or the free slot where it belongs."""
        mask = len(self._slots) - 1
        place = digest & mask
        while self._slots[place] not in (0, digest):
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        held = self._slots
        self._slots = array("Q", bytes(16 * len(held)))
        for digest in held:
            if digest:
                self._slots[self._place_of(digest)] = digest
