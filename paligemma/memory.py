"""About how many bytes the network needs beside its weights: what a batch size is chosen by.

Counted from the sizes of the tensors that live at once, a little more rather than less. Not counted is what
the libraries below torch keep for themselves.
"""

from __future__ import annotations

from .configuration import PaliGemmaConfig
from .decoder_state import STEPS_AT_ONCE

_PROMPT_TOKENS = 64  # longer ones are rare, and small beside the picture's
# Copies of the scores of all words that a step of beam search makes, in float32.
_COPIES_OF_SCORES = 6


def encoding_bytes(config: PaliGemmaConfig, itemsize: int) -> int:
    """For one picture in the vision tower. ``itemsize`` is the bytes of a number in the model's dtype."""
    vision = config.vision
    return vision.num_patches * (8 * vision.hidden_size + 3 * vision.intermediate_size) * itemsize


def generating_bytes(config: PaliGemmaConfig, itemsize: int, num_beams: int, max_new_tokens: int) -> int:
    """For one (picture, prompt) pair in the language model, if the answer becomes as long as it may."""
    text = config.text
    prompt = config.num_image_tokens + _PROMPT_TOKENS
    heads = text.num_attention_heads * text.head_dim
    reading = prompt * (6 * text.hidden_size + 3 * text.intermediate_size + 4 * heads) * itemsize
    reading += prompt * text.hidden_size * 4 * 2  # norms in float32
    if text.attn_logit_softcapping is not None:
        reading += text.num_attention_heads * prompt**2 * (3 * itemsize + 4)
    steps = -(-max_new_tokens // STEPS_AT_ONCE) * STEPS_AT_ONCE
    place = 2 * text.num_key_value_heads * text.head_dim * itemsize
    layers = text.num_hidden_layers + 1  # one is copied at a time when there is to be more room
    caches = layers * (prompt + num_beams * steps) * place
    scores = num_beams * text.vocab_size * 4 * _COPIES_OF_SCORES
    return max(reading + caches, caches + scores)
