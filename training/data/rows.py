"""From rows of tables to examples: which column is the image, which are captions, and what they answer."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ...captioning.errors import ImageError
from ...captioning.images import image_extensions
from ...captioning.instructions import INSTRUCTIONS, AnswerKind, InstructionError, find_instruction
from ...captioning.regions import REGION_KINDS
from ..errors import DataError
from .cells import RowError, is_missing, kind_of, text_or_none, texts_of
from .examples import Example, OnProblem, Problem, clean_text, why_no_text
from .files import below, is_picture_name
from .options import DataSource
from .pictures import ImageRef

__all__ = ["IMAGE_COLUMNS", "EmbeddedImage", "Row", "RowReader"]

IMAGE_COLUMNS = ("image", "file_name", "image_path", "image_file", "path", "filename", "images")
_TEXT_COLUMNS = ("text", "caption", "target", "answer")  # with one instruction for the row or the source
_FIRST_ROWS = 100  # that may say nothing, before a table is refused
_FROM_MODEL = ("gpt", "assistant", "model")  # of conversations


@dataclass(frozen=True)
class EmbeddedImage:
    """An image that is in the table itself."""

    place: str  # the table, as :class:`ImageRef` has it
    column: str
    row: int
    path: str | None  # that the table gives besides the bytes


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    origin: str  # for people: data.jsonl:12
    values: Mapping[str, Any]  # an image that is in the table is an EmbeddedImage


@dataclass(frozen=True)
class _Answer:
    """A caption in a row, before it is cleaned."""

    instruction: str
    text: Any


class RowReader:
    """Reads the rows of one table.

    Args:
        base: the folder at which paths of images begin, if the source does not say.
        root: the folder below which images have their names; None: where paths begin.
    """

    def __init__(
        self, source: DataSource, base: Path, on_problem: OnProblem, *, root: Path | None = None
    ) -> None:
        self._source = source
        self._base = source.images_dir or base
        self._root = root or self._base
        self._on_problem = on_problem
        self._columns = {name: find_instruction(asked).name for name, asked in source.columns.items()}
        self._instruction = source.instruction and find_instruction(source.instruction).name
        self._by_path: dict[str, ImageRef] = {}  # the first of each name that is in the table itself
        self._digests: dict[str, bytes | None] = {}  # of those whose name comes again

    def examples(self, rows: Iterable[Row]) -> Iterator[Example]:
        """The examples of all rows.

        Raises:
            DataError: none of the first rows says which column is the image, or what captions answer.
        """
        unclear: DataError | None = None  # until there is an example
        begun = False
        for number, row in enumerate(rows):
            try:
                for example in self._of_row(row):
                    begun = True
                    yield example
            except RowError as error:
                self._on_problem(Problem(error.kind, row.origin, str(error)))
                if error.is_of_table and unclear is None:
                    unclear = DataError(f"{row.origin}: {error}")
            if unclear is not None and not begun and number >= _FIRST_ROWS:
                break
        if unclear is not None and not begun:
            raise unclear

    def _of_row(self, row: Row) -> Iterator[Example]:
        answers = list(self._answers(row.values))
        image = self._image(row)
        text_input = text_or_none(row.values.get(self._source.text_input_column))
        for answer in answers:
            asked = find_instruction(answer.instruction)
            if asked.needs_input and text_input is None:
                column = self._source.text_input_column
                told = f"{asked.name} takes a text or region; the column {column!r} has none"
                self._on_problem(Problem("no text input", row.origin, told))
                continue
            for text in texts_of(answer.text, asked.name):
                if (reason := why_no_text(text)) is not None:
                    self._on_problem(Problem("unreadable row", row.origin, f"the {asked.name}: {reason}"))
                    continue
                target = clean_text(text)
                if not target and self._source.empty_captions == "drop":
                    self._on_problem(Problem("empty caption", row.origin, f"the {asked.name} is empty"))
                    continue
                own_input = text_input if asked.needs_input else None
                yield Example(image, asked.name, own_input, target, row.origin, self._source.repeats)

    # ---- captions

    def _answers(self, values: Mapping[str, Any]) -> Iterator[_Answer]:
        """
        Raises:
            RowError: there is none.
        """
        find = self._way(values)
        found = [answer for answer in find(values) if not is_missing(answer.text)]
        if not found:
            raise RowError("empty caption", "it has no caption")
        if find in (_self_told, _by_instruction) and self._instruction is not None:
            found = [answer for answer in found if answer.instruction == self._instruction]
        yield from found

    def _way(self, values: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Iterator[_Answer]]:
        """How the captions of a row are found."""
        if self._columns:
            return self._named
        if isinstance(values.get("conversations"), list):
            return self._conversation
        if isinstance(values.get("instruction"), str) and _first(values, _TEXT_COLUMNS) is not None:
            return _self_told
        called = {instruction for name in values if (instruction := _called(name)) is not None}
        if self._instruction in called or (called and self._instruction is None):
            return _by_instruction
        if self._instruction is not None and _first(values, _TEXT_COLUMNS) is not None:
            return self._only
        known = ", ".join(map(repr, values)) or "none"
        raise RowError(
            "no caption",
            f"nothing says which of its columns ({known}) are captions, and what they answer. Name them in "
            "dataset_config: columns: {caption: MORE_DETAILED_CAPTION}",
            is_of_table=True,
        )

    def _named(self, values: Mapping[str, Any]) -> Iterator[_Answer]:
        missing = [name for name in self._columns if name not in values]
        if len(missing) == len(self._columns):
            known = ", ".join(map(repr, values)) or "none"
            raise RowError(
                "no caption", f"there is no column {missing[0]!r}; there are: {known}", is_of_table=True
            )
        for name, instruction in self._columns.items():
            if name in values:
                yield _Answer(instruction, _target(values, name, instruction))

    def _only(self, values: Mapping[str, Any]) -> Iterator[_Answer]:
        assert self._instruction is not None
        yield _Answer(self._instruction, values[_first(values, _TEXT_COLUMNS) or ""])

    def _conversation(self, values: Mapping[str, Any]) -> Iterator[_Answer]:
        """ShareGPT's form: what is asked stands in the turn before the model's, or is the source's."""
        asked = self._instruction
        for turn in values["conversations"]:
            if not isinstance(turn, Mapping):
                raise RowError("unreadable row", f"a turn of its conversation is {kind_of(turn)}")
            speaker, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
            if speaker in _FROM_MODEL:
                if asked is None:
                    raise RowError(
                        "no caption",
                        "nothing says what its conversations answer. Name it in dataset_config: instruction: "
                        "MORE_DETAILED_CAPTION",
                        is_of_table=True,
                    )
                yield _Answer(asked, text)
                return
            named = _named_in(text)
            asked = named or asked

    # ---- images

    def _image(self, row: Row) -> ImageRef:
        """
        Raises:
            RowError: there is none.
        """
        column = self._source.image_column or _first(row.values, IMAGE_COLUMNS)
        if column is None or column not in row.values:
            known = ", ".join(map(repr, row.values)) or "none"
            wanted = f"there is no column {column!r}" if column else "nothing says which column is the image"
            raise RowError("no image", f"{wanted} (image_column); there are: {known}", is_of_table=True)
        cell = row.values[column]
        if isinstance(cell, list) and len(cell) == 1:
            cell = cell[0]
        if isinstance(cell, EmbeddedImage):
            return self._embedded(cell, row.origin)
        if isinstance(cell, Mapping) and cell.get("bytes") is not None:
            raise RowError(
                "no image", f"the column {column!r} holds lists of images; make it one image a row"
            )
        path = cell.get("path") if isinstance(cell, Mapping) else cell
        if not isinstance(path, str) or not path:
            raise RowError("no image", f"the column {column!r} holds no path of one image")
        return self._file(path)

    def _embedded(self, image: EmbeddedImage, origin: str) -> ImageRef:
        """Called by the path that the table gives, if it gives it to no other picture: in some, all have one
        name."""
        if not image.path:
            return ImageRef(origin, image.place, image.column, image.row)
        name = unicodedata.normalize("NFC", image.path)
        found = ImageRef(name, image.place, image.column, image.row)
        first = self._by_path.setdefault(name, found)
        if first is found:
            return found
        digest = _digest(found)
        if digest is not None and digest == self._digests.setdefault(name, _digest(first)):
            return first
        return replace(found, name=f"{name}#{image.row}")

    def _file(self, path: str) -> ImageRef:
        """
        Raises:
            RowError: there is no such file.
        """
        if "://" in path:
            raise RowError("no image", f"{path} is on another computer; download it first")
        for candidate in (path, path.replace("\\", "/")):
            place = str(self._base / candidate)
            found = place if os.path.isfile(place) else _with_ending(place)  # noqa: PTH113
            if found is not None:
                return ImageRef(below(found, self._root), found)
        raise RowError(
            "no image", f"there is no file {place!r} (paths begin at images_dir, else at the table's folder)"
        )


