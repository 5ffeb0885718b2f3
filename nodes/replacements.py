"""Nodes of other packs that ours stand in for, on hosts that know node replacement (0.14 and later)."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api import latest

logger = logging.getLogger(__name__)

REPLACEMENTS: tuple[dict[str, Any], ...] = ()


async def register_replacements() -> None:
    """Tell the host; one that does not know of replacements is left alone."""
    node_replace = getattr(latest.io, "NodeReplace", None)
    if node_replace is None:
        return
    api = latest.ComfyAPI()
    for replacement in REPLACEMENTS:
        await api.node_replacement.register(node_replace(**replacement))
