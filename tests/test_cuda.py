"""What only a GPU can tell: recorded steps against steps launched one by one, and against transformers.

Run them with ``python dev.py test -- -m cuda`` on a machine with an NVIDIA or AMD card.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from promptgen.benchmarks.random_checkpoint import SIZES, make_config, random_network, write_checkpoint
from promptgen.florence2 import Florence2Model, GenerationOptions
from promptgen.florence2.buckets import Buckets
from promptgen.florence2.decoder import Decoder
from promptgen.florence2.graphs import CudaRecorder
from transformers import BartForConditionalGeneration

from .adapters import save_adapter
from .checkpoints import REFERENCE, expected
from .small_bart import bart, check, config_for_sampling, encoder_states, ours, rules
from .test_graphs import SMALL, Enough, Replayer, greedy, tokens

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine"),
]
CARD = torch.device("cuda:0")
GIGABYTE = 10**9


class Counting(CudaRecorder):
    """Records for real, and counts."""

    def __init__(self) -> None:
        super().__init__(CARD)
        self.real = self.recorded = 0

    def warm(self, step: Any) -> None:
        self.real += 1
        super().warm(step)

    def record(self, step: Any) -> Any:
        self.recorded += 1
        return super().record(step)


@pytest.fixture(autouse=True)
def _everything_is_given_back() -> Iterator[None]:
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def on_card(
    model: BartForConditionalGeneration, seed: int = 4, pairs: int = 3
) -> tuple[BartForConditionalGeneration, torch.Tensor, torch.Tensor]:
    """The model, and states of its dtype with their mask, on the card."""
    states, mask = encoder_states(seed, pairs)
    return model.to(CARD), states.to(CARD, model.dtype), mask.to(CARD)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    words=st.sampled_from([16, 40, 200]),
    std=st.sampled_from([0.02, 0.3]),
    pairs=st.integers(1, 8),
    chosen=rules(),
)
def test_every_answer_is_transformers_own(
    seed: int, words: int, std: float, pairs: int, chosen: dict[str, Any]
) -> None:
    model = bart(seed, words, layers=1 + seed % 2, std=std).to(CARD)
    check(model, seed, pairs, chosen, Decoder(model, Buckets(CudaRecorder(CARD), SMALL)))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_replay_is_the_step(dtype: torch.dtype, beams: int) -> None:
    """The same kernels on the same memory: equal in every dtype, and not only in the tokens."""
    model, states, mask = on_card(bart(1, 200, std=0.3).to(dtype), pairs=5)
    config = greedy(num_beams=beams, max_new_tokens=100, min_new_tokens=90)
    launched = ours(Decoder(model, Buckets(Replayer())), states, mask, config)
    recorder = Counting()
    decoder = Decoder(model, Buckets(recorder))
    for _ in range(2):
        assert ours(decoder, states, mask, config) == launched
    assert recorder.recorded == 2  # places for 64 tokens and for 128


def test_switched_off_or_on_the_answers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, states, mask = on_card(bart(1, 40, std=0.3))
    config = greedy(num_beams=3, min_new_tokens=20)
    replayed = tokens(ours(Decoder(model), states, mask, config))
    monkeypatch.setenv("PROMPTGEN_CUDA_GRAPHS", "0")
    assert tokens(ours(Decoder(model), states, mask, config)) == replayed


@pytest.mark.parametrize("beams", [1, 3])
def test_drawn_answers_depend_on_the_seed_alone(beams: int) -> None:
    model, states, mask = on_card(bart(5, 40), pairs=4)
    decoder = Decoder(model)
    config = config_for_sampling(num_beams=beams)
    together = tokens(ours(decoder, states, mask, config, seed=3))
    for row in range(4):
        assert (
            tokens(ours(decoder, states[row : row + 1], mask[row : row + 1], config, seed=3))[0]
            == together[row]
        )


@pytest.mark.parametrize("sampled", [False, True])
def test_no_token_waits_for_the_device(sampled: bool) -> None:
    model, states, mask = on_card(bart(1, 40, std=0.3))
    decoder = Decoder(model)
    config = config_for_sampling() if sampled else greedy(num_beams=3, no_repeat_ngram_size=3)
    config.max_new_tokens = config.min_new_tokens = 60
    ours(decoder, states, mask, config)

    def until(length: int) -> None:
        torch.cuda.set_sync_debug_mode("error" if 1 < length < 50 else "default")
        if length == 50:
            raise Enough

    try:
        with pytest.raises(Enough):
            ours(decoder, states, mask, config, check_every=10**6, on_step=until)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_recording_that_fails_costs_no_token(caplog: pytest.LogCaptureFixture) -> None:
    """A step that waits for the device cannot be recorded. Other work on the card goes on afterwards."""
    model, states, mask = on_card(bart(1, 40, std=0.3))
    config = greedy(num_beams=3, min_new_tokens=20)
    right = tokens(ours(Decoder(model), states, mask, config))
    norm = model.model.decoder.layers[-1].final_layer_norm
    hook = norm.register_forward_hook(lambda *_: torch.cuda.current_stream().synchronize())
    decoder = Decoder(model)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert tokens(ours(decoder, states, mask, config)) == right
    assert len(caplog.records) == 1
    hook.remove()
    assert tokens(ours(Decoder(model), states, mask, config)) == right
    assert torch.randn(8, device=CARD).isfinite().all()


def test_weights_that_went_away_and_came_back() -> None:
    model, states, mask = on_card(bart(1, 40, std=0.3))
    config = greedy(num_beams=3, min_new_tokens=20)
    recorder = Counting()
    decoder = Decoder(model, Buckets(recorder))
    right = tokens(ours(decoder, states, mask, config))
    model.cpu()
    decoder.refresh()
    elsewhere = torch.empty(2**22, device=CARD)  # what was free may be so no more
    model.to(CARD)
    assert tokens(ours(decoder, states, mask, config)) == right
    assert recorder.recorded == 2
    del elsewhere


def test_on_streams_of_the_caller() -> None:
    model, states, mask = on_card(bart(1, 40, std=0.3))
    config = greedy(num_beams=3, min_new_tokens=20)
    decoder = Decoder(model)
    right = tokens(ours(decoder, states, mask, config))
    torch.cuda.synchronize()
    for _ in range(3):
        with torch.cuda.stream(torch.cuda.Stream()):
            assert tokens(ours(decoder, states, mask, config)) == right


def test_all_memory_comes_back() -> None:
    model, states, mask = on_card(bart(1, 40, std=0.3))
    ours(Decoder(model), states, mask, greedy(min_new_tokens=20))  # what libraries take for good
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(CARD)
    decoder = Decoder(model)
    ours(decoder, states, mask, greedy(min_new_tokens=20))
    assert torch.cuda.memory_allocated(CARD) > before
    decoder.release()
    assert torch.cuda.memory_allocated(CARD) == before
    ours(decoder, states, mask, greedy(min_new_tokens=20))  # and what was given back can be taken again
    del decoder
    assert torch.cuda.memory_allocated(CARD) == before


def test_the_reference_checkpoint_answers_as_on_a_cpu() -> None:
    images = [Image.open(REFERENCE / "images" / name).convert("RGB") for name in expected()["images"]]
    answers = []
    for device in ("cpu", "cuda"):
        model = Florence2Model.load(REFERENCE, device=device, dtype="fp32")
        features = model.encode_images(model.preprocess(images))
        options = GenerationOptions(max_new_tokens=40)
        for _ in range(2):
            found = model.generate(features, ["<MIXED_CAPTION>"] * len(images), options)
            answers.append([answer.token_ids for answer in found])
    assert all(answer == answers[0] for answer in answers)


def test_models_with_adapters_go_where_the_one_without_goes(tmp_path: Path) -> None:
    everything = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "qkv"]
    adapter = save_adapter(tmp_path / "adapter", target_modules=everything, size=0.2)
    image = Image.open(REFERENCE / "images" / "03.png").convert("RGB")

    def answer(model: Florence2Model) -> tuple[int, ...]:
        features = model.encode_images(model.preprocess([image]))
        return model.generate(features, ["<CAPTION>"], GenerationOptions(max_new_tokens=40))[0].token_ids

    base = Florence2Model.load(REFERENCE, device="cpu", dtype="fp32")
    variant = base.with_adapters([(adapter, 1.0)])
    right = answer(base), answer(variant)
    assert right[0] != right[1]
    for place in ("cuda", "cpu", "cuda"):
        base.to(place)
        assert {tensor.device.type for tensor in variant.network.state_dict().values()} == {place}
        assert (answer(base), answer(variant)) == right
        assert (answer(variant), answer(base)) == right[::-1]
    late = base.with_adapters([(adapter, 1.0)])
    assert late.device.type == "cuda"
    assert answer(late) == right[1]


@pytest.mark.slow
def test_peak_memory_of_the_base_size(tmp_path: Path) -> None:
    """Half precision, one picture, three beams, 256 tokens: at most 1.1 GB."""
    network = random_network(make_config(**SIZES["base"]))
    folder = write_checkpoint(tmp_path / "base", network, dtype="fp16")
    del network
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(CARD)
    before = torch.cuda.memory_allocated(CARD)
    model = Florence2Model.load(folder, device="cuda", dtype="fp16")
    picture = Image.effect_noise((1024, 768), 80).convert("RGB")
    options = GenerationOptions(num_beams=3, min_new_tokens=256, max_new_tokens=256)
    for _ in range(2):
        features = model.encode_images(model.preprocess([picture]))
        (answer,) = model.generate(
            features, ["Describe with a paragraph what is shown in the image."], options
        )
        assert len(answer.token_ids) == 257
    peak = torch.cuda.max_memory_allocated(CARD) - before
    reserved = torch.cuda.max_memory_reserved(CARD)
    if reserved > 1.5 * peak:
        warnings.warn(
            f"{reserved / GIGABYTE:.2f} GB reserved for a peak of {peak / GIGABYTE:.2f}", stacklevel=1
        )
    assert peak <= 1.1 * GIGABYTE
