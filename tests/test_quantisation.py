"""Weights of 8 and 4 bits in both families: loading, answers, unloading, and what cannot be."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from promptgen.captioning import Captioner, CaptionOptions, FeatureCache, GenerationOptions
from promptgen.florence2 import Florence2Model
from promptgen.florence2.loading import original_state_dict
from promptgen.inference import (
    QUANTIZATIONS,
    AdapterError,
    CheckpointError,
    check_quantization,
    is_quantised_weight,
    quantised_layers,
    quantised_nbytes,
)
from promptgen.inference.quantised_layers import Linear4bit, Linear8bit, QuantisedLinear
from promptgen.models_cache import ModelManager
from promptgen.models_cache.memory import estimate_bytes
from promptgen.training.demo.scenes import EVALUATION_SEEDS, draw_scene
from safetensors.torch import save_file
from torch import nn

from .adapters import merged_checkpoint, save_adapter, with_adapter
from .checkpoints import REFERENCE, copy_reference, edit_json, reference_state, write_sharded
from .paligemma_checkpoints import make_paligemma, pictures

PICTURES = [str(REFERENCE / "images" / f"{number:02}.png") for number in range(1, 5)]
LAYERS: dict[str, type[QuantisedLinear]] = {"8": Linear8bit, "4": Linear4bit}
EVERY = tuple(name for name in QUANTIZATIONS if name != "none")


@pytest.fixture(scope="module")
def paligemma(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_paligemma(tmp_path_factory.mktemp("paligemma")))


@pytest.fixture
def manager() -> Iterator[ModelManager]:
    manager = ModelManager(idle_seconds=None)
    yield manager
    manager.close()


def filled(linear: nn.Linear, quantization: str, dtype: torch.dtype, rows: int) -> QuantisedLinear:
    """The layer with the weight of ``linear``, read so many rows at a time."""
    layer = LAYERS[quantization](linear.in_features, linear.out_features, bias=True, dtype=dtype)
    starts = range(0, linear.out_features, rows)
    pieces = (
        (slice(start, min(start + rows, linear.out_features)), linear.weight.detach()[start : start + rows])
        for start in starts
    )
    layer.fill_weight(pieces, torch.device("cpu"))
    layer.bias = nn.Parameter(linear.bias.detach().to(dtype), requires_grad=False)
    return layer


# --- layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(96, 128), (48, 37), (5, 50), (2, 64)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("quantization", EVERY)
def test_a_layer_answers_nearly_the_same_from_fewer_bytes(
    quantization: str, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(shape[1], shape[0])
    states = torch.randn(3, 4, shape[1])
    layer = filled(linear, quantization, dtype, rows=7)
    answer = layer(states.to(dtype))
    exact = linear(states).detach()
    assert answer.dtype == dtype
    error = float((answer.float() - exact).norm() / exact.norm())
    assert error < (0.01 if quantization == "8" else 0.15), error
    alone = layer(states[1:2, 2:3].to(dtype))
    assert torch.allclose(alone, answer[1:2, 2:3], rtol=0.02 if dtype == torch.bfloat16 else 2e-3, atol=1e-3)


@pytest.mark.parametrize("in_hardware", [False, True], ids=["without bfloat16", "with bfloat16"])
@pytest.mark.parametrize("bias", [False, True], ids=["alone", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("quantization", EVERY)
def test_products_are_those_of_the_weights_made_whole(
    monkeypatch: pytest.MonkeyPatch, quantization: str, dtype: torch.dtype, bias: bool, in_hardware: bool
) -> None:
    """However many rows there are, whichever way is taken for them, and in how many parts."""
    from bitsandbytes import functional

    monkeypatch.setattr(quantised_layers, "has_bfloat16", lambda: in_hardware)
    torch.manual_seed(1)
    for outputs, inputs in ((192, 128), (64, 64), (70, 192), (40, 37)):
        layer: Any = filled(nn.Linear(inputs, outputs), quantization, dtype, rows=outputs)
        if not bias:
            layer.bias = None
        if quantization == "8":
            whole = layer.weight.double() * layer.scale.double()
        else:
            nested = functional.QuantState(
                absmax=layer.nested_absmax, code=layer.nested_code, blocksize=256, dtype=torch.float32
            )
            state = functional.QuantState(
                absmax=layer.absmax, shape=torch.Size((outputs, inputs)), code=layer.code, blocksize=64,
                quant_type="nf4", dtype=torch.float32, offset=layer.offset, state2=nested,
            )  # fmt: skip
            whole = functional.dequantize_4bit(layer.weight, state).double()
        for at_a_time in (2**20, 30 * inputs):
            monkeypatch.setattr(quantised_layers, "_FOR_FEW_ROWS", at_a_time)
            monkeypatch.setattr(quantised_layers, "_FOR_MANY_ROWS", at_a_time)
            for rows in (0, 1, 3, 63, 64, 100):
                states = torch.randn(rows, 2, inputs).to(dtype)[:, 1:]  # with others between them
                want = states[:, 0].double() @ whole.t() + (layer.bias.double() if bias else 0)
                answer = layer(states)
                assert answer.dtype == dtype
                assert answer.shape == (rows, 1, outputs)
                error = float((answer[:, 0].double() - want).norm() / want.norm().clamp_min(1e-9))
                assert error < 4 * torch.finfo(dtype).eps, (rows, inputs, error)


@pytest.mark.parametrize("quantization", EVERY)
def test_it_does_not_matter_in_which_pieces_a_weight_is_read(quantization: str) -> None:
    linear = nn.Linear(50, 40)
    whole, torn = (filled(linear, quantization, torch.float32, rows) for rows in (40, 3))
    for one, other in zip(whole.state_dict().values(), torn.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_four_bits_are_those_of_bitsandbytes_with_double_quantisation() -> None:
    from bitsandbytes import functional

    linear = nn.Linear(128, 200)
    layer: Any = filled(linear, "4", torch.float32, rows=9)
    packed, state = functional.quantize_4bit(
        linear.weight.detach(), quant_type="nf4", compress_statistics=True
    )
    assert torch.equal(layer.weight, packed)
    assert torch.equal(layer.absmax, state.absmax)
    assert torch.equal(layer.offset, state.offset)
    assert torch.equal(layer.nested_absmax, state.state2.absmax)


def test_a_row_that_is_large_does_not_change_what_others_get() -> None:
    """As it would with the outliers of LLM.int8()."""
    for quantization in EVERY:
        layer = filled(nn.Linear(64, 64), quantization, torch.float32, rows=64)
        states = torch.randn(4, 64)
        louder = states.clone()
        louder[3, 5] = 500.0
        assert torch.equal(layer(states)[:3], layer(louder)[:3])


# --- models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", EVERY)
@pytest.mark.parametrize("family", ["florence2", "paligemma"])
def test_a_quantised_model_loads_answers_and_unloads(
    manager: ModelManager, paligemma: str, family: str, quantization: str
) -> None:
    model, images = (str(REFERENCE), PICTURES) if family == "florence2" else (paligemma, pictures(4))
    kind: dict[str, Any] = {"device": "cpu", "dtype": "fp32"}
    captioner = Captioner(
        model, **kind, quantization=quantization, manager=manager, feature_cache=FeatureCache()
    )
    options = CaptionOptions(generation=GenerationOptions(max_new_tokens=12, num_beams=2))
    together = [answer.results[0].raw for answer in captioner.caption(images, "CAPTION", options)]
    alone = [captioner.caption(image, "CAPTION", options)[0].results[0].raw for image in images]
    assert together == alone
    assert len(set(together)) > 1, "they say something, and of what they see"

    [info] = manager.loaded()
    assert (info.quantization, info.dtype, info.device) == (quantization, "fp32", "cpu")
    with manager.acquire(model, **kind, quantization=quantization) as loaded:
        layers = {name for name, part in loaded.network.named_modules() if isinstance(part, QuantisedLinear)}
        gone = weakref.ref(loaded)
        nbytes = loaded.nbytes
        assert all("language_model" in name and ".layers." in name for name in layers)
        assert loaded.quantization == quantization
        del loaded
    assert layers
    with manager.acquire(model, **kind) as whole:
        assert nbytes < whole.nbytes
        del whole
    assert manager.unload() > 0
    assert gone() is None
    assert manager.loaded() == []


@pytest.mark.parametrize("quantization", EVERY)
def test_every_large_matrix_of_the_layers_is_quantised_and_nothing_else(quantization: str) -> None:
    plain = Florence2Model.load(REFERENCE, device="cpu", dtype="fp32")
    model = Florence2Model.load(REFERENCE, device="cpu", dtype="fp32", quantization=quantization)
    linears = {
        f"{name}.weight" for name, part in plain.network.named_modules() if isinstance(part, nn.Linear)
    }
    changed = {
        f"{name}.weight" for name, part in model.network.named_modules() if isinstance(part, QuantisedLinear)
    }
    inside = {name for name in linears if ".encoder.layers." in name or ".decoder.layers." in name}
    assert changed == inside
    assert changed < linears
    own, other = dict(plain.network.state_dict()), dict(model.network.state_dict())
    kept = [name for name in own if name not in changed]
    assert all(torch.equal(own[name], other[name]) for name in kept)
    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain.encode_images(pixels), model.encode_images(pixels))
    assert plain.identity == model.identity  # so features are shared


@pytest.mark.parametrize("quantization", EVERY)
def test_an_estimate_is_what_it_comes_to(tmp_path: Path, paligemma: str, quantization: str) -> None:
    save_file(reference_state(), copy_reference(tmp_path) / "model.safetensors")
    manager = ModelManager(idle_seconds=None)
    for folder in (tmp_path, Path(paligemma)):
        nbytes = {}
        for kind in ("none", quantization):
            with manager.acquire(str(folder), device="cpu", dtype="fp32", quantization=kind) as model:
                buffers = model.network.named_buffers()
                nbytes[kind] = model.nbytes - sum(part.nbytes for name, part in buffers if "code" in name)
        estimates = {kind: estimate_bytes(folder, "fp32", kind) for kind in nbytes}
        saved, promised = (sizes["none"] - sizes[quantization] for sizes in (nbytes, estimates))
        assert saved == pytest.approx(promised, rel=0.02)
    manager.close()


@pytest.mark.parametrize(("kind", "shards"), [("safetensors", 1), ("safetensors", 3), ("bin", 3), ("bin", 1)])
def test_all_files_give_the_same_weights(tmp_path: Path, kind: str, shards: int) -> None:
    folder = copy_reference(tmp_path)
    if shards == 1 and kind == "safetensors":
        save_file(reference_state(), folder / "model.safetensors")
    elif shards == 1:
        torch.save(reference_state(), folder / "pytorch_model.bin")
    else:
        write_sharded(folder, reference_state(), shards, kind)
    wanted = Florence2Model.load(REFERENCE, device="cpu", dtype="fp32", quantization="4")
    found = Florence2Model.load(folder, device="cpu", dtype="fp32", quantization="4")
    other = found.network.state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in wanted.network.state_dict().items())


def test_captions_of_the_demo_model_stay_nearly_the_same(manager: ModelManager) -> None:
    """Measured on 60 captions of 12 scenes: all are equal with 8 bits, 58 with 4."""
    images = [draw_scene(seed)[0] for seed in EVALUATION_SEEDS[:6]]
    captions = {
        quantization: [
            result.raw
            for answer in Captioner(
                "demo", device="cpu", dtype="fp32", quantization=quantization, manager=manager
            ).caption(images, ["GENERATE_TAGS", "CAPTION"])
            for result in answer.results
        ]
        for quantization in QUANTIZATIONS
    }
    for quantization, least in (("8", 0.9), ("4", 0.75)):
        same = sum(one == other for one, other in zip(captions["none"], captions[quantization], strict=True))
        assert same >= least * len(images) * 2, (quantization, same)


def test_copies_of_one_checkpoint_work_at_the_same_time(manager: ModelManager) -> None:
    def ask(quantization: str) -> tuple[str, str]:
        captioner = Captioner(
            str(REFERENCE), device="cpu", dtype="fp32", quantization=quantization, manager=manager
        )
        options = CaptionOptions(generation=GenerationOptions(max_new_tokens=10, num_beams=1))
        return quantization, captioner.caption(PICTURES[0], "CAPTION", options)[0].results[0].raw

    alone = dict(map(ask, QUANTIZATIONS))
    with ThreadPoolExecutor(6) as pool:
        for quantization, said in pool.map(ask, QUANTIZATIONS * 4):
            assert said == alone[quantization]
    assert sorted(info.quantization for info in manager.loaded()) == sorted(QUANTIZATIONS)
    sizes = {info.quantization: info.nbytes for info in manager.loaded()}
    assert sizes["4"] < sizes["8"] < sizes["none"]


@pytest.mark.parametrize("quantization", EVERY)
def test_adapters_are_added_to_the_weights_in_the_files(tmp_path: Path, quantization: str) -> None:
    """So the same comes out as from a checkpoint into which they were merged."""
    trained = with_adapter(seed=1, size=0.3)
    adapter = tmp_path / "adapter"
    trained.save_pretrained(adapter)
    merged = merged_checkpoint(tmp_path / "merged", trained)
    base = Florence2Model.load(REFERENCE, device="cpu", dtype="fp32", quantization=quantization)
    before = {name: tensor.clone() for name, tensor in base.network.state_dict().items()}
    variant = base.with_adapters([(adapter, 1.0)])
    wanted = Florence2Model.load(merged, device="cpu", dtype="fp32", quantization=quantization)
    features = base.encode_images(torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
    options = GenerationOptions(max_new_tokens=10, num_beams=2)
    prompts = ["What does the image describe?"] * 2
    answers = [
        [answer.text for answer in model.generate(features, prompts, options)]
        for model in (base, variant, wanted)
    ]
    assert answers[1] == answers[2]
    assert answers[0] != answers[1]
    assert 0 < variant.nbytes < base.nbytes
    now = base.network.state_dict()
    assert all(torch.equal(tensor, now[name]) for name, tensor in before.items() if name in now)


def test_files_that_changed_since_cannot_give_weights_for_adapters(tmp_path: Path) -> None:
    folder = copy_reference(tmp_path / "model", weights=True)
    model = Florence2Model.load(folder, device="cpu", dtype="fp32", quantization="4")
    edit_json(folder / "generation_config.json", lambda settings: settings.update(num_beams=2))
    with pytest.raises(CheckpointError, match="have changed since"):
        model.with_adapters([(save_adapter(tmp_path / "adapter"), 1.0)])


def test_paligemma_refuses_adapters_with_bits_as_without(
    tmp_path: Path, manager: ModelManager, paligemma: str
) -> None:
    adapter = str(save_adapter(tmp_path / "adapter"))
    with (
        pytest.raises(AdapterError, match="Florence-2"),
        manager.acquire(paligemma, device="cpu", adapters=[(adapter, 1.0)], quantization="4"),
    ):
        pass


def test_quantised_weights_are_not_exported() -> None:
    model = Florence2Model.load(REFERENCE, device="cpu", dtype="fp32", quantization="8")
    with pytest.raises(ValueError, match="quantization none"):
        original_state_dict(model.network)


def test_a_model_is_moved_with_all_that_belongs_to_it() -> None:
    model = Florence2Model.load(REFERENCE, device="cpu", dtype="fp32", quantization="4")
    model.network.to("meta")
    tensors = [*model.network.parameters(), *model.network.buffers()]
    assert all(tensor.is_meta for tensor in tensors)
    with pytest.raises(ValueError, match="On mps choose none or 8"):
        model.to("mps")


# --- what cannot be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "5"}, r"'5' is unknown. Choose none, 8, 4"),
        ({"quantization": "4", "device": "mps"}, r"needs CUDA or a CPU. On mps choose none or 8"),
        ({"quantization": "4", "dtype": "int8"}, r"int8 .*Choose quantization none"),
        ({"quantization": "8", "dtype": "int8"}, r"int8 .*Choose quantization none"),
        ({"quantization": "8", "device": "xpu:0"}, r"On xpu:0 choose none"),
    ],
)
def test_what_does_not_go_together_says_what_would(options: dict[str, str], message: str) -> None:
    given = {"device": "cpu", "dtype": "auto", **options}
    with pytest.raises(ValueError, match=message):
        check_quantization(given["quantization"], given["device"], given["dtype"])


def test_wrong_combinations_are_told_before_anything_is_downloaded(manager: ModelManager) -> None:
    with (
        pytest.raises(ValueError, match="int8"),
        manager.acquire("no/such-model", device="cpu", dtype="int8", quantization="4"),
    ):
        pass
    with pytest.raises(ValueError, match="'none', '8', '4'"):
        Captioner("demo", quantization="2")
    with (
        pytest.raises(ValueError, match="cannot be loaded as fp16"),
        manager.acquire("paligemma-longprompt-v1-safetensors", device="cpu", dtype="fp16"),
    ):
        pass


MISSING = """
import sys
sys.modules["bitsandbytes"] = None  # as if it were not installed
from promptgen.captioning import Captioner
from promptgen.inference import GenerationOptions
from promptgen.captioning import CaptionOptions

