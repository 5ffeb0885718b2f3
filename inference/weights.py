"""Reading weight files: one safetensors, several with an index, or a PyTorch ``.bin`` (as plain data).

Every reader lists what it holds before it reads, and hands out one tensor at a time, so that loading a
checkpoint never keeps a second copy of it in memory.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from .errors import CheckpointError
from .json_files import read_json

# In the order of preference. The second of each pair lists the shards.
SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
PYTORCH, PYTORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

# What was read of a mapped file counts as resident until the file is closed. Reading that many bytes at a
# time, and reopening in between, keeps loading close to the size of the weights themselves.
_PIECE = 16 * 2**20
_PIECE_OF_PICKLE = 8 * _PIECE  # opening a .bin takes longer, since all of its names are read


class Weights(Protocol):
    """Named tensors on disk."""

    shapes: dict[str, tuple[int, ...]]

    def pieces(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """Yield one tensor in consecutive pieces along its first axis, on the CPU, in the file's dtype.

        Drop a piece before taking the next one.
        """
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


class SafetensorsWeights:
    """One or more safetensors files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        self._handle: Any = None
        self._open_file: Path | None = None
        self._read = 0  # bytes since the file was opened
        for file in files:
            try:
                with safetensors.safe_open(file, framework="pt") as handle:
                    for name in handle.keys():  # noqa: SIM118 - the handle is no mapping
                        self.shapes[name] = tuple(handle.get_slice(name).get_shape())
                        self._files[name] = file
            except (safetensors.SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{file} is not a whole safetensors file ({error}). Fetch it again."
                ) from error

    def pieces(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        for rows, nbytes in _steps(self.shapes[name]):
            self._read += nbytes
            if self._files[name] != self._open_file or self._read > _PIECE:
                self.close()
                self._open_file = self._files[name]
                self._handle = safetensors.safe_open(self._open_file, framework="pt")
                self._read = nbytes
            yield rows, self._handle.get_slice(name)[rows]

    def close(self) -> None:
        self._handle = self._open_file = None


class PyTorchWeights:
    """One or more ``.bin`` files, read with ``weights_only=True``: tensors, no code.

    One file is open at a time, so read the tensors in the order of ``shapes``, which is that of the files.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        self._state: dict[str, Tensor] = {}
        self._mapped = False
        self._open_file: Path | None = None
        self._read = 0  # bytes since the file was opened
        for file in files:
            self._open(file)
            for name, tensor in self._state.items():
                self.shapes[name] = tuple(tensor.shape)
                self._files[name] = file

    def pieces(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        for rows, nbytes in _steps(self.shapes[name]):
            self._read += nbytes
            # To open a file that is mapped costs almost nothing; one that is not is read whole again.
            long_open = self._mapped and self._read > _PIECE_OF_PICKLE
            if self._files[name] != self._open_file or name not in self._state or long_open:
                self._open(self._files[name])
                self._read = nbytes
            yield rows, self._state[name][rows]
        if not self._mapped:
            self._state.pop(name, None)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the file that is open: of the only one, if there is one."""
        return self._state

    def _open(self, file: Path) -> None:
        self._state, self._open_file = {}, None  # before the next: both need not fit into memory
        self._state, self._mapped = _read_pickle(file)
        self._open_file = file
        for name, tensor in self._state.items():
            if not isinstance(name, str):
                raise CheckpointError(f"{file} holds something under {name!r}, which is no name.")
            if not isinstance(tensor, Tensor):
                kind = type(tensor).__name__
                raise CheckpointError(f"{file} holds a {kind} under {name!r}, not a tensor.")


def _steps(shape: tuple[int, ...]) -> Iterator[tuple[slice, int]]:
    """The rows of a tensor in slices of about :data:`_PIECE` bytes, each with how many those are at most."""
    row_bytes = math.prod(shape[1:]) * 4  # of the widest dtype
    step = max(1, _PIECE // max(1, row_bytes))
    for start in range(0, shape[0], step):
        rows = slice(start, min(start + step, shape[0]))
        yield rows, (rows.stop - start) * row_bytes


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of one file, safetensors or ``.bin``, on the CPU.

    Raises:
        CheckpointError: it is cut off or damaged, or holds something else.
    """
    if file.suffix != ".safetensors":
        return PyTorchWeights([file]).tensors()
    try:
        return load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a whole safetensors file ({error}). Fetch it again.") from error


def _read_pickle(file: Path) -> tuple[dict[str, Any], bool]:
    """What a ``.bin`` holds, and whether it is mapped from the file rather than read."""
    mapped = True
    try:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            state = torch.load(file, map_location="cpu", weights_only=True)  # written before torch 1.6
            mapped = False
    except Exception as error:  # pickle, zip and torch raise errors of every kind
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if (
            "weights_only" in reason or "Weights only" in reason
        ):  # torch goes on with how to run what is in there
            reason = "it holds other things than tensors, which may be programs and are not loaded"
        raise CheckpointError(
            f"{file} cannot be read as plain weights ({reason}). Fetch it again."
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} holds a {type(state).__name__}, not a table of tensors.")
    return state, mapped
