"""How many captions of the demo model stay the same in another dtype, or with weights of fewer bits.

Random weights hardly prefer one token to the next, so that rounding changes their captions sooner than those
of a model that has learnt something; the demo model is one that has.
"""

from __future__ import annotations

from typing import Any

from ..captioning import Captioner, FeatureCache
from ..models_cache import ModelManager
from ..training.demo.scenes import EVALUATION_SEEDS, draw_scene

INSTRUCTIONS = ("GENERATE_TAGS", "CAPTION", "MORE_DETAILED_CAPTION", "MIXED_CAPTION", "ANALYZE")


def measure_agreement(
    device: str, exact_dtype: str, dtype: str, scenes: int, quantization: str = "none"
) -> dict[str, Any]:
    """Captions that are equal in both dtypes to the last letter.

    Args:
        scenes: so many pictures that the demo model was not trained on, each with all ``INSTRUCTIONS``.
        quantization: of the model in ``dtype``; the other one has none.
    """
    pictures = [draw_scene(seed)[0] for seed in EVALUATION_SEEDS[:scenes]]
    ways = ((exact_dtype, "none"), (dtype, quantization))
    exact, other = (_captions(device, *way, pictures) for way in ways)
    differing = [[own, new] for own, new in zip(exact, other, strict=True) if own != new]
    return {
        "dtype": dtype,
        "exact_dtype": exact_dtype,
        "quantization": quantization,
        "captions": len(exact),
        "equal": len(exact) - len(differing),
        "share": 1 - len(differing) / len(exact),
        "differing": differing,
    }


def _captions(device: str, dtype: str, quantization: str, pictures: list[Any]) -> list[str]:
    manager = ModelManager()
    captioner = Captioner(
        "demo", device=device, dtype=dtype, quantization=quantization, manager=manager,
        feature_cache=FeatureCache(0),
    )  # fmt: skip
    answers = captioner.caption(pictures, INSTRUCTIONS)
    manager.close()
    return [result.raw for answer in answers for result in answer.results]
