"""What a checkpoint's files say about how it generates."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .json_files import read_json
from .options import GenerationOptions

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


# What their values may be: those that users may give, too, the others by their kind.
_AS_OPTIONS = (
    "num_beams", "max_new_tokens", "min_new_tokens", "do_sample", "repetition_penalty", "length_penalty",
    "no_repeat_ngram_size", "early_stopping",
)  # fmt: skip
_WHOLE = (
    "max_length", "min_length", "bos_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "pad_token_id", "top_k",
)  # fmt: skip
_FRACTIONS = ("temperature", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_TOKENS = ("eos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")


def generation_settings(text: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings of ``text_config`` and of ``generation_config.json`` at ``path``, which wins.

    Raises:
        CheckpointError: the file cannot be read, or states what no setting can be.
    """
    stated = dict(text)
    if stated.get("max_length") == _UNSET_MAX_LENGTH:
        del stated["max_length"]
    own = read_json(path) if path.exists() else {}
    stated |= own
    for name, neutral in _UNHONOURED_SETTINGS.items():
        if stated.get(name) not in (None, neutral):
            logger.warning(
                "%s asks for %s %r, which is not supported; it has no effect.",
                path.parent,
                name,
                stated[name],
            )
    settings = {name: stated[name] for name in GENERATION_SETTINGS if stated.get(name) is not None}
    for name in sorted(settings):
        try:
            _check(name, settings[name])
        except ValueError as error:
            file = path if name in own else path.parent / "config.json"
            raise CheckpointError(
                f"{file}: {error} Correct the file, or fetch it again from where it was published."
            ) from error
    return settings


def _check(name: str, value: Any) -> None:
    """See that a value is one that the setting may have, whatever the others are. What it may be while
    sampling is seen where that is known."""
    if name in _AS_OPTIONS:
        GenerationOptions(**{name: value})
    elif name in _WHOLE and not _is_whole(value):
        raise ValueError(f"{name} is {value!r}; it takes a whole number.")
    elif name in _FRACTIONS and not (_is_whole(value) or isinstance(value, float)):
        raise ValueError(f"{name} is {value!r}; it takes a number.")
    elif name in _TOKENS:
        tokens = value if isinstance(value, list) else [value]
        if not all(map(_is_whole, tokens)):
            raise ValueError(f"{name} is {value!r}; it takes the numbers of tokens.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
