"""What two sequences have in common, in the same order."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

__all__ = ["common_places"]


def common_places(ours: Sequence[Hashable], theirs: Sequence[Hashable]) -> list[int]:
    """The places in ``ours`` of a longest common subsequence, rising.

    Takes the time of ``len(ours)`` additions of numbers of ``len(theirs)`` bits, also for sequences of one
    word over and over, such as bad checkpoints write, which keep ``difflib`` busy for minutes.

    H. Hyyrö, "Bit-Parallel LCS-length Computation Revisited" (AWOCA 2004). Of each row of the table of
    lengths a number is kept; its bit ``j`` is 0 where the length rises from column ``j`` to ``j + 1``.
    """
    where: dict[Hashable, int] = {}
    for column, item in enumerate(theirs):
        where[item] = where.get(item, 0) | 1 << column
    full = (1 << len(theirs)) - 1
    rows = [full]
    for item in ours:
        before = rows[-1]
        met = before & where.get(item, 0)
        rows.append((before + met | before - met) & full)
    return _walk_back(rows, len(theirs))


def _walk_back(rows: Sequence[int], column: int) -> list[int]:
    found: list[int] = []
    row = len(rows) - 1
    while row and column:
        bit = 1 << column - 1
        if rows[row] & bit:
            column -= 1
            continue
        row -= 1
        if rows[row] & bit:  # the length rose in this row and in this column: the two are equal
            found.append(row)
            column -= 1
    return found[::-1]
