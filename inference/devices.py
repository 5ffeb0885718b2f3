"""Device and dtype names, and what ``auto`` means."""

from __future__ import annotations

import re

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Number formats of weights and activations, and torch's names of them."""

PRECISIONS = (*DTYPES, "int8")
"""What a model can be loaded as; ``int8`` are weights and products of 8 bits between activations of more."""


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
    """What ``auto`` means on a device; other names are checked.

    ``auto`` is fp16 on CUDA and MPS, as the models were trained and published; on a CPU bf16 where it
    multiplies that in hardware, else fp32.

    Raises:
        ValueError: an unknown name, or int8 where it cannot be.
    """
    on_cpu = device.startswith("cpu")
    if name == "auto":
        from .processor import has_bfloat16

        return "fp16" if not on_cpu else "bf16" if has_bfloat16() else "fp32"
    if name not in PRECISIONS:
        raise ValueError(f"Dtype {name!r} is unknown. Choose auto, {', '.join(PRECISIONS)}.")
    if name == "int8":
        _check_int8(device, on_cpu=on_cpu)
    return name


def _check_int8(device: str, *, on_cpu: bool) -> None:
    from .processor import has_int8

    if not on_cpu:
        raise ValueError(f"int8 (--fast) is for CPUs; on {device} choose auto, which is fp16, or device cpu.")
    if not has_int8():
        raise ValueError(
            "int8 (--fast) needs an x86 CPU with VNNI instructions and a torch with oneDNN that tells of "
            "them (2.10 or newer does). Choose auto."
        )
