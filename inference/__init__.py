"""What all families of models have in common: devices and number formats, generation options and the search
for answers, weights and settings on disk, pictures as a network wants them.

Importing this room loads nothing heavy.
"""

from __future__ import annotations

from .devices import DTYPES, PRECISIONS, resolve_device, resolve_dtype
from .errors import AdapterError, CheckpointError
from .options import GeneratedSequence, GenerationOptions
from .quantisation import (
    QUANTIZATIONS,
    UNQUANTISED,
    check_quantization,
    is_quantised_weight,
    quantised_nbytes,
)

__all__ = [
    "DTYPES",
    "PRECISIONS",
    "QUANTIZATIONS",
    "UNQUANTISED",
    "AdapterError",
    "CheckpointError",
    "GeneratedSequence",
    "GenerationOptions",
    "check_quantization",
    "is_quantised_weight",
    "quantised_nbytes",
    "resolve_device",
    "resolve_dtype",
]
