"""Which room loads which family of checkpoints. One line per family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..inference.errors import CheckpointError
from ..inference.json_files import read_json

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from ..inference import GeneratedSequence, GenerationOptions


class ImageProcessor(Protocol):
    """How a checkpoint wants its pictures. Has no weights; any thread may use it and keep it.

    Two are equal if they do the same.
    """

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of what the checkpoint sees."""
        ...

    def resize(self, image: Image) -> torch.Tensor:
        """The pixels of an RGB picture of any size: ``[H, W, 3]`` uint8, on the CPU."""
        ...

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """``[B, H, W, 3]`` uint8 to ``pixel_values`` ``[B, 3, H, W]`` float32, where ``pixels`` are."""
        ...


class LoadedModel(Protocol):
    """The face of a loaded checkpoint, the same in every family; ``florence2.Florence2Model`` is one.

    ``identity`` tells what pictures are encoded with: it changes when the files of the checkpoint change, and
    with adapters that have a say in it. It does not with ``quantization``, the bits of the language model's
    weights, which has no part in that.
    """

    folder: Path
    identity: str
    quantization: str

    @property
    def network(self) -> torch.nn.Module:
        """All weights, for a host that moves them between devices; see :class:`.placement.Placement`."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels that pictures are resized to."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, a tied matrix counted once."""
        ...

    @property
    def image_processor(self) -> ImageProcessor: ...

    def with_adapters(self, adapters: Sequence[tuple[Path, float]]) -> LoadedModel:
        """This checkpoint with LoRA adapters, each a folder and a strength, as a model of its own.

        The two have all other weights in common and are always in the same place: :meth:`to` of this one
        moves both. ``nbytes`` of the other one counts what it has for itself.
        """
        ...

    @property
    def adapters_nbytes(self) -> int:
        """Bytes of what all models with adapters, made from this one, have for themselves."""
        ...

    def encoding_bytes(self, images: int) -> int:
        """About how many bytes :meth:`encode_images` needs beside the weights for so many pictures."""
        ...

    def generating_bytes(self, pairs: int, options: GenerationOptions | None = None) -> int:
        """About how many bytes :meth:`generate` needs beside the weights, if answers get as long as they may.

        Raises:
            ValueError: an option does not fit the checkpoint.
        """
        ...

    def to(self, device: torch.device | str) -> None:
        """Move the weights."""
        ...

    def preprocess(self, images: Sequence[Image]) -> torch.Tensor:
        """RGB pictures of any size to ``pixel_values`` ``[B, 3, H, W]``, float32, on the CPU."""
        ...

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a prompt, those at its ends included."""
        ...

    def encode_images(
        self, pixel_values: torch.Tensor, on_step: Callable[[int], None] | None = None
    ) -> torch.Tensor:
        """``pixel_values`` ``[B, 3, H, W]`` to image features ``[B, N, D]``; ``on_step(0)`` on the way."""
        ...

    def generate(
        self,
        image_features: torch.Tensor,
        prompts: Sequence[str],
        options: GenerationOptions | None = None,
        on_step: Callable[[int], None] | None = None,
        on_answer: Callable[[int, GeneratedSequence], None] | None = None,
        is_wanted: Callable[[int], bool] | None = None,
    ) -> list[GeneratedSequence]:
        """Answer one prompt per row of image features ``[B, N, D]``; each row is told of as it is answered,
        and ends early if it is not wanted any more."""
        ...


Loader = Callable[[Path, str, str, str], LoadedModel]


def _florence2(folder: Path, device: str, dtype: str, quantization: str) -> LoadedModel:
    from ..florence2 import Florence2Model

    return Florence2Model.load(folder, device=device, dtype=dtype, quantization=quantization)


def _paligemma(folder: Path, device: str, dtype: str, quantization: str) -> LoadedModel:
    from ..paligemma import PaliGemmaModel

    return PaliGemmaModel.load(folder, device=device, dtype=dtype, quantization=quantization)


FAMILIES: dict[str, Loader] = {
    "florence2": _florence2,
    "paligemma": _paligemma,
}


def _florence2_images(folder: Path) -> ImageProcessor:
    from ..florence2 import image_processor

    return image_processor(folder)


def _paligemma_images(folder: Path) -> ImageProcessor:
    from ..paligemma import image_processor

    return image_processor(folder)


_IMAGES: dict[str, Callable[[Path], ImageProcessor]] = {
    "florence2": _florence2_images,
    "paligemma": _paligemma_images,
}


def image_processor_of(folder: Path) -> ImageProcessor:
    """How the checkpoint in ``folder`` wants its pictures, read without its weights.

    Raises:
        CheckpointError: unknown family, or picture settings that cannot be read.
    """
    return _IMAGES[family_of(folder)](folder)


def family_of(folder: Path) -> str:
    """The ``model_type`` that ``folder/config.json`` states.

    Raises:
        CheckpointError: the file cannot be read or states a family that is not known here.
    """
    path = folder / "config.json"
    family = read_json(path).get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise CheckpointError(
            f"{path} states model_type {family!r}; known are {', '.join(FAMILIES)}. Choose a checkpoint of "
            "one of these families."
        )
    return family


def known_family(folder: Path) -> str | None:
    """The family of the checkpoint in ``folder``, or None if it is none that is known here."""
    try:
        return family_of(folder)
    except CheckpointError:
        return None


def load_family(folder: Path, device: str, dtype: str, quantization: str = "none") -> LoadedModel:
    """Load a checkpoint with the room of its family.

    Args:
        folder: a whole checkpoint folder.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        quantization: ``none``, ``8`` or ``4``.

    Raises:
        CheckpointError: unknown family, or the family's own error about the checkpoint.
        ValueError: a device, dtype or quantization that the family does not have.
    """
    return FAMILIES[family_of(folder)](folder, device, dtype, quantization)
