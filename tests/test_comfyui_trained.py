"""What ``promptgen train`` makes is a checkpoint or LoRA of a real ComfyUI, with the text of the command."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .comfyui_host import Host
from .command_line import Promptgen
from .helpers_dev import ROOT
from .training_runs import draw_data, train

pytestmark = pytest.mark.comfyui

PICTURE = ROOT / "examples" / "circle-heart-square.png"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The demo model, and an adapter for it, after a few steps towards other captions."""
    folder = tmp_path_factory.mktemp("trained")
    data = draw_data(folder / "data")
    common: dict[str, Any] = {
        "model_name": "demo", "max_steps": 6, "save_steps": 6, "eval_split": 0, "eval_steps": None,
        "freeze": ["vision"],
    }  # fmt: skip
    found = [
        train(data, folder / name, **common, **changes).final
        for name, changes in (
            ("whole", {"learning_rate": 1e-3}),
            ("adapter", {"learning_rate": 1e-2, "lora": {"rank": 4}}),
        )
    ]
    whole, adapter = found
    assert whole is not None
    assert adapter is not None
    return whole, adapter


@pytest.fixture
def names(host: Host, trained: tuple[Path, Path]) -> Iterator[tuple[str, str]]:
    """What the two are called in a host."""
    places = host.models_dir / "LLM" / "my style", host.models_dir / "loras" / "my lora"
    for folder, place in zip(trained, places, strict=True):
        shutil.copytree(folder, place)
    yield places[0].name, places[1].name
    for place in places:
        shutil.rmtree(place)


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def test_a_trained_checkpoint_and_a_trained_lora_write_what_the_command_writes(
    host: Host, names: tuple[str, str], trained: tuple[Path, Path], promptgen: Promptgen
) -> None:
    checkpoint, lora = names
    host.upload(PICTURE)
    prompt = {
        "image": node("LoadImage", image=PICTURE.name),
        "lora": node("PromptGenLora", lora=lora, strength=1.0),
    }
    places = {"plain": ("demo", {}), "whole": (checkpoint, {}), "adapter": ("demo", {"lora": ["lora", 0]})}
    for name, (model, connected) in places.items():
        prompt[f"load {name}"] = node(
            "PromptGenModelLoader", checkpoint=model, precision="fp32", device="cpu", **connected
        )
        prompt[name] = node(
            "PromptGenTagger", image=["image", 0], instruction="CAPTION", checkpoint="demo", num_beams=1,
            max_new_tokens=24, model=[f"load {name}", 0],
        )  # fmt: skip
    entry = host.run(prompt)
    assert entry.succeeded, entry.error

    asked = {
        "plain": ("--model", "demo"),
        "whole": ("--model", trained[0]),
        "adapter": ("--model", "demo", "--lora", trained[1]),
    }
    how = ("-i", "CAPTION", "--num-beams", 1, "--max-new-tokens", 24, "--dtype", "fp32", "--device", "cpu")
    texts = {}
    for name, model in asked.items():
        done = promptgen("caption", PICTURE, *model, *how)
        assert done.status == 0, done.stderr
        texts[name] = done.stdout.removesuffix("\n")
    assert len(set(texts.values())) == 3
    assert {name: entry.texts(name) for name in places} == {name: [text] for name, text in texts.items()}
    host.free()
