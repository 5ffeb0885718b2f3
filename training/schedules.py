"""How the learning rate goes: warm-up, then one of several curves down to a minimum.

All curves are closed forms of *z*, the share of updates after the warm-up that remain, the one at hand
included: with N updates of which W are warm-up, update k (counted from 0) has

    k < W:   rate = peak · (k + 1) / W                  (so that no update is made with a rate of zero)
    k ≥ W:   rate = peak · (m + (1 − m) · curve(z)),    z = (N − k) / (N − W),    m = minimum / peak

Where a name is none of these curves, it is that of a scheduler of torch or pytorch-optimizer.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from .config import OptimizerOptions
from .errors import TrainingError

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

logger = logging.getLogger(__name__)

Curve = Callable[..., float]


def rex(z: float) -> float:
    """Reflected exponential, as the published trainer has it; above a line until shortly before the end.

    https://arxiv.org/abs/2107.04197 puts 1/2 where this has 0.1 and 0.9, and so does pytorch-optimizer's
    REXScheduler, whose rates therefore differ from these.
    """
    return z / (0.1 + 0.9 * z)


def cosine(z: float) -> float:
    """Half a period, https://arxiv.org/abs/1608.03983 without restarts."""
    return (1 + math.cos(math.pi * (1 - z))) / 2


def cosine_with_restarts(z: float, num_cycles: float = 3) -> float:
    """The same so many times, each from the peak."""
    done = (1 - z) * num_cycles
    return (1 + math.cos(math.pi * (done % 1))) / 2


def linear(z: float) -> float:
    """A straight line."""
    return z


def polynomial(z: float, power: float = 2) -> float:
    """A power of the straight line."""
    return z**power


def constant(z: float) -> float:
    """The peak, whatever the minimum."""
    return 1


def warmup_stable_decay(z: float, decay: float = 0.2) -> float:
    """The peak, and for the last part (a share of the updates after the warm-up) a straight line."""
    return min(1, z / decay)


CURVES: dict[str, Curve] = {
    "rex": rex,
    "cosine": cosine,
    "linear": linear,
    "constant": constant,
    "cosine_with_restarts": cosine_with_restarts,
    "polynomial": polynomial,
    "warmup_stable_decay": warmup_stable_decay,
}
ALIASES = {
    "cosine_annealing": "cosine",
    "constant_with_warmup": "constant",
    "poly": "polynomial",
    "wsd": "warmup_stable_decay",
}

_TRIED = 40  # updates with which options are tried

# Parameters of foreign schedulers that mean the number of updates, filled in where they are not given.
_TOTALS = frozenset({"total_steps", "T_max", "t_max", "total_iters", "num_training_steps", "num_epochs"})


def warmup_updates(options: OptimizerOptions, total_steps: int) -> int:
    """How many updates the warm-up has; ``warmup_steps`` below 1 is a share of all."""
    steps = options.warmup_steps
    return int(steps) if steps >= 1 else math.ceil(steps * total_steps)


def has_closed_form(options: OptimizerOptions) -> bool:
    """Whether :func:`rate_factor` knows the schedule."""
    return _key(options.lr_scheduler) in CURVES


def rate_factor(options: OptimizerOptions, total_steps: int, update: int) -> float:
    """The rate of update number ``update`` (from 0) of ``total_steps``, by the peak; see the module's head.

    Raises:
        TrainingError: the name is none of :data:`CURVES`.
    """
    curve = CURVES.get(_key(options.lr_scheduler))
    if curve is None:
        raise TrainingError(
            f"lr_scheduler {options.lr_scheduler}: no closed form. {', '.join(CURVES)} have one."
        )
    warmup = warmup_updates(options, total_steps)
    if update < warmup:
        return (update + 1) / warmup
    z = max(0, total_steps - update) / max(1, total_steps - warmup)
    least = options.min_learning_rate / options.learning_rate
    return least + (1 - least) * curve(z, **options.lr_scheduler_args)


