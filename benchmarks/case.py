"""What is measured: a size, settings and the pictures, the same in every process."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

INSTRUCTION = "MORE_DETAILED_CAPTION"
PROMPT = "Describe with a paragraph what is shown in the image."  # what the tokenizer gets for it
PICTURE_SIZE = (1024, 768)  # width and height in pixels


@dataclass(frozen=True)
class Case:
    """One set of conditions under which all rows are measured."""

    size: str  # a key of random_checkpoint.SIZES
    new_tokens: int  # every answer has exactly that many
    num_beams: int
    device: str  # resolved: cpu, cuda, cuda:N or mps
    images: int  # of the rows that work in batches
    single_images: int  # of the rows that take one picture at a time; at most ``images``
    batch_size: int
    folder: str  # where the checkpoints lie
    stored: str = "fp16"  # dtype of the checkpoints' files

    def __post_init__(self) -> None:
        for name in ("new_tokens", "num_beams", "images", "single_images", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it takes 1 or more.")
        if self.single_images > self.images:
            raise ValueError(f"single_images is {self.single_images}, above images, {self.images}.")

    @property
    def title(self) -> str:
        beams = "1 beam" if self.num_beams == 1 else f"{self.num_beams} beams"
        return f"{self.size}, {self.new_tokens} tokens, {beams}"

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def exact_dtype(self) -> str:
        """In which the published implementation runs on this device, and so do the rows to compare."""
        return "fp16" if self.on_gpu else "fp32"

    def checkpoint(self, form: str) -> Path:
        """The checkpoint in ``original`` or ``converted`` format."""
        return Path(self.folder) / f"{self.size}-{self.stored}-{form}"


def has_checkpoint(case: Case, form: str) -> bool:
    """Whether the checkpoint is there as a whole."""
    return (case.checkpoint(form) / "tokenizer_config.json").exists()  # the file that is written last


def ensure_checkpoint(case: Case, form: str) -> None:
    """Make the checkpoint unless it is there."""
    from .random_checkpoint import SIZES, make_config, random_network, write_checkpoint

    if not has_checkpoint(case, form):
        network = random_network(make_config(**SIZES[case.size]))
        write_checkpoint(case.checkpoint(form), network, dtype=case.stored, form=form)


def random_weights(folder: Path, size: str = "base") -> Path:
    """A checkpoint of this size in the original format, with the random weights of the benchmark of speed."""
    case = Case(
        size=size, new_tokens=1, num_beams=1, device="cpu", images=1, single_images=1, batch_size=1,
        folder=str(folder),
    )  # fmt: skip
    ensure_checkpoint(case, "original")
    return case.checkpoint("original")


def picture_files(count: int) -> list[bytes]:
    """Files of pictures of blurred noise: JPEG, 1024 x 768."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    files = []
    for _ in range(count):
        pixels = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize(PICTURE_SIZE, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files
