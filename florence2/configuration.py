"""What ``config.json`` and its neighbours say, in both published checkpoint formats.

Plain data: reading a configuration loads neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..inference.errors import CheckpointError
from ..inference.generation_settings import generation_settings
from ..inference.image_settings import ImageProcessingConfig, image_settings
from ..inference.json_files import read_json, states_model_type

IMAGE_FEATURE_SOURCES = ("spatial_avg_pool", "temporal_avg_pool", "last_frame")


@dataclass(frozen=True)
class VisionConfig:
    """The DaViT vision tower and what carries its features to the language model."""

    dim_embed: tuple[int, ...]  # channels per stage
    num_heads: tuple[int, ...]  # heads of the window attention per stage
    num_groups: tuple[int, ...]  # groups of the channel attention per stage
    depths: tuple[int, ...]  # blocks per stage
    window_size: int
    projection_dim: int  # width of the language model
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    drop_path_rate: float = 0.0
    max_pos_embeddings: int = 50  # rows and columns of the learned position table
    max_temporal_embeddings: int = 100
    image_feature_source: tuple[str, ...] = ("spatial_avg_pool", "temporal_avg_pool")

    @property
    def stride(self) -> int:
        """Pixels per feature along one axis."""
        return 4 * 2 ** (len(self.dim_embed) - 1)


@dataclass(frozen=True)
class TextConfig:
    """The BART language model."""

    vocab_size: int
    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_attention_heads: int
    decoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    max_position_embeddings: int = 1024
    activation_function: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = False
    bos_token_id: int = 0
    pad_token_id: int = 1
    eos_token_id: int = 2
    decoder_start_token_id: int = 2


@dataclass(frozen=True)
class Florence2Config:
    """A whole checkpoint: network, picture processing, generation settings."""

    vision: VisionConfig
    text: TextConfig
    image: ImageProcessingConfig
    generation: Mapping[str, Any] = field(default_factory=dict)  # settings by transformers' names

    @property
    def num_image_tokens(self) -> int:
        """Image features per picture, ``1 + (height / 32) x (width / 32)`` for the usual four stages."""
        stride = self.vision.stride
        grid = -(-self.image.height // stride) * -(-self.image.width // stride)
        pooled = {"spatial_avg_pool": 1, "temporal_avg_pool": grid, "last_frame": grid}
        return sum(pooled[source] for source in self.vision.image_feature_source)

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens that a prompt may have beside the picture."""
        return self.text.max_position_embeddings - self.num_image_tokens

    @classmethod
    def from_folder(cls, folder: Path) -> Florence2Config:
        """Read ``config.json``, ``generation_config.json`` and the picture settings of a checkpoint folder.

        Raises:
            CheckpointError: a file is missing or not JSON, or states a network that this code does not build.
        """
        raw = read_json(folder / "config.json")
        if raw.get("model_type") != "florence2":
            raise CheckpointError(
                f"{folder / 'config.json'} describes a model of type {raw.get('model_type')!r}, "
                "not 'florence2'. Choose a Florence-2 checkpoint."
            )
        vision, text = raw.get("vision_config"), raw.get("text_config")
        if not isinstance(vision, dict) or not isinstance(text, dict):
            raise CheckpointError(
                f"{folder / 'config.json'} has no vision_config or no text_config; both are needed. "
                "Fetch the file again from where the checkpoint was published."
            )
        try:
            config = cls(
                vision=_vision_config(vision),
                text=_text_config(text),
                image=image_settings(folder),
                generation=generation_settings(text, folder / "generation_config.json"),
            )
        except KeyError as error:
            raise CheckpointError(
                f"{folder / 'config.json'} does not state {error.args[0]!r}, which the network needs."
            ) from error
        except (TypeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{folder / 'config.json'} cannot be understood: {error}") from error
        config._check(folder / "config.json")
        return config

    def _check(self, path: Path) -> None:
        vision, stages = self.vision, len(self.vision.dim_embed)
        for name in ("num_heads", "num_groups", "depths"):
            if len(getattr(vision, name)) != stages:
                raise CheckpointError(
                    f"{path}: vision_config.{name} has {len(getattr(vision, name))} entries "
                    f"for {stages} stages."
                )
        for name in ("num_heads", "num_groups"):
            for width, parts in zip(vision.dim_embed, getattr(vision, name), strict=True):
                if parts < 1 or width % parts:
                    raise CheckpointError(f"{path}: vision_config.{name} {parts} does not divide {width}.")
        if vision.projection_dim != self.text.d_model:
            raise CheckpointError(
                f"{path}: projection_dim {vision.projection_dim} is not d_model {self.text.d_model}."
            )
        grid = max(-(-self.image.height // vision.stride), -(-self.image.width // vision.stride))
        if grid > vision.max_pos_embeddings:
            raise CheckpointError(
                f"{path}: pictures of {self.image.height}x{self.image.width} need {grid} positions per axis, "
                f"the checkpoint has {vision.max_pos_embeddings}."
            )
        if self.num_image_tokens >= self.text.max_position_embeddings:
            raise CheckpointError(
                f"{path}: {self.num_image_tokens} image tokens leave no room in "
                f"{self.text.max_position_embeddings} positions."
            )


def is_checkpoint(folder: Path) -> bool:
    """Whether ``folder/config.json`` says that this is a Florence-2 checkpoint. Reads that one file only."""
    return states_model_type(folder, "florence2")


def _vision_config(raw: Mapping[str, Any]) -> VisionConfig:
    dim_embed = raw["dim_embed"] if "dim_embed" in raw else raw["embed_dim"]
    stages = len(dim_embed)
    for name, known in (
        ("patch_size", [7] + [3] * (stages - 1)),
        ("patch_stride", [4] + [2] * (stages - 1)),
        ("patch_padding", [3] + [1] * (stages - 1)),
        ("patch_prenorm", [False] + [True] * (stages - 1)),
    ):
        if list(raw.get(name, known)) != known:
            raise CheckpointError(f"vision_config.{name} is {raw[name]}; the DaViT built here has {known}.")
    positions = raw.get("image_pos_embed") or {}
    if positions.get("type", "learned_abs_2d") != "learned_abs_2d":
        raise CheckpointError(
            f"image_pos_embed is {positions['type']!r}; only 'learned_abs_2d' is built here."
        )
    temporal = raw.get("visual_temporal_embedding") or {}
    if temporal.get("type", "COSINE") != "COSINE":
        raise CheckpointError(
            f"visual_temporal_embedding is {temporal['type']!r}; only 'COSINE' is built here."
        )
    sources = tuple(raw.get("image_feature_source", ("spatial_avg_pool", "temporal_avg_pool")))
    for source in sources:
        if source not in IMAGE_FEATURE_SOURCES:
            raise CheckpointError(
                f"image_feature_source names {source!r}; known are {', '.join(IMAGE_FEATURE_SOURCES)}."
            )
    return VisionConfig(
        dim_embed=tuple(dim_embed),
        num_heads=tuple(raw["num_heads"]),
        num_groups=tuple(raw["num_groups"]),
        depths=tuple(raw["depths"]),
        window_size=raw["window_size"],
        projection_dim=raw["projection_dim"],
        mlp_ratio=raw.get("mlp_ratio", 4.0),
        qkv_bias=raw.get("qkv_bias", True),
        drop_path_rate=raw.get("drop_path_rate", 0.1),  # transformers leaves out what is its class's default
        max_pos_embeddings=positions.get("max_pos_embeddings", raw.get("max_position_embeddings", 50)),
        max_temporal_embeddings=temporal.get(
            "max_temporal_embeddings", raw.get("max_temporal_embeddings", 100)
        ),
        image_feature_source=sources,
    )


def _text_config(raw: Mapping[str, Any]) -> TextConfig:
    if raw.get("tie_word_embeddings") is False:
        raise CheckpointError("text_config says tie_word_embeddings false; Florence-2 has one tied matrix.")
    if raw.get("add_final_layer_norm") or raw.get("normalize_before"):
        raise CheckpointError(
            "text_config asks for add_final_layer_norm or normalize_before; BART has neither."
        )
    known = {name: raw[name] for name in TextConfig.__dataclass_fields__ if raw.get(name) is not None}
    missing = [
        name
        for name in TextConfig.__dataclass_fields__
        if name not in known and name in _TEXT_CONFIG_REQUIRED
    ]
    if missing:
        raise KeyError(missing[0])
    return TextConfig(**known)


_TEXT_CONFIG_REQUIRED = (
    "vocab_size", "d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads",
    "decoder_attention_heads", "encoder_ffn_dim", "decoder_ffn_dim",
)  # fmt: skip
