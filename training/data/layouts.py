"""Which layout a source has, and the examples of all sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import DataError
from .arrow_tables import is_saved_dataset, splits_of
from .examples import Example, OnProblem, Problem
from .files import folders_of
from .folders import is_task_folder, sidecar_examples, task_examples
from .options import DataOptions, DataSource, Layout
from .tables import (
    TABLES,
    dataset_examples,
    has_metadata,
    imagefolder_examples,
    parquet_files,
    table_examples,
)

__all__ = ["check_sources", "layout_of", "load_examples"]

_FIRST_FEW = 3
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")

_READERS: dict[Layout, Callable[[DataSource, OnProblem], Iterator[Example]]] = {
    Layout.TASKS: task_examples,
    Layout.SIDECAR: sidecar_examples,
    Layout.TABLE: table_examples,
    Layout.IMAGEFOLDER: imagefolder_examples,
    Layout.DATASETS: dataset_examples,
}


def check_sources(options: DataOptions) -> None:
    """See that everything that options name is there, before anything long begins.

    Raises:
        DataError: something is not; all of it is named.
    """
    places = [
        place
        for source in (*options.sources, *options.eval_sources)
        for place in (source.path, source.captions_dir, source.images_dir)
    ]
    missing = [place for place in (*places, options.split_file) if place is not None and not place.exists()]
    if missing:
        told = "".join(f"\n  {place}" for place in dict.fromkeys(missing))
        raise DataError(f"there is no such file or folder (paths begin at {Path.cwd()}):{told}")


def load_examples(sources: Sequence[DataSource], on_problem: OnProblem) -> tuple[Example, ...]:
    """All examples of the sources, in an order that only depends on what is in them.

    No image is opened.

    Args:
        on_problem: told of what is left out, one at a time.

    Raises:
        DataError: a source is not there, cannot be read, has nothing in it, or its layout is not known.
    """
    examples: list[Example] = []
    for source in sources:
        before = len(examples)
        layout = layout_of(source)
        wrong = _First(on_problem)
        examples.extend(_READERS[layout](source, wrong))
        if len(examples) == before:
            raise DataError(_nothing_in(source, layout) + wrong.told())
    return tuple(examples)


def layout_of(source: DataSource) -> Layout:
    """The layout that a source says it has, or has by its looks.

    Raises:
        DataError: it is not there, or looks like none.
    """
    path = source.path
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder (paths begin at {Path.cwd()})")
    if source.layout is not Layout.AUTO:
        return source.layout
    if not path.is_dir():
        if path.name.lower().endswith(_ARCHIVES):
            raise DataError(f"{path}: unpack it, and name the folder")
        if path.suffix.lower() in TABLES:
            return Layout.TABLE
        raise DataError(f"{path}: training data is a folder, or a table: {', '.join(TABLES)}")
    return _looks_of(source)


def _looks_of(source: DataSource) -> Layout:
    path = source.path
    if is_saved_dataset(path) or splits_of(path) is not None:
        return Layout.DATASETS
    if has_metadata(path):
        return Layout.IMAGEFOLDER
    has_pictures, texts = False, 0
    for folder in folders_of(path, lambda _: None):
        if is_task_folder(folder, source.instruction) and not source.extensions:
            return Layout.TASKS
        has_pictures = has_pictures or bool(folder.pictures)
        texts += sum(name.lower().endswith(".txt") for name in folder.others)
    if has_pictures:
        return Layout.SIDECAR
    if parquet_files(source):
        return Layout.TABLE
    raise DataError(
        f"{path}: there are no images in it, no Parquet files, no metadata.jsonl of images, and no data set "
        f"was saved to it{_archives_in(path) or _captions_in(path, texts)}"
    )


def _archives_in(folder: Path) -> str:
    """Says what to do with a folder of archives."""
    names = sorted(one.name for one in folder.iterdir() if one.name.lower().endswith(_ARCHIVES))
    return f"; unpack {names[0]} first" if names else ""


def _captions_in(folder: Path, texts: int) -> str:
    """Says what to do with a folder of captions whose images are elsewhere."""
    if not texts:
        return ""
    return (
        f". Are its {texts} .txt files captions of images elsewhere? Then write {{path: FOLDER_OF_IMAGES, "
        f"captions_dir: {folder}, instruction: MORE_DETAILED_CAPTION}}"
    )


class _First:
    """Hands problems on, and remembers the first few by which an example was lost."""

    def __init__(self, on_problem: OnProblem) -> None:
        self._on_problem = on_problem
        self._first: list[Problem] = []
        self._count = 0

    def __call__(self, problem: Problem) -> None:
        self._on_problem(problem)
        if problem.counts:
            self._count += 1
            if len(self._first) < _FIRST_FEW:
                self._first.append(problem)

    def told(self) -> str:
        """Lines, or nothing."""
        if not self._first:
            return ""
        lines = [f"\n  {problem.place}: {problem.reason}" for problem in self._first]
        rest = self._count - len(self._first)
        return f"; what was found cannot be used:{''.join(lines)}" + (
            f"\n  … and {rest} more" if rest else ""
        )


def _nothing_in(source: DataSource, layout: Layout) -> str:
    looked_for = {
        Layout.TASKS: "folders called as instructions, such as CAPTION, with text files called as images",
        Layout.SIDECAR: "images with caption files beside them",
        Layout.TABLE: "rows with an image and a caption",
        Layout.IMAGEFOLDER: "rows with an image and a caption in metadata files",
        Layout.DATASETS: "rows with an image and a caption",
    }
    return (
        f"{source.path}: there is no example in it; looked for {looked_for[layout]} (layout: {layout.value})"
    )
