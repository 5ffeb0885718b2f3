"""Optimisers by name: torch's, and those of pytorch-optimizer.

What a run asks of one: a plain ``step()`` on the gradients at hand, a learning rate that a schedule may set,
and a state that can be kept and read back, after which it goes on to the bit. Each is tried on a handful of
numbers before the run begins, so that one that cannot do these is refused then.
"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .config import OptimizerOptions
from .errors import TrainingError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NAMED_BY_OTHERS = {
    "optimiadamw": "adamw",  # the published trainer's, of torch-optimi
    "adam8bit": "bnb_adam8bit",
    "adamw8bit": "bnb_adamw8bit",
    "adamw_8bit": "bnb_adamw8bit",
    "lion8bit": "bnb_lion8bit",
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamwschedulefree": "schedulefreeadamw",
}
"""How other trainers call them, to how the libraries do."""

FIRST_CHOICES = ("AdamW", "CAME", "AdaFactor", "Prodigy", "Lion", "ScheduleFreeAdamW", "SGD")

# Where a library's default would make the rate of our schedule have no effect.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "adafactor": {"relative_step": False, "scale_parameter": False, "warmup_init": False},
}
_TRIAL_RATE = 1e-3


def build_optimizer(
    options: OptimizerOptions, parameters: Iterable[tuple[str, nn.Parameter]]
) -> torch.optim.Optimizer:
    """The optimiser of those among ``parameters`` (with their names) that are to be trained.

    Raises:
        TrainingError: unknown, not installed, unfit for such a run, or given options that it does not take.
    """
    check_optimizer(options)
    groups = parameter_groups(parameters, options.weight_decay)
    if not groups:
        raise TrainingError("every parameter is frozen; there is nothing to train. Freeze less.")
    return _made(options, groups)


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, Any]]:
    """What is to be trained, in at most two groups: what decays, and what does not (biases, norms)."""
    trained = [parameter for _, parameter in parameters if parameter.requires_grad]
    groups = (
        {"params": [part for part in trained if part.ndim >= 2], "weight_decay": weight_decay},
        {"params": [part for part in trained if part.ndim < 2], "weight_decay": 0.0},
    )
    return [group for group in groups if group["params"]]


def check_optimizer(options: OptimizerOptions) -> None:
    """See that there is such an optimiser, and that it does what a run asks, by trying it on few numbers.

    Raises:
        TrainingError: what is wrong, and what would do.
    """
    import torch

    kind = find_optimizer(options.optimizer)
    needs_gpu = kind.__module__.startswith("bitsandbytes")
    if needs_gpu and not torch.cuda.is_available():
        raise TrainingError(f"optimizer {options.optimizer} needs a CUDA GPU, and there is none. Take AdamW.")
    device = torch.device("cuda" if needs_gpu else "cpu")
    with torch.random.fork_rng(devices=[]):
        try:
            straight = _tried(options, device, interrupted=False)
            resumed = _tried(options, device, interrupted=True)
        except TrainingError:
            raise
        except Exception as error:
            raise TrainingError(
                f"optimizer {kind.__name__} is not made for a run like this one: {error} "
                f"Take one of {', '.join(FIRST_CHOICES)}."
            ) from error
    if not all(map(torch.equal, straight, resumed)):
        raise TrainingError(
            f"optimizer {kind.__name__} does not go on as before when its state was kept and read back, so a "
            f"run could not be resumed. Take one of {', '.join(FIRST_CHOICES)}."
        )


def find_optimizer(name: str) -> type[torch.optim.Optimizer]:
    """The class of that name, in any case.

    Raises:
        TrainingError: unknown, or of a library that is not installed.
    """
    from pytorch_optimizer import load_optimizer

    known = _known()
    key = NAMED_BY_OTHERS.get(name.strip().lower(), name.strip().lower())
    if key in known:
        return known[key]
    if key.startswith(("bnb", "torchao", "q_galore")):
        try:
            return load_optimizer(key)
        except (ImportError, NotImplementedError) as error:
            raise TrainingError(
                f"optimizer {name}: {error}. Take AdamW, or install what it needs."
            ) from error
    names = sorted({kind.__name__ for kind in known.values()})
    near = difflib.get_close_matches(name.lower(), [each.lower() for each in names], n=1, cutoff=0.5)
    hint = f" Did you mean {known[near[0]].__name__}?" if near else ""
    raise TrainingError(f"optimizer is {name!r}, which is unknown.{hint} Known: {', '.join(names)}.")


def _known() -> dict[str, type[torch.optim.Optimizer]]:
    """By name in small letters. Torch's own Adafactor scales the rate by the weights; theirs need not."""
    import pytorch_optimizer
    import torch

    return {
        name.lower(): kind
        for room in (torch.optim, pytorch_optimizer)
        for name, kind in vars(room).items()
        if isinstance(kind, type)
        and issubclass(kind, torch.optim.Optimizer)
        and name not in ("Optimizer", "BaseOptimizer")
    }


