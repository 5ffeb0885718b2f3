"""LoRA and DoRA through the peft library: put around a network's layers, saved, merged."""

from __future__ import annotations

from collections.abc import Sequence

from ..florence2.network import Florence2Network
from .model_options import LoraOptions


class Adapters:
    """The adapters of a network."""


def add_adapters(network: Florence2Network, options: LoraOptions, frozen: Sequence[str]) -> Adapters:
    raise NotImplementedError
