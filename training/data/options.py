"""Where training data lies, how it is read, what is held out, and how much of it may be wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

from ...captioning.instructions import INPUT_SLOT, find_instruction
from ..errors import ConfigError

__all__ = ["DataOptions", "DataSource", "Layout"]


class Layout(str, Enum):
    """How images and captions lie in a source."""

    AUTO = "auto"  # what it looks like
    TASKS = "tasks"  # images, and in folders called as instructions, text files of their names
    SIDECAR = "sidecar"  # images with text files beside them, or in a tree of the same form
    TABLE = "table"  # a file (.jsonl, .csv, .tsv, .parquet, .json), or a folder of Parquet files
    IMAGEFOLDER = "imagefolder"  # images with metadata.jsonl, .csv or .parquet, as Hugging Face has them
    DATASETS = "datasets"  # a folder that a Dataset of Hugging Face was saved to


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One folder or table of training data, and what its captions answer."""

    path: Path
    layout: Layout = Layout.AUTO
    instruction: str | None = (
        None  # of every caption; where folders, columns or rows say theirs: of those read
    )
    extensions: Mapping[str, str] = field(default_factory=dict)  # of sidecars: extension -> instruction
    captions_dir: Path | None = None  # of sidecars: the tree that mirrors the images' folders
    images_dir: Path | None = None  # of tables: where paths of images begin; None: the table's folder
    split: str | None = None  # of data sets with several: which; None: train
    columns: Mapping[str, str] = field(default_factory=dict)  # of tables: column -> instruction
    image_column: str | None = None  # of tables; None: image, file_name and the like, whichever is there
    text_input_column: str = "text_input"  # of tables: text or region for instructions that take one
    repeats: int = 1  # how often each of its examples comes in an epoch
    empty_captions: Literal["drop", "keep"] = "drop"  # keep: they are answers, as to OCR without a text

    def __post_init__(self) -> None:
        for name in filter(None, (self.instruction, *self.extensions.values(), *self.columns.values())):
            find_instruction(name)  # raises InstructionError, a ValueError that lists the known ones
        if self.repeats < 1:
            raise ConfigError(f"repeats: {self.repeats} is below 1")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """All training data of a run."""

    sources: tuple[DataSource, ...]
    eval_sources: tuple[DataSource, ...] = ()  # held-out images of their own; then nothing is split off
    eval_split: float = 0.05  # of the images; below 1 a fraction, else a count; 0: none are held out
    split_file: Path | None = None  # a split.json of an earlier run, whose held-out images are held out again
    prompts: Mapping[str, str] = field(default_factory=dict)  # literal prompts, by instruction
    max_target_tokens: int | None = None  # None: as many as the checkpoint has positions for
    long_captions: Literal["drop", "error"] = "drop"
    duplicates: Literal["keep", "drop"] = "keep"  # pairs of which image, instruction and caption are equal
    check_images: Literal["full", "header", "none"] = "full"  # decode every image, look at it, or trust
    max_problems: float = 0.05  # of the examples that may be left out; below 1 a fraction, else a count

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("dataset_config: name a folder or table with training data")
        if not 0 <= self.eval_split < math.inf or (self.eval_split > 1 and self.eval_split % 1):
            raise ConfigError(f"eval_split: {self.eval_split} is neither a count nor a fraction below 1")
        if not self.max_problems >= 0:
            raise ConfigError(f"max_problems: {self.max_problems} is below 0")
        if self.max_target_tokens is not None and self.max_target_tokens < 3:
            raise ConfigError(f"max_target_tokens: {self.max_target_tokens} leaves no place for a caption")
        if self.eval_sources and self.split_file is not None:
            raise ConfigError("split_file, eval_dataset_config: give one of them")
        object.__setattr__(self, "prompts", _by_instruction(self.prompts))


def _by_instruction(prompts: Mapping[str, str]) -> dict[str, str]:
    """Literal prompts under the names that instructions are known by, however they were spelled."""
    named: dict[str, str] = {}
    for name, prompt in prompts.items():
        instruction = find_instruction(name)
        if instruction.name in named:
            raise ConfigError(f"prompts: {instruction.name} is there twice")
        if instruction.needs_input and INPUT_SLOT not in prompt:
            raise ConfigError(
                f"prompts: {instruction.name} takes a text or region; say with {INPUT_SLOT} where it goes"
            )
        named[instruction.name] = prompt
    return named