def _made(options: OptimizerOptions, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    kind = find_optimizer(options.optimizer)
    given = {**_DEFAULTS.get(kind.__name__.lower(), {}), **options.optimizer_args}
    taken = inspect.signature(kind).parameters
    surplus = [name for name in given if name not in taken]
    if surplus:
        names = ", ".join(name for name in taken if name not in ("params", "lr", "weight_decay", "kwargs"))
        raise TrainingError(f"optimizer {kind.__name__} takes no {', '.join(surplus)}. It takes: {names}.")
    try:
        made = kind(groups, lr=options.learning_rate, **given)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise TrainingError(f"optimizer {kind.__name__}: {error}.") from error
    _keep_dtypes(made)
    return made


def _keep_dtypes(optimizer: torch.optim.Optimizer) -> None:
    """Make ``load_state_dict`` leave the state's types alone; torch casts them to the parameters'.

    An optimiser that keeps a momentum as bfloat16 would round differently ever after.
    """
    saved: list[dict[str, Any]] = []
    optimizer.register_load_state_dict_pre_hook(lambda _, state: saved.append(state))

    def restore(loaded: torch.optim.Optimizer) -> None:
        given = saved.pop()
        parts = (part for group in loaded.param_groups for part in group["params"])
        keys = (key for group in given["param_groups"] for key in group["params"])
        for key, part in zip(keys, parts, strict=True):  # numbers, or with FSDP names
            for name, value in given["state"].get(key, {}).items():
                _restore_dtype(loaded.state[part], name, value)

    optimizer.register_load_state_dict_post_hook(restore)


def _restore_dtype(state: dict[str, Any], name: str, saved: Tensor | Any) -> None:
    dtype = getattr(saved, "dtype", None)
    if dtype is not None and state[name].dtype != dtype:
        state[name] = saved.to(state[name].device, copy=True)


def _tried(options: OptimizerOptions, device: torch.device, *, interrupted: bool) -> list[Tensor]:
    """A vector, a matrix and a convolution's kernel after four updates; ``interrupted`` by a restart."""
    import torch

    numbers = torch.Generator().manual_seed(0)
    shapes = ((8,), (8, 4), (4, 2, 3, 3))
    trial = replace(options, learning_rate=_TRIAL_RATE, min_learning_rate=0)

    def start(values: Iterable[Tensor]) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
        parts = [torch.nn.Parameter(value.clone()) for value in values]
        named = [(str(number), part) for number, part in enumerate(parts)]
        return parts, _made(trial, parameter_groups(named, options.weight_decay))

    torch.manual_seed(0)
    parts, optimizer = start(torch.randn(shape, generator=numbers).to(device) for shape in shapes)
    switch_to(optimizer, "train")
    for update in range(4):
        if interrupted and update == 2:
            state = copy.deepcopy(optimizer.state_dict())
            parts, optimizer = start(part.detach() for part in parts)
            optimizer.load_state_dict(state)
            switch_to(optimizer, "train")
        for part in parts:
            part.grad = torch.randn(part.shape, generator=numbers).to(device)
        optimizer.step()
        optimizer.zero_grad()
    return [part.detach() for part in parts]


def switch_to(optimizer: torch.optim.Optimizer, mode: str) -> None:
    """Tell an optimiser that keeps two sets of weights ("schedule-free", SPlus) which is wanted.

    Args:
        mode: "train" for those that gradients belong to, "eval" for those that are to be used and saved.
    """
    switch: Callable[[], None] | None = getattr(optimizer, mode, None)
    if switch is not None:
        switch()


@contextmanager
def weights_for_use(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Within, an optimiser's parameters are those that are to be used and saved; after it, what they were.

    There and back such optimisers only come about: a run would depend on how often it was looked at.
    """
    if not hasattr(optimizer, "eval"):
        yield
        return
    parts = [part for group in optimizer.param_groups for part in group["params"]]
    before = [part.detach().clone() for part in parts]
    switch_to(optimizer, "eval")
    try:
        yield
    finally:
        switch_to(optimizer, "train")
        for part, value in zip(parts, before, strict=True):
            part.data.copy_(value)
