"""How many bytes a model takes, and giving them back to the system."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import sys
from pathlib import Path

from .checks import CHECKPOINT, Contents, checkpoint_files, safetensors_header

logger = logging.getLogger(__name__)

_ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 4, "F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def estimate_bytes(folder: Path, dtype: str, quantization: str = "none") -> int:
    """About how many bytes the weights of ``folder`` take in ``dtype``, or so many bits, by the files alone.

    Exact up to tied names for safetensors. Of a ``.bin`` only the size is known, so it is taken as it is.
    """
    from ..inference import is_quantised_weight, quantised_nbytes  # only here: menus need this module

    total = 0
    for name in checkpoint_files(folder):
        path = folder / name
        if path.suffix == ".bin":
            total += path.stat().st_size
        elif path.suffix == ".safetensors" and (header := safetensors_header(path)) is not None:
            for tensor_name, tensor in header[1].items():
                if quantization != "none" and is_quantised_weight(tensor_name, tensor["shape"]):
                    total += quantised_nbytes(tensor["shape"], quantization)
                    continue
                begin, end = tensor["data_offsets"]
                total += (end - begin) * _ITEM_BYTES[dtype] // _ITEM_BYTES.get(tensor["dtype"], 4)
    return total


def fingerprint(folder: Path, contents: Contents = CHECKPOINT) -> str:
    """Changes when a file of the checkpoint changes: names, sizes and times."""
    facts = []
    for name in checkpoint_files(folder, contents):
        status = (folder / name).stat()
        facts.append((name, status.st_size, status.st_mtime_ns))
    return json.dumps(facts)


def return_memory() -> None:
    """Hand memory that nothing holds any more back to the system: Python's, the device's, the C library's."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None:
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if hasattr(torch, "mps") and torch.backends.mps.is_available():
            torch.mps.empty_cache()
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except AttributeError:  # musl has no such function and needs none
            logger.debug("This C library has no malloc_trim.")
