"""LoRA adapters: weights against those of the real peft library, and models with and without them."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from PIL import Image
from promptgen.benchmarks.random_checkpoint import SIZES, make_config, random_network, write_checkpoint
from promptgen.florence2 import AdapterError, Florence2Model, GenerationOptions
from promptgen.florence2.layout import is_arranged, pack, unpack
from promptgen.florence2.products import can_pack
from promptgen.inference.processor import has_int8
from safetensors.torch import load_file, save_file

from .adapters import merged_checkpoint, parameters, save_adapter, seen_and_said, train, with_adapter
from .checkpoints import REFERENCE, TIED, edit_json

EVERYTHING = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "qkv", "proj"]


@pytest.fixture(autouse=True)
def _quiet_peft() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="peft")
        yield


def load(folder: Path = REFERENCE, dtype: str = "fp32") -> Florence2Model:
    return Florence2Model.load(folder, device="cpu", dtype=dtype)


def picture() -> Image.Image:
    return Image.open(REFERENCE / "images" / "03.png").convert("RGB")


def features(model: Florence2Model) -> torch.Tensor:
    return model.encode_images(model.preprocess([picture()]))


def answer(model: Florence2Model, prompt: str = "<CAPTION>", num_beams: int = 3) -> tuple[int, ...]:
    options = GenerationOptions(max_new_tokens=24, num_beams=num_beams)
    return model.generate(features(model), [prompt], options)[0].token_ids


# --- weights -----------------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "attention": {},
    "all layers": {"target_modules": EVERYTHING, "r": 3},
    "convolutions": {"target_modules": r"vision_tower\.convs\.\d+\.proj"},
    "rank-stabilised, ranks and alphas by pattern": {
        "use_rslora": True,
        "rank_pattern": {"decoder.layers.0.self_attn.q_proj": 2},
        "alpha_pattern": {r".*layers\.0\.encoder_attn.*": 3, "v_proj": 5},
    },
    "DoRA": {"use_dora": True, "target_modules": ["q_proj", "fc1", "qkv"]},
    "DoRA of convolutions": {"use_dora": True, "target_modules": r"vision_tower\.convs\.\d+\.proj"},
    "DoRA of an embedding": {"use_dora": True, "target_modules": ["row_embeddings"]},
    "all biases": {"bias": "all"},
    "biases of its layers": {"bias": "lora_only"},
    "biases of its own": {"lora_bias": True},
    "an embedding": {"target_modules": ["row_embeddings"]},
    "modules saved whole": {"modules_to_save": ["image_proj_norm", "fc2"]},
    "fan in, fan out": {"fan_in_fan_out": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_weights_with_an_adapter_are_those_that_peft_merges(tmp_path: Path, kind: str) -> None:
    model = with_adapter(**KINDS[kind])
    model.save_pretrained(tmp_path / "adapter")
    merged = load(merged_checkpoint(tmp_path / "merged", model))
    base = load()
    before = {name: tensor.clone() for name, tensor in parameters(base).items()}
    found, wanted = parameters(base.with_adapters([(tmp_path / "adapter", 1.0)])), parameters(merged)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name] - tensor).abs().max() < 1e-6, name
    changed = [name for name in before if (before[name] - wanted[name]).abs().max() > 1e-4]
    assert changed
    same = {name for name in before if found[name] is parameters(base)[name]}
    assert not same.intersection(changed)
    if kind == "attention":  # nothing beside is held twice
        assert same == {name for name in before if name not in changed}
    assert all(torch.equal(before[name], tensor) for name, tensor in parameters(base).items())


def test_transformers_own_class_with_peft_answers_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Florence2ForConditionalGeneration"):
        pytest.skip(f"transformers {transformers.__version__} has no Florence-2 class of its own")
    config = make_config(**SIZES["tiny"])
    folder = write_checkpoint(tmp_path / "base", random_network(config), dtype="fp32", form="converted")
    theirs = transformers.Florence2ForConditionalGeneration.from_pretrained(folder).eval()
    # as most who train adapters for Florence-2 choose them, and the projection
    targets = ["q_proj", "k_proj", "v_proj", "fc2", "qkv", "image_projection"]
    settings = peft.LoraConfig(r=4, target_modules=targets, use_rslora=True)
    theirs = peft.get_peft_model(theirs, settings).eval()
    train(theirs, size=0.1)
    theirs.save_pretrained(tmp_path / "adapter")

    base = load(folder)
    ours = base.with_adapters([(tmp_path / "adapter", 1.0)])
    pixel_values = ours.preprocess([picture()])
    reference, said = seen_and_said(theirs, ours, pixel_values, config)
    found = ours.encode_images(pixel_values)
    torch.testing.assert_close(found, reference.reshape(found.shape), rtol=0.0, atol=1e-4)
    assert not torch.allclose(base.encode_images(pixel_values), found, atol=1e-2)
    assert list(answer(ours, "What does the image describe?")) == said


def test_several_adapters_add_up_with_their_strengths(tmp_path: Path) -> None:
    model = with_adapter(target_modules=["q_proj", "fc1"])
    model.add_adapter("second", peft.LoraConfig(r=2, lora_alpha=5, target_modules=["q_proj", "qkv"]))
    train(model, "second", seed=1)
    model.save_pretrained(tmp_path)  # the second in a folder of its name
    folders = [tmp_path, tmp_path / "second"]
    model.add_weighted_adapter(["default", "second"], [0.7, -1.5], "both", combination_type="cat")
    model.set_adapter("both")
    merged = load(merged_checkpoint(tmp_path / "merged", model))
    base = load()
    both = base.with_adapters([*zip(folders, [0.7, -1.5], strict=True)])
    for name, tensor in parameters(merged).items():
        assert (parameters(both)[name] - tensor).abs().max() < 1e-6, name
    turned = base.with_adapters([(folders[1], -1.5), (folders[0], 0.7)])
    for name, tensor in parameters(both).items():
        torch.testing.assert_close(parameters(turned)[name], tensor, rtol=0, atol=1e-7)


def test_the_head_is_adapted_and_not_the_embedding_that_it_is_tied_to(tmp_path: Path) -> None:
    """The layers that a much-read tutorial on training Florence-2 names. peft saves the embedding as well."""
    model = with_adapter(target_modules=["q_proj", "lm_head"], size=0.3)
    head = model.base_model.model.language_model.lm_head
    change = head.get_delta_weight("default").detach()
    model.save_pretrained(tmp_path, save_embedding_layers=True)
    state = load_file(tmp_path / "adapter_model.safetensors")
    name = "base_model.model.language_model.lm_head.base_layer.weight"
    state[name] = head.base_layer.weight.detach().clone()
    save_file(state, tmp_path / "adapter_model.safetensors")

    base = load()
    variant = base.with_adapters([(tmp_path, 1.0)])
    found, before = parameters(variant), parameters(base)
    torch.testing.assert_close(found[TIED[1]], before[TIED[1]] + change, rtol=0, atol=1e-5)
    assert all(found[tied] is before[tied] for tied in (TIED[0], *TIED[2:]))
    assert answer(variant) != answer(base)  # packed for this CPU, where it can be
    assert answer(load()) == answer(base)

    state[name] = torch.randn_like(state[name])  # trained as well, before: then it is the embedding, too
    save_file(state, tmp_path / "adapter_model.safetensors")
    other = parameters(load().with_adapters([(tmp_path, 1.0)]))
    torch.testing.assert_close(other[TIED[1]], state[name] + change, rtol=0, atol=1e-5)
    torch.testing.assert_close(other[TIED[0]], state[name], rtol=0, atol=1e-6)
    assert other[TIED[0]] is other[TIED[2]] is other[TIED[3]]


def test_files_of_older_releases_of_peft_are_read(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", target_modules=["q_proj", "row_embeddings"])
    state = load_file(adapter / "adapter_model.safetensors")
    wanted = parameters(load().with_adapters([(adapter, 1.0)]))
    older = {}  # with the adapter's name in them
    for name, tensor in state.items():
        stem, _, end = name.rpartition(".")
        older[f"{stem}.default.{end}" if end == "weight" else f"{name}.default"] = tensor
    torch.save(older, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    found = parameters(load().with_adapters([(adapter, 1.0)]))
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


# --- models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(
    "settings", [{"target_modules": EVERYTHING}, {"bias": "all"}], ids=["layers", "biases"]
)
def test_models_with_and_without_adapters_in_every_form_of_the_weights(
    tmp_path: Path, dtype: str, settings: dict[str, Any]
) -> None:
    if dtype == "int8" and not has_int8():
        pytest.skip("this processor has no instructions for int8")
    model = with_adapter(**settings)
    model.save_pretrained(tmp_path / "adapter")
    merged = load(merged_checkpoint(tmp_path / "merged", model), dtype)
    untouched = load(dtype=dtype)
    base = load(dtype=dtype)
    early = base.with_adapters(
        [(tmp_path / "adapter", 1.0)]
    )  # before the weights are rearranged at first use
    wanted = features(base), answer(base)
    late = base.with_adapters([(tmp_path / "adapter", 1.0)])
    assert is_arranged(base.network) == (dtype == "int8" or can_pack(base.dtype))
    for variant in (early, late):
        tolerance = {"fp32": 1e-4, "bf16": 5e-2, "int8": 0.0}[dtype]
        torch.testing.assert_close(features(variant), features(merged), rtol=0, atol=tolerance)
        assert answer(variant) == answer(merged)
        assert is_arranged(variant.network) == is_arranged(base.network)
    assert not torch.equal(wanted[0], features(late))
    # The model without is what it was, bit for bit, also when all others are gone.
    del early, late, variant
    for one in (base, untouched):
        assert torch.equal(features(one), wanted[0])
        assert answer(one) == wanted[1]


def test_what_is_moved_is_moved_once(tmp_path: Path) -> None:
    """A host moves a model to a GPU and back: on the way there, its layout for a CPU is undone."""
    adapter = save_adapter(tmp_path / "adapter", target_modules=EVERYTHING)
    base = load()
    variant = base.with_adapters([(adapter, 1.0)])
    wanted = answer(variant), answer(base)
    unpack(base.network)
    base.to("cpu")
    assert not is_arranged(base.network)
    assert not is_arranged(variant.network)
    own = [name for name, tensor in parameters(variant).items() if tensor is not parameters(base)[name]]
    assert own
    assert all(name.endswith(".weight") for name in own)
    variant.to("cpu")
    assert (answer(variant), answer(base)) == wanted


def test_memory_is_taken_for_what_an_adapter_touches(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter")  # queries and values of all attentions
    base = load()
    alone = base.nbytes
    variant = base.with_adapters([(adapter, 1.0)])
    touched = [
        tensor
        for name, tensor in parameters(base).items()
        if name.endswith(("q_proj.weight", "v_proj.weight"))
    ]
    assert variant.nbytes == base.adapters_nbytes == sum(tensor.nbytes for tensor in touched) > 0
    assert base.nbytes == alone
    del variant
    assert base.adapters_nbytes == 0


@pytest.mark.skipif(not can_pack(torch.float32), reason="weights stay as they are on this processor")
def test_memory_is_told_right_while_weights_are_rearranged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load()
    variant = base.with_adapters([(save_adapter(tmp_path / "adapter"), 1.0)])
    packed, go_on = threading.Event(), threading.Event()

    def slowly(network: Any) -> None:
        pack(network)
        packed.set()
        go_on.wait(60)

    monkeypatch.setattr("promptgen.florence2.model.pack", slowly)
    with ThreadPoolExecutor(3) as pool:
        use = pool.submit(features, base)
        assert packed.wait(60)
        told = [pool.submit(lambda: variant.nbytes), pool.submit(lambda: base.adapters_nbytes)]
        wait(told, timeout=0.2)
        go_on.set()
        use.result()
        assert {one.result() for one in told} == {variant.nbytes}


def test_features_are_told_apart_where_an_adapter_makes_other_ones(tmp_path: Path) -> None:
    text = save_adapter(tmp_path / "text")
    vision = save_adapter(tmp_path / "vision", target_modules=["qkv"])
    base = load()
    assert base.with_adapters([(text, 1.0)]).identity == base.identity
    identities = {base.with_adapters([(text, 0.5), (vision, strength)]).identity for strength in (0.5, 1.0)}
    assert len(identities | {base.identity}) == 3
    assert base.with_adapters([(vision, 1.0), (text, 0.5)]).identity in identities


def test_a_model_and_those_with_adapters_take_turns(tmp_path: Path) -> None:
    adapters = [save_adapter(tmp_path / str(seed), seed=seed, size=0.3) for seed in (1, 2)]
    base = load()
    models = [base, *(base.with_adapters([(adapter, 1.0)]) for adapter in adapters)]
    alone = [answer(model) for model in models]
    assert len(set(alone)) == 3
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(answer, models * 4)) == alone * 4


# --- what cannot be used -----------------------------------------------------------------------------------


def _config(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: edit_json(folder / "adapter_config.json", lambda value: value.update(changes))


def _renamed(old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        save_file({name.replace(old, new): tensor for name, tensor in load_file(file).items()}, file)

    return change


def _without(part: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        save_file({name: tensor for name, tensor in load_file(file).items() if part not in name}, file)

    return change


def _cut(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"base_model.model.x.lora_A.weight": Path}, folder / "adapter_model.bin")


def _tensors(change: Callable[[torch.Tensor], torch.Tensor], part: str = "lora") -> Callable[[Path], object]:
    def changed(folder: Path) -> None:
        """In a ``.bin``, which takes any tensor."""
        file = folder / "adapter_model.safetensors"
        state = {name: change(tensor) if part in name else tensor for name, tensor in load_file(file).items()}
        file.unlink()
        torch.save(state, folder / "adapter_model.bin")

    return changed


class _Program:
    """What runs a program where it is unpickled without a check."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("code of a checkpoint was run",)