def answer(quantization):
    options = CaptionOptions(generation=GenerationOptions(max_new_tokens=3))
    captioner = Captioner("demo", device="cpu", quantization=quantization)
    return captioner.caption(sys.argv[1], "CAPTION", options)[0]

assert answer("none").ok and answer("8").ok  # neither needs it
try:
    answer("4")
except ValueError as error:
    print(error)
"""


def test_without_bitsandbytes_the_message_says_how_to_have_it() -> None:
    child = subprocess.run(
        [sys.executable, "-c", MISSING, PICTURES[0]], capture_output=True, text=True, timeout=120
    )
    assert child.returncode == 0, child.stderr
    assert "pip install 'promptgen-tagger[quantization]'" in child.stdout
    assert f'"{sys.executable}" -m pip install "bitsandbytes>=0.49"' in child.stdout
    assert "quantization 8 or none" in child.stdout


NOTHING_FETCHED = """
import sys, types
asked = []
kernels = types.ModuleType("kernels")
kernels.get_kernel = lambda *names, **options: asked.append(names)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "kernels":
            asked.append("imported")
sys.meta_path.insert(0, Finder())
from promptgen.inference.quantisation import bitsandbytes
bitsandbytes()
assert not asked, asked
assert "kernels" not in sys.modules
"""


def test_bitsandbytes_fetches_no_programs() -> None:
    child = subprocess.run([sys.executable, "-c", NOTHING_FETCHED], stderr=subprocess.PIPE, text=True)
    assert child.returncode == 0, child.stderr


def test_none_loads_neither_bitsandbytes_nor_other_layers() -> None:
    code = (
        "import sys; from promptgen.florence2 import Florence2Model; "
        f"model = Florence2Model.load({str(REFERENCE)!r}, device='cpu', dtype='fp32'); "
        "assert 'bitsandbytes' not in sys.modules; "
        "from promptgen.inference.quantised_layers import has_quantised_layers; "
        "assert not has_quantised_layers(model.network)"
    )
    child = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert child.returncode == 0, child.stderr


@pytest.mark.parametrize(
    ("name", "shape", "concerned"),
    [
        ("language_model.model.encoder.layers.0.self_attn.q_proj.weight", (8, 8), True),
        ("model.language_model.decoder.layers.11.fc2.weight", (8, 8), True),
        ("language_model.model.layers.3.mlp.gate_proj.weight", (8, 8), True),
        ("model.language_model.layers.3.self_attn.o_proj.weight", (8, 8), True),
        ("language_model.model.encoder.layers.0.final_layer_norm.weight", (8,), False),
        ("language_model.model.shared.weight", (8, 8), False),
        ("language_model.lm_head.weight", (8, 8), False),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", (8, 8), False),
        ("multi_modal_projector.linear.weight", (8, 8), False),
    ],
)
def test_which_weights_are_quantised(name: str, shape: tuple[int, ...], concerned: bool) -> None:
    assert is_quantised_weight(name, shape) is concerned


def test_sizes() -> None:
    assert quantised_nbytes((1024, 4096), "8") == pytest.approx(1024 * 4096, rel=0.01)
    assert quantised_nbytes((1024, 4096), "4") == pytest.approx(1024 * 4096 * 0.516, rel=0.01)
