"""One loaded checkpoint: pictures and prompts in, answers out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..inference.devices import DTYPES, resolve_device, resolve_dtype
from ..inference.errors import AdapterError
from ..inference.generation import StepCallback, TokenSequence, Watchers, generation_config
from ..inference.image_processing import ImageProcessor, preprocess_images
from ..inference.options import GeneratedSequence, GenerationOptions
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

if TYPE_CHECKING:
    from PIL.Image import Image


class PaliGemmaModel:
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
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels that pictures are resized to."""
        return self.config.image.height, self.config.image.width

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

    @property
    def image_processor(self) -> ImageProcessor:
        """What :meth:`preprocess` does, in two steps and without the weights."""
        return ImageProcessor(self.config.image)

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

    def preprocess(self, images: Sequence[Image]) -> Tensor:
        """RGB pictures of any size to ``pixel_values`` ``[B, 3, H, W]``, float32, on the CPU."""
        return preprocess_images(images, self.config.image)

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a prompt, ``<bos>`` and the line feed after it included, those of the picture not."""
        return len(self.text.encode(prompt))

    @torch.inference_mode()
    def encode_images(self, pixel_values: Tensor, on_step: StepCallback | None = None) -> Tensor:
        """``pixel_values`` ``[B, 3, S, S]`` to image features ``[B, N, D]``, ``N = (S / patch) ** 2``.

        Args:
            on_step: called with 0, many times on the way through the layers; it may raise to cancel.
        """
        with self._turn, self._in_use(), _told(self.network.vision_tower, on_step):
            return self.network.encode_images(pixel_values.to(self.device))

    @torch.inference_mode()
    def generate(
        self,
        image_features: Tensor,
        prompts: Sequence[str],
        options: GenerationOptions | None = None,
        on_step: StepCallback | None = None,
        on_answer: Callable[[int, GeneratedSequence], None] | None = None,
        is_wanted: Callable[[int], bool] | None = None,
    ) -> list[GeneratedSequence]:
        """Answer one prompt per row of image features.

        Args:
            image_features: ``[B, N, D]``, as :meth:`encode_images` gives them, on any device.
            prompts: ``B`` literal prompts, without what stands around them: ``caption en``.
            on_step: called many times on the way through the prompts with 0, then before each token with the
                number of tokens so far; it may raise to cancel.
            on_answer: called with the row and its answer as soon as that is there, before others perhaps.
            is_wanted: asked about each row now and then. An answer that nobody wants any more ends where it
                is, so that the others are not held up by it.

        Raises:
            ValueError: a prompt is too long or holds ``<image>``, or an option does not fit the checkpoint.
        """
        if len(prompts) != image_features.shape[0]:
            raise ValueError(
                f"{image_features.shape[0]} rows of image features came with {len(prompts)} prompts."
            )
        if not prompts:
            return []
        answers: dict[int, GeneratedSequence] = {}

        def keep(row: int, answer: TokenSequence) -> None:
            answers[row] = self._decoded(answer)
            if on_answer is not None:
                on_answer(row, answers[row])

        with self._turn, self._in_use():
            generate(
                self.config,
                self._decoder,
                image_features.to(device=self.device, dtype=self.dtype),
                [self._encode(prompt) for prompt in prompts],
                options or GenerationOptions(),
                Watchers(on_step, keep, is_wanted),
            )
        return [answers[row] for row in range(len(prompts))]

    def _decoded(self, answer: TokenSequence) -> GeneratedSequence:
        new = answer.token_ids[1:]  # the first is the end of the prompt
        return GeneratedSequence(
            answer.token_ids,
            self.text.decode(new),
            answer.truncated,
            answer.sequence_score,
            answer.token_scores,
            None if answer.token_scores is None else tuple(self.text.spans(new)),
        )

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """For the length of a block, numbers are ours to choose, also within another's autocast."""
        with ExitStack() as stack:
            if self.device.type in ("cpu", "cuda"):
                stack.enter_context(torch.autocast(self.device.type, enabled=False))
            stack.enter_context(wide_products(self.dtype, self.device))
            yield

    def _encode(self, prompt: str) -> list[int]:
        ids = self.text.encode(prompt)
        room = self.config.max_prompt_tokens
        if len(ids) > room:
            raise ValueError(
                f"The prompt has {len(ids)} tokens; beside the picture there is room for {room}. "
                f"Shorten it: {prompt[:60]!r}..."
            )
        return ids


@contextmanager
def _told(part: nn.Module, on_step: StepCallback | None) -> Iterator[None]:
    """For the length of a block, call ``on_step(0)`` before each matrix product inside ``part``.

    A batch takes the vision tower seconds on a CPU: too long to wait for who wants to stop it.
    """
    with ExitStack() as hooks:
        if on_step is not None:
            tell = on_step
            for module in part.modules():
                if isinstance(module, (nn.Linear, nn.Conv2d)):
                    hooks.callback(module.register_forward_pre_hook(lambda *_: tell(0)).remove)
        yield
