"""From the original format to the converted one, that of transformers' own class: names, tensors, settings.

The other direction is :mod:`.loading`'s, which reads both. Source: transformers'
``convert_florence2_original_pytorch_to_hf.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..inference.errors import CheckpointError
from .configuration import Florence2Config, TextConfig
from .loading import LOGITS_BIAS, TIED

IMAGE_TOKEN = "<image>"
"""What stands in a prompt for each feature of the image, in the converted format alone."""

# the original names -> transformers' ones; first match wins
_NAMES: tuple[tuple[str, str], ...] = (
    (r"^vision_tower\.convs\.(\d+)\.proj\b", r"model.vision_tower.convs.\1.conv"),
    (r"^vision_tower\.(.*)\.conv(\d)\.fn\.dw\b", r"model.vision_tower.\1.conv\2"),
    (r"^vision_tower\.(.*)\.(?:window|channel)_attn\.norm\b", r"model.vision_tower.\1.norm1"),
    (r"^vision_tower\.(.*)\.(window|channel)_attn\.fn\.", r"model.vision_tower.\1.\2_attn."),
    (r"^vision_tower\.(.*)\.ffn\.norm\b", r"model.vision_tower.\1.norm2"),
    (r"^vision_tower\.(.*)\.ffn\.fn\.net\.", r"model.vision_tower.\1.ffn."),
    (r"^vision_tower\.", r"model.vision_tower."),
    (r"^image_projection$", r"model.multi_modal_projector.image_projection.weight"),
    (r"^image_proj_norm\b", r"model.multi_modal_projector.image_proj_norm"),
    (r"^image_pos_embed\b", r"model.multi_modal_projector.image_position_embed"),
    (r"^visual_temporal_embed\b", r"model.multi_modal_projector.visual_temporal_embed"),
    (r"^language_model\.model\.", r"model.language_model."),
    (r"^language_model\.lm_head\b", r"lm_head"),
)


def converted_name(name: str) -> str:
    """The converted format's name of a tensor or a module, from the original format's."""
    for pattern, replacement in _NAMES:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return name


def converted_state(state: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Tensors of the original format, as :func:`.loading.original_state_dict` gives them, in the other.

    Args:
        rows: of the embedding matrix, which may need more of them because of ``<image>``. New ones are zeros.

    Raises:
        CheckpointError: the head has a bias, for which transformers' class has no place.
    """
    check_logits_bias(state[LOGITS_BIAS])
    converted = {converted_name(name): tensor for name, tensor in state.items() if name != LOGITS_BIAS}
    projection, shared = converted_name("image_projection"), converted_name(TIED[0])
    converted[projection] = converted[projection].T
    matrix = converted[shared]
    converted[shared] = torch.cat([matrix, matrix.new_zeros(rows - len(matrix), matrix.shape[1])])
    return converted


def check_logits_bias(bias: Tensor) -> None:
    """See that the head adds nothing to logits.

    Raises:
        CheckpointError: it does, for which transformers' class has no place.
    """
    if bool(bias.any()):
        raise CheckpointError(
            f"{LOGITS_BIAS} is not zero. transformers' own class has no such tensor and would answer "
            "otherwise; keep this checkpoint in the original format."
        )


def converted_config(config: Florence2Config, image_token_id: int) -> dict[str, Any]:
    """``config.json`` of the converted format.

    Raises:
        CheckpointError: the network is one that transformers' class does not build.
    """
    vision, text = config.vision, config.text
    if vision.image_feature_source != ("spatial_avg_pool", "temporal_avg_pool"):
        raise CheckpointError(
            f"image_feature_source is {list(vision.image_feature_source)}; transformers' own class knows "
            "only spatial_avg_pool and temporal_avg_pool. Keep this checkpoint in the original format."
        )
    rows = max(text.vocab_size, image_token_id + 1)
    return {
        "architectures": ["Florence2ForConditionalGeneration"],
        "image_token_id": image_token_id,
        "is_encoder_decoder": True,
        "model_type": "florence2",
        "text_config": {
            **{name: getattr(text, name) for name in TextConfig.__dataclass_fields__},
            "model_type": "bart",
            "vocab_size": rows,
        },
        "tie_word_embeddings": True,
        "vision_config": {
            "depths": list(vision.depths),
            "drop_path_rate": vision.drop_path_rate,
            "embed_dim": list(vision.dim_embed),
            "max_position_embeddings": vision.max_pos_embeddings,
            "max_temporal_embeddings": vision.max_temporal_embeddings,
            "mlp_ratio": vision.mlp_ratio,
            "model_type": "florence_vision",
            "num_groups": list(vision.num_groups),
            "num_heads": list(vision.num_heads),
            "projection_dim": vision.projection_dim,
            "qkv_bias": vision.qkv_bias,
            "window_size": vision.window_size,
            **patches(config),
        },
    }


def original_config(config: Florence2Config) -> dict[str, Any]:
    """``config.json`` of the original format, for a checkpoint that was read from the converted one."""
    vision, text = config.vision, config.text
    shared = {"bos_token_id": text.bos_token_id, "eos_token_id": text.eos_token_id,
              "pad_token_id": text.pad_token_id}  # fmt: skip
    return {
        "architectures": ["Florence2ForConditionalGeneration"],
        **shared,
        "ignore_index": -100,
        "is_encoder_decoder": True,
        "model_type": "florence2",
        "projection_dim": vision.projection_dim,
        "text_config": {
            **{name: getattr(text, name) for name in TextConfig.__dataclass_fields__},
            "add_bias_logits": False,
            "add_final_layer_norm": False,
            "is_encoder_decoder": True,
            "model_type": "florence2_language",
            "normalize_before": False,
            "num_hidden_layers": text.encoder_layers,
        },
        "vision_config": {
            "depths": list(vision.depths),
            "dim_embed": list(vision.dim_embed),
            "drop_path_rate": vision.drop_path_rate,
            "enable_checkpoint": False,
            "image_feature_source": list(vision.image_feature_source),
            "image_pos_embed": {"max_pos_embeddings": vision.max_pos_embeddings, "type": "learned_abs_2d"},
            "model_type": "davit",
            "num_groups": list(vision.num_groups),
            "num_heads": list(vision.num_heads),
            "projection_dim": vision.projection_dim,
            "visual_temporal_embedding": {
                "max_temporal_embeddings": vision.max_temporal_embeddings,
                "type": "COSINE",
            },
            "window_size": vision.window_size,
            **patches(config),
        },
        "vocab_size": text.vocab_size,
    }


def patches(config: Florence2Config) -> dict[str, Any]:
    """The sizes of the tower's downsampling, which are the same in all checkpoints and stated in each."""
    rest = len(config.vision.dim_embed) - 1
    return {
        "patch_padding": [3, *[1] * rest],
        "patch_prenorm": [False, *[True] * rest],
        "patch_size": [7, *[3] * rest],
        "patch_stride": [4, *[2] * rest],
    }
