"""What a run decides about the model: what is trained of it, with which dropout, in which precision."""

from __future__ import annotations

from dataclasses import dataclass

ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
"""Ways to compute the language model's attention, by transformers' names. The vision tower's is timm's."""

PARTS = ("vision", "language", "other")
"""Of a network, as ``freeze_vision`` and its sisters name them: the tower; the language model with the
embeddings; what carries features from the one to the other."""

WEIGHTS = ("fp32", "bf16")
"""What the weights are held as. fp16 has too small a range for weights that change by small steps."""

BIASES = ("none", "all", "lora_only")


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters instead of all weights, with peft's names and defaults of settings."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    use_dora: bool = False
    use_rslora: bool = False
    target_modules: tuple[str, ...] = ()
    """Ends of published names of layers (``q_proj``), of either format, or shell patterns of whole ones. None
    given: every linear layer of the parts that are not frozen, but for the head."""
    modules_to_save: tuple[str, ...] = ()
    """Layers, named in the same way, that are trained as a whole and saved in the adapter."""
    bias: str = "none"
    merge: bool = False
    """Save, beside the adapter, a whole checkpoint with the adapter in its weights."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora.rank is {self.rank}; it takes a whole number from 1.")
        if self.alpha <= 0:
            raise ValueError(f"lora.alpha is {self.alpha}; it takes a number above 0.")
        _check_share("lora.dropout", self.dropout)
        if self.bias not in BIASES:
            raise ValueError(f"lora.bias is {self.bias!r}. Choose {', '.join(BIASES)}.")


@dataclass(frozen=True)
class ModelOptions:
    """How a checkpoint becomes a model to train. What is ``None`` is as the checkpoint's config.json says."""

    freeze: tuple[str, ...] = ()
    """Of ``vision``, ``language``, ``other``, and shell patterns of published parameter names. Each is taken
    in turn; one with ``!`` before it trains what an earlier one froze."""
    lora: LoraOptions | None = None
    dropout: float | None = None
    attention_dropout: float | None = None
    activation_dropout: float | None = None
    drop_path_rate: float | None = None
    gradient_checkpointing: bool = False
    """Of tower, encoder, decoder and head: a third more time for a fraction of the memory."""
    attention: str = "sdpa"
    weights: str = "fp32"

    def __post_init__(self) -> None:
        for name in ("dropout", "attention_dropout", "activation_dropout", "drop_path_rate"):
            _check_share(name, getattr(self, name))
        if self.attention not in ATTENTIONS:
            raise ValueError(f"attention is {self.attention!r}. Choose {', '.join(ATTENTIONS)}.")
        if self.weights not in WEIGHTS:
            raise ValueError(
                f"weights is {self.weights!r}. Choose {' or '.join(WEIGHTS)}; mixed precision in fp16 or bf16"
                " computes in that and keeps the weights in fp32."
            )


def _check_share(name: str, value: float | None) -> None:
    if value is not None and not 0 <= value < 1:
        raise ValueError(f"{name} is {value}; it takes a number from 0 to below 1.")
