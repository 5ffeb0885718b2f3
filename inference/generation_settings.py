"""What a checkpoint's files say about how it generates."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .json_files import read_json

logger = logging.getLogger(__name__)

# Names of the settings that steer generation, as transformers spells them. Older checkpoints keep them in
# `text_config`, newer ones in `generation_config.json`; the latter wins where both speak.
GENERATION_SETTINGS = frozenset(
    {
        "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id", "do_sample",
        "early_stopping", "eos_token_id", "epsilon_cutoff", "eta_cutoff",
        "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id", "length_penalty",
        "max_length", "max_new_tokens", "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size",
        "num_beams", "pad_token_id", "remove_invalid_values", "renormalize_logits", "repetition_penalty",
        "suppress_tokens", "temperature", "top_k", "top_p", "typical_p",
    }
)  # fmt: skip

# transformers 4's `save_pretrained` writes its default of every setting into `text_config`, so most
# fine-tunes hold this number. Nobody chose it, and it would end every answer after 19 tokens.
_UNSET_MAX_LENGTH = 20

# Settings of transformers that are not honoured, with the value that means "none". A file that asks for one
# is warned of.
_UNHONOURED_SETTINGS: dict[str, Any] = {
    "constraints": None, "diversity_penalty": 0.0, "dola_layers": None, "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "force_words_ids": None, "guidance_scale": 1.0, "max_time": None, "num_beam_groups": 1,
    "num_return_sequences": 1, "penalty_alpha": None, "sequence_bias": None, "stop_strings": None,
    "watermarking_config": None,
}  # fmt: skip


def generation_settings(text: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings of ``text_config`` and of ``generation_config.json`` at ``path``, which wins.

    Raises:
        CheckpointError: the file cannot be read.
    """
    stated = dict(text)
    if stated.get("max_length") == _UNSET_MAX_LENGTH:
        del stated["max_length"]
    if path.exists():
        stated |= read_json(path)
    for name, neutral in _UNHONOURED_SETTINGS.items():
        if stated.get(name) not in (None, neutral):
            logger.warning(
                "%s asks for %s %r, which is not supported; it has no effect.",
                path.parent,
                name,
                stated[name],
            )
    return {name: stated[name] for name in GENERATION_SETTINGS if stated.get(name) is not None}
