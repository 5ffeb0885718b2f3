"""Captions in files of their own: in folders called as instructions, or beside the images."""

# Paths are strings: a Path for each of very many files would cost more than it gives.
# ruff: noqa: PTH100, PTH118, PTH119, PTH120, PTH122, PTH208

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ...captioning.instructions import InstructionError, find_instruction
from ..errors import DataError
from .examples import Example, OnProblem, Problem
from .files import FolderFiles, below, folders_of, read_caption, stem_of
from .options import DataSource
from .pictures import ImageRef

__all__ = ["is_task_folder", "sidecar_examples", "task_examples"]

_PUBLISHED_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")  # in the order in which the published trainer looks
_TEXT = ".txt"
_FULL_WIDTH = str.maketrans("\uff1c\uff1e", "<>")  # brackets as some write them where Windows forbids < and >
_USUAL_CAPTIONS = ("txt", "caption", "tags")  # of sidecars, where nothing says which
_MOST_NAMED = 3


# Folders called as instructions: root/<CAPTION>/name.txt for root/name.jpg


def is_task_folder(folder: FolderFiles, instruction: str | None = None) -> bool:
    """Whether a folder holds nothing but captions and is called as an instruction, bracketed or plain.

    Args:
        instruction: the only one that counts.
    """
    if not _is_of_texts(folder):
        return False
    name = _instruction_of(_task_name(folder))
    return name is not None and (instruction is None or name == find_instruction(instruction).name)


def task_examples(source: DataSource, on_problem: OnProblem) -> Iterator[Example]:
    """Of ``root/<TASK>/name.txt`` beside ``root/name.jpg``, at any depth below the source."""
    folders = {folder.path: folder for folder in folders_of(source.path, on_problem)}
    captioned: set[str] = set()
    for folder in folders.values():
        parent = folders.get(os.path.dirname(folder.path))
        if parent is None or not _is_of_texts(folder):
            continue
        if source.instruction is not None and not is_task_folder(folder, source.instruction):
            continue
        images = _images_by_stem(parent)
        instruction = _task(folder, images, on_problem)
        if instruction is None:
            continue
        for name in filter(_is_text, folder.others):
            path = os.path.join(folder.path, name)
            picture = images.get(stem_of(name))
            if picture is None:
                on_problem(Problem("no image", path, f"{parent.path} has no image called {stem_of(name)!r}"))
                continue
            place = os.path.join(parent.path, picture)
            captioned.add(place)
            target = read_caption(path, on_problem, keep_empty=source.empty_captions == "keep")
            if target is not None:
                yield _example(source, place, instruction, target, path)
    _tell_uncaptioned(folders.values(), captioned, on_problem)


def _task_name(folder: FolderFiles) -> str:
    return os.path.basename(folder.path).translate(_FULL_WIDTH)


def _is_of_texts(folder: FolderFiles) -> bool:
    return not folder.pictures and any(map(_is_text, folder.others))


def _is_text(name: str) -> bool:
    return name.lower().endswith(_TEXT)


def _instruction_of(name: str) -> str | None:
    try:
        return find_instruction(name).name
    except InstructionError:
        return None


def _task(folder: FolderFiles, images: Mapping[str, str], on_problem: OnProblem) -> str | None:
    """The instruction that a folder of texts is called as; None, and told, if there is none.

    Raises:
        DataError: it is in brackets, or ``{input}`` has no place to come from.
    """
    name = _task_name(folder)
    try:
        instruction = find_instruction(name)
    except InstructionError as error:
        if name.startswith("<"):
            raise DataError(f"{folder.path}: {error}") from error
        for text in filter(_is_text, folder.others):
            if stem_of(text) in images:
                reason = f"its folder {name!r} is called as no instruction"
                on_problem(Problem("unknown instruction", os.path.join(folder.path, text), reason))
        return None
    _refuse_inputs([instruction.name], folder.path)
    return instruction.name


def _images_by_stem(folder: FolderFiles) -> dict[str, str]:
    """The picture that a caption called ``stem`` is about; the published order where there are several."""

    def rank(name: str) -> int:
        ending = os.path.splitext(name)[1].lower()
        return _PUBLISHED_ENDINGS.index(ending) if ending in _PUBLISHED_ENDINGS else len(_PUBLISHED_ENDINGS)

    images: dict[str, str] = {}
    for name in sorted(folder.pictures, key=rank):
        images.setdefault(stem_of(name), name)
    for name in folder.pictures:  # captions called after the whole name: a.jpg.txt
        images.setdefault(name, name)
    return images


def _tell_uncaptioned(folders: Iterable[FolderFiles], captioned: set[str], on_problem: OnProblem) -> None:
    for folder in folders:
        for name in folder.pictures:
            place = os.path.join(folder.path, name)
            if place not in captioned:
                on_problem(Problem("image without caption", place, "it is not used", counts=False))


# Sidecars: name.txt, or name.jpg.txt, beside name.jpg or in a tree of the same form


