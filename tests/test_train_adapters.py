"""Adapters: trained, saved as peft saves them, used by the engine, by peft itself, and merged."""

from __future__ import annotations

import functools
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from promptgen.benchmarks.random_checkpoint import SIZES, make_config, random_network, write_checkpoint
from promptgen.florence2.lora import read_adapter
from promptgen.training.config import SaveOptions
from promptgen.training.errors import TrainingError
from promptgen.training.merging import merge_adapters
from promptgen.training.model_options import LoraOptions
from promptgen.training.network import TrainableModel
from promptgen.training.saving import check_saving, save_adapter, save_model
from safetensors.torch import load_file

from .adapters import merged_checkpoint, published, seen_and_said, state_of
from .checkpoints import REFERENCE
from .training_models import answers, load, loss_of, pictures, reference_batch, still, train_steps

KINDS: dict[str, dict[str, Any]] = {
    "every linear layer": {},
    "attention": {"target_modules": ("q_proj", "k_proj", "v_proj", "out_proj"), "rank": 2},
    "of the tower": {"target_modules": ("qkv", "vision_tower.convs.*.proj")},
    "rank-stabilised": {"use_rslora": True, "alpha": 4.0},
    "DoRA": {"use_dora": True, "target_modules": ("q_proj", "fc1", "qkv", "convs.1.proj")},
    "with modules saved whole": {"modules_to_save": ("image_proj_norm", "image_pos_embed.*", "fc2")},
    "with all biases": {"bias": "all"},
    "with biases of its layers": {"bias": "lora_only"},
}


@pytest.fixture(autouse=True)
def _quiet_peft() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="peft")
        yield


def trained(options: LoraOptions | None = None, folder: Path = REFERENCE, **rest: Any) -> TrainableModel:
    torch.manual_seed(0)
    model = still(folder, lora=options or LoraOptions(), **rest)
    losses = train_steps(model, steps=2, rate=1e-3)
    assert losses[-1] < losses[0]
    for part in model.trainable_state().values():  # as if it had gone on for long
        part += torch.randn_like(part) * 0.05
    return model.eval()


def saved(folder: Path, model: TrainableModel, **options: Any) -> Path:
    save_model(model, folder, SaveOptions(**options), base_model="somebody/base")
    return folder


Kept = Callable[[str], tuple[TrainableModel, Path]]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """For a kind: a trained model, and its adapter on disk with the merged checkpoint. Only to be read."""

    @functools.cache
    def make(kind: str) -> tuple[TrainableModel, Path]:
        model = trained(LoraOptions(**KINDS[kind], merge=True))
        return model, saved(tmp_path_factory.mktemp("adapter"), model, save_dtype="fp32")

    return make


@functools.cache
def answers_of_the_base() -> list[tuple[int, ...]]:
    return answers(load(REFERENCE))