def build_schedule(options: OptimizerOptions, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """The scheduler of ``optimizer``; ``step()`` is to be called once after each update.

    Raises:
        TrainingError: there is none of that name, or it does not take its options. What would do is said.
    """
    from torch.optim.lr_scheduler import LambdaLR

    check_schedule(options)
    if warmup_updates(options, total_steps) > total_steps:
        logger.warning(
            "warmup_steps is %g, but the run only makes %d updates: the learning rate never reaches %g.",
            options.warmup_steps, total_steps, options.learning_rate,
        )  # fmt: skip
    if _key(options.lr_scheduler) not in CURVES:
        return _build_foreign(options, optimizer, total_steps)
    return LambdaLR(optimizer, lambda update: rate_factor(options, total_steps, update))


def check_schedule(options: OptimizerOptions) -> None:
    """See that there is such a schedule, and that it takes the options given, by trying it. Our curves need
    no torch.

    Raises:
        TrainingError: what is wrong, and what would do.
    """
    key = _key(options.lr_scheduler)
    if key not in CURVES:
        _try_foreign(options)
        return
    taken = list(inspect.signature(CURVES[key]).parameters)[1:]
    given = ", ".join(f"{name}={value!r}" for name, value in options.lr_scheduler_args.items())
    if set(options.lr_scheduler_args) - set(taken):
        raise TrainingError(f"lr_scheduler_args: {given}; {key} takes {', '.join(taken) or 'none'}.")
    updates = _TRIED + int(options.warmup_steps)
    try:
        rates = [rate_factor(options, updates, update) for update in range(updates + 1)]
    except (TypeError, ValueError, ArithmeticError) as error:
        raise TrainingError(f"lr_scheduler_args: {given} will not do for {key}: {error}.") from error
    if not all(0 <= rate <= 1 for rate in rates):
        raise TrainingError(
            f"lr_scheduler_args: {given} makes {key} leave the range between 0 and learning_rate."
        )


def _try_foreign(options: OptimizerOptions) -> None:
    import torch

    part = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([part], lr=options.learning_rate)
    updates = _TRIED + int(options.warmup_steps)
    schedule = _build_foreign(options, optimizer, updates)
    with warnings.catch_warnings():  # nothing is to be updated
        warnings.simplefilter("ignore")
        try:
            for _ in range(updates):
                schedule.step()
        except (TypeError, ValueError, ArithmeticError) as error:
            given = ", ".join(f"{name}={value!r}" for name, value in options.lr_scheduler_args.items())
            raise TrainingError(
                f"lr_scheduler {options.lr_scheduler} does not work with {given or 'its defaults'}: {error}."
            ) from error


def _key(name: str) -> str:
    key = name.strip().lower().replace("-", "_").replace(" ", "_")
    return ALIASES.get(key, key)


def _foreign() -> dict[str, type[LRScheduler]]:
    """The schedulers of torch and of pytorch-optimizer that keep their state as torch's do, by name."""
    import pytorch_optimizer.lr_scheduler as theirs
    import torch.optim.lr_scheduler as torchs

    base, plateau = torchs.LRScheduler, torchs.ReduceLROnPlateau  # which waits for a number that we lack
    composed = (
        "ChainedScheduler",
        "SequentialLR",
        "LambdaLR",
        "MultiplicativeLR",
        "LRScheduler",
        "_LRScheduler",
    )
    return {
        name.lower(): kind
        for room in (theirs, torchs)
        for name, kind in vars(room).items()
        if isinstance(kind, type) and issubclass(kind, base) and kind is not plateau and name not in composed
    }


def _find_foreign(name: str) -> type[LRScheduler]:
    known = _foreign()
    found = known.get(name.strip().lower())
    if found is None:
        names = [*CURVES, *sorted(kind.__name__ for kind in known.values())]
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise TrainingError(f"lr_scheduler is {name!r}, which is unknown.{hint} Known: {', '.join(names)}.")
    return found


def _build_foreign(options: OptimizerOptions, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    from torch.optim.lr_scheduler import LinearLR, SequentialLR

    kind = _find_foreign(options.lr_scheduler)
    given, warmup = dict(options.lr_scheduler_args), warmup_updates(options, total_steps)
    taken = inspect.signature(kind).parameters
    for name in _TOTALS & set(taken):
        given.setdefault(name, total_steps - warmup)
    if options.min_learning_rate:
        if "eta_min" not in taken:
            raise TrainingError(f"lr_scheduler {kind.__name__} has no min_learning_rate; leave it out.")
        given.setdefault("eta_min", options.min_learning_rate)
    try:
        scheduler = kind(optimizer, **given)
    except (TypeError, ValueError) as error:
        names = ", ".join(name for name in taken if name not in ("optimizer", "last_epoch"))
        raise TrainingError(
            f"lr_scheduler {kind.__name__}: {error}. It takes these as lr_scheduler_args: {names}."
        ) from error
    if not warmup:
        return scheduler
    rise = LinearLR(optimizer, start_factor=1 / warmup, total_iters=max(1, warmup - 1))
    return SequentialLR(optimizer, [rise, scheduler], milestones=[warmup])