def _program(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"base_model.model.x.lora_A.weight": _Program()}, folder / "adapter_model.bin")


def _numbered(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    torch.save({1: torch.ones(2, 2)}, folder / "adapter_model.bin")


def _nested(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"r": ' + "[" * 200_000 + "]" * 200_000 + "}")


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "no adapter_config.json"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no weights"),
    "another method": (_config(peft_type="LOHA"), "peft_type is 'LOHA'"),
    "its own base": (_config(init_lora_weights="pissa_niter_4"), "init_lora_weights is 'pissa_niter_4'"),
    "not known": (_config(use_qalora=True), "use_qalora"),
    "cut off": (_cut, "is not a whole safetensors file"),
    "code": (_pickled, "cannot be read as plain weights"),
    "a program": (_program, "holds other things than tensors, which may be programs and are not loaded"),
    "no names": (_numbered, "something under 1, which is no name"),
    "nested": (_nested, "adapter_config.json cannot be read"),
    "alpha is a text": (_config(lora_alpha="x"), "lora_alpha is 'x'; it takes a number"),
    "alpha is nothing": (_config(lora_alpha=None), "lora_alpha is 'None'; it takes a number"),
    "alpha is endless": (_config(lora_alpha=10**400), "lora_alpha is '1000"),
    "alpha is no number": (_config(lora_alpha=float("nan")), "lora_alpha is 'nan'; it takes a number"),
    "patterns in a list": (_config(alpha_pattern=["q_proj"]), "alpha_pattern is no table"),
    "a pattern of a text": (_config(alpha_pattern={"q_proj": "x"}), "alpha_pattern of 'q_proj' is 'x'"),
    "half a pattern": (_config(alpha_pattern={"(q_proj": 1}), "is no regular expression"),
    "an endless pattern": (_config(alpha_pattern={"([a-z_.0-9]+)+!": 1}), "matching it might never end"),
    "a slow pattern": (_config(alpha_pattern={".*" * 9 + "!": 1}), "matching it might never end"),
    "no ranks": (_tensors(lambda tensor: tensor[:0], "lora_A"), r"is \[0, 64\], no matrix"),
    "no sides": (_tensors(lambda tensor: tensor[0, 0]), r"is \[\], no matrix"),
    "whole numbers": (_tensors(torch.Tensor.int), "of another kind than adapters have .int32"),
    "sparse": (_tensors(torch.Tensor.to_sparse), "of another kind than adapters have .float32, sparse_coo"),
    "not there": (_tensors(lambda tensor: tensor.to("meta")), "of another kind .* meta"),
    "blown up": (
        _tensors(lambda tensor: tensor[:1].clone().expand(10**9, -1), "lora_A"),
        "is larger than what the file holds",
    ),
    "no numbers": (_tensors(lambda tensor: tensor / 0 * 0), "holds infinite values or some that"),
    "DoRA without its lengths": (_config(use_dora=True), "lacks lora_magnitude_vector"),
    "half a pair": (_without("lora_B"), "lacks lora_B"),
    "nothing": (_without("lora"), "holds no tensors"),
    "another kind of model": (
        _renamed("language_model.model.decoder", "model.diffusion_model"),
        r"does not fit this model(.|\n)*model\.diffusion_model\.layers\.0.*: the model has nothing",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("whole") / "adapter")


@pytest.fixture(scope="module")
def model() -> Florence2Model:
    return load()


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_cannot_be_used_is_told_with_its_reason(
    tmp_path: Path, whole: Path, model: Florence2Model, damage: str
) -> None:
    change, told = DAMAGED[damage]
    shutil.copytree(whole, tmp_path / "adapter")
    change(tmp_path / "adapter")
    with pytest.raises(AdapterError, match=told):
        model.with_adapters([(whole, 1.0), (tmp_path / "adapter", 1.0)])
    assert model.adapters_nbytes == 0


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("strength", [3e38, -1e300])
def test_weights_that_are_no_numbers_are_not_made(tmp_path: Path, dtype: str, strength: float) -> None:
    if dtype == "int8" and not has_int8():
        pytest.skip("this processor has no instructions for int8")
    whole = save_adapter(tmp_path / "adapter", size=3)
    model = load(dtype=dtype)
    plain = answer(model)
    with pytest.raises(AdapterError, match=r"gets values that .* cannot hold\. Choose smaller strengths"):
        model.with_adapters([(whole, strength)])
    assert model.adapters_nbytes == 0
    assert answer(model) == plain


def test_an_adapter_for_another_size_of_the_model_says_so(tmp_path: Path, model: Florence2Model) -> None:
    config = make_config(**{**SIZES["tiny"], "text": {"d_model": 48, "layers": 3, "heads": 4, "ffn": 96}})
    other = write_checkpoint(tmp_path / "other", random_network(config), dtype="fp32")
    adapter = save_adapter(tmp_path / "adapter", other)
    _config(base_model_name_or_path="microsoft/Florence-2-large-ft")(adapter)
    with pytest.raises(
        AdapterError, match=r"trained on microsoft/Florence-2-large-ft(.|\n)*made for \[48, 48\]"
    ):
        load().with_adapters([(adapter, 1.0)])


def test_an_adapter_of_a_convolution_in_groups_says_so(tmp_path: Path, model: Florence2Model) -> None:
    adapter = save_adapter(tmp_path / "adapter", target_modules=r".*blocks\.1\..*\.dw", r=48)
    with pytest.raises(AdapterError, match="a convolution in groups"):
        model.with_adapters([(adapter, 1.0)])


def test_adapters_are_not_stacked(whole: Path, model: Florence2Model) -> None:
    with pytest.raises(ValueError, match="has adapters"):
        model.with_adapters([(whole, 1.0)]).with_adapters([(whole, 1.0)])
