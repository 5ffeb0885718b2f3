"""What checks have found, as numbers and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from .examples import Example, Problem
from .image_checks import ImageChecks

__all__ = ["CheckReport"]

_FIRST_FEW = 3
_HEAD = ("instruction", "examples", "images", "tokens", "median", "longest")


@dataclass(frozen=True)
class CheckReport:
    """What passed, what did not, and numbers about it."""

    examples: tuple[Example, ...]  # that passed, in their order
    lengths: tuple[int, ...]  # tokens of each one's target, with <s> and </s>
    problems: tuple[Problem, ...]
    images: ImageChecks

    @property
    def lost(self) -> int:
        """Examples that are left out for what is wrong with them."""
        return sum(problem.counts for problem in self.problems)

    def lengths_of(self, examples: Sequence[Example]) -> list[int]:
        """Tokens of the targets of some of them, in whatever order and as often as they come."""
        known = {example.target: length for example, length in zip(self.examples, self.lengths, strict=True)}
        return [known[example.target] for example in examples]

    def exceeds(self, limit: float) -> bool:
        """Whether more is left out than allowed: below 1 a fraction of all that was found, else a count."""
        most = limit * (self.lost + len(self.examples)) if limit < 1 else limit
        return self.lost > most

    def counts(self) -> dict[str, int]:
        """How often each kind of problem came up, the commonest first."""
        return dict(Counter(problem.kind for problem in self.problems).most_common())

    def table(self) -> str:
        """For people: examples, images and tokens by instruction; problems by kind with the first few."""
        return "\n".join([*_aligned([_HEAD, *self._rows()]), *self._problem_lines()])

    def _rows(self) -> list[tuple[str, ...]]:
        by_instruction: dict[str, list[tuple[Example, int]]] = {}
        pairs = list(zip(self.examples, self.lengths, strict=True))
        for pair in pairs:
            by_instruction.setdefault(pair[0].instruction, []).append(pair)
        rows = [_row(name, group) for name, group in by_instruction.items()]
        return rows if len(rows) == 1 else [*rows, _row("all", pairs)]

    def _problem_lines(self) -> list[str]:
        by_kind: dict[tuple[str, bool], list[Problem]] = {}
        for problem in self.problems:
            by_kind.setdefault((problem.kind, problem.counts), []).append(problem)
        lines = []
        for (kind, counts), group in sorted(
            by_kind.items(), key=lambda item: (not item[0][1], -len(item[1]))
        ):
            lines.append(f"{kind}: {len(group)}{' left out' if counts else ''}")
            lines += [f"  {problem.place}: {problem.reason}" for problem in group[:_FIRST_FEW]]
            if len(group) > _FIRST_FEW:
                lines.append(f"  … and {len(group) - _FIRST_FEW} more")
        return lines


def _row(name: str, group: Sequence[tuple[Example, int]]) -> tuple[str, ...]:
    lengths = [length for _, length in group]
    images = {example.image for example, _ in group}
    numbers = (
        len(group), len(images), sum(lengths), median_low(lengths) if lengths else 0, max(lengths, default=0),
    )  # fmt: skip
    return (name, *map(str, numbers))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]
