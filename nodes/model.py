"""The loader, and what travels on its wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..models_cache import find_entry
from . import host
from .inputs import CATEGORY, PromptGenModel, checkpoint_input, quantization_input, require_texts
from .lora import lora_input, loras_of

PRECISIONS = ["auto", "fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True)
class ModelChoice:
    """Which model, and how. The weights are the shared manager's, so that wires hold nothing in memory."""

    checkpoint: str
    precision: str = "auto"
    device: str = "auto"
    loras: tuple[tuple[str, float], ...] = ()  # names and strengths
    quantization: str = "none"


def prepare(choice: ModelChoice) -> None:
    """Have the checkpoint's files on this computer, once it is known that it can be used so.

    Raises:
        ValueError: the precision, the device or the quantization is not to be had, or not with this model; or
            it takes no LoRA.
        ModelFilesError: the files are not to be had.
        InterruptProcessingException: the user cancelled the download.
    """
    if find_entry(choice.checkpoint) is not None:  # nothing else is downloaded, nor may be looked for
        host.manager().check(
            choice.checkpoint, device=choice.device, dtype=choice.precision, adapters=choice.loras,
            quantization=choice.quantization,
        )  # fmt: skip
    host.prepare_checkpoint(choice.checkpoint)


class PromptGenModelLoader(io.ComfyNode):
    """Choose a model in one place for several nodes, with its precision and its device."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PromptGenModelLoader",
            display_name="PromptGen Model",
            category=CATEGORY,
            description="Loads a Florence-2 PromptGen model, or a PaliGemma, with a chosen precision and "
            "device, for one or many PromptGen nodes. However many loaders name a model, it is held in "
            "memory once.",
            inputs=[
                checkpoint_input(family=None),
                io.Combo.Input(
                    "precision",
                    options=PRECISIONS,
                    optional=True,
                    default="auto",
                    tooltip="auto: fp16 on a GPU, as the models were published; on the CPU bf16 where it has "
                    "that in hardware, else fp32. PaliGemma: bf16. int8: fast on the CPU, nearly the same "
                    "text, for Florence-2 alone.",
                ),
                io.Combo.Input(
                    "device",
                    options=host.device_names(),
                    optional=True,
                    default="auto",
                    tooltip="auto: the device that ComfyUI uses. cpu keeps the GPU free for other models.",
                ),
                lora_input(
                    "lora",
                    "A PromptGen LoRA, or a chain of them, to add to the model. The model itself is loaded "
                    "once all the same, and stays as it is for nodes that use it without.",
                ),
                quantization_input(),
            ],
            outputs=[
                PromptGenModel.Output(
                    "model", display_name="model", tooltip="Connect it to the model input of PromptGen nodes."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: Any = None, device: Any = None) -> bool:
        """Named here, they are not compared with the menu: a workflow from elsewhere fails when it is run,
        with the remedy, and not before."""
        return True

    @classmethod
    def execute(
        cls,
        checkpoint: str,
        precision: str = "auto",
        device: str = "auto",
        lora: Any = None,
        quantization: str = "none",
    ) -> Any:
        require_texts(checkpoint=checkpoint)
        choice = ModelChoice(checkpoint, precision, device, loras_of(lora), quantization)
        prepare(choice)
        with host.manager().acquire(
            checkpoint, device=device, dtype=precision, adapters=choice.loras, quantization=quantization
        ):
            pass  # what is wrong with it is said here, where it was chosen
        return io.NodeOutput(choice)
