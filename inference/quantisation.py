"""Weights in fewer bits: which there are, which weights have them, and what they need.

``8`` is one byte per weight and a scale per output; torch alone does it. ``4`` is nf4 with double
quantisation (Dettmers et al. 2023, QLoRA), through bitsandbytes. In both, products are those of the model's
dtype, or of float32, with weights made whole again, so that an answer depends on what else is in the batch
by no more than rounding. That is why ``8`` is not LLM.int8(): there a column of inputs that is large in one
row is treated otherwise in all rows.
"""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

QUANTIZATIONS = ("none", "8", "4")
"""Bits that the weights of the language model are held in; ``none`` are those of the model's dtype."""

UNQUANTISED = ("embeddings", "the head", "norms and biases", "the vision tower and its projection")
"""What stays in the model's dtype in every family."""

BLOCK = 64
"""Weights in a row that have a scale in common, with 4 bits."""
NESTED_BLOCK = 256
"""Scales in a row that have one themselves."""

_NEEDED = "bitsandbytes>=0.49"
_DEVICES = {"8": ("cuda", "cpu", "mps"), "4": ("cuda", "cpu")}

# All large matrices of the language model's layers, in the names of every published format of both families.
_QUANTISED = re.compile(r"(^|\.)language_model\..*\blayers\.\d+\..+\.weight$")


def is_quantised_weight(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor of a checkpoint, by its name and shape there or in our network, is one that
    quantisation concerns."""
    return len(shape) == 2 and _QUANTISED.search(name) is not None


def quantised_nbytes(shape: Sequence[int], quantization: str) -> int:
    """Bytes of a weight ``[O, I]`` in so many bits, its scales included."""
    count = math.prod(shape)
    if quantization == "8":
        return count + 4 * shape[0]
    blocks = -(-count // BLOCK)
    return -(-count // 2) + blocks + 4 * -(-blocks // NESTED_BLOCK)


def check_quantization(quantization: str, device: str, dtype: str) -> None:
    """See that weights can be had in so many bits.

    Args:
        device: as :func:`.devices.resolve_device` gives it.
        dtype: as :func:`.devices.resolve_dtype` gives it, or ``auto``.

    Raises:
        ValueError: an unknown name, a device or dtype that does not go with it, or bitsandbytes is missing or
            does not work here. It says what would work.
    """
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"Quantization {quantization!r} is unknown. Choose {', '.join(QUANTIZATIONS)}.")
    if quantization == "none":
        return
    if dtype == "int8":
        raise ValueError(
            f"dtype int8 (--fast) and quantization {quantization} are two ways to the same end. Choose "
            "quantization none with int8, which only Florence-2 takes, or another dtype: auto, fp32 or bf16."
        )
    kind = device.partition(":")[0]
    if kind not in _DEVICES[quantization]:
        fitting = [other for other in QUANTIZATIONS if other == "none" or kind in _DEVICES[other]]
        raise ValueError(
            f"Quantization {quantization} needs CUDA or a CPU. On {device} choose {' or '.join(fitting)}."
        )
    if quantization == "4":
        _check_bitsandbytes(device)


@lru_cache
def bitsandbytes() -> Any:
    """The package, imported now.

    Raises:
        ValueError: it is not installed, too old, or cannot be imported; the message says what to do.
    """
    try:
        with _nothing_downloaded():
            import bitsandbytes as package
            import bitsandbytes.functional
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "bitsandbytes"
        reason = "is not installed" if missing else f"cannot be imported ({error})"
        raise ValueError(_install(reason)) from error
    version = tuple(int(number) for number in re.findall(r"\d+", package.__version__)[:2])
    if version < (0, 49):
        raise ValueError(_install(f"is {package.__version__}, which is too old"))
    return package


def _install(reason: str) -> str:
    return (
        f"Quantization 4 needs {_NEEDED}, which {reason}. Install it: pip install "
        f"'promptgen-tagger[quantization]'; into this Python, ComfyUI's for example: "
        f'"{sys.executable}" -m pip install "{_NEEDED}". Or choose quantization 8 or none.'
    )


@lru_cache
def _check_bitsandbytes(device: str) -> None:
    """Try it: its binaries are made for some versions of CUDA, and it tells at first use."""
    import torch

    package = bitsandbytes()
    try:
        weight = torch.ones(1, BLOCK, device=device, dtype=torch.float32)
        packed, state = package.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        answer = package.matmul_4bit(weight, packed.t(), quant_state=state)
        works = bool(torch.isclose(answer, torch.full_like(answer, BLOCK), rtol=0.1).all())
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # its own, torch's, the loader's of shared libraries
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(_broken(package, device, reason)) from error
    if not works:
        raise ValueError(_broken(package, device, "a product came out wrong"))


def _broken(package: Any, device: str, reason: str) -> str:
    import torch

    return (
        f"bitsandbytes {package.__version__} does not work on {device} with torch {torch.__version__} "
        f"({reason}). Install another version of it, or choose quantization 8 or none."
    )


@contextmanager
def _nothing_downloaded() -> Iterator[None]:
    """Keep the package's import from fetching programs from the Hub.

    On some CPUs it asks the package ``kernels``, where that is installed, for compiled code that is not its
    own. We do without: what runs here is what was installed.
    """
    name = "kernels"
    if "bitsandbytes" in sys.modules or name in sys.modules:
        yield
        return
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")  # warns that there is none
    level = log.level
    sys.modules[name] = None  # type: ignore[assignment] # an import of it fails
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        sys.modules.pop(name, None)
