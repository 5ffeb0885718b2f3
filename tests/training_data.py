"""Small training data for tests: drawn pictures, and what is found of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from promptgen.training.data import DataSource, Example, Problem, load_examples


def drawn(number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A picture like no other: ``number`` says where its shape is, and in which colour."""
    image = Image.new("RGB", size, "white")
    left, top = number * 7 % (size[0] - 8), number * 5 % (size[1] - 8)
    colour = (number * 53 % 256, number * 97 % 256, number * 31 % 256)
    ImageDraw.Draw(image).rectangle((left, top, left + 8, top + 8), fill=colour)
    return image


def save_drawn(path: Path, number: int) -> Path:
    """Write one, in the format of the extension, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn(number).save(path)
    return path


def drawn_bytes(number: int) -> bytes:
    """The PNG file of one."""
    stream = io.BytesIO()
    drawn(number).save(stream, "PNG")
    return stream.getvalue()


def write_text(path: Path, text: str) -> Path:
    """Write a text file, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(path: Path, **options: Any) -> tuple[tuple[Example, ...], list[Problem]]:
    """The examples of one source, and what was told of it."""
    problems: list[Problem] = []
    return load_examples([DataSource(path=path, **options)], problems.append), problems


def told(examples: Sequence[Example]) -> list[tuple[str, str, str]]:
    """Images' names, instructions and targets, sorted."""
    return sorted((example.image.name, example.instruction, example.target) for example in examples)


def kinds(problems: Sequence[Problem]) -> list[tuple[str, str]]:
    """Kinds of problems and names of files, sorted."""
    return sorted((problem.kind, Path(problem.place).name) for problem in problems)


def drawn_as(example: Example, number: int) -> bool:
    """Whether the image of an example is the drawing of that number, pixel by pixel."""
    return example.image.open().tobytes() == drawn(number).tobytes()
