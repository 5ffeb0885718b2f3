"""What a run saves loads everywhere: in the engine, in the command, in transformers' own class."""

from __future__ import annotations

import functools
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from promptgen.benchmarks.random_checkpoint import SIZES, make_config, random_network, write_checkpoint
from promptgen.florence2 import CheckpointError, Florence2Config
from promptgen.florence2.conversion import converted_name
from promptgen.florence2.loading import LOGITS_BIAS, TIED, translate
from promptgen.training.config import SaveOptions
from promptgen.training.errors import TrainingError
from promptgen.training.model_options import LoraOptions
from promptgen.training.network import TrainableModel
from promptgen.training.saving import check_saving, save_model
from safetensors.torch import load_file

from .checkpoints import REFERENCE, copy_reference, edit_json, make_layout, reference_state
from .command_line import Promptgen, promptgen  # noqa: F401 - a fixture
from .training_models import answers, load, loss_of, pictures, reference_batch, still, train_steps


def trained(folder: Path = REFERENCE, **options: Any) -> TrainableModel:
    model = still(folder, **options)
    train_steps(model, steps=2)
    return model.eval()


@functools.cache
def trained_reference() -> TrainableModel:
    """Only to be read."""
    return trained()


def saved(folder: Path, model: TrainableModel, **options: Any) -> Path:
    settings = {"save_dtype": "fp32", **options}
    save_model(model, folder, SaveOptions(**settings), base_model="somebody/base")
    return folder


def converted_base(folder: Path) -> Path:
    """With a key of the other format, as transformers' own script leaves it."""
    config = make_config(**SIZES["tiny"])
    write_checkpoint(folder, random_network(config), dtype="fp32", form="converted")
    edit_json(
        folder / "config.json", lambda raw: raw["vision_config"].update(dim_embed=[*config.vision.dim_embed])
    )
    return folder


# --- the original format -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout", ["bin", "safetensors, sharded", "only lm_head", "no bias, no temporal table"]
)
def test_what_was_trained_loads_with_the_same_weights(tmp_path: Path, layout: str) -> None:
    model = trained(make_layout(tmp_path / "base", layout))
    engine = load(saved(tmp_path / "saved", model))
    wanted = dict(model.network.named_parameters())
    for name, part in engine.network.named_parameters():
        assert torch.equal(part, wanted[name]), name
    again = still(tmp_path / "saved")
    assert loss_of(again, reference_batch(again)) == loss_of(model, reference_batch(model))
    assert answers(engine) != answers(load(REFERENCE))


def test_the_folder_is_one_of_the_original_format(tmp_path: Path) -> None:
    folder = copy_reference(tmp_path / "base", weights=True)
    edit_json(folder / "config.json", lambda raw: raw["vision_config"].update(model_type=""))
    (folder / "modeling_florence2.py").write_text("raise SystemExit", encoding="utf-8")
    saved(tmp_path / "saved", trained(folder))
    config = json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "florence2"
    assert config["vision_config"]["model_type"] == "davit"
    assert config["text_config"]["model_type"] == "florence2_language"
    assert config["torch_dtype"] == "float32"
    code = "microsoft/Florence-2-base--modeling_florence2.Florence2ForConditionalGeneration"
    assert config["auto_map"]["AutoModelForCausalLM"] == code
    assert not list((tmp_path / "saved").glob("*.py"))
    weights = set(load_file(tmp_path / "saved" / "model.safetensors"))
    assert weights == set(reference_state()) - set(TIED[1:])
    before, after = (Florence2Config.from_folder(place) for place in (folder, tmp_path / "saved"))
    assert before == after


def test_settings_that_older_checkpoints_keep_in_config_json_stay(tmp_path: Path) -> None:
    folder = copy_reference(tmp_path / "base", weights=True)
    (folder / "generation_config.json").unlink()
    edit_json(
        folder / "config.json", lambda raw: raw["text_config"].update(num_beams=2, repetition_penalty=1.3)
    )
    settings = Florence2Config.from_folder(saved(tmp_path / "saved", trained(folder), save_format="both"))
    assert settings.generation["num_beams"] == 2
    assert settings.generation["repetition_penalty"] == 1.3
    converted = Florence2Config.from_folder(tmp_path / "saved" / "converted")
    assert settings.generation.items() <= dict(converted.generation).items()


