"""What this computer's processor multiplies in hardware, and torch with it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware: AVX-512 BF16, AMX or Arm's BF16."""
    able = _capabilities()
    return has_onednn() and any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def has_int8() -> bool:
    """Whether the CPU multiplies int8 in hardware and torch brings oneDNN's products for it: x86 with VNNI.

    Without VNNI such products overflow in 16 bits, and an answer would silently be another.
    """
    able = _capabilities()
    there = has_onednn() and hasattr(torch.ops.onednn, "qlinear_pointwise")
    return there and any(able.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def has_onednn() -> bool:
    """Whether torch brings oneDNN's products in layouts of its own."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@lru_cache
def _capabilities() -> dict[str, Any]:
    asked = getattr(torch.cpu, "get_capabilities", None)
    if asked is not None:
        return dict(asked())
    able = {}  # torch before 2.10
    for name, question in (
        ("avx512_bf16", "_is_avx512_bf16_supported"),
        ("avx512_vnni", "_is_vnni_supported"),
        ("amx_bf16", "_is_amx_tile_supported"),
    ):
        able[name] = bool(getattr(torch.cpu, question, bool)())
    return able
