"""PaliGemma checkpoints of any size with random weights, as published ones are laid out.

They stand in for published weights where only size, memory and speed matter. They are written shard by
shard, so that one of 3 B needs the memory of one shard. Never committed: that one is 5.8 GB in bf16, 11.7 GB
in fp32.

    python -m promptgen.benchmarks.random_paligemma 3b FOLDER [--dtype bf16] [--shard-mb 2000]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from torch import Tensor

from ..inference import DTYPES
from ..paligemma.configuration import PaliGemmaConfig
from ..paligemma.names import our_name, published_name
from ..paligemma.network import PaliGemmaNetwork
from ..paligemma.text_processing import IMAGE_TOKEN, PLACE_TOKENS

VOCABULARY = 257_216
_SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
    "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip

# Parts of config.json. 3b and 3b-2 are as google/paligemma-3b-mix-224 and google/paligemma2-3b-mix-224 state
# them; 2gb has 2 GB in fp32; tiny is for trying things out.
SIZES: dict[str, dict[str, Any]] = {
    "3b": {
        "text_config": {
            "model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_attention_heads": 8,
            "num_hidden_layers": 18, "num_key_value_heads": 1, "vocab_size": VOCABULARY,
        },
        "vision_config": _SIGLIP,
    },
    "3b-2": {
        "text_config": {
            "model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "num_attention_heads": 8,
            "num_hidden_layers": 26, "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256,
            "sliding_window": 4096, "vocab_size": VOCABULARY,
        },
        "vision_config": _SIGLIP,
    },
    "2gb": {
        "text_config": {
            "model_type": "gemma", "hidden_size": 1536, "intermediate_size": 9216, "num_attention_heads": 6,
            "num_hidden_layers": 9, "num_key_value_heads": 1, "vocab_size": 32_768,
        },
        "vision_config": {
            **_SIGLIP, "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6,
            "num_hidden_layers": 6,
        },
    },
    "tiny": {
        "text_config": {
            "model_type": "gemma", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
            "num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 2048,
        },
        "vision_config": {
            **_SIGLIP, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2,
            "num_hidden_layers": 2, "patch_size": 56,
        },
    },
}  # fmt: skip

_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
_NOISE = 4_194_301  # numbers; a prime, so that no row of a matrix is like another


def write_checkpoint(
    folder: Path, size: str = "3b", *, dtype: str = "bf16", shard_bytes: int = 2 * 10**9, side: int = 224
) -> Path:
    """Write a whole checkpoint folder and return it.

    Args:
        size: a key of :data:`SIZES`.
        dtype: of the weights in the files, ``fp32``, ``fp16`` or ``bf16``.
        shard_bytes: of a weight file at most, unless a single tensor is larger.
        side: of pictures in pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = SIZES[size]
    vocabulary = parts["text_config"]["vocab_size"]
    image = vocabulary - 64
    vision = {**parts["vision_config"], "image_size": side}
    vision["projection_dim"] = parts["text_config"]["hidden_size"]
    tokens = (side // vision["patch_size"]) ** 2
    config = {
        "architectures": ["PaliGemmaForConditionalGeneration"], "model_type": "paligemma",
        "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "image_token_index": image,
        "hidden_size": parts["text_config"]["hidden_size"],
        "projection_dim": parts["text_config"]["hidden_size"], "text_config": parts["text_config"],
        "vision_config": vision,
    }  # fmt: skip
    pictures = {
        "image_processor_type": "SiglipImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "resample": 3, "rescale_factor": 1 / 255, "do_resize": True, "do_rescale": True,
        "do_normalize": True, "image_seq_length": tokens, "size": {"height": side, "width": side},
    }  # fmt: skip
    settings = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    _write_json(folder / "config.json", config)
    _write_json(folder / "preprocessor_config.json", pictures)
    _write_json(folder / "generation_config.json", settings)
    _tokenizer(image).save(str(folder / "tokenizer.json"))
    _write_weights(folder, getattr(torch, DTYPES[dtype]), shard_bytes)
    return folder


def _write_weights(folder: Path, dtype: torch.dtype, shard_bytes: int) -> None:
    shapes = {
        published_name(our_name(name)): tuple(parameter.shape)
        for name, parameter in PaliGemmaNetwork(PaliGemmaConfig.from_folder(folder)).named_parameters()
    }
    shards = list(_shards(shapes, dtype.itemsize, shard_bytes))
    noise = torch.randn(_NOISE, generator=torch.Generator().manual_seed(0))
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(
            {name: _weights(name, shapes[name], noise, dtype) for name in names},
            folder / file,
            metadata={"format": "pt"},
        )
        weight_map |= dict.fromkeys(names, file)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def _shards(shapes: dict[str, tuple[int, ...]], itemsize: int, most: int) -> Iterator[list[str]]:
    names: list[str] = []
    filled = 0
    for name, shape in shapes.items():
        nbytes = torch.Size(shape).numel() * itemsize
        if names and filled + nbytes > most:
            yield names
            names, filled = [], 0
        names.append(name)
        filled += nbytes
    yield names


def _weights(name: str, shape: tuple[int, ...], noise: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers that keep what goes through the network at its size."""
    if "norm" in name:
        # LayerNorm's weights are factors, Gemma's are added to 1
        factor = "vision" in name and name.endswith("weight")
        return torch.full(shape, 1.0 if factor else 0.0, dtype=dtype)
    inputs = torch.Size(shape[1:]).numel() if len(shape) > 1 else 100
    count = torch.Size(shape).numel()
    row = (noise * inputs**-0.5).to(dtype)
    return row.repeat(-(-count // len(row)))[:count].clone().reshape(shape)


def _tokenizer(image: int) -> Tokenizer:
    """Letters, bytes and as many invented words as there is room for below the picture's token."""
    vocab = {token: number for number, token in enumerate((*_SPECIAL, "\n"))}
    for token in (
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"\u2581abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()_-",
    ):
        vocab.setdefault(token, len(vocab))
    while len(vocab) < image - len(PLACE_TOKENS):
        vocab[f"\u2581w{len(vocab)}"] = len(vocab)
    tokenizer = Tokenizer(BPE(vocab, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in _SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("\n", *PLACE_TOKENS)])
    tokenizer.add_special_tokens([AddedToken(IMAGE_TOKEN, normalized=False, special=True)])
    return tokenizer


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--shard-mb", type=int, default=2000)
    parser.add_argument("--side", type=int, default=224, help="of pictures in pixels: 224, 448 or 896")
    options = parser.parse_args()
    write_checkpoint(
        options.folder,
        options.size,
        dtype=options.dtype,
        shard_bytes=options.shard_mb * 10**6,
        side=options.side,
    )


if __name__ == "__main__":
    main()
