"""Optimisers by name: found, tried before a run, resumed to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from promptgen.training.config import OptimizerOptions
from promptgen.training.errors import TrainingError
from promptgen.training.optimizers import build_optimizer, check_optimizer, find_optimizer

NAMES = (
    "AdamW", "adam", "SGD", "RMSprop", "NAdam", "RAdam", "CAME", "AdaFactor", "Prodigy", "Lion",
    "ScheduleFreeAdamW", "DAdaptAdam", "LAMB", "AdaBelief", "Adan", "SOAP", "StableAdamW", "Tiger", "Grams",
)  # fmt: skip


def parameters(*shapes: tuple[int, ...]) -> list[tuple[str, torch.nn.Parameter]]:
    torch.manual_seed(0)
    return [(f"part{number}", torch.nn.Parameter(torch.randn(shape))) for number, shape in enumerate(shapes)]


def options(name: str, **changes: Any) -> OptimizerOptions:
    return OptimizerOptions(optimizer=name, **({"learning_rate": 1e-2, "weight_decay": 0.1} | changes))


@pytest.mark.parametrize("name", NAMES)
def test_does_what_a_run_asks(name: str) -> None:
    check_optimizer(options(name))
    named = parameters((8, 4), (8,), (4, 2, 3, 3))
    before = [part.detach().clone() for _, part in named]
    optimizer = build_optimizer(options(name), named)
    for _ in range(8):  # RAdam waits for some
        for _, part in named:
            part.grad = torch.ones_like(part)
        optimizer.step()
    assert all(not torch.equal(part, old) for (_, part), old in zip(named, before, strict=True))


@pytest.mark.parametrize("name", ["SGD", "AdaFactor", "CAME", "Lion"])
def test_the_rate_of_a_schedule_has_an_effect(name: str) -> None:
    """AdaFactor by itself has a rate of its own, and would ignore it."""
    moved = []
    for rate in (1e-3, 1e-2):
        named = parameters((8, 4))
        optimizer = build_optimizer(options(name, learning_rate=1.0, weight_decay=0.0), named)
        optimizer.param_groups[0]["lr"] = rate
        named[0][1].grad = torch.ones(8, 4)
        optimizer.step()
        moved.append((named[0][1] - parameters((8, 4))[0][1]).abs().mean().item())
    assert moved[1] == pytest.approx(10 * moved[0], rel=0.05)


def test_a_state_in_bfloat16_stays_so() -> None:
    """torch casts what it reads back to the parameters' type; a resumed run would round differently."""
    named = parameters((8, 4))
    named[0][1].grad = torch.ones(8, 4)
    first = build_optimizer(options("AdaFactor"), named)
    first.step()
    second = build_optimizer(options("AdaFactor"), named)
    second.load_state_dict(first.state_dict())
    kinds = {name: value.dtype for name, value in second.state[named[0][1]].items() if torch.is_tensor(value)}
    assert kinds["exp_avg"] == torch.bfloat16


def test_a_state_by_names_is_read() -> None:
    """FSDP gives parameters names there, where others have numbers."""
    named = parameters((8, 4), (8,))
    for _, part in named:
        part.grad = torch.ones_like(part)
    first, second = (build_optimizer(options("AdaFactor"), named) for _ in range(2))
    first.step()
    state = first.state_dict()
    names = {number: f"part{number}" for number in state["state"]}
    state["state"] = {names[number]: entries for number, entries in state["state"].items()}
    for group in state["param_groups"]:
        group["params"] = [names[number] for number in group["params"]]
    second.load_state_dict(state)
    for _, part in named:
        assert torch.equal(second.state[part]["exp_avg"], first.state[part]["exp_avg"])
        assert second.state[part]["exp_avg"].dtype == torch.bfloat16


def test_biases_and_norms_do_not_decay() -> None:
    named = parameters((4, 4), (4,))
    optimizer = build_optimizer(options("SGD", learning_rate=0.5), named)
    before = [part.detach().clone() for _, part in named]
    for _, part in named:
        part.grad = torch.zeros_like(part)
    optimizer.step()
    assert torch.allclose(named[0][1], before[0] * (1 - 0.5 * 0.1))
    assert torch.equal(named[1][1], before[1])


def test_frozen_parts_are_left_out() -> None:
    named = parameters((4, 4), (3, 3))
    named[0][1].requires_grad_(False)
    optimizer = build_optimizer(options("AdamW"), named)
    assert [part.shape for group in optimizer.param_groups for part in group["params"]] == [(3, 3)]
    named[1][1].requires_grad_(False)
    with pytest.raises(TrainingError, match="every parameter is frozen"):
        build_optimizer(options("AdamW"), named)


def test_names_of_other_trainers() -> None:
    assert find_optimizer("OptimiAdamW") is torch.optim.AdamW
    assert find_optimizer("adamw_torch") is torch.optim.AdamW


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("Adafacter", {}, "Did you mean AdaFactor?"),
        ("AdamW", {"betas2": 1}, "takes no betas2"),
        ("CAME", {"betas": [2, 3, 4]}, "CAME"),
        ("SAM", {}, "SAM"),
        ("LBFGS", {}, "LBFGS"),
        ("SophiaH", {}, "not made for a run like this"),
        ("AliG", {}, "not made for a run like this"),
    ],
)
def test_says_what_will_not_do(name: str, args: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingError, match=words.replace("?", r"\?")):
        check_optimizer(options(name, optimizer_args=args))


def test_leaves_random_numbers_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    check_optimizer(options("CAME"))
    assert torch.equal(before, torch.get_rng_state())
