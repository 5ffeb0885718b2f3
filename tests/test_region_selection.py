"""Choosing regions by label or number."""

from __future__ import annotations

import time

import pytest
from promptgen.captioning.region_selection import require_somewhere, select_regions
from promptgen.captioning.regions import Region

LABELS = ("car", "traffic light", "Car", "red, small car", "2024", "all", 'a "big" tree')
REGIONS = tuple(Region(label, (float(i), 0.0, i + 1.0, 1.0)) for i, label in enumerate(LABELS))


def numbers(text: str, **options: bool) -> list[int]:
    return [REGIONS.index(region) for region in select_regions(REGIONS, text, **options)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", range(7)),
        (" \n", range(7)),
        ("all", range(7)),
        ("ALL", range(7)),
        ("car", [0, 2]),
        (" CAR ,traffic  Light", [0, 1, 2]),
        ("traffic light\ncar\n", [0, 1, 2]),
        ("light", "none"),  # a label is whole
        ("red, small car", [3]),
        ("traffic light, red,small car, 4", [1, 3, 4]),
        ('"red, small car", 0', [0, 3]),
        ("0,2", [0, 2]),
        ("2, 0, 0", [0, 2]),
        ("0 2", [0, 2]),
        ("-1", [6]),
        ("-1, -7", [0, 6]),
        ("1-3", [1, 2, 3]),
        ("5 - 90", [5, 6]),
        ("7", "none"),
        ("-8", "none"),
        ("9-10", "none"),
        ("2024", "none"),  # a number, which is too large
        ('"2024"', [4]),
        ('"all"', [5]),
        ('a "BIG" tree', [6]),
        ("car, 1", [0, 1, 2]),
    ],
)
def test_regions_are_chosen_by_label_or_number(text: str, expected: object) -> None:
    if expected == "none":
        with pytest.raises(ValueError, match=r"no region is .*there are 7 \(numbers 0 to 6\), labelled car"):
            numbers(text)
    else:
        assert numbers(text) == list(expected)  # type: ignore[call-overload]


def test_a_label_that_looks_like_a_number_is_explained() -> None:
    with pytest.raises(ValueError, match='in quotes: "2024"'):
        numbers("2024")


def test_what_is_missing_may_be_allowed() -> None:
    assert numbers("bicycle, car, 99", missing_ok=True) == [0, 2]
    assert numbers("bicycle", missing_ok=True) == []


def test_of_no_regions_nothing_is_missing() -> None:
    assert select_regions((), "car, 0") == ()
    assert select_regions((), "all") == ()


def test_among_many_pictures_one_that_has_it_is_enough() -> None:
    pictures = (REGIONS[:1], (), REGIONS[1:4])
    for text in ("", "all", "car, traffic light, red, small car", "2", "-3, 0-9"):
        require_somewhere(pictures, text)
    require_somewhere(((), ()), "bicycle")
    for text in ("bicycle", "3", "-4", "car, bicycle", "0, 3"):  # 3: there are four, but not in one picture
        with pytest.raises(
            ValueError, match=r"there are 4 in 3 pictures \(numbers 0 to 2\), labelled car, tr"
        ):
            require_somewhere(pictures, text)


def test_long_lists_are_looked_up_quickly() -> None:
    before = time.process_time()
    names = ", ".join(f"label {number}" for number in range(1000))
    assert numbers(names + ", red, small car", missing_ok=True) == numbers("red, small car")
    assert time.process_time() - before < 2  # a minute where each run of items is tried as one label
