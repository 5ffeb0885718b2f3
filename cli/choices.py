"""Options that take one of a few words."""

from __future__ import annotations

from enum import Enum


class Format(str, Enum):
    """Forms of captions. ``table`` is what ``text`` becomes in a terminal when there are several answers."""

    TEXT = "text"
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


class RegionFormat(str, Enum):
    """Forms of regions; ``text`` is a table."""

    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    COCO = "coco"
    LABELME = "labelme"
    YOLO = "yolo"
    YOLO_SEG = "yolo-seg"


class ListFormat(str, Enum):
    """Forms of the lists of models and instructions."""

    TEXT = "text"
    JSON = "json"


class EarlyStopping(str, Enum):
    """When beam search stops; transformers' three values."""

    TRUE = "true"
    FALSE = "false"
    NEVER = "never"


class Underscores(str, Enum):
    """What becomes of underscores and spaces in tags."""

    KEEP = "keep"
    SPACES = "spaces"
    UNDERSCORES = "underscores"


class Dtype(str, Enum):
    """Number formats of the weights."""

    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class Quantization(str, Enum):
    """Bits that weights are held in; the values of :data:`promptgen.inference.QUANTIZATIONS`."""

    NONE = "none"
    EIGHT = "8"
    FOUR = "4"


class CheckpointFormat(str, Enum):
    """The published forms of a checkpoint."""

    ORIGINAL = "original"
    CONVERTED = "converted"


class SavedDtype(str, Enum):
    """What weights are saved as."""

    CHECKPOINT = "checkpoint"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
