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


def resolve_dtype(name: str = "auto", device: str = "cpu", family: str = "florence2") -> str:
    """What ``auto`` means on a device for a family of models; other names are checked.

    Of Florence-2, ``auto`` is fp16 on CUDA and MPS, as the models were trained and published; on a CPU bf16
    where it multiplies that in hardware, else fp32.

    Of PaliGemma it is bf16 everywhere, as the models were trained: 5.8 GB for one of 3 B, and not 11.7. On a
    CPU that does not multiply bf16 in hardware that is no slower than fp32: measured with 0.5 B on two cores,
    13 and 12 s for picture and prompt, 0.8 and 1.2 s for each token after them.

    Raises:
        ValueError: an unknown name, or one that the device or the family does not have.
    """
    on_cpu = device.startswith("cpu")
    if name == "auto":
        from .processor import has_bfloat16

        if family == "paligemma":
            return "bf16"
        return "fp16" if not on_cpu else "bf16" if has_bfloat16() else "fp32"
    if name not in PRECISIONS:
        raise ValueError(f"Dtype {name!r} is unknown. Choose auto, {', '.join(PRECISIONS)}.")
    if family == "paligemma" and name in _NOT_OF_PALIGEMMA:
        raise ValueError(_NOT_OF_PALIGEMMA[name])
    if name == "int8":
        _check_int8(device, on_cpu=on_cpu)
    return name


_NOT_OF_PALIGEMMA = {
    "fp16": "A PaliGemma cannot be loaded as fp16: its numbers get too large for that. Choose auto, bf16 or "
    "fp32.",
    "int8": "A PaliGemma cannot be loaded as int8 (--fast), which is for Florence-2. For fewer bits choose "
    "quantization 8 or 4, with dtype auto, bf16 or fp32.",
}


def _check_int8(device: str, *, on_cpu: bool) -> None:
    from .processor import has_int8

    if not on_cpu:
        raise ValueError(f"int8 (--fast) is for CPUs; on {device} choose auto, which is fp16, or device cpu.")
    if not has_int8():
        raise ValueError(
            "int8 (--fast) needs an x86 CPU with VNNI instructions and a torch with oneDNN that tells of "
            "them (2.10 or newer does). Choose auto."
        )
