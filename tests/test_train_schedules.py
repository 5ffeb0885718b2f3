"""The learning rate over a run, against its closed forms."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from promptgen.training.config import OptimizerOptions
from promptgen.training.errors import TrainingError
from promptgen.training.schedules import CURVES, build_schedule, check_schedule, rate_factor

PEAK, LEAST = 3e-4, 3e-5


def rates(options: OptimizerOptions, steps: int) -> list[float]:
    """The rate that a real optimiser has at each of its updates."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=options.learning_rate)
    schedule = build_schedule(options, optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def options(name: str, **changes: Any) -> OptimizerOptions:
    given = {"learning_rate": PEAK, "min_learning_rate": LEAST, "lr_scheduler": name} | changes
    return OptimizerOptions(**given)


def decayed(name: str, z: float) -> float:
    """The published formulas, written out."""
    m = LEAST / PEAK
    return {
        "rex": PEAK * (m + (1 - m) * z / (0.1 + 0.9 * z)),
        "cosine": LEAST + (PEAK - LEAST) * 0.5 * (1 + math.cos(math.pi * (1 - z))),
        "linear": LEAST + (PEAK - LEAST) * z,
        "constant": PEAK,
        "polynomial": LEAST + (PEAK - LEAST) * z * z,
    }[name]


@pytest.mark.parametrize("name", ["rex", "cosine", "linear", "constant", "polynomial"])
@pytest.mark.parametrize(("steps", "warmup"), [(40, 10), (17, 0), (5, 4), (1, 0), (3, 3)])
def test_follows_the_closed_form(name: str, steps: int, warmup: int) -> None:
    found = rates(options(name, warmup_steps=warmup), steps)
    expected = [PEAK * (update + 1) / warmup for update in range(warmup)]
    expected += [decayed(name, (steps - update) / (steps - warmup)) for update in range(warmup, steps)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_rex_halfway_by_hand() -> None:
    """z = 0.5: 0.5 / 0.55 of the way from the minimum to the peak."""
    assert rates(options("REX", min_learning_rate=0.0), 4)[2] == pytest.approx(PEAK * 0.5 / 0.55)


def test_rex_is_not_that_of_pytorch_optimizer() -> None:
    """Theirs has 1/2 where the published trainer has 0.1 and 0.9; should they become equal, take theirs."""
    from pytorch_optimizer.lr_scheduler.rex import REXScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=PEAK)
    theirs = REXScheduler(optimizer, total_steps=4, max_lr=PEAK)
    theirs.step_t = 2
    assert theirs.get_linear_lr() != pytest.approx(PEAK * 0.5 / 0.55, rel=0.01)


@given(
    name=st.sampled_from(sorted(CURVES)),
    steps=st.integers(1, 400),
    warmup=st.integers(0, 50),
    least=st.floats(0, 1),
)
def test_stays_between_minimum_and_peak(name: str, steps: int, warmup: int, least: float) -> None:
    chosen = options(name, min_learning_rate=PEAK * least, warmup_steps=warmup)
    factors = [rate_factor(chosen, steps, update) for update in range(steps)]
    assert all(0 < factor <= 1 + 1e-12 for factor in factors)
    assert all(factor >= least - 1e-12 for factor in factors[warmup:])
    assert factors[: warmup + 1] == sorted(factors[: warmup + 1])
    if warmup < steps:
        assert factors[warmup] == pytest.approx(1)
    if name != "cosine_with_restarts":
        assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


def test_warmup_as_a_share_of_all_steps() -> None:
    assert rates(options("linear", warmup_steps=0.1), 50) == rates(options("linear", warmup_steps=5), 50)


def test_restarts_begin_at_the_peak() -> None:
    found = rates(options("cosine_with_restarts", lr_scheduler_args={"num_cycles": 4}), 40)
    assert [found[place] for place in (0, 10, 20, 30)] == pytest.approx([PEAK] * 4)


def test_stable_then_down() -> None:
    found = rates(options("warmup_stable_decay", lr_scheduler_args={"decay": 0.5}, min_learning_rate=0.0), 8)
    assert found == pytest.approx([PEAK] * 5 + [PEAK * share for share in (0.75, 0.5, 0.25)])


def test_torchs_schedulers_by_name_after_a_warmup() -> None:
    chosen = options("CosineAnnealingLR", warmup_steps=4)
    found = rates(chosen, 12)
    assert found[:4] == pytest.approx([PEAK * share for share in (0.25, 0.5, 0.75, 1)])
    expected = [LEAST + (PEAK - LEAST) * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert found[4:] == pytest.approx(expected)


def test_torchs_schedulers_take_their_own_settings() -> None:
    chosen = options("steplr", min_learning_rate=0.0, lr_scheduler_args={"step_size": 2, "gamma": 0.5})
    assert rates(chosen, 4) == pytest.approx([PEAK, PEAK, PEAK / 2, PEAK / 2])


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("cosin", {}, "Did you mean cosine?"),
        ("ReduceLROnPlateau", {}, "unknown"),
        ("rex", {"power": 2}, "rex takes none"),
        ("polynomial", {"powr": 2}, "polynomial takes power"),
        ("polynomial", {"power": "steep"}, "power='steep' will not do for polynomial"),
        ("warmup_stable_decay", {"decay": 0}, "decay=0 will not do"),
        ("warmup_stable_decay", {"decay": -1}, "leave the range"),
        ("CyclicLR", {}, "no min_learning_rate"),
        ("CosineAnnealingLR", {"T_max": 0}, "T_max=0"),
    ],
)
def test_says_what_will_not_do(name: str, args: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingError, match=words.replace("?", r"\?")):
        check_schedule(options(name, lr_scheduler_args=args))


def test_foreign_settings_that_lack_are_named() -> None:
    with pytest.raises(TrainingError, match="step_size"):
        rates(options("StepLR", min_learning_rate=0.0), 4)
    with pytest.raises(TrainingError, match="no min_learning_rate"):
        rates(options("StepLR", lr_scheduler_args={"step_size": 2}), 4)


def test_a_warmup_beyond_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The published configuration has ten steps of it, and a small folder may make fewer in all."""
    with caplog.at_level(logging.WARNING):
        assert rates(options("rex", warmup_steps=10), 4) == pytest.approx(
            [PEAK * n / 10 for n in (1, 2, 3, 4)]
        )
    assert "never reaches" in caplog.text