def _self_told(values: Mapping[str, Any]) -> Iterator[_Answer]:
    """A row for each answer, as ``promptgen caption --format jsonl`` writes them."""
    try:
        instruction = find_instruction(values["instruction"]).name
    except InstructionError as error:
        raise RowError("unknown instruction", str(error)) from error
    yield _Answer(instruction, _target(values, _first(values, _TEXT_COLUMNS) or "", instruction))


def _by_instruction(values: Mapping[str, Any]) -> Iterator[_Answer]:
    """Columns called as instructions, as ``promptgen folder --format jsonl`` writes them."""
    for name in values:
        instruction = _called(name)
        if instruction is not None:
            yield _Answer(instruction, _target(values, name, instruction))


def _target(values: Mapping[str, Any], column: str, instruction: str) -> Any:
    """The text in a column; of regions, whose text is for people, the model's own way to write them."""
    if not has_places(find_instruction(instruction).answer):
        return values[column]
    results = [values, *(values["results"] if isinstance(values.get("results"), list) else [])]
    for result in results:
        if isinstance(result, Mapping) and result.get("instruction") == instruction and result.get("raw"):
            return result["raw"]
    return values[column]


def has_places(answer: AnswerKind) -> bool:
    """Whether an answer of this kind is made of location tokens."""
    return answer in REGION_KINDS


def _called(name: str) -> str | None:
    """The instruction that a column is called as, spelled as it is; ``caption`` may mean any of them."""
    bare = name.strip().removeprefix("<").removesuffix(">")
    return bare if bare in INSTRUCTIONS else None


def _named_in(text: Any) -> str | None:
    """The instruction that a question is, but for the place of the image in it."""
    if not isinstance(text, str):
        return None
    bare = text.replace("<image>", "").strip()
    try:
        return find_instruction(bare).name
    except InstructionError:
        return None


def _first(values: Mapping[str, Any], names: Iterable[str]) -> str | None:
    return next((name for name in names if values.get(name) is not None), None)


def _digest(image: ImageRef) -> bytes | None:
    """Of its file; None where there is none, which is told when images are looked at."""
    try:
        return blake2b(image.read(), digest_size=16).digest()
    except ImageError:
        return None


def _with_ending(place: str) -> str | None:
    """The image that a path without its extension means, as sd-scripts' tables have them."""
    if is_picture_name(place):
        return None
    for ending in sorted(image_extensions()):
        for case in (ending, ending.upper()):
            if os.path.isfile(place + case):  # noqa: PTH113
                return place + case
    return None
