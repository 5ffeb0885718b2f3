"""LoRA adapters in a real ComfyUI."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from promptgen.captioning import Captioner, CaptionOptions, FeatureCache
from promptgen.florence2 import GenerationOptions
from promptgen.models_cache import ModelManager

from .adapters import save_adapter
from .comfyui_host import Host
from .helpers_dev import ROOT

pytestmark = pytest.mark.comfyui

PICTURE = ROOT / "examples" / "circle-heart-square.png"
SHORT = CaptionOptions(generation=GenerationOptions(num_beams=1, max_new_tokens=16))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, demo = tmp_path_factory.mktemp("loras"), ROOT / "models_cache" / "demo"
    return [
        save_adapter(folder / "first", demo, seed=1, size=0.5),
        save_adapter(folder / "second", demo, seed=2, size=0.4, target_modules=["qkv", "q_proj"]),
    ]


@pytest.fixture
def names(host: Host, saved: list[Path]) -> Iterator[list[str]]:
    """What the two are called in a host: beside other kinds of LoRA, and among the checkpoints."""
    places = [host.models_dir / "loras" / "florence" / "first", host.models_dir / "LLM" / "second"]
    for place, folder in zip(places, saved, strict=True):
        shutil.copytree(folder, place)
    (host.models_dir / "loras" / "for flux.safetensors").write_bytes(b"")
    yield ["florence/first", "second"]
    for place in places:
        shutil.rmtree(place)


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def test_loras_are_offered_and_chained(host: Host, names: list[str], saved: list[Path]) -> None:
    schema = host.object_info("PromptGenLora")["input"]["required"]["lora"]
    options = schema[1]["options"] if schema[0] == "COMBO" else schema[0]
    assert {*names, "Florence-2-pixelprose"} <= set(options)
    assert not any("flux" in option for option in options)
    host.upload(PICTURE)
    prompt = {
        "image": node("LoadImage", image=PICTURE.name),
        "first": node("PromptGenLora", lora=names[0], strength=0.5),
        "both": node("PromptGenLora", lora=names[1], strength=1.0, previous=["first", 0]),
    }
    for name, lora in (("plain", None), ("one", "first"), ("two", "both")):
        connected = {} if lora is None else {"lora": [lora, 0]}
        prompt[f"load {name}"] = node(
            "PromptGenModelLoader", checkpoint="demo", precision="fp32", device="cpu", **connected
        )
        prompt[name] = node(
            "PromptGenTagger", image=["image", 0], instruction="CAPTION", checkpoint="demo", num_beams=1,
            max_new_tokens=16, model=[f"load {name}", 0],
        )  # fmt: skip
    entry = host.run(prompt)
    assert entry.succeeded, entry.error

    manager = ModelManager(idle_seconds=None)
    texts = []
    for loras in ([], [(saved[0], 0.5)], [(saved[0], 0.5), (saved[1], 1.0)]):
        captioner = Captioner(
            "demo", device="cpu", dtype="fp32", manager=manager, loras=loras, feature_cache=FeatureCache()
        )
        [result] = captioner.caption(PICTURE, "CAPTION", SHORT)
        texts.append(result.results[0].text)
    manager.close()
    assert len(set(texts)) == 3
    assert [entry.texts(name) for name in ("plain", "one", "two")] == [[text] for text in texts]
    host.free()


def test_what_a_model_with_a_lora_was_trained_on_is_not_known(host: Host, names: list[str]) -> None:
    host.upload(PICTURE)
    prompt = {
        "image": node("LoadImage", image=PICTURE.name),
        "lora": node("PromptGenLora", lora=names[0], strength=0.5),
        "with": node("PromptGenModelLoader", checkpoint="demo", lora=["lora", 0]),
        "without": node("PromptGenModelLoader", checkpoint="demo"),
    }
    few: dict[str, Any] = {"checkpoint": "demo", "num_beams": 1, "max_new_tokens": 4}
    for model in ("with", "without"):
        common = {"image": ["image", 0], "model": [model, 0], **few}
        prompt[f"see {model}"] = node(
            "PromptGenVision", task="REGION_PROPOSAL", text_input="", select="", threshold=0.0, **common
        )
        prompt[f"ask {model}"] = node("PromptGenDocVQA", question="What?", **common)
    entry = host.run(prompt)
    assert entry.succeeded, entry.error
    for kind in ("see", "ask"):
        assert "demo was not trained on" in entry.texts(f"{kind} without")[0]
        assert "demo was not trained on" not in entry.texts(f"{kind} with")[0]
    host.free()


@pytest.mark.parametrize("lora", ["nowhere", "someone/of-the-hub", "../first"])
def test_a_lora_that_is_not_offered_is_told(host: Host, names: list[str], lora: str) -> None:
    entry = host.run(
        {
            "lora": node("PromptGenLora", lora=lora, strength=1.0),
            "model": node("PromptGenModelLoader", checkpoint="demo", lora=["lora", 0]),
            "image": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
            "tag": node("PromptGenTagger", image=["image", 0], instruction="CAPTION", checkpoint="demo",
                        model=["model", 0]),
        }
    )  # fmt: skip
    assert not entry.succeeded
    assert entry.error is not None
    assert f"There is no LoRA '{lora}' here" in entry.error["exception_message"]
    assert names[0] in entry.error["exception_message"]


def test_a_paligemma_takes_none_which_is_told_before_it_is_downloaded(host: Host, names: list[str]) -> None:
    entry = host.run(
        {
            "lora": node("PromptGenLora", lora=names[0], strength=1.0),
            "model": node(
                "PromptGenModelLoader", checkpoint="paligemma-longprompt-v1-safetensors", lora=["lora", 0]
            ),
            "image": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
            "tag": node("PromptGenTagger", image=["image", 0], instruction="CAPTION", checkpoint="demo",
                        model=["model", 0]),
        }
    )  # fmt: skip
    assert entry.error is not None
    assert "LoRA adapters go with Florence-2" in entry.error["exception_message"]