def features_and_answers(model: Any) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
    return model.encode_images(model.preprocess(pictures("03.png"))), answers(model)


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_answers_with_an_adapter_as_it_was_trained(kept: Kept, kind: str) -> None:
    model, adapter = kept(kind)
    engine = load(REFERENCE, adapter)
    inputs = reference_batch(model)
    merged = still()
    merged.network.load_state_dict(engine.network.state_dict())
    assert loss_of(merged, inputs).item() == pytest.approx(loss_of(model, inputs).item(), rel=1e-4)
    pixel_values = inputs["pixel_values"]
    torch.testing.assert_close(
        engine.encode_images(pixel_values), model._encode_images(pixel_values).detach(), rtol=0, atol=1e-4
    )
    assert answers(engine) != answers_of_the_base()


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_is_to_be_trained_changes(kind: str) -> None:
    torch.manual_seed(0)
    model = still(lora=LoraOptions(**KINDS[kind]))
    before = {name: part.clone() for name, part in model.state_dict().items()}
    train_steps(model)
    changed = {name for name, part in model.state_dict().items() if not torch.equal(part, before[name])}
    assert changed == {name for name, _ in model.trainable_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_and_merges_an_adapter_on_the_published_names(
    tmp_path: Path, kept: Kept, kind: str
) -> None:
    _, adapter = kept(kind)
    theirs = peft.PeftModel.from_pretrained(published(state_of(REFERENCE)), str(adapter))
    assert not theirs.peft_config["default"].modules_to_save or "saved whole" in kind
    reference = load(merged_checkpoint(tmp_path / "theirs", theirs))
    ours = load(adapter / "merged")
    wanted = dict(reference.network.named_parameters())
    for name, part in ours.network.named_parameters():
        torch.testing.assert_close(part, wanted[name], rtol=0, atol=2e-6, msg=name)
    assert answers(ours) == answers(load(REFERENCE, adapter)) == answers(reference)


def test_merging_leaves_the_model_in_training_as_it_is(tmp_path: Path, kept: Kept) -> None:
    model, _ = kept("DoRA")
    before = {name: part.clone() for name, part in model.state_dict().items()}
    saved(tmp_path, model)
    for name, part in model.state_dict().items():
        assert torch.equal(part, before[name])


def test_transformers_own_class_with_peft_answers_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Florence2ForConditionalGeneration"):
        pytest.skip(f"transformers {transformers.__version__} has no Florence-2 class of its own")
    config = make_config(**SIZES["tiny"])
    base = write_checkpoint(tmp_path / "base", random_network(config), dtype="fp32", form="converted")
    adapter = saved(tmp_path / "adapter", trained(folder=base))  # of a converted base, so with its names
    theirs = transformers.Florence2ForConditionalGeneration.from_pretrained(base).eval()
    theirs = peft.PeftModel.from_pretrained(theirs, str(adapter)).eval()
    engine = load(base, adapter)
    features, ours = features_and_answers(engine)
    pixel_values = engine.preprocess(pictures("03.png"))
    found, said = seen_and_said(theirs, engine, pixel_values, config)
    torch.testing.assert_close(found.reshape(features.shape), features, rtol=0, atol=1e-4)
    assert list(ours[2]) == said


def test_both_formats_of_an_adapter_do_the_same(tmp_path: Path, kept: Kept) -> None:
    source, _ = kept("every linear layer")
    assert source.adapters is not None
    state = source.network.state_dict()
    save_adapter(source, tmp_path, SaveOptions(save_format="both"), "somebody/base", state)
    adapter = tmp_path
    names = [
        list(load_file(folder / "adapter_model.safetensors")) for folder in (adapter, adapter / "converted")
    ]
    assert all(
        name.startswith("base_model.model.language_model.model.") for name in names[0] if "layers" in name
    )
    assert all(
        name.startswith("base_model.model.model.language_model.") for name in names[1] if "layers" in name
    )
    assert any(".blocks.0.0.spatial_block.window_attn.fn.qkv.lora_A" in name for name in names[0])
    assert any(".blocks.0.0.spatial_block.window_attn.qkv.lora_A" in name for name in names[1])
    assert answers(load(REFERENCE, adapter)) == answers(load(REFERENCE, adapter / "converted"))


def test_an_adapters_file_says_what_it_is_for(kept: Kept) -> None:
    _, adapter = kept("every linear layer")
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["base_model_name_or_path"] == "somebody/base"
    assert settings["inference_mode"] is True
    assert settings["r"] == 16
    assert "language_model.model.decoder.layers.0.self_attn.q_proj" in settings["target_modules"]
    assert "vision_tower.blocks.0.0.channel_block.ffn.fn.net.fc1" in settings["target_modules"]
    assert read_adapter(adapter, load(REFERENCE).config).base == "somebody/base"


def test_names_of_the_catalogue_lead_an_adapter_to_its_base_on_the_hub(tmp_path: Path) -> None:
    save_model(
        still(lora=LoraOptions()), tmp_path, SaveOptions(), base_model="Florence-2-base-PromptGen-v2.0"
    )
    settings = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["base_model_name_or_path"] == "MiaoshouAI/Florence-2-base-PromptGen-v2.0"


def test_only_the_adapter_is_trained() -> None:
    model = still(lora=LoraOptions(target_modules=("q_proj",)))
    names = [name for name, _ in model.trainable_parameters()]
    assert names
    assert all(".q_proj.lora_" in name for name in names)


@pytest.mark.parametrize("bias", ["none", "all"])
def test_what_is_frozen_gets_no_adapter(bias: str) -> None:
    model = still(lora=LoraOptions(bias=bias), freeze=("vision", "*.encoder.*"))
    names = [name for name, _ in model.trainable_parameters()]
    assert any("decoder.layers.0.fc1.lora_A" in name for name in names)
    assert not [name for name in names if "vision_tower" in name or ".encoder.layers" in name]
    assert any(name.endswith(".bias") for name in names) == (bias == "all")


def test_a_new_adapter_changes_nothing_and_a_seed_repeats_it() -> None:
    firsts = []
    for _ in range(2):
        torch.manual_seed(5)
        model = still(lora=LoraOptions())
        firsts.append({name: part.clone() for name, part in model.trainable_state().items()})
        assert loss_of(model, reference_batch(model)) == loss_of(still(), reference_batch(model))
    assert all(torch.equal(firsts[0][name], firsts[1][name]) for name in firsts[0])


def test_gradient_checkpointing_goes_with_an_adapter() -> None:
    losses = []
    for saving in (False, True):
        torch.manual_seed(0)
        losses.append(train_steps(still(lora=LoraOptions(), gradient_checkpointing=saving)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_an_adapter_of_a_base_in_bf16_is_trained_in_fp32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = still(lora=LoraOptions(), weights="bf16")
    assert {part.dtype for _, part in model.trainable_parameters()} == {torch.float32}
    before, *_, after = train_steps(model, steps=5, rate=1e-2)
    assert after < before
    saved(tmp_path, model)
    assert {part.dtype for part in load_file(tmp_path / "adapter_model.safetensors").values()} == {
        torch.float32
    }


def test_what_was_trained_of_an_adapter_goes_into_another_model(kept: Kept) -> None:
    (one, _), other = kept("every linear layer"), still(lora=LoraOptions()).eval()
    other.load_trainable_state(one.trainable_state())
    assert loss_of(other, reference_batch(one)) == loss_of(one, reference_batch(one))


def test_names_that_stand_for_nothing_are_told(caplog: pytest.LogCaptureFixture) -> None:
    often_copied = ("q_proj", "o_proj", "k_proj", "v_proj", "linear", "Conv2d", "lm_head", "fc2")
    with caplog.at_level(logging.WARNING):
        model = still(lora=LoraOptions(target_modules=often_copied))
    for name in ("o_proj", "linear", "Conv2d"):
        assert f"{name!r} is the end of no layer's name" in caplog.text
    assert any(name.endswith("lm_head.lora_A.default.weight") for name, _ in model.trainable_parameters())


@pytest.mark.parametrize(
    ("options", "freeze", "said"),
    [
        ({"target_modules": ("queries",)}, (), "queries stand for no layer"),
        ({"target_modules": ("qkv",)}, ("vision",), "qkv stand for no layer that is trained"),
        ({"target_modules": ("dw",)}, (), "dw stand for no layer"),  # convolutions in groups
        ({"target_modules": ("row_embeddings", "shared")}, (), "row_embeddings, shared stand for no layer"),
        ({"target_modules": ("image_projection",)}, (), "image_projection is no layer"),
        ({}, ("vision", "language"), "leave no layer for LoRA"),
    ],
)
def test_options_that_leave_no_layer_are_told(
    options: dict[str, Any], freeze: tuple[str, ...], said: str
) -> None:
    with pytest.raises(TrainingError, match=said):
        still(lora=LoraOptions(**options), freeze=freeze)


@pytest.mark.parametrize("options", [{"target_modules": ("lm_head",)}, {"modules_to_save": ("lm_head",)}])
def test_an_adapter_of_the_head_is_used_but_not_merged(tmp_path: Path, options: dict[str, Any]) -> None:
    model = still(lora=LoraOptions(**options, merge=True))
    with pytest.raises(TrainingError, match=r"lora\.merge: the adapter changes the head"):
        check_saving(model, SaveOptions())
    adapter = saved(tmp_path / "adapter", trained(LoraOptions(**options, rank=2)))
    assert answers(load(REFERENCE, adapter)) != answers_of_the_base()


def test_adapters_that_were_saved_can_be_merged_later(tmp_path: Path, kept: Kept) -> None:
    adapters = [(kept("every linear layer")[1], 0.4), (kept("DoRA")[1], 1.0)]
    merge_adapters(
        REFERENCE, adapters, tmp_path / "merged", SaveOptions(save_dtype="fp32", save_format="both")
    )
    wanted = dict(load(REFERENCE).with_adapters(adapters).network.named_parameters())
    merged = load(tmp_path / "merged")
    for name, part in merged.network.named_parameters():
        assert torch.equal(part, wanted[name]), name
    assert answers(merged) == answers(load(tmp_path / "merged" / "converted"))


def test_adapters_of_the_head_are_not_merged_later(tmp_path: Path) -> None:
    adapter = saved(tmp_path / "adapter", trained(LoraOptions(target_modules=("lm_head",))))
    with pytest.raises(TrainingError, match="changes the head or an embedding"):
        merge_adapters(REFERENCE, [(adapter, 1.0)], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
