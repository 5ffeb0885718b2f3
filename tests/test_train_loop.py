"""The loop: what a window's gradients are, which examples come when, and how a run ends."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from promptgen.captioning import Captioner
from promptgen.models_cache import ModelNotFoundError
from promptgen.training.batches import Batch, BatchReader, Preparation
from promptgen.training.data.examples import Example
from promptgen.training.data.pictures import ImageRef
from promptgen.training.errors import DivergedError, TrainingError
from promptgen.training.length_groups import Lengths
from promptgen.training.loop import Loop
from promptgen.training.loss import backward_window
from promptgen.training.metrics import read_metrics
from promptgen.training.network import TrainableModel
from promptgen.training.order import Order, WindowKey

from .checkpoints import REFERENCE
from .training_runs import checkpoint_names, draw_data, train, weights


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A run from its beginning to its end."""
    output = tmp_path_factory.mktemp("usual") / "run"
    train(data, output)
    return output


# What a window comes to ---------------------------------------------------------------------


def examples(data: Path) -> list[Example]:
    return [
        Example(ImageRef(path.name, str(path)), "CAPTION", None, "a disc" + ", and more of it" * (number % 4))
        for number, path in enumerate(sorted(data.glob("*.png"))[:8])
    ]


def gradients(data: Path, cuts: list[list[int]], accelerator: Accelerator | None = None) -> dict[str, Any]:
    """Those of one window in the given batches, and its loss."""
    model = TrainableModel.load(REFERENCE).eval()  # without dropout, which depends on the batches
    reader = BatchReader(examples(data), Preparation(model.image_processor, model.text))
    batches: list[Batch] = [reader[0, tuple(cut)] for cut in cuts]
    found = backward_window(accelerator or Accelerator(cpu=True), model, batches)
    grads = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
    return {"loss": found.loss, "tokens": found.tokens, "gradients": grads}


@pytest.mark.parametrize("cuts", [[[0, 1, 2, 3], [4, 5, 6, 7]], [[7], [0, 1], [2, 3, 4], [6, 5]]])
def test_a_window_weighs_every_token_the_same(data: Path, cuts: list[list[int]]) -> None:
    """Captions have 1 to 4 parts, so a mean over batches would be another one."""
    whole, parts = gradients(data, [[0, 1, 2, 3, 4, 5, 6, 7]]), gradients(data, cuts)
    assert parts["tokens"] == whole["tokens"]
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    for name, gradient in whole["gradients"].items():
        torch.testing.assert_close(parts["gradients"][name], gradient, rtol=1e-4, atol=1e-6)


def test_an_empty_batch_changes_nothing(data: Path) -> None:
    """A process that has nothing left at the end of an epoch computes one, to stay in step."""
    without, blank = gradients(data, [[0, 1, 2]]), gradients(data, [[0, 1, 2], []])
    assert blank["loss"] == without["loss"]
    for name, gradient in without["gradients"].items():
        assert torch.equal(blank["gradients"][name], gradient)


