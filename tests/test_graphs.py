"""Steps in buckets, recorded and replayed: the same answers as without, whatever happens to the recordings.

Without a GPU a recording is the step itself; all that surrounds it is the same.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from promptgen.florence2 import graphs
from promptgen.florence2.buckets import Buckets, BucketSizes
from promptgen.florence2.decoder import Decoder
from promptgen.florence2.graphs import Step
from promptgen.inference.search import Found
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import BartForConditionalGeneration, GenerationConfig

from .small_bart import (
    PAD,
    START,
    bart,
    check,
    config_for_sampling,
    config_with_scores,
    encoder_states,
    ended,
    oracle,
    ours,
    rules,
)

SMALL = BucketSizes(pairs=(1, 2, 3, 6), states=4, lengths=(4, 8, 16, 32))


class Replayer:
    """Records a step as the step itself, and counts."""

    def __init__(self, error: Callable[[], Exception] | None = None) -> None:
        self.error = error  # what recording ends in
        self.real = self.recorded = self.replayed = self.waited = 0

    def warm(self, step: Step) -> None:
        self.real += 1
        step()

    def record(self, step: Step) -> Step:
        self.recorded += 1
        if self.error is not None:
            raise self.error()

        def replay() -> None:
            self.replayed += 1
            step()

        return replay

    def wait(self) -> None:
        self.waited += 1


def bucketed(model: BartForConditionalGeneration, recorder: Replayer, **options: Any) -> Decoder:
    return Decoder(model, Buckets(recorder, SMALL, **options))


def greedy(**options: Any) -> GenerationConfig:
    settings = {"num_beams": 1, "max_new_tokens": 30, "eos_token_id": 2} | options
    return GenerationConfig(do_sample=False, pad_token_id=PAD, decoder_start_token_id=START, **settings)


def tokens(found: list[Found]) -> list[list[int]]:
    return [answer.token_ids for answer in found]


@pytest.mark.matrix
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    words=st.sampled_from([16, 40, 200]),
    std=st.sampled_from([0.02, 0.3, 1.0]),
    ties=st.booleans(),
    scale=st.booleans(),
    pairs=st.integers(1, 8),
    chosen=rules(),
    check_every=st.sampled_from([1, 3, 8]),
)
def test_every_answer_is_transformers_own(
    seed: int,
    words: int,
    std: float,
    ties: bool,
    scale: bool,
    pairs: int,
    chosen: dict[str, Any],
    check_every: int,
) -> None:
    """The batch and its members one by one share the memory, so what one leaves there is before the next."""
    model = bart(seed, words, layers=1 + seed % 2, std=std, ties=ties, scale=scale)
    check(model, seed, pairs, chosen, bucketed(model, Replayer()), check_every)


@pytest.mark.parametrize("beams", [1, 4])
def test_long_answers_in_the_buckets_of_a_gpu(beams: int) -> None:
    """Answers of very different length, in several buckets of places and of pairs."""
    chosen = {"max_new_tokens": 200, "num_beams": beams, "eos_token_id": 2, "no_repeat_ngram_size": 3}
    model = bart(3, 60, std=0.6)
    model.final_logits_bias[0, 2] = 4.0
    recorder = Replayer()
    decoder = Decoder(model, Buckets(recorder))
    check(model, 11, 6, chosen, decoder, check_every=8)
    assert recorder.replayed > recorder.real > 0


@pytest.mark.parametrize(
    "options", [{"num_beams": 1}, {"num_beams": 3}, {"num_beams": 1, "top_p": 0.7}], ids=str
)
def test_drawn_answers_are_those_of_transformers_for_the_same_seed(options: dict[str, Any]) -> None:
    model, config = bart(5, 40), config_for_sampling(**options)
    decoder = bucketed(model, Replayer())
    states, mask = encoder_states(2, 4)
    for seed in range(3):
        together = tokens(ours(decoder, states, mask, config, seed, check_every=8))
        for row in range(4):
            torch.manual_seed(seed)
            length = int(mask[row].sum())
            one = (states[row : row + 1, :length], mask[row : row + 1, :length])
            ids, _, _ = oracle(model, *one, config_with_scores(config))[0]
            assert together[row] == ended(ids, {2})


def test_a_bucket_is_recorded_once_and_then_replayed() -> None:
    model, recorder = bart(1, 40, std=0.6), Replayer()
    decoder = bucketed(model, recorder)
    states, mask = encoder_states(4, 2)
    config = greedy(max_new_tokens=12, min_new_tokens=12)
    first = tokens(ours(decoder, states, mask, config))
    # places for 4, 8 and 16 tokens; in each, two steps come before
    assert (recorder.recorded, recorder.real, recorder.replayed) == (3, 6, 6)
    assert tokens(ours(decoder, states, mask, config)) == first
    assert (recorder.recorded, recorder.real, recorder.replayed) == (3, 6, 18)


def test_a_short_answer_is_not_recorded() -> None:
    recorder = Replayer()
    ours(bucketed(bart(1, 40), recorder), *encoder_states(4, 1), greedy(max_new_tokens=2))
    assert recorder.recorded == 0


def failure() -> Exception:
    return RuntimeError("operation not permitted when stream is capturing")


def no_memory() -> Exception:
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")


@pytest.mark.parametrize("error", [failure, no_memory])
def test_a_recording_that_fails_costs_no_token(
    error: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    model = bart(1, 40, std=0.6)
    states, mask = encoder_states(4, 3)
    config = greedy(num_beams=3, min_new_tokens=20)
    right = ours(Decoder(model), states, mask, config)
    recorder = Replayer(error)
    decoder = bucketed(model, recorder)
    with caplog.at_level(logging.WARNING):
        assert tokens(ours(decoder, states, mask, config)) == tokens(right)
        assert tokens(ours(decoder, states, mask, config)) == tokens(right)
    assert recorder.replayed == 0
    assert str(error()) in caplog.text
    if error is failure:  # once is enough, and the way out is named
        assert (recorder.recorded, len(caplog.records)) == (1, 1)
        assert "PROMPTGEN_CUDA_GRAPHS=0" in caplog.text


def test_there_may_be_memory_again_once_ours_has_been_given_up() -> None:
    model, recorder = bart(1, 40, std=0.6), Replayer(no_memory)
    decoder = bucketed(model, recorder)
    states, mask = encoder_states(4, 3)
    config = greedy(min_new_tokens=20)
    right = tokens(ours(decoder, states, mask, config))
    assert tokens(ours(decoder, states, mask, config)) == right
    assert recorder.recorded == 1
    recorder.error = None
    decoder.release()
    assert tokens(ours(decoder, states, mask, config)) == right
    assert recorder.replayed > 0


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("beams", [1, 3])
def test_what_a_former_search_left_behind_is_not_seen(poison: float, beams: int) -> None:
    """Not even where it is masked: no number times 0 makes these 0."""
    model = bart(7, 60, std=0.6)
    config = greedy(num_beams=beams, min_new_tokens=20)
    decoder = bucketed(model, Replayer())
    ours(decoder, torch.full((6, 15, 32), poison), torch.ones(6, 15, dtype=torch.int64), config)
    for pairs in (2, 5):
        states, mask = encoder_states(13, pairs)
        assert states.shape[1] % SMALL.states, "some places of the bucket are to be empty"
        right = ours(Decoder(model), states, mask, config)
        assert tokens(ours(decoder, states, mask, config)) == tokens(right)


def test_a_cancelled_search_leaves_a_decoder_that_works() -> None:
    class Cancelled(Exception):  # noqa: N818 - it is none
        pass

    model, recorder = bart(7, 60, std=0.6), Replayer()
    decoder = bucketed(model, recorder)
    states, mask = encoder_states(13, 3)

    def cancel(length: int) -> None:
        if length == 7:
            raise Cancelled

    config = greedy(min_new_tokens=20)
    with pytest.raises(Cancelled):
        ours(decoder, states, mask, config, on_step=cancel)
    assert recorder.waited == 1  # the device is done with the memory before another search takes it
    assert tokens(ours(decoder, states, mask, config)) == tokens(ours(Decoder(model), states, mask, config))


def test_the_memory_that_is_kept_is_bounded() -> None:
    model, recorder = bart(7, 60, std=0.6), Replayer()
    buckets = Buckets(recorder, SMALL, keep_bytes=40_000)
    decoder = Decoder(model, buckets)
    config = greedy(min_new_tokens=20)
    for pairs in (6, 1, 3):
        states, mask = encoder_states(13, pairs)
        right = tokens(ours(Decoder(model), states, mask, config))
        for _ in range(2):
            assert tokens(ours(decoder, states, mask, config)) == right
            assert 0 < buckets.nbytes <= 40_000
    assert len(buckets.graphs) == 0  # those of the answers' places, which did not fit, went with them


def test_a_larger_batch_takes_memory_anew_and_a_smaller_one_does_not() -> None:
    model, recorder = bart(7, 60, std=0.6), Replayer()
    buckets = Buckets(recorder, SMALL)
    decoder = Decoder(model, buckets)
    config = greedy(min_new_tokens=20)
    sizes = []
    for pairs in (2, 6, 1, 2):
        states, mask = encoder_states(13, 6)
        right = tokens(ours(Decoder(model), states[:pairs], mask[:pairs], config))
        assert tokens(ours(decoder, states[:pairs], mask[:pairs], config)) == right
        sizes.append(buckets.nbytes)
    assert sizes[0] < sizes[1] == sizes[2] == sizes[3]


def test_recordings_go_with_the_weights_that_they_read() -> None:
    model, recorder = bart(7, 60, std=0.6), Replayer()
    buckets = Buckets(recorder, SMALL)
    decoder = Decoder(model, buckets)
    states, mask = encoder_states(13, 2)
    config = greedy(min_new_tokens=20)
    ours(decoder, states, mask, config)
    recorded = recorder.recorded
    ours(decoder, states, mask, config)
    assert recorder.recorded == recorded == len(buckets.graphs)
    for parameter in model.parameters():  # as a move to another device and back does it
        parameter.data = parameter.data.clone()
    decoder.refresh()
    assert (len(buckets.graphs), buckets.nbytes) == (0, 0)
    ours(decoder, states, mask, config)
    assert recorder.recorded == 2 * recorded


def test_only_so_many_recordings_are_kept() -> None:
    recorder = Replayer()
    kept = graphs.Graphs(recorder)
    for key in range(100):
        for _ in range(4):
            kept.run(key, lambda: None)
    assert len(kept) == 64
    recorded = recorder.recorded
    kept.run(99, lambda: None)
    assert recorder.recorded == recorded


def test_the_memory_goes_with_the_decoder() -> None:
    """At once: nothing that is kept holds the decoder, as a recording on a GPU does not either."""

    class Aloof(Replayer):
        def record(self, step: Step) -> Step:
            return lambda: None

    buckets = Buckets(Aloof(), SMALL)
    memory = weakref.ref(buckets)
    decoder = Decoder(bart(7, 60, std=0.6), buckets)
    ours(decoder, *encoder_states(13, 2), greedy(min_new_tokens=20))
    assert buckets.nbytes > 0
    assert len(buckets.graphs) > 0
    del buckets
    gc.disable()
    try:
        assert memory() is not None
        del decoder
        assert memory() is None
    finally:
        gc.enable()


class NoWaiting(TorchDispatchMode):
    """Notes each operation that would keep the host waiting for a GPU, from the moment it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.watching = False
        self.waits: set[str] = set()
        self.watched = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [arg for arg in tree_leaves((args, kwargs or {})) if isinstance(arg, torch.Tensor)]
        result = func(*args, **(kwargs or {}))
        if self.watching:
            self.watched += 1
            results = [part for part in tree_leaves(result) if isinstance(part, torch.Tensor)]
            if {tensor.device.type for tensor in given + results} - {"cuda"}:
                self.waits.add(str(func))
        return result


