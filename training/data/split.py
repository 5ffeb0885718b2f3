"""Which images are held out: decided by the image, by its name, and by the seed; and kept in a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from ..atomic import write_text
from ..errors import DataError
from .examples import Example
from .pictures import ImageRef

__all__ = ["Split", "read_split", "split_examples"]

_VERSION = 1


@dataclass(frozen=True)
class Split:
    """Training examples (each as often as its source says) and held-out ones (each once)."""

    train: tuple[Example, ...]
    evaluation: tuple[Example, ...]

    @property
    def train_images(self) -> list[str]:
        """The names of the images that are trained on, sorted."""
        return sorted({example.image.name for example in self.train})

    @property
    def evaluation_images(self) -> list[str]:
        """The names of the images that are held out, sorted."""
        return sorted({example.image.name for example in self.evaluation})

    def write(self, path: Path) -> None:
        """Write the names of the images of both sides as JSON, whole or not at all."""
        content = {"version": _VERSION, "evaluation": self.evaluation_images, "train": self.train_images}
        write_text(path, json.dumps(content, indent=1) + "\n")  # ASCII: names may be no UTF-8


def split_examples(
    examples: Sequence[Example],
    eval_split: float,
    seed: int,
    *,
    held_out: frozenset[str] | None = None,
    twins: Mapping[str, str] | None = None,
    identity: Callable[[ImageRef], object] | None = None,
) -> Split:
    """Hold out images, each with all its examples.

    Which ones depends on their names and the seed alone, and a new image changes little: the names with the
    lowest hashes are held out.

    Args:
        eval_split: below 1 a fraction of the images, at least one of them; else a count; 0 holds none out.
        held_out: names of images that are held out instead, as :func:`read_split` gives them.
        twins: for images that have another name of the same picture, the first of its names. They are on the
            same side.
        identity: equal for two that are the same picture. Pictures of one name, from several sources, are on
            the same side, too, and count as several.

    Raises:
        DataError: one side would be empty.
    """
    twins = twins or {}
    names = {example.image.name for example in examples}
    if held_out is None:
        pictures = {
            (twins.get(image.name, image.name), image if identity is None else identity(image))
            for image in {example.image for example in examples}
        }
        chosen = _chosen(Counter(name for name, _ in pictures), eval_split, seed)
    else:
        chosen = {twins.get(name, name) for name in held_out & names}
        if not chosen:
            raise DataError(
                "split_file: none of the images that it holds out is in the data. It may be of other data; "
                "leave it out for a new split"
            )
    evaluation = [one for one in examples if twins.get(one.image.name, one.image.name) in chosen]
    train = [one for one in examples if twins.get(one.image.name, one.image.name) not in chosen]
    if not train:
        raise DataError(
            f"eval_split: {eval_split:g} of {len(names)} images leaves none to train on; hold out fewer"
        )
    return Split(repeated(train), tuple(replace(one, repeats=1) for one in evaluation))


def read_split(path: Path) -> frozenset[str]:
    """The names of the images that an earlier run held out.

    Raises:
        DataError: there is no such file, or it is no split.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = content["evaluation"]
        if content["version"] != _VERSION or not all(isinstance(name, str) for name in names):
            raise ValueError("it is of another version")
    except OSError as error:
        raise DataError(f"split_file: {path}: it cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"split_file: {path}: it is no split.json of an earlier run: {error}") from error
    return frozenset(names)


def _chosen(pictures: Mapping[str, int], eval_split: float, seed: int) -> set[str]:
    """The names of the images that are held out, of those that so many pictures have each."""
    if eval_split == 0:
        return set()
    count = max(1, round(eval_split * sum(pictures.values()))) if eval_split < 1 else int(eval_split)
    chosen: set[str] = set()
    for name in sorted(pictures, key=lambda name: (_hash(seed, name), name)):
        if count <= 0:
            break
        chosen.add(name)
        count -= pictures[name]
    return chosen


def _hash(seed: int, name: str) -> bytes:
    """The same on every machine."""
    return blake2b(f"{seed}\n{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def repeated(examples: Sequence[Example]) -> tuple[Example, ...]:
    """Each as often as its source says, one after the other."""
    return tuple(once for one in examples for once in [replace(one, repeats=1)] * one.repeats)
