"""Training data: from folders and tables to examples that are checked and split."""

from __future__ import annotations

from .checks import TokenLimits, check_examples
from .examples import Dataset, Example, Problem
from .image_checks import ImageChecks, check_images
from .layouts import check_sources, load_examples
from .options import DataOptions, DataSource, Layout
from .pictures import ImageRef
from .prepare import PreparedData, prepare_data
from .report import CheckReport
from .split import Split, read_split, split_examples

__all__ = [
    "CheckReport",
    "DataOptions",
    "DataSource",
    "Dataset",
    "Example",
    "ImageChecks",
    "ImageRef",
    "Layout",
    "PreparedData",
    "Problem",
    "Split",
    "TokenLimits",
    "check_examples",
    "check_images",
    "check_sources",
    "load_examples",
    "prepare_data",
    "read_split",
    "split_examples",
]