class Enough(Exception):  # noqa: N818 - the search is to end here
    pass


@pytest.mark.parametrize("beams", [1, 3])
def test_no_token_waits_for_the_device(beams: int) -> None:
    """torch's fake tensors take any device's name, and refuse what depends on the numbers of a tensor."""
    with FakeTensorMode():
        with torch.device("cuda"):
            model = bart(1, 40)
            states, mask = torch.zeros(3, 9, 32), torch.ones(3, 9, dtype=torch.int64)
        watch = NoWaiting()

        def until(length: int) -> None:
            watch.watching = length > 1  # before, the masks of the rules are made
            if length > 70:
                raise Enough

        config = greedy(
            num_beams=beams,
            max_new_tokens=200,
            forced_bos_token_id=0,
            forced_eos_token_id=2,
            no_repeat_ngram_size=3,
            repetition_penalty=1.2,
            min_new_tokens=100,
            suppress_tokens=[7],
        )
        decoder = FakeDecoder(model, Buckets(Replayer()))
        with watch, pytest.raises(Enough):
            ours(decoder, states, mask, config, check_every=10**6, on_step=until)
    assert watch.watched > 70 * 30
    assert not watch.waits


class FakeDecoder(Decoder):
    """Of weights that have no address."""

    def refresh(self) -> None:
        pass


@pytest.mark.parametrize(
    ("value", "device", "wanted"),
    [
        (None, "cuda:0", True), ("1", "cuda:0", True), ("0", "cuda:0", False), (" OFF ", "cuda:0", False),
        (None, "cpu", False), ("1", "mps", False),
    ],
)  # fmt: skip
def test_where_steps_are_recorded(
    value: str | None, device: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROMPTGEN_CUDA_GRAPHS", raising=False)
    if value is not None:
        monkeypatch.setenv("PROMPTGEN_CUDA_GRAPHS", value)
    assert graphs.pay_on(torch.device(device)) is wanted
