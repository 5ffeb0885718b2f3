"""From typed results to the objects that ``--format json`` and ``jsonl`` write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..captioning import ImageResult


def records_of(
    result: ImageResult, model: str, answers: Sequence[Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """One object per instruction, or one with ``error`` for an image that could not be captioned.

    ``image``, ``model``, ``instruction``, ``text`` and ``raw`` come first, then what the kind of answer adds:
    ``tags``, ``prose``, ``analysis``, ``truncated``; with ``regions`` the picture's ``width`` and ``height``;
    of an answer that was asked again ``attempts``, of one that was kept though it falls short ``unmet``.

    Args:
        answers: instead of the result's own, with some of their regions perhaps.
    """
    if result.error is not None:
        return [{"image": result.image, "error": result.error}]
    first = ("instruction", "text", "raw")
    records = []
    for answer in [answer.to_dict() for answer in result.results] if answers is None else answers:
        fields = dict(answer)
        ordered = {name: fields.pop(name) for name in first}
        if "regions" in fields and result.size is not None:
            ordered["width"], ordered["height"] = result.size
        records.append({"image": result.image, "model": model, **ordered, **fields})
    return records
