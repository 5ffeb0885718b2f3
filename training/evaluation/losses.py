"""The loss of true answers under a checkpoint: what training lowers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.examples import Example
from ..errors import TrainingError

if TYPE_CHECKING:
    from ..network import TrainableModel

__all__ = ["TokenLoss", "example_losses", "load_for_loss", "mean_loss"]


@dataclass(frozen=True)
class TokenLoss:
    """Cross-entropy summed over the tokens of one true answer, ``</s>`` included, in nats."""

    loss: float
    tokens: int


def mean_loss(losses: Sequence[TokenLoss]) -> float | None:
    """Nats per token: each token weighs alike, whichever answer it is of; None of nothing."""
    tokens = sum(one.tokens for one in losses)
    return sum(one.loss for one in losses) / tokens if tokens else None


def load_for_loss(
    folder: Path, adapters: Sequence[tuple[Path, float]] = (), *, device: str = "cpu"
) -> TrainableModel:
    """A checkpoint in fp32, whatever it is saved as, so that losses can be compared.

    Args:
        adapters: folders of LoRA adapters, each with its strength, whose changes are put into the weights.

    Raises:
        CheckpointError, AdapterError: one cannot be loaded, or they do not fit each other.
    """
    from ...florence2.adapting import changed_parameters, parameter_shapes
    from ...florence2.loading import TIED
    from ...florence2.lora import check_adapter, merged_changes, read_adapter
    from ..network import TrainableModel

    model = TrainableModel.load(folder, device=device)
    model.eval()
    model.requires_grad_(False)
    if adapters:
        read = [(read_adapter(path, model.config), strength) for path, strength in adapters]
        shapes = parameter_shapes(model.network)
        for adapter, _ in read:
            check_adapter(adapter, shapes)
        changed = changed_parameters(model.network, folder, merged_changes(read))
        for name, values in changed.items():
            model.network.get_parameter(TIED[0] if name in TIED else name).copy_(values)
    return model


def example_losses(
    model: TrainableModel,
    examples: Sequence[Example],
    *,
    prompts: Mapping[str, str] | None = None,
    background: str = "white",
    batch_size: int = 8,
    workers: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[TokenLoss]:
    """The loss of each example, dropout off.

    Args:
        prompts: literal prompts by instruction that replace the usual ones.
        workers: processes that read images.
        on_progress: told how many more examples are done.

    Raises:
        DataError: an image cannot be read.
        TrainingError: a true answer, or a prompt, has more tokens than the checkpoint takes.
    """
    import torch

    from ..batches import BatchReader, Preparation, read_batches
    from ..config import BatchOptions

    model.eval()
    device = next(model.parameters()).device
    # Answers of like lengths together: less padding. The sum over each example is the same.
    order = sorted(range(len(examples)), key=lambda place: -len(examples[place].target))
    keys = [(0, tuple(order[start : start + batch_size])) for start in range(0, len(order), batch_size)]
    how = Preparation(
        model.image_processor,
        model.text,
        prompts or {},
        background,
        pad_token_id=model.config.text.pad_token_id,
    )
    reader = BatchReader(examples, how)
    losses: dict[int, TokenLoss] = {}
    batches = read_batches(reader, keys, BatchOptions(dataloader_workers=workers))
    for (_, places), batch in zip(keys, batches, strict=True):
        _check_lengths(model, batch.names, batch.input_ids.shape[1], batch.labels.shape[1])
        with torch.no_grad():
            found = model(**batch.inputs(device))
        rows = zip(places, found.sample_losses.tolist(), found.sample_tokens.tolist(), strict=True)
        losses.update((place, TokenLoss(loss, tokens)) for place, loss, tokens in rows)
        on_progress(len(places))
    return [losses[place] for place in range(len(examples))]


def _check_lengths(model: TrainableModel, names: Sequence[str], prompt: int, target: int) -> None:
    for what, given, most in (
        ("prompt", prompt, model.max_prompt_tokens),
        ("true answer", target, model.max_target_tokens),
    ):
        if given > most:
            raise TrainingError(
                f"The {what} of one of {', '.join(names)} has {given} tokens, and {model.folder.name} takes "
                f"{most}. Shorten it, or leave it out."
            )
