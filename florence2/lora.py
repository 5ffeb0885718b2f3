"""LoRA adapters in the form in which the ``peft`` library saves them: reading them, and what they change.

An adapter is a folder with ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``). Its
tensors are called after the modules of the model that it was trained on, which may have been of either
published format; they are brought to our network's names here. Nothing of ``peft`` is needed.

Sources: LoRA (Hu et al. 2021), rank-stabilised scaling (Kalajdzievski 2023), DoRA (Liu et al. 2024); names
and settings as in ``peft`` 0.5 to 0.21.
"""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..inference.errors import AdapterError, CheckpointError
from ..inference.json_files import read_json
from ..inference.weights import read_tensors
from .configuration import Florence2Config
from .loading import TIED, is_transposed, translate_some

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

_LORA = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.(?P<rest>[^.]+(?:\.[^.]+)?))?"
)
_EMBEDDED = {"lora_embedding_A": "lora_A", "lora_embedding_B": "lora_B"}

# Settings with which an adapter is more, or other, than a change to weights that is written in its file.
_NOT_KNOWN = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "monteclora_config",
    "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
_CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga", "mica")  # beginnings of init_lora_weights
_MOST_LISTED = 6

# Patterns in a file from anywhere: an innocent one takes microseconds to be matched, one that was made for it
# takes ages, and Python's matching cannot be stopped.
_LONGEST_NAME = 200  # characters of what patterns are matched with
_MOST_CHOICES = 4  # repetitions and groups in a pattern
_MOST_ALTERNATIVES = 24
_PATTERN_SECONDS = 3.0  # of all matching
_PLAIN_SIGN = re.compile(r"\\.|\[\^?\]?[^\]]*\]", re.DOTALL)  # an escaped one, or one of a set


class Change(Protocol):
    """What an adapter does to one tensor of the network."""

    def problem(self, shape: tuple[int, ...]) -> str | None:
        """Why it cannot be done to a tensor of that shape; None if it can."""
        ...

    def is_none(self, original: Tensor) -> bool:
        """Whether ``original``, as the model holds it, would stay as it is. False may also mean that nobody
        has looked."""
        ...

    def of(self, original: Tensor) -> Tensor:
        """What is to be added to ``original`` (float32, left as it is) at a strength of 1."""
        ...


@dataclass
class LowRank:
    """``scale * up @ down``; with a ``magnitude`` (DoRA) the sum is brought to that length, row by row.

    Args:
        down: ``[R, I]``, of a convolution ``[R, I, H, W]``; of an embedding ``[R, V]``.
        up: ``[O, R]``, of a convolution ``[O, R, 1, 1]``; of an embedding ``[D, R]``.
        magnitude: ``[O]``, in whatever shape that is.
    """

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None
    transposed: bool = False  # an embedding, or a matrix that our network keeps the other way round

    def problem(self, shape: tuple[int, ...]) -> str | None:
        down, up = tuple(self.down.shape), tuple(self.up.shape)
        if (
            len(shape) == len(down) == 4
            and (up[0], *down[2:]) == (shape[0], *shape[2:])
            and down[1] > shape[1]
        ):
            return "a convolution in groups, into which LoRA cannot be merged"
        if len(down) < 2 or len(down) != len(up) or down[0] != up[1] or any(size != 1 for size in up[2:]):
            return f"lora_A {list(down)} and lora_B {list(up)} do not go together"
        made_for = (up[0], *down[1:])
        wanted = shape[::-1] if self.transposed else shape
        if made_for != wanted:
            return f"made for {list(made_for)}, the model has {list(wanted)}"
        if self.magnitude is not None and self.magnitude.numel() != up[0]:
            return f"lora_magnitude_vector has {self.magnitude.numel()} numbers for {up[0]} rows"
        return None

    def is_none(self, original: Tensor) -> bool:
        return False

    def of(self, original: Tensor) -> Tensor:
        base = original.T if self.transposed else original
        up, down = (part.to(original.device, torch.float32) for part in (self.up, self.down))
        change = (up.flatten(1) @ down.flatten(1)).mul_(self.scale).view(base.shape)
        if self.magnitude is not None:
            whole = base + change
            length = whole.flatten(1).norm(dim=1)
            factor = self.magnitude.to(whole).flatten() / length
            change = whole * factor.view(-1, *[1] * (whole.dim() - 1)) - base
        return change.T if self.transposed else change


