"""Device and dtype names, and what ``auto`` means."""

from __future__ import annotations

import re

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def resolve_device(name: str = "auto") -> str:
    """``auto`` is CUDA where there is one, then Apple's MPS, then the CPU; other names are checked.

    Raises:
        ValueError: an unknown name, or a device that this machine or this torch does not have.
    """
    import torch

    mps = torch.backends.mps.is_available()
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    match = re.fullmatch(r"cpu|mps|cuda(?::(\d+))?", name)
    if not match:
        raise ValueError(f"Device {name!r} is unknown. Choose auto, cpu, cuda, cuda:N or mps.")
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(match[1] or 0) >= count:
            raise ValueError(
                f"Device {name!r} is not there: torch {torch.__version__} sees {count} CUDA devices. "
                "Choose --device cpu, or install a torch build for your GPU."
            )
    if name == "mps" and not mps:
        raise ValueError("Device 'mps' is not available on this machine. Choose auto or cpu.")
    return name


def resolve_dtype(name: str = "auto", device: str = "cpu") -> str:
    """``auto`` is fp16 on CUDA and MPS, as the models were trained and published, and fp32 on the CPU.

    Raises:
        ValueError: an unknown name.
    """
    if name == "auto":
        return "fp32" if device.startswith("cpu") else "fp16"
    if name not in DTYPES:
        raise ValueError(f"Dtype {name!r} is unknown. Choose auto, {', '.join(DTYPES)}.")
    return name
