"""Linear layers in the forms that a CPU reads fast, and networks that are made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from promptgen.captioning import Captioner, FeatureCache
from promptgen.florence2 import Florence2Model, GenerationOptions
from promptgen.florence2.layout import is_arranged, pack, unpack
from promptgen.florence2.loading import original_state_dict
from promptgen.florence2.products import EvenInt8Linear, Int8Linear, PackedLinear, apply, can_pack
from promptgen.inference import resolve_dtype
from promptgen.inference.processor import has_int8
from promptgen.models_cache import ModelManager, find_entry
from torch import Tensor, nn
from torch.nn import functional

needs_packing = pytest.mark.skipif(not can_pack(torch.float32), reason="this torch comes without oneDNN")
needs_int8 = pytest.mark.skipif(not has_int8(), reason="this CPU has no int8 products (VNNI)")
DTYPES = [
    torch.float32,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this CPU has no bfloat16 products"),
    ),
]
ROWS = [1, 3, 4, 5, 12, 33, 632]
EXAMPLES = Path(__file__).parents[1] / "examples"


def demo_folder() -> Path:
    folder = find_entry("demo").folder
    assert folder is not None
    return folder


def layer(inputs: int, outputs: int, dtype: torch.dtype, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(inputs + outputs)
    return nn.Linear(inputs, outputs, bias=bias).to(dtype).requires_grad_(False)


def states(rows: int, inputs: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(1, rows, inputs, generator=torch.Generator().manual_seed(rows)).to(dtype)


@needs_packing
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_answers_what_the_layer_answers(rows: int, dtype: torch.dtype, bias: bool) -> None:
    plain = layer(96, 200, dtype, bias=bias)
    given = states(rows, 96, dtype)
    wanted = plain(given)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.01, "atol": 0.01}
    torch.testing.assert_close(PackedLinear(plain)(given), wanted, **tolerance)
    torch.testing.assert_close(apply(PackedLinear(plain), given), wanted, **tolerance)
    torch.testing.assert_close(PackedLinear(plain, gelu=True)(given), functional.gelu(wanted), **tolerance)


@needs_packing
def test_packing_is_undone_to_the_bit() -> None:
    plain = layer(96, 201, torch.float32)
    again = PackedLinear(plain).unpacked()
    assert torch.equal(again.weight, plain.weight)
    assert again.bias is plain.bias


@needs_int8
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [Int8Linear, EvenInt8Linear])
@pytest.mark.parametrize("bias", [True, False])
def test_eight_bits_are_near(kind: type[Int8Linear], dtype: torch.dtype, bias: bool) -> None:
    plain = layer(256, 200, dtype, bias=bias)
    given = states(33, 256, dtype)
    wanted, answered = plain(given).float(), kind(plain)(given)
    assert answered.dtype == dtype
    # Rounding both sides to 1/127 of the largest of 256 normal numbers is off by about 1 % of the result.
    assert (answered.float() - wanted).norm() / wanted.norm() < (0.015 if dtype == torch.float32 else 0.02)


@needs_int8
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_eight_bits_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    eight = Int8Linear(layer(64, 48, dtype))
    given = states(7, 64, dtype)
    given[0, 3] *= 1000
    together = eight(given)
    for row in range(7):
        assert torch.equal(eight(given[:, row : row + 1]), together[:, row : row + 1])


@needs_int8
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [Int8Linear, EvenInt8Linear])
def test_eight_bits_take_every_size_of_number(kind: type[Int8Linear], dtype: torch.dtype) -> None:
    """Nothing overflows into the wrong sign, and nothing divides by zero."""
    plain = layer(64, 48, dtype, bias=False)
    eight = kind(plain)
    assert torch.equal(eight(torch.zeros(1, 2, 64, dtype=dtype)), torch.zeros(1, 2, 48, dtype=dtype))
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        given = (torch.randn(1, 2, 64, generator=generator) * 10.0 ** (seed % 13 - 6)).to(dtype)
        wanted = plain(given).float()
        assert (eight(given).float() - wanted).norm() < 0.05 * wanted.norm() + 1e-12


@needs_int8
def test_an_even_layer_takes_gelu_over() -> None:
    plain = layer(64, 48, torch.float32)
    given = states(5, 64, torch.float32)
    torch.testing.assert_close(
        EvenInt8Linear(plain, gelu=True)(given), functional.gelu(EvenInt8Linear(plain)(given))
    )


@needs_packing
def test_a_packed_network_is_the_same_network() -> None:
    model = Florence2Model.load(demo_folder(), device="cpu", dtype="fp32")
    pixels = model.preprocess([Image.new("RGB", (64, 48), "red")])
    with torch.inference_mode():
        plain = model.network.encode_images(pixels)
        before = {name: tensor.clone() for name, tensor in original_state_dict(model.network).items()}
        pack(model.network)
        assert not any(isinstance(module, nn.Linear) for module in model.network.modules())
        torch.testing.assert_close(model.network.encode_images(pixels), plain, rtol=1e-4, atol=1e-5)
        unpack(model.network)
        assert torch.equal(model.network.encode_images(pixels), plain)
    model.to("cpu")  # ties the head again
    after = original_state_dict(model.network)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert model.network.language_model.lm_head.weight is model.network.language_model.model.shared.weight


@needs_packing
def test_a_model_is_packed_when_it_is_used_and_holds_its_weights_once() -> None:
    model = Florence2Model.load(demo_folder(), device="cpu", dtype="fp32")
    before = model.nbytes
    assert not is_arranged(model.network)
    model.generate(model.encode_images(model.preprocess([Image.new("RGB", (64, 48))])), ["<OCR>"])
    assert is_arranged(model.network)
    shared = model.network.language_model.model.shared.weight
    assert model.nbytes == before + shared.numel() * 4  # the head's own copy of the embedding
    model.to("cpu")
    assert is_arranged(model.network)


def test_weights_that_were_rearranged_are_not_written_as_a_checkpoint() -> None:
    model = Florence2Model.load(demo_folder(), device="cpu", dtype="fp32")
    pack(model.network)
    with pytest.raises(ValueError, match="unpack"):
        original_state_dict(model.network)


@needs_int8
def test_int8_is_small_and_answers_alike() -> None:
    manager = ModelManager()
    pictures = sorted(EXAMPLES.glob("*.png"))
    assert pictures
    answers = {}
    for dtype in ("fp32", "int8"):
        captioner = Captioner(
            "demo", device="cpu", dtype=dtype, manager=manager, feature_cache=FeatureCache(0)
        )
        results = captioner.caption(pictures, ["GENERATE_TAGS", "MORE_DETAILED_CAPTION"])
        answers[dtype] = [result.raw for image in results for result in image.results]
    sizes = {info.dtype: info.nbytes for info in manager.loaded()}
    manager.close()
    same = sum(one == other for one, other in zip(answers["fp32"], answers["int8"], strict=True))
    assert same >= 0.9 * len(answers["fp32"])
    assert sizes["int8"] < 0.6 * sizes["fp32"]


@needs_int8
def test_features_of_int8_are_not_taken_for_those_of_fp32() -> None:
    folder = demo_folder()
    fast, exact = (Florence2Model.load(folder, device="cpu", dtype=dtype) for dtype in ("int8", "fp32"))
    assert fast.identity != exact.identity
    pixels = fast.preprocess([Image.effect_noise((64, 64), 60).convert("RGB")])
    ours, theirs = fast.encode_images(pixels), exact.encode_images(pixels)
    assert not torch.equal(ours.float(), theirs)
    assert (ours - theirs).norm() / theirs.norm() < 0.2


@needs_int8
def test_int8_answers_a_pair_in_a_batch_as_alone() -> None:
    model = Florence2Model.load(demo_folder(), device="cpu", dtype="int8")
    pictures = [Image.open(path).convert("RGB") for path in sorted(EXAMPLES.glob("*.png"))[:3]]
    pixels = model.preprocess(pictures)
    options = GenerationOptions(num_beams=3, max_new_tokens=40)
    features = model.encode_images(pixels)
    together = model.generate(features, ["<OCR>"] * len(pictures), options)
    for row in range(len(pictures)):
        torch.testing.assert_close(model.encode_images(pixels[row : row + 1]), features[row : row + 1])
        alone = model.generate(features[row : row + 1], ["<OCR>"], options)
        assert alone[0].text == together[row].text


def test_int8_says_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="for CPUs"):
        resolve_dtype("int8", "cuda:0")
    monkeypatch.setattr("promptgen.inference.processor.has_int8", lambda: False)
    with pytest.raises(ValueError, match="VNNI"):
        resolve_dtype("int8", "cpu")


@needs_int8
def test_an_int8_model_stays_on_its_cpu() -> None:
    model = Florence2Model.load(demo_folder(), device="cpu", dtype="int8")
    model.to("cpu")
    with pytest.raises(ValueError, match="CPU only"):
        model.to("meta")


def test_auto_is_what_the_hardware_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptgen.inference.processor.has_bfloat16", lambda: True)
    assert resolve_dtype("auto", "cpu") == "bf16"
    monkeypatch.setattr("promptgen.inference.processor.has_bfloat16", lambda: False)
    assert resolve_dtype("auto", "cpu") == "fp32"
    assert resolve_dtype("auto", "cuda:0") == resolve_dtype("auto", "mps") == "fp16"


@needs_packing
def test_packing_that_was_interrupted_is_taken_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Florence2Model.load(demo_folder(), device="cpu", dtype="fp32")
    pixels = model.preprocess([Image.new("RGB", (64, 48), "red")])
    with torch.inference_mode():
        plain = model.network.encode_images(pixels)
    made = []

    class Interrupted(PackedLinear):
        def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
            made.append(linear)
            if len(made) == 40:
                raise KeyboardInterrupt
            super().__init__(linear, gelu)

    with monkeypatch.context() as context:
        context.setattr("promptgen.florence2.layout.PackedLinear", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            pack(model.network)
    assert not is_arranged(model.network)
    torch.testing.assert_close(model.encode_images(pixels), plain, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.Linear) for module in model.network.modules())


@pytest.mark.parametrize("dtype", ["fp32", pytest.param("int8", marks=needs_int8)])
def test_another_s_autocast_and_empty_batches(dtype: str) -> None:
    model = Florence2Model.load(demo_folder(), device="cpu", dtype=dtype)
    pixels = model.preprocess([Image.new("RGB", (64, 48), "red")])
    plain = model.encode_images(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.encode_images(pixels), plain)
    assert model.encode_images(pixels[:0]).shape == (0, *plain.shape[1:])
