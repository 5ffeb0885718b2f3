"""Loading checkpoints: sizes, formats, what does not fit, and how much memory it takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from promptgen.benchmarks.random_checkpoint import make_config, random_network, write_checkpoint
from promptgen.florence2 import CheckpointError, Florence2Model, GenerationOptions, is_checkpoint
from promptgen.florence2.loading import load_network, original_state_dict
from promptgen.florence2.text_processing import FLORENCE2_TOKENS, TextProcessor
from safetensors.torch import save_file

from .checkpoints import (
    REFERENCE,
    copy_reference,
    edit_json,
    expected,
    make_layout,
    reference_state,
    without,
    write_sharded,
)

SMALL_TEXT = {"d_model": 64, "layers": 2, "heads": 4, "ffn": 128}


def load(folder: Path, dtype: str = "fp32") -> Florence2Model:
    return Florence2Model.load(folder, device="cpu", dtype=dtype)


def answer(model: Florence2Model, prompt: str = "<CAPTION>", **options: Any) -> tuple[int, ...]:
    image = Image.open(REFERENCE / "images" / "03.png").convert("RGB")
    features = model.encode_images(model.preprocess([image]))
    return model.generate(features, [prompt], GenerationOptions(max_new_tokens=24, **options))[0].token_ids


# --- sizes that a configuration may state ------------------------------------------------------------------

SHAPES: dict[str, dict[str, Any]] = {
    "four stages": {
        "vision": {"dim_embed": (16, 32, 48, 64), "num_heads": (1, 2, 3, 4), "depths": (1, 1, 3, 1)},
        "image_size": 160,
        "window_size": 5,
    },
    "heads are not groups": {
        "vision": {
            "dim_embed": (24, 48, 64, 96),
            "num_heads": (1, 3, 4, 6),
            "num_groups": (3, 2, 8, 4),
            "depths": (1, 2, 1, 1),
        },
        "image_size": 96,
        "window_size": 12,
    },
    "picture not a multiple of 32": {
        "vision": {"dim_embed": (8, 16, 24, 34), "num_heads": (1, 2, 2, 2), "depths": (1, 1, 1, 1)},
        "image_size": 100,
        "window_size": 7,
    },
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("vocab_size", [1400, 2003])
def test_both_formats_of_any_size_answer_as_transformers_own_class(
    tmp_path: Path, shape: str, vocab_size: int
) -> None:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Florence2ForConditionalGeneration"):
        pytest.skip(f"transformers {transformers.__version__} has no Florence-2 class of its own")
    config = make_config(text=SMALL_TEXT, vocab_size=vocab_size, **SHAPES[shape])
    network = random_network(config)
    original = load(write_checkpoint(tmp_path / "original", network, dtype="fp32"))
    converted_folder = write_checkpoint(tmp_path / "converted", network, dtype="fp32", form="converted")
    converted = load(converted_folder)
    theirs = transformers.Florence2ForConditionalGeneration.from_pretrained(converted_folder).eval()

    image = Image.open(REFERENCE / "images" / "03.png").convert("RGB")
    pixel_values = original.preprocess([image])
    features = original.encode_images(pixel_values)
    with torch.inference_mode():
        output = theirs.get_image_features(pixel_values)
    reference = getattr(output, "pooler_output", output)
    torch.testing.assert_close(features, reference.reshape(features.shape), rtol=0.0, atol=1e-4)
    torch.testing.assert_close(converted.encode_images(pixel_values), features, rtol=0.0, atol=1e-5)

    prompt = original.text.encode("What does the image describe?")
    placeholders = [config.text.vocab_size] * config.num_image_tokens
    ids = torch.tensor([placeholders + prompt])
    for beams in (1, 3):
        with torch.inference_mode():
            row = theirs.generate(
                input_ids=ids, pixel_values=pixel_values, attention_mask=torch.ones_like(ids),
                num_beams=beams, max_new_tokens=24, do_sample=False, no_repeat_ngram_size=3,
                forced_bos_token_id=0, forced_eos_token_id=2,
            )  # fmt: skip
        for ours in (original, converted):
            assert list(answer(ours, "What does the image describe?", num_beams=beams)) == row[0].tolist()


def test_a_network_written_in_the_original_format_reads_back_equal(tmp_path: Path) -> None:
    model = load(REFERENCE)
    state = original_state_dict(model.network)
    published = reference_state()
    assert set(published) - set(state) == {
        "language_model.lm_head.weight",
        "language_model.model.encoder.embed_tokens.weight",
        "language_model.model.decoder.embed_tokens.weight",
    }
    for name, tensor in state.items():
        assert torch.equal(tensor, published[name].float()), name


# --- dtypes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("wanted", ["fp32", "fp16", "bf16"])
def test_weights_of_any_dtype_load_into_any_other(tmp_path: Path, stored: str, wanted: str) -> None:
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    folder = copy_reference(tmp_path)
    state = {name: tensor.to(kinds[stored]) for name, tensor in reference_state().items()}
    save_file(state, folder / "model.safetensors")
    model = load(folder, wanted)
    tensors = [*model.network.parameters(), *model.network.buffers()]
    assert {tensor.dtype for tensor in tensors} == {kinds[wanted]}
    assert model.dtype == kinds[wanted]
    shared = model.network.language_model.model.shared.weight
    assert torch.equal(shared, state["language_model.model.shared.weight"].to(kinds[wanted]))
    assert answer(model)[:2] == (2, 0)


def test_the_tied_matrix_is_one_tensor() -> None:
    language_model = load(REFERENCE).network.language_model
    shared = language_model.model.shared.weight
    assert language_model.lm_head.weight is shared
    assert language_model.model.encoder.embed_tokens.weight is shared
    assert language_model.model.decoder.embed_tokens.weight is shared


def test_bytes_count_tied_weights_once() -> None:
    model = load(REFERENCE)
    names = dict(model.network.named_parameters()) | dict(model.network.named_buffers())
    assert model.nbytes == sum(tensor.numel() * 4 for tensor in names.values())


# --- what does not fit -------------------------------------------------------------------------------------


def test_every_tensor_that_does_not_fit_is_listed(tmp_path: Path) -> None:
    folder = copy_reference(tmp_path)
    state = without(reference_state(), "image_proj_norm.bias", "vision_tower.convs.1.proj.weight")
    state["language_model.model.shared.extra"] = torch.zeros(3, 5)
    state["image_pos_embed.row_embeddings.weight"] = torch.zeros(50, 40)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    message = str(caught.value)
    assert "4 tensors" in message
    assert "missing: image_proj_norm.bias [64]" in message
    assert "missing: vision_tower.convs.1.proj.weight [48, 24, 3, 3]" in message
    assert "surplus: language_model.model.shared.extra [3, 5]" in message
    assert "image_pos_embed.row_embeddings.weight is [50, 40], config.json says [50, 48]" in message


def test_no_tied_matrix_at_all(tmp_path: Path) -> None:
    folder = copy_reference(tmp_path)
    state = {name: tensor for name, tensor in reference_state().items() if tuple(tensor.shape) != (1520, 64)}
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing: language_model\.model\.shared\.weight \[1520, 64\]"):
        load(folder)


def test_tied_names_with_different_matrices(tmp_path: Path) -> None:
    folder = copy_reference(tmp_path)
    state = reference_state()
    state["language_model.lm_head.weight"] += 1
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="two different"):
        load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_damaged_weights(tmp_path: Path, name: str, damage: str) -> None:
    folder = make_layout(tmp_path, "safetensors" if name.endswith("safetensors") else "bin")
    whole = (folder / name).read_bytes()
    content = {"empty": b"", "cut": whole[: len(whole) // 2], "text": b"<html>not found</html>" * 99}[damage]
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}.*Fetch it again"):
        load(folder)


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    import pickle

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    folder = copy_reference(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Payload()}))
    with pytest.raises(CheckpointError, match="cannot be read as plain weights"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = copy_reference(tmp_path)
    write_sharded(folder, reference_state(), 3, "safetensors")
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"lacks 1 of 3 weight files: model-00002-of-00003\.safetensors"
    ):
        load(folder)


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("config.json", lambda raw: raw.update(model_type="llava"), "type 'llava', not 'florence2'"),
        ("config.json", lambda raw: raw.pop("vision_config"), "no vision_config"),
        ("config.json", lambda raw: raw["vision_config"].pop("depths"), "'depths'"),
        ("config.json", lambda raw: raw["text_config"].pop("d_model"), "'d_model'"),
        ("config.json", lambda raw: raw["vision_config"].update(depths=[1, 1]), "depths has 2 entries"),
        ("config.json", lambda raw: raw["vision_config"].update(num_heads=[5, 3, 4, 6]), "does not divide"),
        ("config.json", lambda raw: raw["vision_config"].update(patch_size=[9, 3, 3, 3]), "patch_size"),
        ("config.json", lambda raw: raw["vision_config"].update(projection_dim=32), "is not d_model"),
        (
            "config.json",
            lambda raw: raw["vision_config"].update(image_feature_source=["mystery"]),
            "'mystery'.*known are spatial_avg_pool",
        ),
        ("preprocessor_config.json", lambda raw: raw.update(do_center_crop=True), "do_center_crop"),
        ("preprocessor_config.json", lambda raw: raw.pop("size"), "no size of height and width"),
        (
            "preprocessor_config.json",
            lambda raw: raw.update(size={"height": 2048, "width": 2048}),
            "need 64 positions per axis",
        ),
    ],
)
def test_configurations_that_are_not_built_say_why(
    tmp_path: Path, file: str, edit: Any, message: str
) -> None:
    folder = copy_reference(tmp_path, weights=True)
    edit_json(folder / file, edit)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    folder = copy_reference(tmp_path, weights=True)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer" if name == "tokenizer.json" else name):
        load(folder)


def test_is_checkpoint(tmp_path: Path) -> None:
    assert is_checkpoint(REFERENCE)
    assert not is_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[1, 2", encoding="utf-8")
    assert not is_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "paligemma"}', encoding="utf-8")
    assert not is_checkpoint(tmp_path)


def test_the_checkpoint_folder_is_never_written_to(tmp_path: Path) -> None:
    folder = copy_reference(tmp_path / "c", weights=True)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    answer(load(folder))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_code_in_a_checkpoint_folder_is_not_run(tmp_path: Path) -> None:
    folder = copy_reference(tmp_path / "c", weights=True)
    trap = f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    for name in (
        "modeling_florence2.py",
        "configuration_florence2.py",
        "processing_florence2.py",
        "__init__.py",
    ):
        (folder / name).write_text(trap, encoding="utf-8")
    answer(load(folder))
    assert not (tmp_path / "ran").exists()


# --- tokenizers --------------------------------------------------------------------------------------------


def test_tokenizer_with_the_added_tokens_already_in_it(tmp_path: Path) -> None:
    plain = load(REFERENCE)
    folder = copy_reference(tmp_path, weights=True)
    plain.text.tokenizer.save(str(folder / "tokenizer.json"))
    saved = load(folder)
    assert saved.text.tokenizer.get_vocab_size() == plain.text.tokenizer.get_vocab_size() == 1520
    assert answer(saved, "<OD>") == answer(plain, "<OD>")


def test_tokenizer_of_vocab_and_merges(tmp_path: Path) -> None:
    plain = load(REFERENCE).text
    folder = copy_reference(tmp_path)
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").unlink()
    special = {token["content"]: token["id"] for token in raw["added_tokens"]}
    vocab = raw["model"]["vocab"] | special
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in raw["model"]["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    pair = TextProcessor(folder, 1520, (0, 1, 2))
    for text in (*expected()["prompts"].values(), "Ünïcode ✓ <loc_7><loc_999>, 2 spaces  <poly>"):
        assert pair.encode(text) == plain.encode(text)


def test_the_added_tokens_stand_where_the_published_processor_puts_them() -> None:
    text = load(REFERENCE).text
    assert len(FLORENCE2_TOKENS) == 1024
    ids = [text.tokenizer.token_to_id(token) for token in FLORENCE2_TOKENS]
    assert ids == list(range(496, 1520))


def test_a_tokenizer_larger_than_the_network_is_an_error(tmp_path: Path) -> None:
    folder = copy_reference(tmp_path, weights=True)
    tokenizer = load(REFERENCE).text.tokenizer
    tokenizer.add_special_tokens(["<one_too_many>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"knows 1521 tokens, config.json says vocab_size 1520"):
        load(folder)


def test_spaces_before_punctuation_go_only_where_the_checkpoint_says_so(tmp_path: Path) -> None:
    folder = copy_reference(tmp_path)
    ids = TextProcessor(folder, 1520, (0, 1, 2)).encode("a cat , it 's here . <loc_5>")
    assert TextProcessor(folder, 1520, (0, 1, 2)).decode(ids) == "a cat , it 's here . <loc_5>"
    edit_json(folder / "tokenizer_config.json", lambda raw: raw.update(clean_up_tokenization_spaces=True))
    assert TextProcessor(folder, 1520, (0, 1, 2)).decode(ids) == "a cat, it's here. <loc_5>"


# --- memory ------------------------------------------------------------------------------------------------

MEASURE = """
import sys
from pathlib import Path
import torch
from promptgen.florence2 import Florence2Model
from promptgen.florence2.model import load_network  # all imports before the count starts

