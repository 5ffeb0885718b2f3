"""What ``config.json`` and its neighbours say of a PaliGemma checkpoint.

Plain data: reading a configuration loads neither torch nor transformers. Published files leave out what is
the default of transformers' class, so that the defaults stand here too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..inference.errors import CheckpointError
from ..inference.generation_settings import generation_settings
from ..inference.image_settings import ImageProcessingConfig, image_settings
from ..inference.json_files import read_json, states_model_type

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 256
"""Tokens of an answer at most, where neither the user nor ``generation_config.json`` says another number in
``max_new_tokens``."""

IMAGE_DEFAULTS = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
"""How pictures are normalised where no file says it: as transformers' ``SiglipImageProcessor`` does."""


@dataclass(frozen=True)
class VisionConfig:
    """The SigLIP vision tower. Without its pooling head, which PaliGemma does not use."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    image_size: int  # pixels
    patch_size: int

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class TextConfig:
    """The Gemma language model, of generation 1 or 2."""

    generation: int
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    pad_token_id: int = 0
    eos_token_id: int = 1
    bos_token_id: int = 2
    query_pre_attn_scalar: float | None = None  # products are divided by its root, not by head_dim's
    attn_logit_softcapping: float | None = None  # products are squeezed into plus or minus that
    final_logit_softcapping: float | None = None  # the scores of words, likewise
    sliding_window: int | None = None  # tokens that every second layer looks back
    sliding_layers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class PaliGemmaConfig:
    """A whole checkpoint: network, picture processing, generation settings."""

    vision: VisionConfig
    text: TextConfig
    image: ImageProcessingConfig
    raw: Mapping[str, Any] = field(repr=False)  # config.json, for transformers' own classes
    generation: Mapping[str, Any] = field(default_factory=dict)  # settings by transformers' names
    image_token_id: int = 257152

    @property
    def num_image_tokens(self) -> int:
        """Image features per picture: 256, 1024 or 4096 for those of 224, 448 or 896 pixels."""
        return self.vision.num_patches

    @property
    def max_prompt_tokens(self) -> int:
        """How long a prompt may be: half of the positions that a picture leaves."""
        return (self.text.max_position_embeddings - self.num_image_tokens) // 2

    @property
    def max_new_tokens(self) -> int:
        """How long an answer may be: the other half, whatever the prompt."""
        return self.text.max_position_embeddings - self.num_image_tokens - self.max_prompt_tokens

    @classmethod
    def from_folder(cls, folder: Path) -> PaliGemmaConfig:
        """Read ``config.json``, ``generation_config.json`` and the picture settings of a checkpoint folder.

        Raises:
            CheckpointError: a file is missing or not JSON, or states a network that this code does not build.
        """
        path = folder / "config.json"
        raw = read_json(path)
        if raw.get("model_type") != "paligemma":
            raise CheckpointError(
                f"{path} describes a model of type {raw.get('model_type')!r}, not 'paligemma'. "
                "Choose a PaliGemma checkpoint."
            )
        if raw.get("quantization_config"):
            raise CheckpointError(
                f"{path} says that the weights were saved quantised. Take the checkpoint that they were made "
                "from, and choose the quantization here; it happens while the weights are read."
            )
        try:
            text = _text_config(raw.get("text_config") or {"model_type": "gemma", **_PALIGEMMA_TEXT})
            config = cls(
                vision=_vision_config(raw.get("vision_config") or {}),
                text=text,
                image=image_settings(folder, IMAGE_DEFAULTS),
                raw=raw,
                generation=_generation(folder / "generation_config.json"),
                image_token_id=_number(raw, "image_token_index", _number(raw, "image_token_id", 257152)),
            )
        except CheckpointError as error:
            if str(folder) in str(error):
                raise
            raise CheckpointError(f"{path}: {error}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} cannot be understood: {error}") from error
        config._check(path)
        return config

    def _check(self, path: Path) -> None:
        side = self.vision.image_size
        if (self.image.height, self.image.width) != (side, side):
            raise CheckpointError(
                f"{path}: the vision tower takes pictures of {side}x{side} pixels, the picture settings "
                f"beside it say {self.image.width}x{self.image.height}. Files of two checkpoints may have "
                "been mixed; fetch the folder again."
            )
        if self.max_prompt_tokens < 1:
            raise CheckpointError(
                f"{path}: {self.num_image_tokens} image tokens leave no room in "
                f"{self.text.max_position_embeddings} positions."
            )


def is_checkpoint(folder: Path) -> bool:
    """Whether ``folder/config.json`` says that this is a PaliGemma checkpoint. Reads that one file only."""
    return states_model_type(folder, "paligemma")


# Defaults of transformers' SiglipVisionConfig, GemmaConfig and Gemma2Config; and of PaliGemmaConfig, for a
# file that has no text_config at all.
_SIGLIP = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "image_size": 224,
    "patch_size": 16,
}  # fmt: skip
_SIGLIP_OF_PALIGEMMA = {
    "hidden_size": 1152, "intermediate_size": 4096, "num_hidden_layers": 27, "image_size": 224,
    "patch_size": 14,
}  # fmt: skip
_PALIGEMMA_TEXT = {
    "hidden_size": 2048, "num_hidden_layers": 18, "intermediate_size": 16384, "num_attention_heads": 8,
    "num_key_value_heads": 1, "vocab_size": 257152,
}  # fmt: skip
_GEMMA = {
    "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192,
}  # fmt: skip
_GEMMA2 = {
    "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192,
}  # fmt: skip
_GEMMA2_SHAPING = {
    "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    "sliding_window": 4096,
}  # fmt: skip


def _vision_config(raw: Mapping[str, Any]) -> VisionConfig:
    kind = raw.get("model_type", "siglip_vision_model")
    if kind != "siglip_vision_model":
        raise CheckpointError(f"vision_config is of type {kind!r}; only 'siglip_vision_model' is built here.")
    defaults = _SIGLIP if raw else _SIGLIP_OF_PALIGEMMA
    return VisionConfig(**{name: _number(raw, name, default) for name, default in defaults.items()})


def _text_config(raw: Mapping[str, Any]) -> TextConfig:
    kind = raw.get("model_type", "gemma")
    if kind not in ("gemma", "gemma2"):
        raise CheckpointError(f"text_config is of type {kind!r}; 'gemma' and 'gemma2' are built here.")
    if raw.get("tie_word_embeddings") is False:
        raise CheckpointError("text_config says tie_word_embeddings false; PaliGemma has one tied matrix.")
    defaults = _GEMMA if kind == "gemma" else _GEMMA2
    known: dict[str, Any] = {name: _number(raw, name, default) for name, default in defaults.items()}
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        if isinstance(raw.get(name), int):
            known[name] = raw[name]
    if kind == "gemma":
        return TextConfig(1, **known)
    shaping = {name: raw.get(name, default) for name, default in _GEMMA2_SHAPING.items()}
    return TextConfig(2, **known, **shaping, sliding_layers=_sliding_layers(raw, known["num_hidden_layers"]))


def _sliding_layers(raw: Mapping[str, Any], layers: int) -> frozenset[int]:
    kinds = raw.get("layer_types")
    if kinds is None:  # transformers' default: every second one, from the first on
        return frozenset(range(0, layers, 2))
    return frozenset(number for number, kind in enumerate(kinds) if kind == "sliding_attention")


def _number(raw: Mapping[str, Any], name: str, default: int) -> int:
    value = raw.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{name} is {value!r}, which is no number of at least 1.")
    return value


def _generation(path: Path) -> dict[str, Any]:
    """The checkpoint's own settings. Lengths that count the prompt with its image tokens are left out: what
    they leave for the answer depends on the prompt."""
    settings = generation_settings({}, path)
    for name in ("max_length", "min_length"):
        value = settings.pop(name, None)
        if value is not None and value > 20:  # 20 and 0 are transformers' defaults
            logger.warning(
                "%s asks for %s %r, which counts the tokens of picture and prompt too. It has no effect; "
                "choose max_new_tokens or min_new_tokens.",
                path,
                name,
                value,
            )
    return {"max_new_tokens": MAX_NEW_TOKENS} | settings