def sidecar_examples(source: DataSource, on_problem: OnProblem) -> Iterator[Example]:
    """As ``promptgen folder`` writes them: an extension for each instruction.

    Raises:
        DataError: nothing says what the captions answer.
    """
    folders = [folder for folder in folders_of(source.path, on_problem) if not is_task_folder(folder)]
    asked = _asked(source, folders)
    _refuse_inputs(asked.values(), str(source.path))
    captioned: set[str] = set()
    for folder in folders:
        texts = _texts_for(folder, source, on_problem)
        taken: dict[str, str] = {}  # the picture that each text belongs to
        for picture in folder.pictures:
            place = os.path.join(folder.path, picture)
            for extension, instruction in asked.items():
                path = texts.get((picture, extension)) or texts.get((stem_of(picture), extension))
                if path is None:
                    continue
                captioned.add(place)
                if taken.setdefault(path, picture) != picture:
                    reason = (
                        f"its caption file is also that of {taken[path]}, which has it; rename one of them"
                    )
                    on_problem(Problem("shared caption", place, reason))
                    continue
                target = read_caption(path, on_problem, keep_empty=source.empty_captions == "keep")
                if target is not None:
                    yield _example(source, place, instruction, target, path)
        for (_, extension), path in texts.items():
            if extension in asked and path not in taken:
                on_problem(Problem("no image", path, "there is no image of its name"))
    _tell_uncaptioned(folders, captioned, on_problem)


def _texts_for(folder: FolderFiles, source: DataSource, on_problem: OnProblem) -> dict[tuple[str, str], str]:
    """The paths of the text files that belong to a folder's pictures, by what they are called after, and
    extension in lower case."""
    where, names = folder.path, folder.others
    if source.captions_dir is not None:
        inside = os.path.relpath(folder.path, os.path.abspath(source.path))
        where = os.path.normpath(os.path.join(source.captions_dir, inside))
        try:
            names = sorted(os.listdir(where))
        except FileNotFoundError:
            names = []
        except OSError as error:
            on_problem(Problem("unreadable folder", where, f"it cannot be read: {error.strerror or error}"))
            names = []
    return {
        (name[: -len(extension) - 1], extension.lower()): os.path.join(where, name)
        for name in names
        for extension in _endings_of(name)
    }


def _endings_of(name: str) -> Iterator[str]:
    """Extensions that a name may be read to have: ``tags.txt`` and ``txt`` of ``a.tags.txt``."""
    parts = name.split(".")
    for number in range(1, len(parts)):
        if parts[0]:
            yield ".".join(parts[number:])


def _asked(source: DataSource, folders: Iterable[FolderFiles]) -> dict[str, str]:
    """From each extension in lower case, without its dot, to what its captions answer.

    Raises:
        DataError: nothing says it.
    """
    if source.extensions:
        return {
            extension.removeprefix(".").lower(): find_instruction(instruction).name
            for extension, instruction in source.extensions.items()
        }
    found = _found_extensions(folders if source.captions_dir is None else _mirror(source))
    if source.instruction is not None:
        instruction = find_instruction(source.instruction).name
        usual = [one for one in _USUAL_CAPTIONS if one in found]
        if len(usual) > 1:
            told = " and ".join(f"{found[one]} .{one}" for one in usual)
            raise DataError(
                f"{source.path}: there are {told} files; which of them answer {instruction}? Say it in "
                f"dataset_config: {{path: {source.path}, extensions: {{{usual[-1]}: {instruction}}}}}"
            )
        return {next(iter(usual), "txt"): instruction}
    told = ", ".join(f"{found[one]} .{one}" for one in list(found)[:_MOST_NAMED]) or "none"
    raise DataError(
        f"{source.path}: nothing says what its caption files ({told}) answer. Name it in dataset_config: "
        f"{{path: {source.path}, instruction: MORE_DETAILED_CAPTION}}, or for several extensions "
        f"{{path: {source.path}, extensions: {{txt: MORE_DETAILED_CAPTION, tags: GENERATE_TAGS}}}}"
    )


def _mirror(source: DataSource) -> Iterator[FolderFiles]:
    assert source.captions_dir is not None
    return folders_of(source.captions_dir, lambda _: None)


def _found_extensions(folders: Iterable[FolderFiles]) -> dict[str, int]:
    """How many files each extension has, the commonest first; beside images, those of their names."""
    found: Counter[str] = Counter()
    for folder in folders:
        stems = {stem for picture in folder.pictures for stem in (stem_of(f"{picture}."), stem_of(picture))}
        for name in folder.others:
            ending = os.path.splitext(name)[1].lower().removeprefix(".")
            if ending and (not stems or stem_of(name) in stems):
                found[ending] += 1
    return dict(found.most_common())


def _refuse_inputs(instructions: Iterable[str], place: str) -> None:
    """
    Raises:
        DataError: an instruction takes a text or region, for which caption files have no place.
    """
    for name in instructions:
        if find_instruction(name).needs_input:
            raise DataError(
                f"{place}: {name} takes a text or region besides the image, for which caption files have no "
                "place. Use a table (.jsonl, .csv, .parquet) with a column text_input."
            )


def _example(source: DataSource, place: str, instruction: str, target: str, origin: str) -> Example:
    image = ImageRef(below(place, Path(source.path)), place)
    return Example(image, instruction, None, target, origin, source.repeats)