def test_accelerates_own_accumulation_does_not_divide_again(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`accelerate launch --gradient_accumulation_steps 4` sets this, and each backward would divide by it."""
    train(data, tmp_path / "plain", max_steps=2)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    train(data, tmp_path / "told", max_steps=2)
    assert read_metrics(tmp_path / "told/metrics.jsonl") == read_metrics(tmp_path / "plain/metrics.jsonl")


# The order ----------------------------------------------------------------------------------


@given(
    examples=st.integers(1, 60),
    batch=st.integers(1, 5),
    accumulation=st.integers(1, 4),
    processes=st.integers(1, 4),
    seed=st.integers(0, 5),
)
def test_each_example_comes_once_in_an_epoch(
    examples: int, batch: int, accumulation: int, processes: int, seed: int
) -> None:
    order = Order(examples, batch, accumulation, processes, seed)
    seen = []
    for window in range(order.windows):
        batches = order.window(WindowKey(1, window))
        assert 1 <= len(batches) <= accumulation
        assert all(len(parts) == processes for parts in batches)
        sizes = [len(part) for parts in batches for part in parts]
        assert max(sizes) <= batch
        assert all(max(map(len, parts)) - min(map(len, parts)) <= 1 for parts in batches)
        seen += [index for parts in batches for part in parts for index in part]
    assert sorted(seen) == list(range(examples))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first = Order(50, 50, seed=1)
    orders = [first.window(WindowKey(epoch, 0)) for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert Order(50, 50, seed=1).window(WindowKey(0, 0)) == orders[0]
    assert Order(50, 50, seed=2).window(WindowKey(0, 0)) != orders[0]


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=300),
    batch=st.integers(1, 5),
    accumulation=st.integers(1, 3),
    processes=st.integers(1, 3),
)
def test_each_example_comes_once_in_an_epoch_that_is_grouped_by_length(
    lengths: list[int], batch: int, accumulation: int, processes: int
) -> None:
    order = Order(len(lengths), batch, accumulation, processes, lengths=Lengths(lengths))
    windows = [order.window(WindowKey(1, window)) for window in range(order.windows)]
    sizes = [sum(len(part) for parts in window for part in parts) for window in windows]
    assert sizes[:-1] == [order.window_size] * (len(sizes) - 1)
    seen = [index for window in windows for parts in window for part in parts for index in part]
    assert sorted(seen) == list(range(len(lengths)))


def test_grouping_by_length_leaves_little_padding_and_still_shuffles() -> None:
    lengths = [1 + number * 37 % 400 for number in range(1000)]
    grouped, plain = Order(1000, 8, lengths=Lengths(lengths)), Order(1000, 8)

    def batches(order: Order, epoch: int) -> list[list[int]]:
        return [list(order.window(WindowKey(epoch, window))[0][0]) for window in range(order.windows)]

    def padded(order: Order) -> int:
        return sum(max(lengths[index] for index in batch) * len(batch) for batch in batches(order, 0))

    assert padded(grouped) < 1.1 * sum(lengths) < 1.7 * sum(lengths) < padded(plain)
    longest = [max(lengths[index] for index in batch) for batch in batches(grouped, 0)]
    assert abs(sum(longest[:62]) - sum(longest[63:])) < 0.2 * sum(longest)  # not the short ones first
    assert {frozenset(batch) for batch in batches(grouped, 0)}.isdisjoint(map(frozenset, batches(grouped, 1)))
    assert batches(grouped, 1) == batches(Order(1000, 8, lengths=Lengths(lengths)), 1)


def test_processes_share_the_windows_of_one() -> None:
    """Two processes with batches of 2 see the windows that one with batches of 4 sees."""
    one, two = Order(21, 4, 2), Order(21, 2, 2, processes=2)
    for window in range(one.windows):
        batches = [[*own, *other] for own, other in two.window(WindowKey(0, window))]
        assert batches == [list(own) for (own,) in one.window(WindowKey(0, window))]


# Runs ---------------------------------------------------------------------------------------


def test_a_run_learns_and_leaves_a_model_that_captions(usual: Path, data: Path) -> None:
    entries = read_metrics(usual / "metrics.jsonl")
    trained = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in trained] == list(range(1, 9))
    assert set(trained[0]) == {"step", "epoch", "loss", "learning_rate", "tokens", "gradient_norm"}
    assert [entry["learning_rate"] for entry in trained[:3]] == pytest.approx([5e-4, 1e-3, 1e-3])
    held_out = [entry["evaluation_loss"] for entry in entries if "evaluation_loss" in entry]
    assert held_out[-1] < held_out[0]
    result = Captioner(str(usual / "final"), device="cpu").caption([data / "00.png"], ["CAPTION"])[0]
    assert result.error is None
    assert not (usual / "final/training_state").exists()
    for name in ("training_config.yaml", "split.json", "metrics.jsonl"):
        assert (usual / "final" / name).read_bytes() == (usual / name).read_bytes()


def test_the_newest_are_kept_and_the_best(usual: Path, data: Path, tmp_path: Path) -> None:
    assert checkpoint_names(usual) == ["checkpoint-4", "checkpoint-6", "checkpoint-8"]
    changes = {"learning_rate": 0.2, "warmup_steps": 6, "max_steps": 6, "eval_steps": 1, "save_steps": 1}
    result = train(data, tmp_path / "run", save_total_limit=1, **changes)
    losses = {
        entry["step"]: entry["evaluation_loss"]
        for entry in read_metrics(tmp_path / "run/metrics.jsonl")
        if "evaluation_loss" in entry
    }
    best = min(losses, key=lambda step: losses[step])
    assert best != 6, "the rate is meant to be too high"
    assert checkpoint_names(tmp_path / "run") == [f"checkpoint-{best}", "checkpoint-6"]
    assert result.best == tmp_path / "run" / f"checkpoint-{best}"
    assert result.best_loss == losses[best]
    result = train(data, tmp_path / "without", save_total_limit=1, save_best=False, **changes)
    assert checkpoint_names(tmp_path / "without") == ["checkpoint-6"]
    assert result.best is None


@pytest.mark.parametrize(
    "changes",
    [
        {"eval_steps": 1, "eval_before_training": True, "eval_batch_size": 1},
        {"dataloader_workers": 2},
        {"save_steps": 3, "save_total_limit": None, "log_steps": 3},
    ],
    ids=["evaluating often", "reading ahead", "saving elsewhen"],
)
def test_what_must_not_matter_does_not(
    usual: Path, data: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    train(data, tmp_path / "run", **changes)
    expected, found = weights(usual / "checkpoint-8"), weights(tmp_path / "run/checkpoint-8")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_seed_matters(usual: Path, data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", seed=7, max_steps=2)
    assert read_metrics(tmp_path / "run/metrics.jsonl")[0] != read_metrics(usual / "metrics.jsonl")[0]


def test_entries_over_several_steps_are_means_over_tokens(usual: Path, data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", log_steps=3)
    each = [entry for entry in read_metrics(usual / "metrics.jsonl") if "loss" in entry]
    some = [entry for entry in read_metrics(tmp_path / "run/metrics.jsonl") if "loss" in entry]
    assert [entry["step"] for entry in some] == [3, 6, 8]
    tokens = sum(entry["tokens"] for entry in each[:3])
    assert some[0]["tokens"] == tokens
    assert some[0]["loss"] == pytest.approx(
        sum(entry["loss"] * entry["tokens"] for entry in each[:3]) / tokens
    )


def test_clipping_bounds_what_a_step_does(data: Path, tmp_path: Path) -> None:
    """SGD without momentum moves by rate times the clipped gradient."""
    changes = {"optimizer": "SGD", "weight_decay": 0, "max_steps": 1, "warmup_steps": 0, "save_dtype": "fp32"}
    train(data, tmp_path / "run", clip_grad_norm=0.01, learning_rate=1.0, lr_scheduler="constant", **changes)
    before = TrainableModel.load(REFERENCE).requires_grad_(False)
    after = weights(tmp_path / "run/checkpoint-1")
    moved = sum(float((after[name] - part).pow(2).sum()) for name, part in before.named_parameters()) ** 0.5
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_offloaded_activations_and_checkpointing_give_the_same(
    usual: Path, data: Path, tmp_path: Path
) -> None:
    train(data, tmp_path / "run", activation_offloading=True, gradient_checkpointing=True, max_steps=2)
    expected = read_metrics(usual / "metrics.jsonl")[1]
    found = [entry for entry in read_metrics(tmp_path / "run/metrics.jsonl") if "loss" in entry][1]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)


# Ends before the end ------------------------------------------------------------------------


def after_step(step: int, do: Callable[[Loop], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have something happen to a run when it has made so many steps."""
    between = Loop._between

    def happen(self: Loop, *given: Any) -> bool:
        found = between(self, *given)
        if self.progress.step == step:
            do(self)
        return found

    monkeypatch.setattr(Loop, "_between", happen)


def test_no_number_stops_with_the_batch_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(loop: Loop) -> None:
        with torch.no_grad():
            next(iter(loop.model.parameters())).fill_(float("nan"))

    after_step(3, spoil, monkeypatch)
    with pytest.raises(DivergedError, match=r"step 4: the loss is not finite.*\.png \[CAPTION\]") as raised:
        train(data, tmp_path / "run")
    assert str(tmp_path / "run/checkpoint-2") in str(raised.value)
    assert checkpoint_names(tmp_path / "run") == ["checkpoint-2"]


def test_a_checkpoint_of_no_numbers_is_told_of(data: Path, tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(REFERENCE, source)
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    state["language_model.model.encoder.layers.0.fc1.weight"][0, 0] = float("nan")
    torch.save(state, source / "pytorch_model.bin")
    with pytest.raises(DivergedError, match=r"step 1: .*\.png \[CAPTION\].*weights that are no numbers"):
        train(data, tmp_path / "run", model_name=str(source))
    assert checkpoint_names(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("eval_steps", "words"),
    [
        (
            100,
            r"step 4: the loss is not finite \(learning rate 1e\+10\), of a batch with .*\.png",
        ),
        (3, r"step 3: the loss on held-out images is not finite \(CAPTION\)"),
    ],
    ids=["training", "evaluating"],
)
def test_a_rate_beyond_reason_keeps_the_last_good_checkpoint(
    data: Path, tmp_path: Path, eval_steps: int, words: str
) -> None:
    """It comes with the third step, and its weights are seen after that."""
    rates = {"learning_rate": 1e-4, "lr_scheduler_args": {"step_size": 2, "gamma": 1e14}, "warmup_steps": 0}
    rates |= {"lr_scheduler": "StepLR", "optimizer": "SGD", "weight_decay": 0}
    with pytest.raises(DivergedError, match=words) as raised:
        train(data, tmp_path / "run", eval_steps=eval_steps, **rates)
    assert checkpoint_names(tmp_path / "run") == ["checkpoint-2"]
    assert f"The last good checkpoint is {tmp_path / 'run/checkpoint-2'}" in str(raised.value)
    assert "smaller learning_rate" in str(raised.value)


def test_out_of_memory_stops_with_the_batch_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(loop: Loop) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        monkeypatch.setattr(loop.model, "forward", refuse)

    after_step(2, fill, monkeypatch)
    with pytest.raises(DivergedError, match=r"step 3: out of memory with a batch of .*\.png") as raised:
        train(data, tmp_path / "run")
    assert "gradient_checkpointing" in str(raised.value)
    assert checkpoint_names(tmp_path / "run") == ["checkpoint-2"]


def test_a_picture_that_has_gone_costs_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run says which, and a checkpoint of the last step is there."""
    own = draw_data(tmp_path / "data")

    def remove(loop: Loop) -> None:
        for path in own.glob("*.png"):
            path.rename(path.with_suffix(".gone"))

    after_step(3, remove, monkeypatch)
    with pytest.raises(TrainingError, match=r"\.png"):
        train(own, tmp_path / "run")
    assert checkpoint_names(tmp_path / "run") == ["checkpoint-2", "checkpoint-3"]
    for path in own.glob("*.gone"):
        path.rename(path.with_suffix(".png"))
    monkeypatch.undo()
    assert train(own, tmp_path / "run", resume=True).finished
    reference = tmp_path / "other"
    train(own, reference)
    assert read_metrics(reference / "metrics.jsonl") == read_metrics(tmp_path / "run/metrics.jsonl")


def test_stopped_during_an_evaluation_it_saves_and_evaluates_later(
    usual: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    from promptgen.training import validation

    forward = validation.forward

    def interrupted(*given: Any) -> Any:
        stop.set()
        return forward(*given)

    monkeypatch.setattr(validation, "forward", interrupted)
    result = train(data, tmp_path / "run", stop=stop, eval_batch_size=1)
    assert not result.finished
    assert checkpoint_names(tmp_path / "run") == [f"checkpoint-{result.step}"]
    monkeypatch.undo()
    train(data, tmp_path / "run", resume=True, eval_batch_size=1)
    expected = read_metrics(usual / "metrics.jsonl")
    found = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [entry["step"] for entry in found] == [entry["step"] for entry in expected]
    assert found[-2] == expected[-2]


def test_stopped_while_captioning_it_saves_and_captions_later(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    answerer = Captioner.answerer

    def interrupted(*given: Any, **more: Any) -> Any:
        stop.set()
        return answerer(*given, **more)

    asked = {
        "max_steps": 2,
        "eval_steps": 1,
        "save_steps": 2,
        "do_extra_eval": True,
        "eval_max_new_tokens": 4,
    }
    monkeypatch.setattr(Captioner, "answerer", interrupted)
    assert not train(data, tmp_path / "run", stop=stop, **asked).finished
    assert checkpoint_names(tmp_path / "run") == ["checkpoint-1"]
    assert not list((tmp_path / "run").glob(".unfinished*"))
    monkeypatch.undo()
    train(data, tmp_path / "run", resume=True, **asked)
    found = [entry for entry in read_metrics(tmp_path / "run/metrics.jsonl") if "evaluation_loss" in entry]
    assert [(entry["step"], "scores" in entry) for entry in found] == [(1, True), (2, True)]


# Before the first step ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": "AdamWho"}, "Did you mean AdamW"),
        ({"lr_scheduler": "rexx"}, "Did you mean rex"),
        ({"model_name": "no/such-folder/here"}, "no/such-folder/here"),
        ({"dataset_config": ["no such folder"]}, "no such folder"),
        ({"eval_split": 13}, "train"),
        ({"mixed_precision": "fp16"}, "needs a GPU"),
        ({"wandb": True, "wandb_project_name": "mine"}, "pip install wandb"),
    ],
)
def test_what_will_not_do_is_said_before_the_first_step(
    data: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises((TrainingError, ModelNotFoundError), match=words):
        train(data, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_written_is_said_before_the_first_step(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="cannot be written to"):
        train(data, tmp_path / "file" / "run")


def test_a_run_is_not_written_over(usual: Path, data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in usual.rglob("*")}
    with pytest.raises(TrainingError, match="--resume"):
        train(data, usual)
    assert {path: path.stat().st_mtime_ns for path in usual.rglob("*")} == before


def test_runs_of_several_precisions_follow_each_other_in_one_process(
    usual: Path, data: Path, tmp_path: Path
) -> None:
    """And bfloat16 computes about the same."""
    expected = [entry["loss"] for entry in read_metrics(usual / "metrics.jsonl") if "loss" in entry]
    half = {"mixed_precision": "bf16", "gradient_checkpointing": True, "max_steps": 3}
    train(data, tmp_path / "run", **half)
    found = [entry["loss"] for entry in read_metrics(tmp_path / "run/metrics.jsonl") if "loss" in entry]
    assert found != expected[:3]
    assert found == pytest.approx(expected[:3], rel=0.02)
    assert {tensor.dtype for tensor in weights(tmp_path / "run/checkpoint-3").values()} == {torch.float32}
    train(data, tmp_path / "full", max_steps=1)
    assert read_metrics(tmp_path / "full/metrics.jsonl")[0]["loss"] == expected[0]


def test_tensorboard_gets_what_the_file_gets(data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(data, tmp_path / "run", tensorboard=True, max_steps=2, eval_steps=2)
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    entries = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(
        [entry["loss"] for entry in entries if "loss" in entry]
    )
    assert len(events.Scalars("evaluation/by_instruction/CAPTION")) == 1
    assert json.loads(json.dumps(entries)) == entries
