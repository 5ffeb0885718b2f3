"""How often what the demo model states of unseen scenes is true.

An answer is read back into statements (count, colour, shape, size, place, ground, word, box), the true
answer too, by the same patterns. A statement is right when the true answer makes the same one; one that is
missing, or that nothing asked for, is wrong. Shapes are compared in reading order, so one shape left out
makes those after it wrong as well. A box is right from an intersection over union of 0.5.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .answers import NUMBER_WORDS, PROMPTS, answer
from .scenes import COLOURS, EVALUATION_SEEDS, PLACES, SHAPES, SIZES, WORD_PLACES, draw_scene

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH_SIZE = 64
ATTRIBUTES = ("count", "colour", "shape", "size", "place", "ground", "word", "box")

Statements = dict[tuple[str, str], str]
"""(attribute, which) to what is said of it."""

_COLOUR = f"(?P<colour>{'|'.join(COLOURS)})"
_SHAPE = f"(?P<shape>{'|'.join(SHAPES)})"
_SIZE = f"(?P<size>{'|'.join(SIZES)})"
_PLACE = f"(?P<place>{'|'.join(sorted(PLACES, key=len, reverse=True))})"
_THING = re.compile(rf"\b{_COLOUR} {_SHAPE}\b")
_PLACED_THING = re.compile(rf"\b{_SIZE} {_COLOUR} {_SHAPE}(?: is| sits)? (?:at|in|near) the {_PLACE}\b")
_GROUND = re.compile(rf"\b{_COLOUR} background\b")
_WORD = re.compile(r'"(?P<word>[^"]*)"(?: (?:at|is written across) the (?P<place>\w+))?')
_BOX = re.compile(r"(?P<shape>[a-z]+)<loc_(\d+)><loc_(\d+)><loc_(\d+)><loc_(\d+)>")


def read_answer(instruction: str, text: str) -> Statements:
    """What an answer states, read by the formats of `answers`."""
    if instruction == "GENERATE_TAGS":
        return _read_tags(text)
    if instruction in ("CAPTION", "DETAILED_CAPTION", "MORE_DETAILED_CAPTION"):
        return _read_prose(text, placed=instruction != "CAPTION")
    if instruction == "ANALYZE":
        return _read_analysis(text)
    if instruction == "OCR":
        return {("word", ""): text.strip()}
    if instruction == "OD":
        return _read_objects(text)
    parts = text.split("\n\n")
    kinds = ("MORE_DETAILED_CAPTION", "GENERATE_TAGS", "ANALYZE")
    return {
        (attribute, f"{kind} {which}"): value
        for kind, part in zip(kinds, parts, strict=False)
        for (attribute, which), value in read_answer(kind, part).items()
    }


def _read_tags(text: str) -> Statements:
    tags = text.split(", ")
    said: Statements = {("word", ""): "yes" if "english text" in tags else "no"}
    things = 0
    for tag in tags:
        if count := re.fullmatch(r"(\d) shapes?", tag):
            said["count", ""] = count[1]
        elif ground := _GROUND.fullmatch(tag):
            said["ground", ""] = ground["colour"]
        elif thing := _THING.fullmatch(tag):
            said |= _of_thing(things, thing.groupdict())
            things += 1
    return said


def _read_prose(text: str, *, placed: bool) -> Statements:
    said: Statements = {}
    for number, thing in enumerate((_PLACED_THING if placed else _THING).finditer(text)):
        said |= _of_thing(number, thing.groupdict())
    if ground := _GROUND.search(text):
        said["ground", ""] = ground["colour"]
    if count := re.search(rf"\bshows ({'|'.join(NUMBER_WORDS)}) ", text):
        said["count", ""] = str(NUMBER_WORDS.index(count[1]))
    word = _WORD.search(text)
    said["word", ""] = word["word"] if word else "none"
    if word and word["place"] in WORD_PLACES:
        said["place", "of the word"] = word["place"]
    return said


def _read_analysis(text: str) -> Statements:
    said: Statements = {}
    for number, thing in enumerate(re.finditer(rf"\bbody: {_COLOUR} {_SHAPE}\b", text)):
        said |= _of_thing(number, thing.groupdict())
    for name, key in (("background: solid", "ground"), ("text:", "word"), ("distance_to_camera:", "size")):
        if value := re.search(rf"\b{name} (\w+)", text):
            said[key, "of the picture"] = value[1]
    if place := re.search(rf"\bimage_composition: {_PLACE}\b", text):
        said["place", "of the picture"] = place["place"]
    return said


def _read_objects(text: str) -> Statements:
    said: Statements = {}
    for number, thing in enumerate(_BOX.finditer(text)):
        said["shape", str(number)] = thing["shape"]
        said["box", str(number)] = " ".join(thing.groups()[1:])
    return said


def _of_thing(number: int, attributes: dict[str, str]) -> Statements:
    return {(attribute, str(number)): value for attribute, value in attributes.items()}


def overlap(one: str, other: str) -> float:
    """Intersection over union of two boxes, each "x0 y0 x1 y1"."""
    a, b = ([float(value) for value in box.split()] for box in (one, other))
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


@dataclass
class Tally:
    """Statements of one instruction, and answers that are the true one letter by letter."""

    stated: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    right: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    answers: int = 0
    exact: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, instruction: str, given: str, true: str, seed: int) -> None:
        """Compare one answer with the true one."""
        said, truth = read_answer(instruction, given), read_answer(instruction, true)
        for key in said.keys() | truth.keys():
            one, other = said.get(key), truth.get(key)
            self.stated[key[0]] += 1
            if one is None or other is None:
                continue
            self.right[key[0]] += overlap(one, other) >= 0.5 if key[0] == "box" else one == other
        self.answers += 1
        if given == true:
            self.exact += 1
        elif any(said.get(key) != value for key, value in truth.items() if key[0] != "box"):
            self.wrong.append(f"scene {seed}, {instruction}\n  true:  {true!r}\n  model: {given!r}")

    def share(self, attribute: str | None = None) -> float | None:
        """Share right of one attribute, or of all; None when nothing was stated."""
        keys = [attribute] if attribute else list(self.stated)
        stated = sum(self.stated[key] for key in keys)
        return sum(self.right[key] for key in keys) / stated if stated else None


Report = dict[str, Tally]


def evaluate(
    model: str = "demo",
    *,
    scenes: int = 500,
    offset: int = 0,
    instructions: Sequence[str] = tuple(PROMPTS),
    device: str = "cpu",
) -> Report:
    """Ask a model about unseen scenes, with the checkpoint's own generation settings.

    Args:
        model: catalogue name or checkpoint folder.
        offset: the first scene's place in EVALUATION_SEEDS.

    Returns:
        Tallies by instruction.
    """
    from ...captioning import Captioner

    seeds = EVALUATION_SEEDS[offset : offset + scenes]
    if not len(seeds):
        raise ValueError(f"no seeds from {offset} on: there are {len(EVALUATION_SEEDS)} for evaluation")
    drawn = [draw_scene(seed) for seed in seeds]
    captioner = Captioner(model, device=device, batch_size=BATCH_SIZE)
    report: Report = {}
    for instruction in instructions:  # one at a time: a batch then holds answers of about one length
        tally = report[instruction] = Tally()
        results = captioner.stream([picture for picture, _ in drawn], instruction)
        for (_, scene), result in zip(drawn, results, strict=True):
            tally.add(instruction, result.results[0].raw, answer(instruction, scene), scene.seed)
    return report


def table(report: Report, *, wrong: int = 0) -> str:
    """The report for people, in percent; `wrong` answers in full below it."""
    columns = [*ATTRIBUTES, "all", "exact"]
    lines = [f"{'':22}" + "".join(f"{column:>8}" for column in columns)]
    total = Tally()
    for instruction, tally in report.items():
        lines.append(_row(instruction, tally))
        for attribute in tally.stated:
            total.stated[attribute] += tally.stated[attribute]
            total.right[attribute] += tally.right[attribute]
        total.answers += tally.answers
        total.exact += tally.exact
        total.wrong += tally.wrong
    lines.append(_row("all", total))
    scenes = max(tally.answers for tally in report.values())
    lines.append(f"{scenes} unseen scenes; percent of stated attributes right; exact: whole answers equal.")
    lines += total.wrong[:wrong]
    return "\n".join(lines) + "\n"


def _row(name: str, tally: Tally) -> str:
    shares = [*(tally.share(attribute) for attribute in ATTRIBUTES), tally.share()]
    shares.append(tally.exact / tally.answers if tally.answers else None)
    return f"{name:22}" + "".join(f"{'-' if share is None else f'{100 * share:.1f}':>8}" for share in shares)
