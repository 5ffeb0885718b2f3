"""The network: timm's DaViT, a projection, transformers' BART.

Module and parameter names are those of the published checkpoints (``image_projection``,
``image_pos_embed.row_embeddings.weight``, ``language_model.model.shared.weight`` ...), except inside
``vision_tower``, which speaks timm's names; :mod:`.loading` translates.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from timm.models.davit import ChannelAttentionV2, DaVit
from torch import Tensor, nn
from transformers import BartConfig, BartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from .configuration import Florence2Config, TextConfig, VisionConfig


class LearnedPositionEmbedding2d(nn.Module):
    """A learned vector per column beside a learned vector per row."""

    def __init__(self, max_pos_embeddings: int, dim: int) -> None:
        super().__init__()
        self.row_embeddings = nn.Embedding(max_pos_embeddings, dim // 2)
        self.column_embeddings = nn.Embedding(max_pos_embeddings, dim - dim // 2)

    def forward(self, height: int, width: int) -> Tensor:
        """Positions of a grid, ``[height * width, dim]``, row by row."""
        columns = repeat(self.column_embeddings.weight[:width], "w c -> (h w) c", h=height)
        rows = repeat(self.row_embeddings.weight[:height], "h c -> (h w) c", w=width)
        return torch.cat([columns, rows], dim=-1)


class CosineTemporalEmbedding(nn.Module):
    """The sine and cosine table of frame positions. A picture is frame 0 of a film of one frame."""

    pos_idx_to_embed: Tensor

    def __init__(self, max_temporal_embeddings: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("pos_idx_to_embed", sinusoid_table(max_temporal_embeddings, dim))

    def forward(self, frames: int) -> Tensor:
        """``[frames, dim]``"""
        return self.pos_idx_to_embed[:frames]


def sinusoid_table(length: int, dim: int, device: torch.device | str | None = None) -> Tensor:
    """The usual table ``[length, dim]``: sines at even, cosines at odd places (Vaswani et al. 2017, 3.5,
    with the exponent ``k / (dim / 2)`` of the published Florence-2 code)."""
    half = dim // 2
    frequency = torch.exp(torch.arange(half, device=device).float() * -(math.log(10_000) / half))
    angle = torch.arange(length, device=device).float()[:, None] * frequency[None, :]
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(length, dim)


class Florence2Network(nn.Module):
    """Florence-2 for conditional generation, of any size that a configuration states."""

    def __init__(self, config: Florence2Config) -> None:
        super().__init__()
        self.config = config
        vision = config.vision
        dim = vision.dim_embed[-1]
        self.vision_tower = build_vision_tower(vision)
        self.image_pos_embed = LearnedPositionEmbedding2d(vision.max_pos_embeddings, dim)
        self.visual_temporal_embed = CosineTemporalEmbedding(vision.max_temporal_embeddings, dim)
        self.image_projection = nn.Parameter(torch.randn(dim, vision.projection_dim) * dim**-0.5)
        self.image_proj_norm = nn.LayerNorm(vision.projection_dim)
        self.language_model = build_language_model(config.text)

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Image features, from pixels ``[B, 3, H, W]`` (normalised, of any dtype) to ``[B, N, d_model]``.

        With the usual feature sources ``N = 1 + H/32 * W/32``: the mean over the picture, then its cells.
        """
        dtype = next(self.vision_tower.parameters()).dtype
        grid = self.vision_tower.forward_features(pixel_values.to(dtype))  # [B, C, H/32, W/32]
        grid = grid.to(self.image_projection.dtype)
        height, width = grid.shape[-2:]
        cells = rearrange(grid, "b c h w -> b (h w) c") + self.image_pos_embed(height, width)
        cells = cells + self.visual_temporal_embed(1)  # one frame
        pooled = {
            "spatial_avg_pool": lambda: cells.mean(dim=1, keepdim=True),
            "temporal_avg_pool": lambda: cells,  # the mean over one frame
            "last_frame": lambda: cells,
        }
        features = torch.cat([pooled[source]() for source in self.config.vision.image_feature_source], dim=1)
        return self.image_proj_norm(features @ self.image_projection)

    def encode(
        self, image_features: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the encoder over image features followed by the prompt.

        Args:
            image_features: ``[B, N, d_model]``
            input_ids: prompts padded on the right, ``[B, L]`` int64
            attention_mask: 1 at prompt tokens, 0 at padding, ``[B, L]`` int64

        Returns:
            ``encoder_hidden_states`` ``[B, N + L, d_model]`` and their mask ``[B, N + L]``.
        """
        prompt = self.language_model.get_input_embeddings()(input_ids)
        mask = torch.cat([attention_mask.new_ones(image_features.shape[:2]), attention_mask], dim=1)
        states = self.language_model.get_encoder()(
            inputs_embeds=torch.cat([image_features, prompt], dim=1), attention_mask=mask
        ).last_hidden_state
        return states, mask

    def forward(
        self,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        decoder_input_ids: Tensor,
    ) -> Tensor:
        """Logits ``[B, T, vocabulary]`` for every place of ``decoder_input_ids`` ``[B, T]``."""
        return self.language_model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoder_hidden_states),
            attention_mask=encoder_attention_mask,
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        ).logits


class _VisionTower(DaVit):
    """timm's DaViT without initial weights on the meta device, which would be half the time of loading."""

    def _init_weights(self, m: nn.Module) -> None:
        if not any(parameter.is_meta for parameter in m.parameters(recurse=False)):
            super()._init_weights(m)


def build_vision_tower(config: VisionConfig) -> DaVit:
    """timm's DaViT as Florence-2 has it: 3x3 downsampling, the second form of channel attention, no head."""
    tower = _VisionTower(
        depths=config.depths,
        embed_dims=config.dim_embed,
        num_heads=config.num_heads,
        window_size=config.window_size,
        mlp_ratio=config.mlp_ratio,
        qkv_bias=config.qkv_bias,
        num_classes=0,
        global_pool="",
        down_kernel_size=3,
        channel_attn_v2=True,
        named_blocks=True,
    )
    tower.head = nn.Identity()  # Florence-2 drops the head and its norm
    # timm takes one number for the heads of both attentions
    for stage, dim, heads, groups in zip(
        tower.stages, config.dim_embed, config.num_heads, config.num_groups, strict=True
    ):
        if groups != heads:
            for block in stage.blocks:
                block.channel_block.attn = ChannelAttentionV2(dim, groups, qkv_bias=config.qkv_bias)
    return tower


def build_language_model(config: TextConfig) -> BartForConditionalGeneration:
    """transformers' BART with the sizes of ``config`` and one tied embedding matrix."""
    bart = BartConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        d_model=config.d_model,
        encoder_layers=config.encoder_layers,
        encoder_ffn_dim=config.encoder_ffn_dim,
        encoder_attention_heads=config.encoder_attention_heads,
        decoder_layers=config.decoder_layers,
        decoder_ffn_dim=config.decoder_ffn_dim,
        decoder_attention_heads=config.decoder_attention_heads,
        activation_function=config.activation_function,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        encoder_layerdrop=config.encoder_layerdrop,
        decoder_layerdrop=config.decoder_layerdrop,
        init_std=config.init_std,
        scale_embedding=config.scale_embedding,
        bos_token_id=config.bos_token_id,
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        forced_eos_token_id=None,
    )
    model = BartForConditionalGeneration(bart)
    tie_embeddings(model)
    return model


def tie_embeddings(model: BartForConditionalGeneration) -> None:
    """Make encoder, decoder and head use the one shared matrix, whatever the transformers release did."""
    shared = model.model.shared.weight
    model.model.encoder.embed_tokens.weight = shared
    model.model.decoder.embed_tokens.weight = shared
    if isinstance(model.lm_head, nn.Linear):  # and not a copy of it that only a CPU reads
        model.lm_head.weight = shared
