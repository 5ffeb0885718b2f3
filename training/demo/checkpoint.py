"""The demo checkpoint's files, in the original format that Microsoft and every fine-tune publish."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from ...florence2.network import Florence2Network

IMAGE_SIDE = 128
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
WEIGHTS_FILE = "model.safetensors"


def config_json(
    vocab_size: int, *, width: int = 128, channels: tuple[int, ...] = (16, 32, 64, 128)
) -> dict[str, Any]:
    """config.json.

    Args:
        width: the language model's d_model.
        channels: the DaViT's channels per stage; multiples of 8.
    """
    heads = [max(1, channel // (24 if channel % 24 == 0 else 16)) for channel in channels]
    return {
        "_name_or_path": "promptgen-demo",
        "architectures": ["Florence2ForConditionalGeneration"],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "ignore_index": -100,
        "is_encoder_decoder": True,
        "model_type": "florence2",
        "pad_token_id": 1,
        "projection_dim": width,
        "text_config": {
            "activation_dropout": 0.0,
            "activation_function": "gelu",
            "add_bias_logits": False,
            "add_final_layer_norm": False,
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "classifier_dropout": 0.0,
            "d_model": width,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 2 * width,
            "decoder_layerdrop": 0.0,
            "decoder_layers": 2,
            "decoder_start_token_id": 2,
            "dropout": 0.0,
            "early_stopping": True,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 2 * width,
            "encoder_layerdrop": 0.0,
            "encoder_layers": 2,
            "eos_token_id": 2,
            "forced_bos_token_id": 0,
            "forced_eos_token_id": 2,
            "gradient_checkpointing": False,
            "init_std": 0.02,
            "is_encoder_decoder": True,
            "max_position_embeddings": 1024,
            "model_type": "florence2_language",
            "no_repeat_ngram_size": 3,
            "normalize_before": False,
            "num_beams": 3,
            "num_hidden_layers": 2,
            "pad_token_id": 1,
            "scale_embedding": False,
            "vocab_size": vocab_size,
        },
        "torch_dtype": "float16",
        "vision_config": {
            "depths": [1, 1, 1, 1],
            "dim_embed": list(channels),
            "drop_path_rate": 0.0,
            "enable_checkpoint": False,
            "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
            "image_pos_embed": {"max_pos_embeddings": 50, "type": "learned_abs_2d"},
            "model_type": "davit",
            "num_groups": heads,
            "num_heads": heads,
            "patch_padding": [3, 1, 1, 1],
            "patch_prenorm": [False, True, True, True],
            "patch_size": [7, 3, 3, 3],
            "patch_stride": [4, 2, 2, 2],
            "projection_dim": width,
            "visual_temporal_embedding": {"max_temporal_embeddings": 100, "type": "COSINE"},
            "window_size": 8,
        },
        "vocab_size": vocab_size,
    }


def generation_config_json() -> dict[str, Any]:
    """generation_config.json: the settings of the published checkpoints."""
    return {
        "bos_token_id": 0,
        "decoder_start_token_id": 2,
        "early_stopping": False,
        "eos_token_id": 2,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "no_repeat_ngram_size": 3,
        "num_beams": 3,
        "pad_token_id": 1,
    }


def preprocessor_config_json() -> dict[str, Any]:
    """preprocessor_config.json: CLIP's picture processing at the demo's size."""
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    return {
        "crop_size": side,
        "do_center_crop": False,
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(MEAN),
        "image_processor_type": "CLIPImageProcessor",
        "image_seq_length": 1 + (IMAGE_SIDE // 32) ** 2,
        "image_std": list(STD),
        "processor_class": "Florence2Processor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": side,
    }


def write_settings(folder: Path, config: dict[str, Any]) -> None:
    """Write the three JSON files; the tokenizer and the weights are written beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("config.json", config),
        ("generation_config.json", generation_config_json()),
        ("preprocessor_config.json", preprocessor_config_json()),
    ):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def save_weights(network: Florence2Network, folder: Path) -> None:
    """Write the weights in fp16 under the original format's names."""
    import torch
    from safetensors.torch import save_file

    from ...florence2.loading import original_state_dict

    state = {
        name: tensor.to("cpu", torch.float16).contiguous()
        for name, tensor in original_state_dict(network).items()
    }
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / WEIGHTS_FILE).chmod(0o644)  # the library makes it private
