"""Weight names: those of published files, and those of transformers' modules, to ours.

Three ways of naming are around for the same tensors::

    transformers 4       language_model.model.layers.0…     vision_tower.vision_model.encoder…
    its modules, 4.52+   model.language_model.layers.0…     model.vision_tower.vision_model.encoder…
    transformers 5       language_model.model.layers.0…     vision_tower.encoder…

Ours is ``language_model.layers.0…``, ``vision_tower.encoder…``, ``multi_modal_projector.linear…`` and, where
a file has the matrix of words a second time, ``lm_head.weight``.
"""

from __future__ import annotations

import re

EMBEDDING = "language_model.embed_tokens.weight"
HEAD = "lm_head.weight"

_RULES = (
    (re.compile(r"^(language_model\.)?lm_head\."), "lm_head."),
    (re.compile(r"^model\.(?=language_model\.|vision_tower\.|multi_modal_projector\.)"), ""),
    (re.compile(r"^language_model\.model\."), "language_model."),
    (re.compile(r"^vision_tower\.vision_model\."), "vision_tower."),
)

# In some files, and of no use: tables that are made anew, and a head that PaliGemma never asks.
_UNUSED = re.compile(r"(\.rotary_emb\.inv_freq|\.position_ids)$|^vision_tower\.head\.")


def our_name(name: str) -> str:
    """Ours for a name of a file or of a module; one that no rule knows stays as it is."""
    for pattern, replacement in _RULES:
        name = pattern.sub(replacement, name, count=1)
    return name


def is_unused(name: str) -> bool:
    """Whether a tensor, by our name, is left aside."""
    return _UNUSED.search(name) is not None


def published_name(name: str) -> str:
    """The name that most published files have for it, to tell users of."""
    name = re.sub(r"^language_model\.", "language_model.model.", name)
    return re.sub(r"^vision_tower\.", "vision_tower.vision_model.", name)