@dataclass
class Whole:
    """Another tensor in the place of the original: a trained bias, or a module that was saved as a whole."""

    tensor: Tensor

    def problem(self, shape: tuple[int, ...]) -> str | None:
        given = tuple(self.tensor.shape)
        return None if given == shape else f"is {list(given)}, the model has {list(shape)}"

    def is_none(self, original: Tensor) -> bool:
        return torch.equal(self.tensor.to(original), original)

    def of(self, original: Tensor) -> Tensor:
        return self.tensor.to(original.device, torch.float32) - original


@dataclass
class Added:
    """A bias of the adapter's own, on top of the layer's."""

    tensor: Tensor
    scale: float

    def problem(self, shape: tuple[int, ...]) -> str | None:
        return Whole(self.tensor).problem(shape)

    def is_none(self, original: Tensor) -> bool:
        return False

    def of(self, original: Tensor) -> Tensor:
        return self.tensor.to(original.device, torch.float32) * self.scale


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter that was read: what it does, by our network's names of parameters."""

    folder: Path
    identity: str  # changes when its files change
    changes: dict[str, list[Change]]
    base: str  # the model it was trained on, as far as it tells; or nothing
    names: dict[str, str] = field(default_factory=dict)  # our names to those in its file


def read_adapter(folder: Path, config: Florence2Config) -> LoraAdapter:
    """The adapter in ``folder``, for a checkpoint of that configuration.

    Raises:
        AdapterError: it is none, is damaged, is of a kind that is not known here, or was made for another
            model; the message names some of what does not fit.
    """
    settings = read_settings(folder)
    file = weight_file(folder)
    try:
        tensors = read_tensors(file)
    except CheckpointError as error:
        raise AdapterError(str(error)) from error
    _check_tensors(file, tensors)
    changes, names = _changes(folder, settings, tensors, config)
    return LoraAdapter(folder, _identity(folder), changes, _base_of(settings), names)


def read_settings(folder: Path) -> dict[str, Any]:
    """``adapter_config.json``, checked.

    Raises:
        AdapterError: it is not there, cannot be read, or asks for what is not known here.
    """
    path = folder / CONFIG
    if not path.exists():
        raise AdapterError(
            f"{folder} has no {CONFIG}: it is no LoRA adapter in the form that peft saves. Adapters for "
            "other kinds of models, and those of other trainers, cannot be used."
        )
    try:
        settings = read_json(path)
    except CheckpointError as error:
        raise AdapterError(str(error)) from error
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA":
        raise AdapterError(
            f"{path}: peft_type is {kind!r}; only LORA (and DoRA, which is one) is known here."
        )
    unknown = [name for name in _NOT_KNOWN if settings.get(name)]
    if unknown:
        raise AdapterError(f"{path} asks for {', '.join(unknown)}, which is not known here.")
    start = str(settings.get("init_lora_weights", "")).lower()
    if start.startswith(_CHANGES_BASE):
        raise AdapterError(
            f"{path}: init_lora_weights is {start!r}. Such an adapter belongs to a base whose weights were "
            "changed for it. Save it with peft's path_initial_model_for_weight_conversion, which makes an "
            "ordinary LoRA of it."
        )
    return settings


def weight_file(folder: Path) -> Path:
    """The file with an adapter's tensors.

    Raises:
        AdapterError: there is none.
    """
    for name in WEIGHTS:
        if (folder / name).exists():
            return folder / name
    raise AdapterError(f"{folder} has no weights: neither {WEIGHTS[0]} nor {WEIGHTS[1]}. Fetch them again.")


