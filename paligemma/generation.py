"""From image features and prompts to token ids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..inference.generation import TokenSequence, Watchers, answer_pairs, generation_config
from ..inference.options import GenerationOptions
from .configuration import PaliGemmaConfig
from .decoder import Decoder


def generate(
    config: PaliGemmaConfig,
    decoder: Decoder,
    image_features: Tensor,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    watchers: Watchers,
) -> list[TokenSequence]:
    """Answer a batch of (image, prompt) pairs; each answer is what the pair gives alone.

    An answer goes on from the whole prompt, which rules against repetition so know.

    Args:
        image_features: ``[P, N, D]``, on the device and in the dtype of the model
        prompts: token ids, each list as long as it is

    Raises:
        ValueError: ``max_new_tokens`` is above what the checkpoint has positions for.
    """
    settings = generation_config(config.generation, options, config.max_new_tokens)
    device, text = image_features.device, config.text
    length = max(map(len, prompts))
    # Rules see the image token where a prompt is padded: it stands there often enough to change nothing.
    image = config.image_token_id if config.image_token_id < text.vocab_size else text.pad_token_id
    padded = torch.tensor([[image] * (length - len(ids)) + list(ids) for ids in prompts], device=device)
    mask = torch.tensor([[False] * (length - len(ids)) + [True] * len(ids) for ids in prompts], device=device)
    history = torch.cat([padded.new_full(image_features.shape[:2], image), padded], dim=1)

    def tell() -> None:
        if watchers.on_step is not None:
            watchers.on_step(0)

    return answer_pairs(
        decoder,
        lambda beams: decoder.start(image_features, padded, mask, beams, tell),
        history,
        settings,
        options,
        end_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        watchers=watchers,
    )
