"""From typed results to the objects that ``--format json`` and ``jsonl`` write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..captioning import ImageResult


def records_of(result: ImageResult, model: str) -> list[dict[str, Any]]:
    """One object per instruction, or one with ``error`` for an image that could not be captioned.

    ``image``, ``model``, ``instruction``, ``text`` and ``raw`` come first, then what the kind of answer adds:
    ``tags``, ``prose``, ``analysis``, ``regions``, ``truncated``.
    """
    if result.error is not None:
        return [{"image": result.image, "error": result.error}]
    first = ("instruction", "text", "raw")
    records = []
    for answer in result.results:
        fields = answer.to_dict()
        ordered = {name: fields.pop(name) for name in first}
        records.append({"image": result.image, "model": model, **ordered, **fields})
    return records
