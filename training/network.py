"""A checkpoint as a module to train: pictures, prompts and answers in, the loss out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutput

from ..florence2.configuration import Florence2Config
from ..florence2.loading import load_network
from ..florence2.network import Florence2Network
from ..florence2.text_processing import TextProcessor
from ..inference.devices import DTYPES
from ..inference.image_processing import ImageProcessor
from .adapters import Adapters, add_adapters
from .errors import TrainingError
from .freezing import freeze, trained_parts
from .model_options import ModelOptions

IGNORED = -100
"""The label of places that are not trained on."""

_HEAD_ROWS = 512  # target tokens whose logits exist at a time, where memory is saved


class Losses(NamedTuple):
    """Cross-entropies in float32, to be divided by counts of tokens, which may come from several batches."""

    loss: Tensor  # the sum over all target tokens, []
    tokens: Tensor  # their number, [] int64
    sample_losses: Tensor  # the sum for each sample, [B], without gradient
    sample_tokens: Tensor  # [B] int64


class TrainableModel(nn.Module):
    """A Florence-2 checkpoint whose :meth:`forward` is the loss.

    Its parameters are those of ``network``, frozen or not as the options say; with LoRA the base is frozen
    and the matrices of the adapters are trained.
    """

    # what FSDP keeps on one device at a time, where its configuration names nothing
    _no_split_modules = ("SpatialBlock", "ChannelBlock", "BartEncoderLayer", "BartDecoderLayer")

    def __init__(
        self, folder: Path, network: Florence2Network, text: TextProcessor, options: ModelOptions
    ) -> None:
        super().__init__()
        self.folder = folder
        self.config: Florence2Config = network.config
        self.text = text
        self.options = options
        self.network = network
        self.adapters: Adapters | None = None
        freeze(network, options.freeze)
        if options.lora is not None:
            self.adapters = add_adapters(network, options.lora)
        self._trained = trained_parts(network)
        _set_dropout(network, self._trained)
        if options.gradient_checkpointing:
            _checkpoint_gradients(network)
        _set_attention(network, options.attention)
        self.train()

    @classmethod
    def load(
        cls, folder: Path | str, options: ModelOptions | None = None, *, device: str = "cpu"
    ) -> TrainableModel:
        """Load a checkpoint folder of either published format, in training mode.

        With LoRA the adapters' first values are torch's random ones: seed it before.

        Raises:
            CheckpointError: the folder is not a whole Florence-2 checkpoint.
            TrainingError: the options do not go with it.
        """
        folder, options = Path(folder), options or ModelOptions()
        config = _configured(Florence2Config.from_folder(folder), options)
        special = (config.text.bos_token_id, config.text.eos_token_id, config.text.pad_token_id)
        text = TextProcessor(folder, config.text.vocab_size, special)
        kind = getattr(torch, DTYPES[options.weights])
        network = load_network(folder, config, torch.device(device), kind)
        return cls(folder, network, text, options)

    @property
    def image_processor(self) -> ImageProcessor:
        """Resizes pictures and makes ``pixel_values`` of them."""
        return ImageProcessor(self.config.image)

    @property
    def max_prompt_tokens(self) -> int:
        """Of ``input_ids``; the image takes the other positions of the encoder."""
        return self.config.text.max_position_embeddings - self.config.num_image_tokens

    @property
    def max_target_tokens(self) -> int:
        """Of ``labels``."""
        return self.config.text.max_position_embeddings

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What an optimiser gets: names, and parameters that are trained, the tied matrix once."""
        return ((name, part) for name, part in self.named_parameters() if part.requires_grad)

    def trainable_state(self) -> dict[str, Tensor]:
        """What training changes, by name; the tensors themselves, not copies."""
        return {name: parameter.detach() for name, parameter in self.trainable_parameters()}

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`trainable_state` gave.

        Raises:
            TrainingError: it is of a model that is trained in another way, or of another size.
        """
        ours = self.trainable_state()
        wrong = [name for name in ours.keys() | state.keys() if _shape(ours, name) != _shape(state, name)]
        if wrong:
            raise TrainingError(
                f"What was saved does not go with these options: {len(wrong)} parameters differ, among them "
                f"{', '.join(sorted(wrong)[:4])}. Go on with the options of the run that saved it."
            )
        for name, tensor in ours.items():
            tensor.copy_(state[name])

    def train(self, mode: bool = True) -> TrainableModel:
        """As of every module. A tower of which nothing is trained stays in evaluation mode, so that its
        features of a picture are always the same."""
        super().train(mode)
        if "vision" not in self._trained:
            self.network.vision_tower.eval()
        return self

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> Losses:
        """The loss of a batch.

        Args:
            pixel_values: normalised, ``[B, 3, H, W]``, of any floating dtype
            input_ids: prompts padded on the right, ``[B, L]`` int64
            attention_mask: 1 at prompt tokens, 0 at padding, ``[B, L]`` int64
            labels: answers as the tokenizer gives them (``<s> ... </s>``), padded on the right with -100,
                ``[B, T]`` int64. They are shifted here, once.
        """
        return self.losses_of_features(self._encode_images(pixel_values), input_ids, attention_mask, labels)

    def losses_of_features(
        self, features: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> Losses:
        """The loss of a batch whose images the tower has seen, so that several questions share one look.

        Args:
            features: ``network.encode_images`` of each row's image, ``[B, num_image_tokens, d_model]``
            input_ids, attention_mask, labels: as in :meth:`forward`
        """
        states, mask = self.network.encode(features, input_ids, attention_mask)
        decoded = self.network.language_model.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=self._decoder_input_ids(labels),
            use_cache=False,
        ).last_hidden_state  # [B, T, d_model]
        return self._losses(decoded, labels)

    def _encode_images(self, pixel_values: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._trained - {"language"} != set()):
            return self.network.encode_images(pixel_values)

    def _decoder_input_ids(self, labels: Tensor) -> Tensor:
        """What the decoder has read when it is to say each label: the start token and those before."""
        text = self.config.text
        shifted = labels.new_full(labels.shape, text.decoder_start_token_id)
        shifted[:, 1:] = labels[:, :-1]
        return shifted.masked_fill(shifted == IGNORED, text.pad_token_id)

    def _losses(self, decoded: Tensor, labels: Tensor) -> Losses:
        """Cross-entropy at the target tokens; places of padding never get logits."""
        rows, columns = (labels != IGNORED).nonzero(as_tuple=True)
        states, targets = decoded[rows, columns], labels[rows, columns]  # [N, d_model], [N]
        if self.options.gradient_checkpointing and self.training:
            run = partial(checkpoint, self._token_losses, use_reentrant=False)
            pieces = zip(states.split(_HEAD_ROWS), targets.split(_HEAD_ROWS), strict=True)
            losses = torch.cat([run(*piece) for piece in pieces])
        else:
            losses = self._token_losses(states, targets)
        samples = losses.new_zeros(len(labels)).index_add_(0, rows, losses.detach())
        counts = (labels != IGNORED).sum(dim=1)
        return Losses(losses.sum(), counts.sum(), samples, counts)

    def _token_losses(self, states: Tensor, targets: Tensor) -> Tensor:
        """``[N, d_model]`` and ``[N]`` to ``[N]``, in float32 whatever the mixed precision."""
        model: Any = self.network.language_model
        logits = model.lm_head(states) + model.final_logits_bias
        return functional.cross_entropy(logits.float(), targets, reduction="none")


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None


def _configured(config: Florence2Config, options: ModelOptions) -> Florence2Config:
    names = ("dropout", "attention_dropout", "activation_dropout")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    vision = config.vision
    if options.drop_path_rate is not None:
        vision = replace(vision, drop_path_rate=options.drop_path_rate)
    return replace(config, text=replace(config.text, **given), vision=vision)


def _set_dropout(network: Florence2Network, trained: set[str]) -> None:
    """Drop paths of the tower, each likelier than the one before as in the published code, and none of the
    language model's dropout where it is not trained, as there it would only be noise."""
    vision = network.config.vision
    rates = torch.linspace(0, vision.drop_path_rate, 2 * sum(vision.depths), dtype=torch.float64).tolist()
    blocks = (block for stage in network.vision_tower.stages for pair in stage.blocks for block in pair)
    for block, rate in zip(blocks, rates, strict=True):
        if rate > 0:
            block.drop_path1 = DropPath(rate)
            block.drop_path2 = DropPath(rate)
    if "language" not in trained:
        for module in network.language_model.modules():
            for name in ("dropout", "activation_dropout", "layerdrop"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)


def _set_attention(network: Florence2Network, name: str) -> None:
    model: Any = network.language_model
    if model.config._attn_implementation == name:
        return
    try:
        model.set_attn_implementation(name)
    except (ImportError, AttributeError, ValueError) as error:  # a package or a GPU that is not there
        raise TrainingError(
            f"attention {name!r} cannot be had here: {str(error).rstrip('.')}. Choose sdpa."
        ) from error


def _checkpoint_gradients(network: Florence2Network) -> None:
    """Keep activations between blocks and layers only, and compute those within again."""
    for stage in network.vision_tower.stages:  # and not the tower as well, which would do it twice
        stage.set_grad_checkpointing(True)
    model: Any = network.language_model
    for part in model.modules():
        if hasattr(part, "config"):
            part.config.use_cache = False  # else each run says that it is switched off
    enable = getattr(model, "activation_checkpointing_enable", None)
    if enable is not None:
        enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:  # transformers before 5.20
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
