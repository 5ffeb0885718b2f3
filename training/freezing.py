"""Which parameters are trained: all but those that are frozen, by part of the network or by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from ..florence2.conversion import converted_name
from ..florence2.loading import TIED, published_names
from ..florence2.network import Florence2Network
from .errors import TrainingError
from .model_options import PARTS


def part_of(name: str) -> str:
    """The part of the network (one of ``PARTS``) that a parameter or a module belongs to."""
    if name.startswith("vision_tower."):
        return "vision"
    return "language" if name.startswith("language_model.") else "other"


def freeze(network: Florence2Network, patterns: Sequence[str]) -> None:
    """Have all parameters trained but those that the ``patterns`` of :class:`.ModelOptions` freeze.

    Raises:
        TrainingError: a pattern that stands for nothing, or nothing left to train.
    """
    frozen = frozen_names(network, patterns)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise TrainingError(f"freeze {list(patterns)} leaves nothing to train. Take something out of it.")


def frozen_names(network: Florence2Network, patterns: Sequence[str]) -> set[str]:
    """The parameters, by our names, that ``patterns`` freeze.

    Raises:
        TrainingError: a pattern that stands for nothing.
    """
    published = _names(network)
    frozen: set[str] = set()
    for pattern in patterns:
        meant = matching(pattern.removeprefix("!"), published)
        if pattern.startswith("!"):
            frozen -= meant
        else:
            frozen |= meant
    return frozen


def matching(pattern: str, published: dict[str, list[str]]) -> set[str]:
    """Our names of what a part or a shell pattern of published names stands for.

    Args:
        published: our names, each with the ones it is published under.

    Raises:
        TrainingError: it stands for nothing.
    """
    if pattern in PARTS:
        return {ours for ours in published if part_of(ours) == pattern}
    found = {
        ours
        for ours, names in published.items()
        if any(fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") for name in names)
    }
    if not found:
        every = [name for names in published.values() for name in names]
        raise TrainingError(
            f"{pattern!r} is the name of no parameter. Choose {', '.join(PARTS)} or a name as checkpoints "
            f"have it, which may have * in it{nearest(pattern, every)}."
        )
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that gives the names most like ``name``; nothing if none is like it."""
    close = get_close_matches(name, [*known], n=3, cutoff=0.5)
    return f"; nearest are {', '.join(close)}" if close else ""


def trained_parts(network: nn.Module) -> set[str]:
    """The parts in which anything is trained, an adapter's matrices included."""
    return {part_of(name) for name, parameter in network.named_parameters() if parameter.requires_grad}


def _names(network: Florence2Network) -> dict[str, list[str]]:
    """Our names of all parameters, with those of both published formats; the tied matrix has several."""
    names = [name for name, _ in network.named_parameters()]
    published = published_names(names, network.config)
    original = {name: [*TIED] if name in TIED else [published[name]] for name in names}
    return {name: [*given, *map(converted_name, given)] for name, given in original.items()}
