"""The checkpoints of a server, by the names that clients may call them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from ..captioning import default_instruction
from ..captioning.instructions import instructions_of
from ..models_cache import entry_of, family_of_model, find_entry
from .errors import ModelNotServedError

if TYPE_CHECKING:
    from ..captioning import Captioner


@dataclass(frozen=True)
class ServedModel:
    """One checkpoint that requests may name."""

    name: str  # of the catalogue, or of the folder, or the Hub id
    hub_id: str | None
    captioner: Captioner
    family: str
    instructions: tuple[str, ...]  # that it was trained on, canonical names; all of its family if not known
    default_instruction: str  # what requests are answered that name none

    @classmethod
    def of(cls, captioner: Captioner) -> ServedModel:
        """The model of ``captioner``, whose files must be there or have an entry in the catalogue."""
        entry = entry_of(captioner.model)
        family = family_of_model(captioner.model)
        known = () if entry is None else tuple(entry.instructions)
        if entry is None:
            folder = Path(captioner.model)  # where it lies is not for clients to know
            name, hub_id = folder.resolve().name if folder.is_dir() else captioner.model, None
        else:
            name, hub_id = entry.name, entry.hub_id
        return cls(
            name,
            hub_id,
            captioner,
            family,
            known or instructions_of(family),
            default_instruction(captioner.model),
        )

    def is_called(self, name: str) -> bool:
        """Whether clients may mean it by ``name``, in any case."""
        names = [self.name, self.hub_id or "", self.captioner.model]
        return name.strip().casefold() in [known.casefold() for known in names if known]


class ServedModels(Sequence[ServedModel]):
    """All of them; the first is meant where a request names none.

    Raises:
        ValueError: there is none, or two are called alike.
    """

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models = tuple(models)
        if not self._models:
            raise ValueError("A server needs at least one model.")
        for index, model in enumerate(self._models):
            if any(other.is_called(model.name) for other in self._models[:index]):
                raise ValueError(f"Two of the models are called {model.name}; name each once.")

    def find(self, name: str | None) -> ServedModel:
        """The model of this name, Hub id or alias, in any case; the first for ``None``.

        Raises:
            ModelNotServedError: there is none; the message lists those that there are.
        """
        if name is None:
            return self._models[0]
        for model in self._models:
            if model.is_called(name):
                return model
        entry = find_entry(name)  # an alias, perhaps; what is on the disk is not for clients to ask
        for model in self._models:
            if entry is not None and model.is_called(entry.name):
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
