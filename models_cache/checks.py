"""Whether a checkpoint folder is whole, told from the folder alone: no network, no torch.

What the families of models read is what is checked here: ``config.json``, the picture settings, a tokenizer,
and the weights, safetensors before ``.bin`` and one file before shards.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zipfile
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import Problem

_SHARD = re.compile(r"[\w.-]+\.(safetensors|bin)")


@dataclass(frozen=True)
class Contents:
    """Which files make up what a folder holds."""

    what: str  # in words
    config: str  # without this file, a folder holds no such thing
    weights: tuple[str, ...]  # one of them is read; in the order of preference
    texts: re.Pattern[str]  # the names of the small files that it is read with
    usual_files: tuple[str, ...]  # for people

    def is_text(self, name: str) -> bool:
        """Whether ``name`` is one of the small files that it is read with."""
        return self.texts.fullmatch(name) is not None

    def choose_weights(self, names: Collection[str]) -> str | None:
        """Which of ``names`` the weights are read from: one file, or an index of shards; None without."""
        return next((name for name in self.weights if name in names), None)


CHECKPOINT = Contents(
    what="checkpoint",
    config="config.json",
    weights=(
        "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ),
    texts=re.compile(
        r"config\.json|generation_config\.json|preprocessor_config\.json|processor_config\.json"
        r"|tokenizer[\w.-]*\.json|vocab\.json|merges\.txt|added_tokens\.json|special_tokens_map\.json"
    ),
    usual_files=(
        "config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json",
        "tokenizer_config.json", "model.safetensors (or pytorch_model.bin)",
    ),
)  # fmt: skip

ADAPTER = Contents(
    what="LoRA adapter",
    config="adapter_config.json",
    weights=("adapter_model.safetensors", "adapter_model.bin"),
    texts=re.compile(r"adapter_config\.json"),
    usual_files=("adapter_config.json", "adapter_model.safetensors (or adapter_model.bin)"),
)


def shards_of(index: Path) -> list[str]:
    """The weight files that an index names.

    Raises:
        ValueError: it is not an index, or names files outside its folder.
    """
    raw = json.loads(index.read_text(encoding="utf-8-sig"))
    weight_map: Any = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError("it has no weight_map")
    shards = sorted(set(weight_map.values()), key=str)
    for shard in shards:
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise ValueError(f"it names {shard!r}, which is no weight file beside it")
    return shards


def checkpoint_files(folder: Path, contents: Contents = CHECKPOINT) -> list[str]:
    """The names of those files in ``folder`` that belong to the checkpoint, whether or not they are whole."""
    names = {path.name for path in folder.iterdir() if path.is_file()}
    files = {name for name in names if contents.is_text(name)}
    chosen = contents.choose_weights(names)
    if chosen is not None:
        files.add(chosen)
        if chosen.endswith(".index.json"):
            with suppress(OSError, ValueError):  # folder_problems reports it
                files.update(set(shards_of(folder / chosen)) & names)
    return sorted(files)


def folder_problems(folder: Path, contents: Contents = CHECKPOINT) -> list[Problem]:
    """What is missing, cut off or unfinished in a checkpoint folder. An empty list: it can be loaded.

    Files are not hashed: this finds what a stopped copy or download leaves behind, not a flipped bit.
    """
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        return [Problem(contents.config, "missing", f"the folder cannot be read ({error.strerror})")]
    problems = []
    if contents.config not in names:
        problems.append(Problem(contents.config, "missing", "missing"))
    if contents is CHECKPOINT:
        if not {"preprocessor_config.json", "processor_config.json"} & names:
            problems.append(Problem("preprocessor_config.json", "missing", "missing"))
        if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
            problems.append(Problem("tokenizer.json", "missing", _missing_tokenizer(names)))
    problems += _weight_problems(folder, names, contents)
    problems += _present(folder, (name for name in sorted(names) if contents.is_text(name)))
    return problems + _unfinished(folder)


def _missing_tokenizer(names: set[str]) -> str:
    if "tokenizer.model" not in names:
        return "missing"
    return (
        "missing, and tokenizer.model alone is not read; transformers writes it with"
        " AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    )


def _weight_problems(folder: Path, names: set[str], contents: Contents) -> list[Problem]:
    chosen = contents.choose_weights(names)
    if chosen is None:
        whole, other = (name for name in contents.weights if not name.endswith(".index.json"))
        return [Problem(whole, "missing", f"missing, and so is {other}")]
    if not chosen.endswith(".index.json"):
        return _present(folder, [chosen])
    if problem := file_problem(folder / chosen):
        return [problem]
    try:
        shards = shards_of(folder / chosen)
    except (OSError, ValueError) as error:
        return [Problem(chosen, "damaged", f"not an index of weight files: {error}")]
    missing = [
        Problem(name, "missing", f"missing, though {chosen} names it") for name in shards if name not in names
    ]
    return missing + _present(folder, (name for name in shards if name in names))


def _present(folder: Path, names: Iterable[str]) -> list[Problem]:
    return [problem for name in names if (problem := file_problem(folder / name))]


def _unfinished(folder: Path) -> list[Problem]:
    """What huggingface_hub leaves behind when a download into a plain folder is stopped."""
    remains = sorted((folder / ".cache" / "huggingface" / "download").glob("*.incomplete"))
    remains += sorted(folder.glob("*.incomplete"))
    return [
        Problem(
            str(path.relative_to(folder)), "unfinished",
            "a download into this folder was stopped; delete this file if you know that all others are there",
        )
        for path in remains
    ]  # fmt: skip


def file_problem(path: Path) -> Problem | None:
    """What is wrong with one file, from its size and its structure; None if nothing shows."""
    try:
        status = path.stat()
    except OSError as error:
        return Problem(path.name, "missing", f"cannot be read ({error.strerror})")
    detail = _structure(path, status.st_size, status.st_mtime_ns)
    return None if detail is None else Problem(path.name, "damaged", detail)


@lru_cache(maxsize=512)  # size and time are part of the key, so that a change is seen
def _structure(path: Path, size: int, mtime_ns: int) -> str | None:
    if size == 0:
        return "empty"
    try:
        with open(path, "rb") as file:
            start = file.read(64)
        if start.startswith(b"version https://git-lfs"):
            return "only a Git LFS pointer, not the file itself; run `git lfs pull` in its folder"
        if path.suffix == ".safetensors":
            return _safetensors_structure(path, size)
        if path.suffix == ".bin":
            return _bin_structure(path, start)
        if path.suffix == ".json":
            return _json_structure(path)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return None


def _safetensors_structure(path: Path, size: int) -> str | None:
    # https://github.com/huggingface/safetensors#format: 8 bytes header length, header, data without gaps
    header = safetensors_header(path)
    if header is None:
        return "cut off or not a safetensors file: its header cannot be read"
    length, tensors = header
    end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    expected = 8 + length + end
    if size != expected:
        return f"has {size:,} bytes where its header says {expected:,}"
    return None


def safetensors_header(path: Path) -> tuple[int, dict[str, Any]] | None:
    """The header's length in bytes, and dtype, shape and data_offsets by tensor; None if it is damaged."""
    with open(path, "rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= 100_000_000:
            return None
        raw = file.read(length)
    try:
        tensors = json.loads(raw)
        tensors.pop("__metadata__", None)
        for entry in tensors.values():
            begin, end = entry["data_offsets"]
            if not 0 <= begin <= end:
                return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return length, tensors


def _bin_structure(path: Path, start: bytes) -> str | None:
    if start.startswith(b"\x80"):
        return None  # torch's format before 1.6: a bare pickle, which has nothing to count by
    try:
        with zipfile.ZipFile(path):  # reads the directory, which is at the end
            pass
    except zipfile.BadZipFile as error:
        return f"cut off or not a PyTorch file ({error})"
    return None


def _json_structure(path: Path) -> str | None:
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        return f"not whole JSON ({error})"
    return None


def file_digest(path: Path, kind: str) -> str:
    """``sha256:HEX`` or ``git:HEX`` of a file, ``git`` being the name that Git gives to the contents.

    Args:
        kind: ``sha256`` or ``git``, the two that the Hub states (large files and all others).
    """
    if kind == "sha256":
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"
