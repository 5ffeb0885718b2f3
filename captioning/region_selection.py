"""Some of the regions that were found, by label or by number, as a user writes it.

``car, traffic light`` takes every region with one of those labels; ``0, 2`` the first and the third; ``-1``
the last; ``1-3`` the second to the fourth; ``all``, or nothing, every one. Labels and numbers may be mixed.

* Commas and line breaks separate; spaces around them do not matter, nor does the case of letters.
* A label that contains commas is found as it stands, alone or among others.
* What looks like a number, a range or ``all`` is that; in double quotes it is a label: ``"2024"``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .instructions import find_instruction
from .regions import REGION_KINDS, Region
from .results import text_of_regions

__all__ = ["gives_regions", "require_somewhere", "select_in_record", "select_regions"]

_INDEX = re.compile(r"-?[0-9]{1,9}")
_RANGE = re.compile(r"([0-9]{1,9}) ?- ?([0-9]{1,9})")
_PARTS = re.compile(r'"[^"\n]*"(?=\s*(?:[,\n]|$))|(?:[^,\n])+')
_MOST_NAMED = 20  # labels in a message


def select_regions(regions: Sequence[Region], text: str, *, missing_ok: bool = False) -> tuple[Region, ...]:
    """The regions that ``text`` names, in their own order, each once.

    Args:
        regions: as they were found; numbers count them from 0.
        text: see above.
        missing_ok: a label or number that none has selects none. For one text over many pictures, of which
            few have everything.

    Raises:
        ValueError: a label or number in ``text`` is none of ``regions``, which are not empty.
    """
    labels = [_plain(region.label) for region in regions]
    chosen: set[int] = set()
    for line in text.splitlines():
        for part in _items(line, frozenset(labels)):
            found = _find(part, labels)
            if not found and labels and not missing_ok:
                raise ValueError(_nothing_like(part, [regions]))
            chosen.update(found)
    if not text.strip(" \t\r\n,"):
        return tuple(regions)
    return tuple(regions[number] for number in sorted(chosen))


def require_somewhere(pictures: Sequence[Sequence[Region]], text: str) -> None:
    """For one text over many pictures, not all of which need have everything.

    Raises:
        ValueError: a label or number in ``text`` is in none of the pictures, one of which has regions.
    """
    labels = [[_plain(region.label) for region in regions] for regions in pictures if regions]
    known = frozenset(label for these in labels for label in these)
    for line in text.splitlines():
        for part in _items(line, known):
            if labels and not any(_find(part, these) for these in labels):
                raise ValueError(_nothing_like(part, pictures))


def gives_regions(instruction: str) -> bool:
    """Whether answers to an instruction have regions: those that were found, or that were asked about.

    Raises:
        InstructionError: it is unknown.
    """
    found = find_instruction(instruction)
    return found.answer in REGION_KINDS or found.input == "region"


def select_in_record(result: Mapping[str, Any], text: str, *, missing_ok: bool = False) -> dict[str, Any]:
    """A result as JSON has it (``Result.to_dict()``) with some of its regions alone, and their text.

    Args:
        result: one without regions stays as it is.
        text, missing_ok: see :func:`select_regions`.

    Raises:
        ValueError: see :func:`select_regions`.
    """
    if "regions" not in result or not text.strip():
        return dict(result)
    regions = tuple(map(Region.from_dict, result["regions"]))
    chosen = select_regions(regions, text, missing_ok=missing_ok)
    if chosen == regions:
        return dict(result)
    kind = find_instruction(result["instruction"]).answer
    if kind in REGION_KINDS:
        told = text_of_regions(chosen, kind, "")
    else:  # answers about regions
        told = "\n".join(region.label for region in chosen)
    return {**result, "text": told, "regions": [region.to_dict() for region in chosen]}


def _items(line: str, labels: frozenset[str]) -> Iterator[str]:
    """What stands between commas; of parts that make up a label with commas in it, that label in quotes."""
    parts = [part.strip() for part in _PARTS.findall(line) if part.strip()]
    longest = max((label.count(",") for label in labels), default=0) + 1  # parts of one label
    start = 0
    while start < len(parts):
        for end in range(min(len(parts), start + longest), start + 1, -1):
            if _plain(", ".join(parts[start:end])) in labels:
                yield f'"{", ".join(parts[start:end])}"'
                start = end
                break
        else:
            yield parts[start]
            start += 1


def _find(item: str, labels: Sequence[str]) -> set[int]:
    """The numbers of the regions that one item names."""
    everything = range(len(labels))
    spaced = item.split()
    if item.lower() == "all":
        return set(everything)
    if all(_INDEX.fullmatch(word) for word in spaced):  # also "0 2"
        numbers = [int(word) for word in spaced]
        inside = [number for number in numbers if -len(labels) <= number < len(labels)]
        return {everything[number] for number in inside} if len(inside) == len(numbers) else set()
    if between := _RANGE.fullmatch(item):
        return set(everything[int(between[1]) : int(between[2]) + 1])
    quoted = len(item) > 1 and item.startswith('"') and item.endswith('"')
    wanted = {_plain(item), _plain(item[1:-1])} if quoted else {_plain(item)}
    return {number for number, label in enumerate(labels) if label in wanted}


def _plain(label: str) -> str:
    """A label as it is compared: in lower case, with one space for any white space, and one behind commas."""
    return re.sub(r" ?, ?", ", ", " ".join(label.split())).casefold()


def _nothing_like(item: str, pictures: Sequence[Sequence[Region]]) -> str:
    every = [region.label for regions in pictures for region in regions]
    names = list(dict.fromkeys(label for label in every if label))
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    said = f"labelled {', '.join(names[:_MOST_NAMED])}{more}" if names else "without labels"
    hint = f' For that label write it in quotes: "{item}".' if item.lower() in map(str.lower, names) else ""
    most = max(map(len, pictures))
    numbers = "0" if most == 1 else f"0 to {most - 1}"
    many = f" in {len(pictures)} pictures" if len(pictures) > 1 else ""
    return f"no region is {item}; there are {len(every)}{many} (numbers {numbers}), {said}.{hint}"
