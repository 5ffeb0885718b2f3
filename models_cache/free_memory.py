"""How many bytes a device has left, and what it looks like when there are too few."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Errors that torch raises as plain RuntimeErrors when memory runs out: of the CPU (Linux and macOS, Windows),
# of MPS, of CUDA outside torch's own allocator, of the libraries below.
_SAID_WHEN_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "std::bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)

# Where a container states its limit: version 2 of Linux's control groups, and version 1.
_CONTROL_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that new tensors on ``device`` may take now, those included that torch holds in reserve there.

    None for a device that does not tell.
    """
    import torch

    if device.type == "cpu":
        return _free_on_the_computer()
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    if device.type == "mps":  # whose memory is the computer's
        free = _free_on_the_computer()
        if not hasattr(torch.mps, "recommended_max_memory"):  # torch before 2.4
            return free
        return min(free, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, of whatever device."""
    import torch

    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    said = str(error)
    if said == "could not create a primitive":  # oneDNN has no other words; of wrong arguments it says more
        return isinstance(error, RuntimeError)
    return isinstance(error, RuntimeError) and any(words in said for words in _SAID_WHEN_OUT_OF_MEMORY)


def _free_on_the_computer() -> int:
    """Without swapping, and within the limit of the container that this runs in."""
    import psutil

    free: int = psutil.virtual_memory().available
    for limit, used, statistics in _CONTROL_GROUPS:
        try:
            left = int(_read(limit)) - int(_read(used)) + _reclaimable(_read(statistics))
        except (OSError, ValueError):  # not there, or "max": no limit
            continue
        free = min(free, max(0, left))
    return free


def _read(path: str) -> str:
    return Path(path).read_text(encoding="ascii")


def _reclaimable(statistics: str) -> int:
    """Bytes of files in memory that are given up when somebody needs room."""
    values = dict(line.split() for line in statistics.splitlines())
    return int(values.get("inactive_file", 0))
