"""One loaded checkpoint: pictures and prompts in, answers out."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..inference.devices import DTYPES, resolve_device, resolve_dtype
from ..inference.errors import AdapterError
from ..inference.generation import StepCallback, Watchers, generation_config
from ..inference.model import AnsweringModel, own_numbers, told_before
from ..inference.options import GenerationOptions
from ..inference.quantisation import check_quantization
from ..inference.weights import content_identity
from ..inference.wide_products import wide_products
from .configuration import PaliGemmaConfig
from .decoder import Decoder
from .generation import generate
from .loading import load_network
from .memory import encoding_bytes, generating_bytes
from .network import PaliGemmaNetwork
from .text_processing import TextProcessor

_PRODUCTS = (nn.Linear, nn.Conv2d)


class PaliGemmaModel(AnsweringModel):
    """A PaliGemma checkpoint, of either generation, on one device. Calls from several threads take turns.

    Where neither the user nor ``generation_config.json`` says how many tokens an answer may have, it may have
    :data:`.configuration.MAX_NEW_TOKENS`, 256. A ``max_length`` there has no effect, since it counts picture
    and prompt as well.
    """

    family = "paligemma"
    adapters_nbytes = 0  # of LoRA adapters, which this family does not take

    def __init__(
        self, folder: Path, config: PaliGemmaConfig, network: PaliGemmaNetwork, text: TextProcessor
    ) -> None:
        self.folder = folder
        self.config = config
        self.network = network
        self.text = text
        self.quantization = "none"
        self.identity = content_identity(folder)  # changes when the files change
        self._decoder = Decoder(network)
        self._turn = threading.Lock()

    @classmethod
    @torch.inference_mode(False)
    def load(
        cls, folder: Path | str, *, device: str = "auto", dtype: str = "auto", quantization: str = "none"
    ) -> PaliGemmaModel:
        """Load a checkpoint folder, as any release of transformers has saved it.

        The weights are ordinary tensors even if the caller is in inference mode: they outlive that.

        Args:
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            dtype: ``auto``, ``fp32`` or ``bf16``; see :func:`..inference.devices.resolve_dtype`.
            quantization: ``none``, or the bits of the large matrices of the language model, ``8`` or ``4``.
                What is not quantised stands in :data:`..inference.quantisation.UNQUANTISED`.

        Raises:
            CheckpointError: the folder is not a whole PaliGemma checkpoint.
            ValueError: an unknown or absent device, an unknown dtype, or one that is not for this family; a
                quantization that does not go with them, or that needs a package which is not there.
        """
        folder = Path(folder)
        device = resolve_device(device)
        dtype = resolve_dtype(dtype, device, family=cls.family)
        check_quantization(quantization, device, dtype)
        config = PaliGemmaConfig.from_folder(folder)
        special = (config.text.bos_token_id, config.text.eos_token_id, config.text.pad_token_id)
        text = TextProcessor(folder, config.text.vocab_size, config.text.bos_token_id, special)
        kind = getattr(torch, DTYPES[dtype])
        network = load_network(folder, config, torch.device(device), kind, quantization)
        model = cls(folder, config, network, text)
        model.quantization = quantization
        return model

    def with_adapters(self, adapters: Sequence[tuple[Path | str, float]]) -> PaliGemmaModel:
        """Adapters are Florence-2's.

        Raises:
            AdapterError: always.
        """
        raise AdapterError(
            "LoRA adapters go with Florence-2 checkpoints; PaliGemma checkpoints are used as they are. Merge "
            "the adapter into its checkpoint with peft (merge_and_unload, save_pretrained), and load that."
        )

    @property
    def device(self) -> torch.device:
        return self.network.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.embedding.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the weights. The matrix of words, which is head and embedding, exists once."""
        return sum(tensor.nbytes for tensor in [*self.network.parameters(), *self.network.buffers()])

    @torch.inference_mode(False)
    def to(self, device: torch.device | str) -> None:
        """Move the weights.

        Raises:
            ValueError: a device for which there are no weights of so many bits.
        """
        check_quantization(self.quantization, str(device), "auto")
        with self._turn:
            self.network.to(device)

    def encoding_bytes(self, images: int) -> int:
        """About how many bytes :meth:`encode_images` needs beside the weights for so many pictures."""
        return images * encoding_bytes(self.config, self.dtype.itemsize)

    def generating_bytes(self, pairs: int, options: GenerationOptions | None = None) -> int:
        """About how many bytes :meth:`generate` needs beside the weights, if answers get as long as they may.

        Raises:
            ValueError: an option does not fit the checkpoint.
        """
        settings = generation_config(
            self.config.generation, options or GenerationOptions(), self.config.max_new_tokens
        )
        beams = settings.num_beams or 1
        return pairs * generating_bytes(self.config, self.dtype.itemsize, beams, settings.max_new_tokens)

    @torch.inference_mode()
    def encode_images(self, pixel_values: Tensor, on_step: StepCallback | None = None) -> Tensor:
        """``pixel_values`` ``[B, 3, S, S]`` to image features ``[B, N, D]``, ``N = (S / patch) ** 2``.

        Args:
            on_step: called with 0, many times on the way through the layers; it may raise to cancel.
        """
        with self._turn, self._in_use(), told_before(_PRODUCTS, self.network.vision_tower, on_step):
            return self.network.encode_images(pixel_values.to(self.device))

    def _answer(
        self, image_features: Tensor, prompts: Sequence[str], options: GenerationOptions, watchers: Watchers
    ) -> None:
        with self._turn, self._in_use():
            features = image_features.to(device=self.device, dtype=self.dtype)
            ids = [self._encode(prompt) for prompt in prompts]
            generate(self.config, self._decoder, features, ids, options, watchers)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """For the length of a block, numbers are ours to choose, also within another's autocast."""
        with ExitStack() as stack:
            stack.enter_context(own_numbers(self.device))
            stack.enter_context(wide_products(self.dtype, self.device))
            yield
