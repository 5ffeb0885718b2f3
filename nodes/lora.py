"""LoRA adapters for a model, one after the other, and what travels on their wires."""

from __future__ import annotations

import math
from typing import Any

from comfy_api.latest import io

from . import host
from .inputs import CATEGORY, require_texts

PromptGenLoras = io.Custom("PROMPTGEN_LORA")

Loras = tuple[tuple[str, float], ...]
"""Names and strengths."""


def lora_input(name: str, tooltip: str) -> Any:
    """What the node below gives."""
    return PromptGenLoras.Input(name, optional=True, tooltip=tooltip)


def loras_of(value: Any) -> Loras:
    """What came over such a wire; None if nothing is connected.

    Raises:
        ValueError: something else came.
    """
    if value is None:
        return ()
    if isinstance(value, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        return value
    raise ValueError("The LoRA input takes what the PromptGen LoRA node gives.")


class PromptGenLora(io.ComfyNode):
    """Choose a LoRA and its strength; several in a chain add up."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenLora",
            display_name="PromptGen LoRA",
            category=CATEGORY,
            description="A LoRA for Florence-2, in the form that PEFT saves: a folder with "
            "adapter_config.json. Connect it to a PromptGen Model, or to another PromptGen LoRA to use "
            "several together.",
            inputs=[
                io.Combo.Input(
                    "lora",
                    options=host.adapter_names(),
                    tooltip="Folders in models/loras, models/LLM and models/florence2 that hold a LoRA in "
                    "PEFT form, and known ones of the Hub, which are downloaded at first use, to models/LLM.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="1 is as it was trained, 0 is without it.",
                ),
                lora_input("previous", "Another PromptGen LoRA, to use both."),
            ],
            outputs=[
                PromptGenLoras.Output(
                    "loras",
                    display_name="LoRA",
                    tooltip="Connect it to the lora input of a PromptGen Model, or to the previous input of "
                    "another PromptGen LoRA.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, lora: Any = None) -> bool:
        """Named here, it is not compared with the menu: a workflow from elsewhere fails when it is run, with
        the remedy, and not before."""
        return True

    @classmethod
    def execute(cls, lora: str, strength: float = 1.0, previous: Any = None) -> Any:
        require_texts(lora=lora)
        if not math.isfinite(strength):
            raise ValueError(f"The strength is {strength}; it takes a number.")
        host.prepare_adapter(lora)
        return io.NodeOutput((*loras_of(previous), (lora, float(strength))))