def check_adapter(adapter: LoraAdapter, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """See that the adapter fits a network whose parameters have these ``shapes``.

    Raises:
        AdapterError: it does not; the message names some of what does not fit.
    """
    lines = []
    for name, changes in adapter.changes.items():
        called = adapter.names.get(name, name)
        if name not in shapes:
            lines.append(f"{called}: the model has nothing of that name")
            continue
        problems = (change.problem(shapes[name]) for change in changes)
        lines += [f"{called}: {problem}" for problem in problems if problem is not None]
    if not lines:
        return
    trained_on = f" It was trained on {adapter.base}; use it with that." if adapter.base else ""
    more = len(lines) - _MOST_LISTED
    listed = "\n  ".join([*lines[:_MOST_LISTED], *([f"and {more} more"] if more > 0 else [])])
    raise AdapterError(
        f"The adapter in {adapter.folder} does not fit this model; of its {len(adapter.changes)} tensors, "
        f"{len(lines)} do not.{trained_on} It may be for another size of Florence-2, or for another kind of "
        f"model.\n  {listed}"
    )


def _check_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """See that these are matrices of numbers, as anything may be in a ``.bin``.

    Raises:
        AdapterError: they are something else.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.device.type != "cpu":
            kind = str(tensor.dtype).removeprefix("torch.")
            raise AdapterError(
                f"{file}: {name} is a tensor of another kind than adapters have ({kind}, "
                f"{str(tensor.layout).removeprefix('torch.')}, {tensor.device}). Save it anew with peft."
            )
        if tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise AdapterError(f"{file}: {name} is larger than what the file holds of it. Fetch it again.")
        if not torch.isfinite(tensor.float()).all():
            raise AdapterError(
                f"{file}: {name} holds infinite values or some that are no numbers. Its training failed, or "
                "the file is damaged."
            )


def apply_changes(original: Tensor, changes: Iterable[tuple[Change, float]]) -> Tensor:
    """The sum of ``original`` and each change times its strength, in float32; infinite beyond its range."""
    original = original.float()
    total = original.clone()
    for change, strength in changes:
        if abs(strength) > torch.finfo(torch.float32).max:  # torch raises an error on these, not on infinity
            strength = math.copysign(math.inf, strength)
        total.add_(change.of(original), alpha=strength)
    return total


def _changes(
    folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], config: Florence2Config
) -> tuple[dict[str, list[Change]], dict[str, str]]:
    """All changes by our names, and our names to the file's."""
    pairs: dict[str, dict[str, Tensor]] = defaultdict(dict)  # module -> its parts
    wholes: list[tuple[str, Tensor, bool]] = []  # name, tensor, whether it is the layer's below the adapter
    embeddings = set()
    for key, tensor in tensors.items():
        name = key.removeprefix("base_model.model.")
        match = _LORA.fullmatch(name)
        if match is None:
            wholes.append((_plain(name), tensor, ".base_layer." in name))
            continue
        part = _EMBEDDED.get(match["part"], match["part"])
        if part != match["part"]:
            embeddings.add(match["module"])
        is_bias = (match["rest"] or "").rpartition(".")[2] == "bias"
        pairs[match["module"]][f"{part}.bias" if is_bias else part] = tensor

    weights = [f"{module}.weight" for module in pairs]
    biases = [f"{module}.bias" for module in pairs]
    ours = translate_some([*weights, *biases, *(name for name, *_ in wholes)], config)
    changes: dict[str, list[Change]] = defaultdict(list)
    needed = ["lora_A", "lora_B", *(["lora_magnitude_vector"] if settings.get("use_dora") else [])]
    scales = _Scales(folder, settings)
    for module, parts in pairs.items():
        missing = [part for part in needed if part not in parts]
        if missing:
            raise AdapterError(f"{folder}: {module} lacks {' and '.join(missing)}. Fetch the adapter again.")
        if parts["lora_A"].dim() < 2 or not parts["lora_A"].shape[0]:
            shape = list(parts["lora_A"].shape)
            raise AdapterError(
                f"{folder}: lora_A of {module} is {shape}, no matrix. Fetch the adapter again."
            )
        scale = scales.of(module, parts["lora_A"].shape[0])
        weight = f"{module}.weight"
        changes[ours[weight]].append(
            LowRank(
                parts["lora_A"], parts["lora_B"], scale, parts.get("lora_magnitude_vector"),
                transposed=module in embeddings or is_transposed(weight),
            )
        )  # fmt: skip
        if "lora_B.bias" in parts:
            changes[ours[f"{module}.bias"]].append(Added(parts["lora_B.bias"], scale))
    for name, tensor, is_below in wholes:
        tensor = tensor.T if is_transposed(name) and tensor.dim() == 2 else tensor
        # What lies below an adapter is still the one tied matrix; a module that was saved is a copy.
        tied = TIED if is_below and ours[name] in TIED else (ours[name],)
        whole = Whole(tensor)  # one for all, so that they stay one matrix
        for place in tied:
            changes[place].insert(0, whole)
    if not changes:
        raise AdapterError(f"{folder}: the adapter holds no tensors. Fetch it again.")
    return dict(changes), {ours[name]: name for name in ours}


def _plain(name: str) -> str:
    """The name of a parameter as it was before the adapter was put around its module."""
    name = name.replace(".base_layer.", ".")
    return re.sub(r"\.modules_to_save(\.default)?\.", ".", name)


class _Scales:
    """The factors of an adapter's changes, from its settings."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._told = folder / CONFIG
        self._by_root = bool(settings.get("use_rslora"))
        self._usual = self._number("lora_alpha", settings.get("lora_alpha", 8))
        patterns = settings.get("alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise AdapterError(f"{self._told}: alpha_pattern is no table of patterns and numbers.")
        self._patterns = [
            (self._pattern(pattern), self._number(f"alpha_pattern of {pattern!r}", value))
            for pattern, value in patterns.items()
        ]
        self._seconds = 0.0

    def of(self, module: str, rank: int) -> float:
        """
        Raises:
            AdapterError: to find it takes too long.
        """
        alpha = self._usual
        started = time.monotonic()
        if self._patterns and len(module) > _LONGEST_NAME:
            raise AdapterError(f"{self._told.parent}: {module[:60]}... is no name of a module.")
        for pattern, value in self._patterns:
            if pattern.match(module):
                alpha = value
                break
        self._seconds += time.monotonic() - started
        if self._seconds > _PATTERN_SECONDS:
            raise AdapterError(f"{self._told}: it takes too long to tell what alpha_pattern stands for.")
        return alpha / (math.sqrt(rank) if self._by_root else rank)

    def _number(self, what: str, value: Any) -> float:
        number = float("nan")
        if isinstance(value, (int, float)):
            with suppress(OverflowError):
                number = float(value)
        if not math.isfinite(number):
            raise AdapterError(f"{self._told}: {what} is {str(value)[:40]!r}; it takes a number.")
        return number

    def _pattern(self, pattern: str) -> re.Pattern[str]:
        bare = _PLAIN_SIGN.sub("x", pattern).replace("(?:", "(")
        choices = sum(map(bare.count, "*+?{("))
        if choices > _MOST_CHOICES or bare.count("|") > _MOST_ALTERNATIVES or re.search(r"\)[*+{]", bare):
            raise AdapterError(
                f"{self._told}: alpha_pattern {pattern[:60]!r} is so involved that matching it might never "
                "end. Write simpler ones, or one for each module."
            )
        try:
            return re.compile(rf"(.*\.)?({pattern})$")
        except (re.error, OverflowError, RecursionError) as error:
            raise AdapterError(
                f"{self._told}: alpha_pattern {pattern[:60]!r} is no regular expression ({error})."
            ) from error


def _base_of(settings: Mapping[str, Any]) -> str:
    base = settings.get("base_model_name_or_path")
    return base if isinstance(base, str) else ""


def _identity(folder: Path) -> str:
    facts: list[object] = [folder.resolve()]
    for path in (folder / CONFIG, weight_file(folder)):
        status = path.stat()
        facts += [status.st_size, status.st_mtime_ns]
    return "\0".join(map(str, facts))


def merged_changes(
    adapters: Sequence[tuple[LoraAdapter, float]],
) -> dict[str, list[tuple[Change, float]]]:
    """What several adapters do together, each with its strength, by our names of parameters."""
    together: dict[str, list[tuple[Change, float]]] = defaultdict(list)
    for adapter, strength in adapters:
        for name, changes in adapter.changes.items():
            together[name] += [(change, strength) for change in changes]
    return dict(together)
