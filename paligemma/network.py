"""The network: transformers' SigLIP vision tower, a linear projection, transformers' Gemma language model.

They are the parts of transformers' ``PaliGemmaForConditionalGeneration``, whose own names change from release
to release. Here each part has one name on every release; :mod:`.names` translates. There is no head: the
scores of words come from the matrix that embeds them.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

from ..inference.errors import CheckpointError
from .configuration import PaliGemmaConfig


class Projector(nn.Module):
    """From the width of the vision tower to that of the language model."""

    def __init__(self, vision_size: int, text_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(vision_size, text_size)

    def forward(self, states: Tensor) -> Tensor:
        projected: Tensor = self.linear(states)
        return projected


class PaliGemmaNetwork(nn.Module):
    """Made on the meta device, without numbers; see :func:`.loading.load_network`.

    Raises:
        CheckpointError: transformers does not build what ``config.json`` describes.
    """

    vision_tower: nn.Module
    language_model: Any

    def __init__(self, config: PaliGemmaConfig) -> None:
        super().__init__()
        self.config = config
        try:
            whole = transformers.PaliGemmaConfig.from_dict(dict(config.raw))
            vision, text = whole.vision_config, whole.text_config
            vision.vision_use_head = False
            kind = transformers.GemmaModel if config.text.generation == 1 else transformers.Gemma2Model
            with torch.device("meta"):
                self.vision_tower = transformers.SiglipVisionModel(vision)
                self.multi_modal_projector = Projector(config.vision.hidden_size, config.text.hidden_size)
                self.language_model = kind(text)
        except Exception as error:  # transformers raises errors of every kind about values it does not know
            raise CheckpointError(
                f"transformers {transformers.__version__} does not build this PaliGemma: {error}"
            ) from error
        self._fill_tables(text)

    def _fill_tables(self, text: Any) -> None:
        """Make the numbers that no file holds: rotation frequencies, places of the vision tower, a scale."""
        self.language_model.rotary_emb = type(self.language_model.rotary_emb)(config=text)
        for module in self.modules():
            for name, buffer in list(module._buffers.items()):
                if buffer is None or not buffer.is_meta:
                    continue
                if name == "position_ids":
                    module._buffers[name] = torch.arange(buffer.shape[-1]).expand(buffer.shape)
                elif name == "embed_scale":
                    module._buffers[name] = torch.tensor(self.config.text.hidden_size**0.5)

    @property
    def embedding(self) -> Tensor:
        """A row per word, ``[V, D]``, which also gives the scores of words."""
        weight: Tensor = self.language_model.embed_tokens.weight
        return weight

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """``pixel_values`` ``[B, 3, S, S]`` to image features ``[B, N, D]``, in the model's dtype.

        As ``get_image_features`` of transformers 5 gives them; older releases divide them by the root of
        ``D``, with which Gemma multiplies whatever it is given. Here only embeddings are multiplied.
        """
        if not len(pixel_values):
            return self.embedding.new_empty(0, self.config.num_image_tokens, self.config.text.hidden_size)
        states = self.vision_tower(pixel_values.to(self.embedding.dtype)).last_hidden_state
        features: Tensor = self.multi_modal_projector(states)
        return features
