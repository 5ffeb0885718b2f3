"""Reading weight files: one safetensors, several with an index, or a PyTorch ``.bin`` (never unpickled freely).

Every reader lists what it holds before it reads, and hands out one tensor at a time, so that loading a
checkpoint never keeps a second copy of it in memory.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import safetensors
import torch
from torch import Tensor

from .configuration import read_json
from .errors import CheckpointError

# In the order of preference. The second of each pair lists the shards.
SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
PYTORCH, PYTORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

# A safetensors file stays mapped while a handle is open, and what was read of it counts as resident.
# Reopening it every so many bytes keeps that share small.
_MAPPED_BYTES = 32 * 2**20


class Weights(Protocol):
    """Named tensors on disk."""

    shapes: dict[str, tuple[int, ...]]

    def tensors(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield each named tensor, on the CPU, in the file's dtype. Drop it before taking the next one."""
        ...


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint folder: safetensors before ``.bin``, one file before shards.

    Raises:
        CheckpointError: there are none, or the index names a shard that is not there.
    """
    for single, index in ((SAFETENSORS, SAFETENSORS_INDEX), (PYTORCH, PYTORCH_INDEX)):
        if (folder / single).exists():
            return [folder / single]
        if (folder / index).exists():
            names = read_json(folder / index).get("weight_map")
            if not isinstance(names, dict) or not names:
                raise CheckpointError(f"{folder / index} has no weight_map. Fetch the file again.")
            shards = [folder / name for name in sorted(set(names.values()))]
            missing = [shard.name for shard in shards if not shard.exists()]
            if missing:
                raise CheckpointError(
                    f"{folder} lacks {len(missing)} of {len(shards)} weight files: {', '.join(missing)}. "
                    "Fetch them into the same folder."
                )
            return shards
    raise CheckpointError(
        f"{folder} has no weights: neither {SAFETENSORS} nor {PYTORCH} nor an index of shards."
    )


def content_identity(folder: Path) -> str:
    """A short name for what a checkpoint folder holds now, from its path and its files' sizes and times."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for path in [*weight_files(folder), *sorted(folder.glob("*.json"))]:
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def open_weights(folder: Path) -> Weights:
    """A reader for the weights of ``folder``.

    Raises:
        CheckpointError: no weights, a missing shard, or a file that is cut off or damaged.
    """
    files = weight_files(folder)
    if files[0].suffix == ".safetensors":
        return SafetensorsWeights(files)
    return PyTorchWeights(files)


@dataclass(frozen=True)
class _Place:
    file: Path
    nbytes: int


class SafetensorsWeights:
    """One or more safetensors files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, _Place] = {}
        for file in files:
            try:
                with safetensors.safe_open(file, framework="pt") as handle:
                    names = list(handle.keys())
                    for name in names:
                        shape = tuple(handle.get_slice(name).get_shape())
                        self.shapes[name] = shape
                        self._places[name] = _Place(file, math.prod(shape) * 4)
            except (safetensors.SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{file} is not a whole safetensors file ({error}). Fetch it again."
                ) from error

    def tensors(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        for file, group in self._groups(names):
            with safetensors.safe_open(file, framework="pt") as handle:
                for name in group:
                    yield name, handle.get_tensor(name)

    def _groups(self, names: Sequence[str]) -> Iterator[tuple[Path, list[str]]]:
        group: list[str] = []
        nbytes, file = 0, None
        for name in sorted(names, key=lambda name: str(self._places[name].file)):
            place = self._places[name]
            if group and file is not None and (place.file != file or nbytes + place.nbytes > _MAPPED_BYTES):
                yield file, group
                group, nbytes = [], 0
            file = place.file
            group.append(name)
            nbytes += place.nbytes
        if group and file is not None:
            yield file, group


class PyTorchWeights:
    """One or more ``.bin`` files, read with ``weights_only=True``: tensors, no code."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._state: dict[str, Tensor] = {}
        for file in files:
            for name, tensor in self._read(file).items():
                if not isinstance(tensor, Tensor):
                    raise CheckpointError(
                        f"{file} holds a {type(tensor).__name__} under {name!r}, not a tensor."
                    )
                self._state[name] = tensor
                self.shapes[name] = tuple(tensor.shape)

    @staticmethod
    def _read(file: Path) -> dict[str, Tensor]:
        try:
            try:
                state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap" not in str(error):
                    raise
                state = torch.load(file, map_location="cpu", weights_only=True)  # written before torch 1.6
        except Exception as error:  # noqa: BLE001 - pickle, zip and torch errors of every kind
            raise CheckpointError(
                f"{file} cannot be read as plain weights ({error}). Fetch it again."
            ) from error
        if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
            state = state["state_dict"]
        if not isinstance(state, dict):
            raise CheckpointError(f"{file} holds a {type(state).__name__}, not a table of tensors.")
        return state

    def tensors(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            yield name, self._state.pop(name)