def status(key):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key)) * 1024

folder, dtype, warm = sys.argv[1:]
Florence2Model.load(warm, device="cpu", dtype=dtype)  # what torch allocates at first use is not the model's
open("/proc/self/clear_refs", "w").write("5")  # reset the high-water mark
before = status("VmRSS")
model = Florence2Model.load(folder, device="cpu", dtype=dtype)
print((status("VmHWM") - before) / model.nbytes)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc to see the peak of memory")
@pytest.mark.parametrize(("stored", "wanted"), [("fp32", "fp32"), ("fp16", "fp32"), ("fp32", "fp16")])
def test_peak_memory_while_loading(tmp_path: Path, stored: str, wanted: str) -> None:
    vision = {"dim_embed": (32, 64, 128, 256), "num_heads": (1, 2, 4, 8), "depths": (1, 1, 2, 1)}
    text = {"d_model": 768, "layers": 4, "heads": 12, "ffn": 3072}
    config = make_config(vision, text, image_size=96)
    folder = write_checkpoint(tmp_path / "big", random_network(config), dtype=stored)
    child = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), wanted, str(REFERENCE)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    shutil.rmtree(folder)
    ratio = float(child.stdout.split()[-1])
    assert 0.9 < ratio < 1.3, f"peak is {ratio:.2f} times the weights"


def test_a_failed_load_keeps_nothing(tmp_path: Path) -> None:
    import gc

    folder = copy_reference(tmp_path)
    save_file(without(reference_state(), "image_proj_norm.bias"), folder / "model.safetensors")
    gc.collect()
    before = sum(isinstance(thing, torch.nn.Module) for thing in gc.get_objects())
    for _ in range(3):
        with pytest.raises(CheckpointError):
            load_network(folder, load(REFERENCE).config, torch.device("cpu"), torch.float32)
    gc.collect()
    assert sum(isinstance(thing, torch.nn.Module) for thing in gc.get_objects()) <= before
