"""Time and memory of a device."""

from __future__ import annotations

import time
from pathlib import Path

_STATUS = Path("/proc/self/status")  # Linux
_CLEAR = Path("/proc/self/clear_refs")


def now(device: str) -> float:
    """Seconds on a clock, once the device has done what it was given."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


class PeakMemory:
    """The most bytes in use since this was made, above what was in use then.

    Of a CUDA device as torch allocates them; on the CPU the resident memory of this process, which only Linux
    tells. Elsewhere ``None``.
    """

    def __init__(self, device: str) -> None:
        import torch

        self._device = device
        if device.startswith("cuda"):
            torch.zeros(1, device=device)  # what torch itself needs is no part of it
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        elif self._is_told():
            _CLEAR.write_text("5")
            self._before = _status("VmRSS")

    def restart(self) -> None:
        """From now on tell the most since now, above what was in use at the beginning."""
        import torch

        if self._device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._is_told():
            _CLEAR.write_text("5")

    def nbytes(self) -> int | None:
        import torch

        if self._device.startswith("cuda"):
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return _status("VmHWM") - self._before if self._is_told() else None

    def reserved(self) -> int | None:
        """The most bytes that torch has held of a CUDA device, those that were free again among them."""
        import torch

        return torch.cuda.max_memory_reserved(self._device) if self._device.startswith("cuda") else None

    def _is_told(self) -> bool:
        return self._device == "cpu" and _STATUS.exists() and _CLEAR.exists()


def _status(key: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
