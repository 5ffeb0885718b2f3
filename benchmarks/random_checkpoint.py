"""Checkpoints of any size with random weights, in either published format.

They stand in for published weights where only size and speed matter. Never committed: a base checkpoint in
fp16 is 0.5 GB.

    python -m promptgen.benchmarks.random_checkpoint base FOLDER [--dtype fp16] [--format original]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from ..florence2 import Florence2Config
from ..florence2.configuration import TextConfig, VisionConfig
from ..florence2.loading import original_state_dict, translate
from ..florence2.network import Florence2Network
from ..florence2.text_processing import FLORENCE2_TOKENS
from ..inference import DTYPES
from ..inference.image_settings import ImageProcessingConfig

# What make_config takes. Base and large are as microsoft/Florence-2-base and -large state them; tiny is for
# trying things out.
SIZES: dict[str, dict[str, Any]] = {
    "base": {
        "vision": {"dim_embed": (128, 256, 512, 1024), "num_heads": (4, 8, 16, 32), "depths": (1, 1, 9, 1)},
        "text": {"d_model": 768, "layers": 6, "heads": 12, "ffn": 3072},
    },
    "large": {
        "vision": {"dim_embed": (256, 512, 1024, 2048), "num_heads": (8, 16, 32, 64), "depths": (1, 1, 9, 1)},
        "text": {"d_model": 1024, "layers": 12, "heads": 16, "ffn": 4096},
    },
    "tiny": {
        "vision": {"dim_embed": (16, 32, 48, 64), "num_heads": (1, 2, 3, 4), "depths": (1, 1, 1, 1)},
        "text": {"d_model": 64, "layers": 2, "heads": 4, "ffn": 128},
        "vocab_size": 1400,
        "image_size": 160,
        "window_size": 5,
    },
}
VOCABULARY = 51_289


def make_config(
    vision: Mapping[str, Any],
    text: Mapping[str, Any],
    *,
    vocab_size: int = VOCABULARY,
    image_size: int = 768,
    window_size: int = 12,
    generation: Mapping[str, Any] | None = None,
) -> Florence2Config:
    """A configuration from the few numbers that matter (see ``SIZES``)."""
    sizes = {f"{part}_{name}": text[short] for part in ("encoder", "decoder") for name, short in
             (("layers", "layers"), ("attention_heads", "heads"), ("ffn_dim", "ffn"))}  # fmt: skip
    return Florence2Config(
        vision=VisionConfig(
            **{"num_groups": vision["num_heads"], **vision},
            window_size=window_size,
            projection_dim=text["d_model"],
        ),
        text=TextConfig(vocab_size=vocab_size, d_model=text["d_model"], **sizes),
        image=ImageProcessingConfig(height=image_size, width=image_size),
        generation=dict(generation or _GENERATION),
    )


_GENERATION = {
    "num_beams": 3, "no_repeat_ngram_size": 3, "early_stopping": False, "forced_bos_token_id": 0,
    "forced_eos_token_id": 2, "decoder_start_token_id": 2, "bos_token_id": 0, "eos_token_id": 2,
    "pad_token_id": 1,
}  # fmt: skip


def random_network(config: Florence2Config, seed: int = 0) -> Florence2Network:
    """A network with the initial weights of its parts, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Florence2Network(config).eval()


