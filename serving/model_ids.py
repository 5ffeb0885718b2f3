"""What OpenAI's clients call a model: its name, alone or with an instruction, ``NAME:CAPTION``."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..captioning.instructions import INSTRUCTIONS, Instruction, InstructionError, find_instruction
from .errors import ModelNotServedError

if TYPE_CHECKING:
    from .models import ServedModel, ServedModels

__all__ = ["ModelId", "find_model_id", "list_model_ids"]


@dataclass(frozen=True)
class ModelId:
    """A model, and an instruction if its name had one."""

    model: ServedModel
    instruction: Instruction | None = None

    def __str__(self) -> str:
        return f"{self.model.name}:{self.instruction.name}" if self.instruction else self.model.name


def find_model_id(models: ServedModels, given: str | None) -> ModelId:
    """What ``given`` names, in any case; the first model for None.

    Raises:
        ModelNotServedError: there is no such model, or no such instruction.
    """
    try:
        return ModelId(models.find(given))
    except ModelNotServedError:
        name, colon, suffix = (given or "").rpartition(":")
        if not colon:
            raise
    model = models.find(name)
    try:
        return ModelId(model, find_instruction(suffix[:100]))
    except InstructionError as error:
        raise ModelNotServedError(f"{reprlib.repr(given)} names no model: {error}") from error


def list_model_ids(models: ServedModels) -> list[ModelId]:
    """Each model alone, then with each instruction that it knows and that needs no text."""
    found = []
    for model in models:
        known = [INSTRUCTIONS[name] for name in model.instructions]
        found += [ModelId(model), *(ModelId(model, one) for one in known if not one.needs_input)]
    return found
