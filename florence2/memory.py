"""About how many bytes the network needs beside its weights: what a batch size is chosen by.

Counted from the sizes of the tensors that live at once (checked against the peak of a real pass), a little
more rather than less. Not counted is what the libraries below torch keep for themselves.
"""

from __future__ import annotations

from .configuration import Florence2Config

_PROMPT_TOKENS = 64  # longer ones are rare, and small beside the picture's 577
# Tensors as large as a stage's input that the first stage, the widest, holds at once: 14 at its peak.
_TENSORS_OF_FIRST_STAGE = 16
# Copies of the scores of all words that a step of beam search makes, in float32.
_COPIES_OF_SCORES = 6


def encoding_bytes(config: Florence2Config, itemsize: int) -> int:
    """For one picture in the vision tower. ``itemsize`` is the bytes of a number in the model's dtype."""
    cells = config.image.height * config.image.width // 16  # the first stage's grid: every fourth pixel
    return cells * config.vision.dim_embed[0] * itemsize * _TENSORS_OF_FIRST_STAGE


def generating_bytes(config: Florence2Config, itemsize: int, num_beams: int, max_new_tokens: int) -> int:
    """For one (picture, prompt) pair in encoder and decoder, if the answer becomes as long as it may."""
    text = config.text
    states = config.num_image_tokens + _PROMPT_TOKENS
    encoder = states * (6 * text.d_model + 2 * text.encoder_ffn_dim) * itemsize
    cached = states + num_beams * max_new_tokens  # places of cross and self attention
    caches = 2 * text.decoder_layers * cached * text.d_model * itemsize
    scores = num_beams * text.vocab_size * 4 * _COPIES_OF_SCORES
    return max(encoder, caches + scores)