def write_checkpoint(
    folder: Path, network: Florence2Network, *, dtype: str = "fp16", form: str = "original"
) -> Path:
    """Write a checkpoint folder with a byte-level tokenizer of the right size.

    Args:
        dtype: ``fp32``, ``fp16`` or ``bf16`` on disk.
        form: ``original`` (Microsoft's) or ``converted`` (transformers' own class).
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, kind = network.config, getattr(torch, DTYPES[dtype])
    state = {name: tensor.to(kind).contiguous() for name, tensor in original_state_dict(network).items()}
    if form == "converted":
        state = {name: tensor.contiguous() for name, tensor in converted_state_dict(network, kind).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write_checkpoint_files(folder, config, form)
    return folder


def write_checkpoint_files(folder: Path, config: Florence2Config, form: str = "original") -> None:
    """Write all that a checkpoint has beside its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config_json(config, form))
    _write_json(folder / "generation_config.json", dict(config.generation))
    _write_json(folder / "preprocessor_config.json", _preprocessor_json(config))
    tokenizer = byte_tokenizer(config.text.vocab_size)
    if form == "converted":
        tokenizer.add_special_tokens([AddedToken("<image>", normalized=False, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _tokenizer_json(form))


def write_shards(
    folder: Path, config: Florence2Config, shard_bytes: int, *, dtype: str = "fp32", kind: str = "safetensors"
) -> Path:
    """Write a checkpoint in the original format as several files, none of which is whole in memory with
    another. Its numbers are the same few again and again: for what is only to be read.

    Args:
        shard_bytes: about the size of a file.
        kind: ``safetensors`` or ``bin``.
    """
    with torch.device("meta"):
        shapes = {
            name: tensor.shape for name, tensor in original_state_dict(Florence2Network(config)).items()
        }
    number = getattr(torch, DTYPES[dtype])
    few = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(number)
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name, shape in shapes.items():
        room -= shape.numel() * few.itemsize
        if room < 0 and shards[-1]:
            shards.append([])
            room = shard_bytes - shape.numel() * few.itemsize
        shards[-1].append(name)
    write_checkpoint_files(folder, config)
    index: dict[str, str] = {}
    for count, names in enumerate(shards, start=1):
        state = {
            name: few.repeat(-(-shapes[name].numel() // len(few)))[: shapes[name].numel()]
            .reshape(shapes[name])
            .clone()
            for name in names
        }
        stem = "model" if kind == "safetensors" else "pytorch_model"
        file = f"{stem}-{count:05}-of-{len(shards):05}.{kind}"
        if kind == "safetensors":
            save_file(state, folder / file, metadata={"format": "pt"})
        else:
            torch.save(state, folder / file)
        index |= dict.fromkeys(names, file)
        del state
    _write_json(folder / f"{stem}.{kind}.index.json", {"metadata": {}, "weight_map": index})
    return folder


def converted_state_dict(network: Florence2Network, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The network's tensors under transformers' names, with the row that ``<image>`` adds."""
    ours = network.state_dict()
    names = translate(_converted_names(network.config))
    state = {name: ours[our].detach().to(dtype) for name, our in names.items()}
    projection = "model.multi_modal_projector.image_projection.weight"
    state[projection] = state[projection].T
    shared = "model.language_model.shared.weight"
    state[shared] = torch.cat([state[shared], state[shared].new_zeros(1, state[shared].shape[1])])
    return state


def _converted_names(config: Florence2Config) -> list[str]:
    from transformers import Florence2Config as ConvertedConfig
    from transformers import Florence2ForConditionalGeneration

    with torch.device("meta"):
        model = Florence2ForConditionalGeneration(ConvertedConfig(**config_json(config, "converted")))
    tied = ("embed_tokens.weight", "lm_head.weight")
    return [name for name in model.state_dict() if not name.endswith(tied)]


def config_json(config: Florence2Config, form: str = "original") -> dict[str, Any]:
    """``config.json`` of either format."""
    vision, text = config.vision, config.text
    text_json = {name: getattr(text, name) for name in TextConfig.__dataclass_fields__}
    vision_json: dict[str, Any] = {
        "model_type": "davit" if form == "original" else "florence_vision",
        "patch_size": [7, 3, 3, 3],
        "patch_stride": [4, 2, 2, 2],
        "patch_padding": [3, 1, 1, 1],
        "patch_prenorm": [False, True, True, True],
        "num_heads": list(vision.num_heads),
        "num_groups": list(vision.num_groups),
        "depths": list(vision.depths),
        "window_size": vision.window_size,
        "projection_dim": vision.projection_dim,
        "drop_path_rate": vision.drop_path_rate,
    }
    shared = {"model_type": "florence2", "is_encoder_decoder": True}
    if form == "converted":
        vision_json |= {
            "embed_dim": list(vision.dim_embed),
            "max_position_embeddings": vision.max_pos_embeddings,
            "max_temporal_embeddings": vision.max_temporal_embeddings,
        }
        text_json |= {"model_type": "bart", "vocab_size": text.vocab_size + 1}
        return {
            **shared,
            "architectures": ["Florence2ForConditionalGeneration"],
            "image_token_id": text.vocab_size,
            "vision_config": vision_json,
            "text_config": text_json,
        }
    vision_json |= {
        "dim_embed": list(vision.dim_embed),
        "visual_temporal_embedding": {
            "type": "COSINE",
            "max_temporal_embeddings": vision.max_temporal_embeddings,
        },
        "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": vision.max_pos_embeddings},
        "image_feature_source": list(vision.image_feature_source),
    }
    text_json["model_type"] = "florence2_language"
    return {
        **shared,
        "projection_dim": vision.projection_dim,
        "vocab_size": text.vocab_size,
        "vision_config": vision_json,
        "text_config": text_json,
    }


def _preprocessor_json(config: Florence2Config) -> dict[str, Any]:
    size = {"height": config.image.height, "width": config.image.width}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "Florence2Processor",
        "do_resize": True,
        "do_center_crop": False,
        "do_rescale": True,
        "do_normalize": True,
        "resample": config.image.resample,
        "rescale_factor": config.image.rescale_factor,
        "image_mean": list(config.image.image_mean),
        "image_std": list(config.image.image_std),
        "image_seq_length": config.num_image_tokens,
        "size": size,
        "crop_size": size,
    }


def _tokenizer_json(form: str) -> dict[str, Any]:
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    settings: dict[str, Any] = {"tokenizer_class": "BartTokenizer", "model_max_length": 1024, **special}
    if form == "converted":
        settings |= {"processor_class": "Florence2Processor", "image_token": "<image>"}
        settings |= {"extra_special_tokens": {"image_token": "<image>"}}
    return settings


def byte_tokenizer(vocab_size: int) -> Tokenizer:
    """A byte-level BPE without merges, filled up so that the Florence-2 tokens end at ``vocab_size``."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    room = vocab_size - len(FLORENCE2_TOKENS) - 1  # and <mask>
    if room < len(words):
        raise ValueError(f"vocab_size {vocab_size} is too small; at least {vocab_size - room + len(words)}.")
    words += [f"filler{number}" for number in range(room - len(words))]
    tokenizer = Tokenizer(BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in special])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False, special=True)])
    tokenizer.add_special_tokens(
        [AddedToken(word, normalized=False, special=True) for word in FLORENCE2_TOKENS]
    )
    return tokenizer


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("size", choices=sorted(SIZES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp16")
    parser.add_argument("--format", choices=("original", "converted"), default="original")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    network = random_network(make_config(**SIZES[arguments.size]), arguments.seed)
    write_checkpoint(arguments.folder, network, dtype=arguments.dtype, form=arguments.format)
    print(arguments.folder)


if __name__ == "__main__":
    main()
