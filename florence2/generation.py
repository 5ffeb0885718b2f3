"""From image features and prompts to token ids."""

from __future__ import annotations

import torch
from torch import Tensor

from ..inference.generation import TokenSequence, Watchers, answer_pairs, generation_config
from ..inference.options import GenerationOptions
from .decoder import Decoder
from .network import Florence2Network


def generate(
    network: Florence2Network,
    decoder: Decoder,
    image_features: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    options: GenerationOptions,
    watchers: Watchers,
) -> list[TokenSequence]:
    """Answer a batch of (image, prompt) pairs; each answer is what the pair gives alone.

    Args:
        decoder: of this network's language model; it keeps what a later call can use again.
        image_features: ``[B, N, d_model]``
        input_ids: prompts padded on the right, ``[B, L]`` int64
        attention_mask: 1 at prompt tokens, 0 at padding, ``[B, L]`` int64

    Raises:
        ValueError: ``max_new_tokens`` is above the decoder's positions.
    """
    text = network.config.text
    config = generation_config(network.config.generation, options, text.max_position_embeddings)
    states, mask = network.encode(image_features, input_ids, attention_mask)
    start = config.decoder_start_token_id
    start = text.decoder_start_token_id if start is None else start
    return answer_pairs(
        decoder,
        lambda beams: decoder.start(states, mask, beams),
        torch.full((states.shape[0], 1), start, device=states.device),
        config,
        options,
        end_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        watchers=watchers,
    )