@pytest.mark.parametrize(
    ("stored", "wanted", "found"),
    [("fp16", "checkpoint", "float16"), ("fp32", "checkpoint", "float32"), ("fp32", "bf16", "bfloat16")],
)
def test_weights_are_saved_as_they_were_or_as_asked(
    tmp_path: Path, stored: str, wanted: str, found: str
) -> None:
    layout = {"fp16": "safetensors", "fp32": "safetensors, fp32"}[stored]
    saved(tmp_path / "saved", still(make_layout(tmp_path / "base", layout)), save_dtype=wanted)
    weights = load_file(tmp_path / "saved" / "model.safetensors")
    table = weights.pop("visual_temporal_embed.pos_idx_to_embed")
    assert table.dtype == (torch.bfloat16 if wanted == "bf16" else torch.float32)  # as the checkpoint has it
    assert {tensor.dtype for tensor in weights.values()} == {getattr(torch, found)}
    config = json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))
    assert config["torch_dtype"] == found


def test_what_was_not_trained_is_saved_bit_for_bit(tmp_path: Path) -> None:
    folder = saved(tmp_path, still(), save_dtype="checkpoint")
    before = reference_state()
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert tensor.dtype == before[name].dtype, name
        assert torch.equal(tensor, before[name]), name


def test_values_that_cannot_be_saved_are_told(tmp_path: Path) -> None:
    model = still()
    with torch.no_grad():
        model.network.image_projection[0, 0] = 1e6
    with pytest.raises(TrainingError, match="image_projection has values that float16 cannot hold"):
        saved(tmp_path / "half", model, save_dtype="fp16")
    saved(tmp_path / "whole", model)
    with torch.no_grad():
        model.network.image_projection[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="image_projection holds values that are no numbers"):
        saved(tmp_path / "none", model)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("lora", [None, LoraOptions(target_modules=("q_proj",))])
def test_all_files_can_be_read_by_the_same_people(tmp_path: Path, lora: LoraOptions | None) -> None:
    saved(tmp_path, still(lora=lora))
    modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_base_that_nobody_may_write_to_gives_files_that_can_be(tmp_path: Path) -> None:
    base = copy_reference(tmp_path / "base", weights=True)
    for path in (*base.iterdir(), base):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        folder = saved(tmp_path / "saved", still(base), save_format="both")
    finally:
        base.chmod(0o755)
    assert all(file.stat().st_mode & stat.S_IWUSR for file in folder.rglob("*"))


@pytest.mark.parametrize("save_format", ["original", "converted"])
def test_the_licence_goes_with_the_weights(tmp_path: Path, save_format: str) -> None:
    base = copy_reference(tmp_path / "base", weights=True)
    (base / "LICENSE").write_text("Do as you like.", encoding="utf-8")
    folder = saved(tmp_path / "saved", still(base), save_format=save_format)
    assert (folder / "LICENSE").read_text(encoding="utf-8") == "Do as you like."


def test_the_command_answers_with_what_was_trained(
    tmp_path: Path,
    promptgen: Promptgen,  # noqa: F811
) -> None:
    folder = saved(tmp_path / "saved", trained_reference())
    picture = REFERENCE / "images" / "00.png"
    ended = promptgen(
        "caption",
        picture,
        "--model",
        folder,
        "--instruction",
        "CAPTION",
        "--device",
        "cpu",
        "--dtype",
        "fp32",
    )
    assert ended.status == 0, ended.stderr
    engine = load(folder)
    features = engine.encode_images(engine.preprocess(pictures("00.png")))
    ids = engine.generate(features, ["What does the image describe?"])[0].token_ids
    assert ended.stdout.strip() == engine.text.decode(ids).strip()
    assert ended.stdout.strip()


# --- the converted format ----------------------------------------------------------------------------------


def transformers_class() -> Any:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Florence2ForConditionalGeneration"):
        pytest.skip(f"transformers {transformers.__version__} has no Florence-2 class of its own")
    return transformers


