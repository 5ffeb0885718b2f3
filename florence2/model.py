"""One loaded checkpoint: pictures and prompts in, answers out."""

from __future__ import annotations

import copy
import hashlib
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..inference.devices import DTYPES, resolve_device, resolve_dtype
from ..inference.errors import CheckpointError
from ..inference.generation import StepCallback, Watchers, generation_config
from ..inference.model import AnsweringModel, own_numbers, told_before
from ..inference.options import GenerationOptions
from ..inference.quantisation import check_quantization
from ..inference.quantised_layers import QuantisedLinear, has_quantised_layers
from ..inference.weights import content_identity
from .adapting import changed_parameters, parameter_shapes
from .configuration import Florence2Config
from .decoder import Decoder
from .derived import DerivedNetwork
from .generation import generate
from .layout import is_arranged, is_quantised, pack, quantise, unpack
from .loading import load_network
from .lora import check_adapter, merged_changes, read_adapter
from .memory import encoding_bytes, generating_bytes
from .network import Florence2Network, tie_embeddings
from .products import CpuLinear, can_pack
from .text_processing import TextProcessor

_PRODUCTS = (nn.Linear, CpuLinear, QuantisedLinear, nn.Conv2d)


class Florence2Model(AnsweringModel):
    """A Florence-2 checkpoint on one device. Calls from several threads take turns."""

    family = "florence2"

    def __init__(
        self, folder: Path, config: Florence2Config, network: Florence2Network, text: TextProcessor
    ) -> None:
        self.folder = folder
        self.config = config
        self.network = network
        self.text = text
        self.quantization = "none"
        self._content = content_identity(folder)
        self.identity = self._content  # of what pictures are encoded with: changes when the files change
        self._decoder = Decoder(network.language_model)
        self._turn = threading.Lock()
        self._base: Florence2Model | None = None  # whose weights we have, but for those that adapters change
        self._derived: DerivedNetwork | None = None
        self._variants: weakref.WeakSet[Florence2Model] = weakref.WeakSet()  # that have us as their base

    @classmethod
    @torch.inference_mode(False)
    def load(
        cls, folder: Path | str, *, device: str = "auto", dtype: str = "auto", quantization: str = "none"
    ) -> Florence2Model:
        """Load a checkpoint folder of either published format.

        The weights are ordinary tensors even if the caller is in inference mode: they outlive that.

        Args:
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            dtype: ``auto``, ``fp32``, ``fp16``, ``bf16``, or ``int8``: the fast way on a CPU, whose answers
                are nearly, not always, those of ``fp32``.
            quantization: ``none``, or the bits of the large matrices of encoder and decoder, ``8`` or ``4``.
                What is not quantised stands in :data:`..inference.quantisation.UNQUANTISED`.

        Raises:
            CheckpointError: the folder is not a whole Florence-2 checkpoint.
            ValueError: an unknown or absent device, an unknown dtype, or one that the device does not have; a
                quantization that does not go with them, or that needs a package which is not there.
        """
        folder = Path(folder)
        device = resolve_device(device)
        dtype = resolve_dtype(dtype, device)
        check_quantization(quantization, device, dtype)
        config = Florence2Config.from_folder(folder)
        special = (config.text.bos_token_id, config.text.eos_token_id, config.text.pad_token_id)
        text = TextProcessor(folder, config.text.vocab_size, special)
        kind = getattr(torch, DTYPES["fp32" if dtype == "int8" else dtype])
        network = load_network(folder, config, torch.device(device), kind, quantization)
        model = cls(folder, config, network, text)
        model.quantization = quantization
        if dtype == "int8":
            quantise(network)
            model.identity += " int8"
        return model

    @torch.inference_mode(False)
    def with_adapters(self, adapters: Sequence[tuple[Path | str, float]]) -> Florence2Model:
        """This checkpoint with LoRA adapters: a model of its own, which has all weights in common with this
        one that no adapter changes.

        This model stays exactly as it is, and keeps the other one beside it wherever it is moved. Both may be
        used at the same time; they take turns.

        Args:
            adapters: folders as ``peft`` saves them, each with its strength: 1 as trained, 0 not at all. What
                several change adds up, whatever their order.

        Raises:
            AdapterError: one cannot be read, or does not fit this checkpoint.
            CheckpointError: the files of the checkpoint, of which a quantised model reads some again, are
                not what they were.
            ValueError: this model has adapters already.
        """
        if self._base is not None:
            raise ValueError("This model has adapters. Make another one from the model without them.")
        shapes = parameter_shapes(self.network)
        read = [(read_adapter(Path(folder), self.config), float(strength)) for folder, strength in adapters]
        for adapter, _ in read:
            check_adapter(adapter, shapes)
        with self._turn:
            in_few_bits = is_quantised(self.network) or has_quantised_layers(self.network)
            if in_few_bits and content_identity(self.folder) != self._content:
                raise CheckpointError(
                    f"The files in {self.folder} have changed since the model was loaded. Load it again."
                )
            own = changed_parameters(self.network, self.folder, merged_changes(read))
            derived = DerivedNetwork(self.network, own)
            variant = copy.copy(self)
            variant.network = derived.network
            variant._decoder = Decoder(derived.network.language_model)
            variant._base, variant._derived, variant._variants = self, derived, weakref.WeakSet()
            if not all(name.startswith("language_model.") for name in own):
                facts = sorted(f"{adapter.identity} {strength!r}" for adapter, strength in read)
                variant.identity += " lora " + hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
            self._variants.add(variant)
        return variant

    @property
    def device(self) -> torch.device:
        return self.network.image_projection.device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.image_projection.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, each tied matrix counted once; of a model with adapters only those which the
        one without does not have."""
        with self._turn:  # not while weights are rearranged, when the two have less in common
            return self._own_bytes()

    def _own_bytes(self) -> int:
        in_common = {} if self._base is None else _held(self._base.network)
        return sum(nbytes for what, nbytes in _held(self.network).items() if what not in in_common)

    @property
    def adapters_nbytes(self) -> int:
        """Bytes of the weights that models with adapters, made from this one, hold beside it."""
        with self._turn:
            return sum(variant._own_bytes() for variant in [*self._variants])

    @torch.inference_mode(False)
    def to(self, device: torch.device | str) -> None:
        """Move the weights, and tie again what another's move tore apart.

        torch moves a parameter in inference mode by making a new one, so that tied names become copies.

        Models with adapters go with the one that they were made from, whichever of them is moved.

        Raises:
            ValueError: another device than the CPU for a model that was loaded as ``int8``, or one for which
                there are no weights of so many bits.
        """
        if self._base is not None:
            self._base.to(device)
            return
        check_quantization(self.quantization, str(device), "auto")
        with self._turn:
            if torch.device(device).type != "cpu":
                if is_quantised(self.network):
                    raise ValueError("An int8 model runs on a CPU only. Load it as fp16 for a GPU.")
                unpack(self.network)
            tie_embeddings(self.network.language_model)
            self.network.to(device)
            self._decoder.refresh()
            self._lead()

    def _lead(self) -> None:
        """Have the models with adapters follow what was done with our weights."""
        for variant in [*self._variants]:
            if variant._derived is not None:
                variant._derived.follow()
                variant._decoder.refresh()

    def _arrange(self) -> None:
        """Before use on a CPU: weights in its own layout. At first use, since a host may load here what it
        then moves to a GPU."""
        if self.device.type == "cpu" and can_pack(self.dtype) and not is_arranged(self.network):
            pack(self.network)
            self._lead()

    def encoding_bytes(self, images: int) -> int:
        """About how many bytes :meth:`encode_images` needs beside the weights for so many pictures."""
        return images * encoding_bytes(self.config, self.dtype.itemsize)

    def generating_bytes(self, pairs: int, options: GenerationOptions | None = None) -> int:
        """About how many bytes :meth:`generate` needs beside the weights, if answers get as long as they may.

        Raises:
            ValueError: an option does not fit the checkpoint.
        """
        text = self.config.text
        settings = generation_config(
            self.config.generation, options or GenerationOptions(), text.max_position_embeddings
        )
        beams = settings.num_beams or 1
        return pairs * generating_bytes(self.config, self.dtype.itemsize, beams, settings.max_new_tokens)

    @torch.inference_mode()
    def encode_images(self, pixel_values: Tensor, on_step: StepCallback | None = None) -> Tensor:
        """``pixel_values`` ``[B, 3, H, W]`` to image features ``[B, 1 + (H/32) x (W/32), d_model]``.

        Args:
            on_step: called with 0, many times on the way through the layers; it may raise to cancel.
        """
        with self._turn, self._in_use(self.network.vision_tower, on_step):
            # In 8 bits, what is encoded together shares its scales: a picture must not depend on others.
            apart = is_quantised(self.network) and len(pixel_values) > 0
            parts = pixel_values.split(1) if apart else [pixel_values]
            return torch.cat([self.network.encode_images(part.to(self.device)) for part in parts])

    def _answer(
        self, image_features: Tensor, prompts: Sequence[str], options: GenerationOptions, watchers: Watchers
    ) -> None:
        with self._turn, self._in_use(self.network.language_model.get_encoder(), watchers.on_step):
            input_ids, attention_mask = self._pad([self._encode(prompt) for prompt in prompts])
            features = image_features.to(device=self.device, dtype=self.dtype)
            generate(self.network, self._decoder, features, input_ids, attention_mask, options, watchers)

    @contextmanager
    def _in_use(self, part: nn.Module, on_step: StepCallback | None) -> Iterator[None]:
        """For the length of a block, call ``on_step(0)`` before each matrix product inside ``part``."""
        (self._base or self)._arrange()
        with ExitStack() as hooks:
            hooks.enter_context(own_numbers(self.device))
            hooks.enter_context(told_before(_PRODUCTS, part, on_step))
            try:
                yield
            except torch.cuda.OutOfMemoryError:
                base = self._base or self
                for model in (base, *base._variants):
                    model._decoder.release()  # for whoever tries again with less
                raise

    def _pad(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Pad on the right: ``input_ids`` and ``attention_mask``, both ``[B, L]`` int64."""
        length = max(map(len, prompts))
        pad = self.config.text.pad_token_id
        ids = torch.tensor([[*ids, *[pad] * (length - len(ids))] for ids in prompts], device=self.device)
        mask = torch.tensor(
            [[1] * len(ids) + [0] * (length - len(ids)) for ids in prompts], device=self.device
        )
        return ids, mask


def _held(network: nn.Module) -> dict[tuple[str, int], int]:
    """Bytes of all that a network holds, by what tells it from everything else."""
    tensors = [*network.parameters(), *network.buffers()]
    storages = (tensor.untyped_storage() for tensor in tensors)
    held = {("storage", storage.data_ptr()): storage.nbytes() for storage in storages}
    packed = (module for module in network.modules() if isinstance(module, CpuLinear))
    return held | {("packed", id(module.packed)): module.nbytes for module in packed}
