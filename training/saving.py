"""What a run saves: a checkpoint in either published format, or an adapter.

Folders are written as they are to be used; whoever needs them whole or not at all writes them elsewhere and
renames them (:mod:`.atomic`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..florence2 import Florence2Model
from ..florence2.conversion import check_logits_bias, converted_config, converted_state
from ..florence2.loading import in_original_names
from ..inference.devices import DTYPES
from ..inference.weights import SAFETENSORS, open_weights
from .base_model import base_model_id
from .checkpoint_files import is_converted, write_converted_files, write_original_files
from .config import SaveOptions
from .errors import TrainingError
from .network import TrainableModel

CONVERTED = "converted"
"""The folder within, where both formats are asked for."""

MERGED = "merged"
"""The folder within an adapter's, of the whole checkpoint with the adapter in it."""

_NETWORK = "network."
_TABLES = (
    "pos_idx_to_embed",
    "final_logits_bias",
)  # never trained, and in fp32 in some files of fp16 weights


def check_saving(model: TrainableModel, options: SaveOptions) -> None:
    """See, before training, that what comes out of it can be saved as the options say.

    Raises:
        TrainingError: the adapter cannot be merged.
        CheckpointError: the converted format has no place for a network like this.
    """
    adapters, lora = model.adapters, model.options.lora
    if adapters is not None and lora is not None and lora.merge:
        adapters.check_merging()
    if options.save_format != "original" and (lora is None or lora.merge):
        converted_config(model.config, model.config.text.vocab_size)
        bias: Any = model.network.language_model.final_logits_bias
        check_logits_bias(bias)


def save_model(
    model: TrainableModel,
    folder: Path,
    options: SaveOptions,
    *,
    base_model: str,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write what was trained into ``folder``: a checkpoint; or with LoRA the adapter, and in ``merged/`` the
    checkpoint if the options say so. Where both formats are asked for, the converted one is in a folder
    ``converted/`` within.

    Args:
        base_model: what was trained, as the user named it.
        state: all of the model's tensors by its names, where they lie on several devices.

    Raises:
        TrainingError: weights are no finite numbers, or are too large for ``save_dtype``.
        OSError: it cannot be written.
    """
    network_state = _network_state(model, state)
    folder.mkdir(parents=True, exist_ok=True)
    if model.adapters is None:
        save_checkpoint(model, folder, options, network_state)
        return
    save_adapter(model, folder, options, base_model, network_state)
    if model.options.lora is not None and model.options.lora.merge:
        save_checkpoint(model, folder / MERGED, options, model.adapters.merged(network_state))


def save_checkpoint(
    model: TrainableModel | Florence2Model,
    folder: Path,
    options: SaveOptions,
    network_state: Mapping[str, Tensor],
) -> None:
    """Write a whole checkpoint from a network's tensors, by its names without adapters.

    Args:
        model: says which checkpoint it was.
    """
    dtype = _dtype(model.folder, options.save_dtype)
    original = in_original_names(network_state, model.config)
    exact = _TABLES if options.save_dtype == "checkpoint" else ()
    if options.save_format != "converted":
        folder.mkdir(parents=True, exist_ok=True)
        write_original_files(folder, model.folder, _torch_name(dtype))
        _write_weights(folder, original, dtype, exact)
    if options.save_format != "original":
        within = folder / CONVERTED if options.save_format == "both" else folder
        within.mkdir(parents=True, exist_ok=True)
        rows = write_converted_files(within, model.folder, model.text, _torch_name(dtype))
        _write_weights(within, converted_state(original, rows), dtype, exact)


def save_adapter(
    model: TrainableModel,
    folder: Path,
    options: SaveOptions,
    base_model: str,
    network_state: Mapping[str, Tensor],
) -> None:
    """Write the adapter. Its layers are called as in the checkpoint that it belongs to, or as in the
    converted format where that is asked for."""
    if model.adapters is None:
        raise ValueError("The model has no adapter.")
    # an adapter is small, and trained in fp32 whatever its base is held in
    dtype = torch.float32 if options.save_dtype == "checkpoint" else _dtype(model.folder, options.save_dtype)
    converted = options.save_format == "converted" or is_converted(model.folder)
    base_model = base_model_id(base_model) or base_model  # where peft and others find it
    model.adapters.save(folder, base_model, converted=converted, dtype=dtype, network_state=network_state)
    if options.save_format == "both" and not converted:
        model.adapters.save(
            folder / CONVERTED, base_model, converted=True, dtype=dtype, network_state=network_state
        )


def _network_state(model: TrainableModel, state: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    if state is None:
        return model.network.state_dict()
    return {
        name.removeprefix(_NETWORK): tensor for name, tensor in state.items() if name.startswith(_NETWORK)
    }


def _dtype(source: Path, wanted: str) -> torch.dtype:
    """What weights are saved as; ``checkpoint`` is as those of ``source`` are."""
    if wanted != "checkpoint":
        kind: torch.dtype = getattr(torch, DTYPES[wanted])
        return kind
    weights = open_weights(source)
    name = next(name for name in weights.shapes if name.endswith("image_proj_norm.weight"))
    return next(weights.pieces(name))[1].dtype


def _torch_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write_weights(
    folder: Path, state: Mapping[str, Tensor], dtype: torch.dtype, exact: tuple[str, ...]
) -> None:
    """
    Args:
        exact: ends of names of what is written in fp32 if ``dtype`` would change it.
    """
    tensors = {
        name: _cast(name, tensor, _exact(tensor, dtype) if name.endswith(exact) else dtype)
        for name, tensor in state.items()
    }
    path = folder / SAFETENSORS
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod((folder / "config.json").stat().st_mode & 0o777)  # the library makes it private


def _exact(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) else torch.float32


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    cast = tensor.detach().to("cpu", dtype).contiguous()
    if not torch.isfinite(cast).all():
        reason = "holds values that are no numbers or infinite"
        if torch.isfinite(tensor).all():
            reason = f"has values that {_torch_name(dtype)} cannot hold; choose save_dtype fp32 or bf16"
        raise TrainingError(f"{name} {reason}. Nothing of it can be used; what was saved before is kept.")
    return cast
