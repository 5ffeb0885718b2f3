"""The engine against what the published Florence-2 code answered (see tests/data).

Tolerance: 1e-4 on features, encoder states and logits in fp32 on the CPU; token ids and texts are equal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from promptgen.florence2 import Florence2Model, GenerationOptions

from .checkpoints import LAYOUTS, REFERENCE, expected, expected_tensors, make_layout

pytestmark = pytest.mark.matrix
TOLERANCE = {"rtol": 0.0, "atol": 1e-4}


def open_images() -> list[Image.Image]:
    return [Image.open(REFERENCE / "images" / name).convert("RGB") for name in expected()["images"]]


@pytest.fixture(scope="module")
def model() -> Florence2Model:
    return Florence2Model.load(REFERENCE, device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def image_features(model: Florence2Model) -> torch.Tensor:
    return model.encode_images(model.preprocess(open_images()))


def logits(model: Florence2Model, features: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids = expected_tensors()[f"input_ids.{name}"].reshape(1, -1)
    with torch.inference_mode():
        states, mask = model.network.encode(features[:1], ids, torch.ones_like(ids))
        return states, model.network(states, mask, torch.tensor([[2, 0, 7, 9, 11]]))


def check_tensors(model: Florence2Model, features: torch.Tensor) -> None:
    reference = expected_tensors()
    torch.testing.assert_close(features, reference["image_features"], **TOLERANCE)
    for name in expected()["prompts"]:
        states, scores = logits(model, features, name)
        torch.testing.assert_close(states, reference[f"encoder.{name}"].reshape(states.shape), **TOLERANCE)
        torch.testing.assert_close(scores, reference[f"logits.{name}"].reshape(scores.shape), **TOLERANCE)


def test_pixel_values(model: Florence2Model) -> None:
    pixel_values = model.preprocess(open_images()[:1])
    torch.testing.assert_close(pixel_values[0], expected_tensors()["pixel_values_0"], rtol=0.0, atol=1e-6)


def test_prompts_become_the_same_tokens(model: Florence2Model) -> None:
    for name, prompt in expected()["prompts"].items():
        assert model.text.encode(prompt) == expected_tensors()[f"input_ids.{name}"].flatten().tolist()


def test_features_and_logits(model: Florence2Model, image_features: torch.Tensor) -> None:
    check_tensors(model, image_features)


def test_a_picture_alone_has_the_same_features(model: Florence2Model, image_features: torch.Tensor) -> None:
    for image, features in zip(open_images(), image_features, strict=True):
        alone = model.encode_images(model.preprocess([image]))[0]
        torch.testing.assert_close(alone, features, rtol=0.0, atol=1e-5)


def _cases() -> list[Any]:
    cases: dict[str, list[dict[str, Any]]] = {}
    for case in expected()["cases"]:
        cases.setdefault(json.dumps(case["settings"]), []).append(case)
    return [pytest.param(json.loads(settings), group, id=settings) for settings, group in cases.items()]


@pytest.mark.parametrize(("settings", "cases"), _cases())
def test_answers_alone_and_in_a_batch(
    model: Florence2Model,
    image_features: torch.Tensor,
    settings: dict[str, Any],
    cases: list[dict[str, Any]],
) -> None:
    options = GenerationOptions(**settings)
    features = torch.stack([image_features[expected()["images"].index(case["image"])] for case in cases])
    prompts = [expected()["prompts"][case["instruction"]] for case in cases]
    batch = model.generate(features, prompts, options)  # prompts of different length, padded
    for row, (case, answer) in enumerate(zip(cases, batch, strict=True)):
        alone = model.generate(features[row : row + 1], prompts[row : row + 1], options)[0]
        assert list(alone.token_ids) == case["ids"], case
        assert alone.text == case["text"]
        assert answer == alone


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_the_weights(tmp_path: Path, layout: str) -> None:
    folder = make_layout(tmp_path / "checkpoint", layout)
    model = Florence2Model.load(folder, device="cpu", dtype="fp32")
    features = model.encode_images(model.preprocess(open_images()))
    check_tensors(model, features)
    for case in expected()["cases"][::10]:
        row = expected()["images"].index(case["image"])
        prompt = expected()["prompts"][case["instruction"]]
        answer = model.generate(features[row : row + 1], [prompt], GenerationOptions(**case["settings"]))[0]
        assert list(answer.token_ids) == case["ids"]