@pytest.mark.parametrize("base", ["original", "converted"])
def test_transformers_own_class_and_processor_answer_the_same(tmp_path: Path, base: str) -> None:
    transformers = transformers_class()
    model = trained_reference() if base == "original" else trained(converted_base(tmp_path / "base"))
    folder = saved(tmp_path / "saved", model, save_format="converted")
    theirs, loading = transformers.Florence2ForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    processor = transformers.AutoProcessor.from_pretrained(folder)
    inputs = processor(text="<CAPTION>", images=pictures("00.png")[0], return_tensors="pt")
    with torch.inference_mode():
        row = theirs.eval().generate(**inputs, max_new_tokens=24)[0]
    engine = load(folder)
    features = engine.encode_images(engine.preprocess(pictures("00.png")))
    ids = answers(engine)[0]
    assert list(ids) == row.tolist()
    assert processor.post_process_generation(
        processor.decode(row, skip_special_tokens=False), task="<CAPTION>", image_size=(10, 10)
    )
    assert features.shape[1] == processor.num_image_tokens


@pytest.mark.parametrize("base", ["original", "converted"])
def test_both_formats_give_the_same_answers(tmp_path: Path, base: str) -> None:
    model = trained_reference() if base == "original" else trained(converted_base(tmp_path / "base"))
    folder = saved(tmp_path / "saved", model, save_format="both")
    original, converted = load(folder), load(folder / "converted")
    assert answers(original) == answers(converted)
    pixel_values = reference_batch(model)["pixel_values"]
    features = model._encode_images(pixel_values).detach()
    for engine in (original, converted):
        torch.testing.assert_close(engine.encode_images(pixel_values), features, rtol=0, atol=1e-4)


def test_names_of_either_format_lead_to_the_other() -> None:
    for name in reference_state():
        if name != LOGITS_BIAS:
            assert translate([converted_name(name)])[converted_name(name)] == translate([name])[name]


def test_a_head_with_a_bias_cannot_be_converted(tmp_path: Path) -> None:
    model = still()
    model.network.language_model.final_logits_bias += 1
    saved(tmp_path / "original", model)
    with pytest.raises(CheckpointError, match="final_logits_bias is not zero"):
        check_saving(model, SaveOptions(save_format="both"))
    with pytest.raises(CheckpointError, match="final_logits_bias is not zero"):
        saved(tmp_path / "converted", model, save_format="converted")


def test_a_network_that_transformers_does_not_build_is_told_before_training(tmp_path: Path) -> None:
    folder = copy_reference(tmp_path, weights=True)
    sources = ["temporal_avg_pool"]
    edit_json(folder / "config.json", lambda raw: raw["vision_config"].update(image_feature_source=sources))
    model = still(folder)
    check_saving(model, SaveOptions())
    with pytest.raises(CheckpointError, match="image_feature_source is"):
        check_saving(model, SaveOptions(save_format="both"))


# --- adapters and states -----------------------------------------------------------------------------------


def test_a_merged_adapter_is_a_checkpoint_of_both_formats(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = trained(lora=LoraOptions(merge=True))
    folder = saved(tmp_path, model, save_format="both")
    wanted = answers(load(REFERENCE, folder))
    assert answers(load(folder / "merged")) == answers(load(folder / "merged" / "converted")) == wanted


def test_tensors_gathered_from_several_devices_are_saved_instead(tmp_path: Path) -> None:
    source = trained_reference()
    gathered = {name: part.clone() for name, part in source.state_dict().items()}
    save_model(still(), tmp_path, SaveOptions(save_dtype="fp32"), base_model="x", state=gathered)
    assert answers(load(tmp_path)) == answers(load(saved(tmp_path / "own", source)))


def test_an_adapter_gathered_from_several_devices_is_saved_instead(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = trained(lora=LoraOptions())
    gathered = {name: part.clone() for name, part in source.state_dict().items()}
    other = still(lora=LoraOptions())
    save_model(other, tmp_path, SaveOptions(), base_model="x", state=gathered)
    own = load_file(saved(tmp_path / "own", source) / "adapter_model.safetensors")
    found = load_file(tmp_path / "adapter_model.safetensors")
    assert own.keys() == found.keys()
    assert all(torch.equal(own[name], found[name]) for name in own)
