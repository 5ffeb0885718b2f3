"""The checkpoints of a server, by the names that clients may call them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

from ..captioning import default_instruction
from ..captioning.instructions import instructions_of
from ..models_cache import entry_of, family_of_model, find_checkpoint, find_entry
from ..models_cache.families import family_of
from .errors import ModelNotServedError

if TYPE_CHECKING:
    from ..captioning import Captioner


@dataclass(frozen=True)
class ServedModel:
    """One checkpoint that requests may name."""

    name: str  # what clients call it: base_name, with its bits where another is called so, too
    base_name: str  # of the catalogue, or of the folder, or the Hub id
    hub_id: str | None
    captioner: Captioner
    family: str
    instructions: tuple[str, ...]  # that it was trained on, canonical names; all of its family if not known
    default_instruction: str  # what requests are answered that name none

    @classmethod
    def of(cls, captioner: Captioner) -> ServedModel:
        """The model of ``captioner``, whose files must be there or have an entry in the catalogue.

        Raises:
            CheckpointError: it is of a family that is not known here.
        """
        entry = entry_of(captioner.model)
        found = find_checkpoint(captioner.model)
        family = family_of_model(captioner.model) if found is None else family_of(found)
        known = () if entry is None else tuple(entry.instructions)
        if entry is None:
            folder = Path(captioner.model)  # where it lies is not for clients to know
            name, hub_id = folder.resolve().name if folder.is_dir() else captioner.model, None
        else:
            name, hub_id = entry.name, entry.hub_id
        return cls(
            name,
            name,
            hub_id,
            captioner,
            family,
            known or instructions_of(family),
            default_instruction(captioner.model),
        )

    def is_called(self, name: str) -> bool:
        """Whether clients may mean it by ``name``, in any case, or by ``NAME@BITS``."""
        plain = [one for one in (self.base_name, self.hub_id, self.captioner.model) if one]
        names = [self._with_bits(one) for one in plain]
        if self.name == self.base_name:
            names += plain
        return name.strip().casefold() in [one.casefold() for one in names]

    def told_apart(self) -> ServedModel:
        """The same beside another of its name: what is quantised is called ``NAME@BITS`` alone."""
        whole = self.captioner.quantization == "none"
        return self if whole else replace(self, name=self._with_bits(self.base_name))

    def _with_bits(self, name: str) -> str:
        return f"{name}@{self.captioner.quantization}"


class ServedModels(Sequence[ServedModel]):
    """All of them; the first is meant where a request names none.

    Raises:
        ValueError: there is none, or two are called alike.
    """

    def __init__(self, models: Iterable[ServedModel]) -> None:
        given = tuple(models)
        if not given:
            raise ValueError("A server needs at least one model.")
        count = Counter(model.name.casefold() for model in given)
        self._models = tuple(
            model.told_apart() if count[model.name.casefold()] > 1 else model for model in given
        )
        for index, model in enumerate(self._models):
            if any(other.is_called(model.name) for other in self._models[:index]):
                raise ValueError(f"Two of the models are called {model.name}; name each once.")

    def find(self, name: str | None) -> ServedModel:
        """The model of this name, Hub id or alias, in any case, or that and ``@BITS``; the first for None.

        Raises:
            ModelNotServedError: there is none; the message lists those that there are.
        """
        if name is None:
            return self._models[0]
        for model in self._models:
            if model.is_called(name):
                return model
        alias, at, bits = name.partition("@")
        entry = find_entry(alias)  # perhaps; what is on the disk is not for clients to ask
        for model in self._models:
            if entry is not None and model.is_called(f"{entry.name}{at}{bits}"):
                return model
        served = ", ".join(model.name for model in self._models)
        raise ModelNotServedError(f"The model {name[:100]!r} is not served here; there is {served}.")

    @overload
    def __getitem__(self, index: int) -> ServedModel: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ServedModel]: ...

    def __getitem__(self, index: int | slice) -> ServedModel | Sequence[ServedModel]:
        return self._models[index]

    def __len__(self) -> int:
        return len(self._models)
