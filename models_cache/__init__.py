"""The shared model manager: known checkpoints, their files on disk, and models that are loaded once.

Importing this package loads nothing; torch, transformers and huggingface_hub come at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .catalogue import (
    DEFAULT_MODEL,
    CatalogueError,
    CheckpointEntry,
    adapter_catalogue,
    catalogue,
    find_entry,
    user_catalogue_path,
)
from .errors import DamagedCheckpointError, DownloadError, ModelFilesError, ModelNotFoundError, Problem

if TYPE_CHECKING:
    from .adapters import (
        adapter_digest,
        adapter_entry,
        ensure_adapter,
        find_adapter,
        local_adapters,
        own_prompts,
        register_adapter_folder,
    )
    from .download import DownloadProgress
    from .families import ImageProcessor, LoadedModel, known_family
    from .files import checkpoint_problems, ensure_checkpoint, find_checkpoint, verify_checkpoint
    from .folders import (
        download_folder,
        entry_of,
        local_checkpoints,
        register_folder,
        search_folders,
        unregister_folder,
    )
    from .free_memory import free_bytes, is_out_of_memory
    from .identity import checkpoint_digest
    from .manager import LoadedInfo, ModelManager, shared_manager
    from .memory import return_memory
    from .model_family import family_of_model, told_family
    from .placement import DirectPlacement, Placement
    from .processors import image_processor
    from .trained import write_trained_entry

_LAZY = {
    "adapter_digest": "adapters",
    "adapter_entry": "adapters",
    "ensure_adapter": "adapters",
    "find_adapter": "adapters",
    "local_adapters": "adapters",
    "own_prompts": "adapters",
    "register_adapter_folder": "adapters",
    "DownloadProgress": "download",
    "ImageProcessor": "families",
    "LoadedModel": "families",
    "known_family": "families",
    "checkpoint_problems": "files",
    "ensure_checkpoint": "files",
    "entry_of": "folders",
    "find_checkpoint": "files",
    "verify_checkpoint": "files",
    "download_folder": "folders",
    "local_checkpoints": "folders",
    "register_folder": "folders",
    "search_folders": "folders",
    "unregister_folder": "folders",
    "free_bytes": "free_memory",
    "is_out_of_memory": "free_memory",
    "checkpoint_digest": "identity",
    "LoadedInfo": "manager",
    "ModelManager": "manager",
    "shared_manager": "manager",
    "return_memory": "memory",
    "family_of_model": "model_family",
    "told_family": "model_family",
    "DirectPlacement": "placement",
    "Placement": "placement",
    "image_processor": "processors",
    "write_trained_entry": "trained",
}

__all__ = [
    "DEFAULT_MODEL",
    "CatalogueError",
    "CheckpointEntry",
    "DamagedCheckpointError",
    "DirectPlacement",
    "DownloadError",
    "DownloadProgress",
    "ImageProcessor",
    "LoadedInfo",
    "LoadedModel",
    "ModelFilesError",
    "ModelManager",
    "ModelNotFoundError",
    "Placement",
    "Problem",
    "adapter_catalogue",
    "adapter_digest",
    "adapter_entry",
    "catalogue",
    "checkpoint_digest",
    "checkpoint_problems",
    "download_folder",
    "ensure_adapter",
    "ensure_checkpoint",
    "entry_of",
    "family_of_model",
    "find_adapter",
    "find_checkpoint",
    "find_entry",
    "free_bytes",
    "image_processor",
    "is_out_of_memory",
    "known_family",
    "local_adapters",
    "local_checkpoints",
    "own_prompts",
    "register_adapter_folder",
    "register_folder",
    "return_memory",
    "search_folders",
    "shared_manager",
    "told_family",
    "unregister_folder",
    "user_catalogue_path",
    "verify_checkpoint",
    "write_trained_entry",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
