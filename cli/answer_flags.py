"""The options of every captioning command whose model runs here: the question, and where it is answered."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..captioning.captioner import DEFAULT_MODEL
from .choices import Dtype, Quantization
from .completion import complete_model
from .question_flags import QuestionFlags
from .reporting import UsageError

if TYPE_CHECKING:
    from ..captioning import Captioner

DEVICE = "Model and device"

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|HUB_ID|FOLDER",
        help="Checkpoint by catalogue name (see 'promptgen models list'), Hub id or folder. "
        "'demo' is built in and knows drawn shapes only.",
        autocompletion=complete_model,
        rich_help_panel=DEVICE,
    ),
]


@dataclass(frozen=True, kw_only=True)
class _OneModel:
    model: Model = DEFAULT_MODEL


@dataclass(frozen=True, kw_only=True)
class _LoraFlags:
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADAPTER[:STRENGTH]",
            help="LoRA adapter in PEFT form, by name, Hub id or folder, to add to the checkpoint; 1 strong "
            "unless said otherwise. May be given again; adapters add up.",
            rich_help_panel=DEVICE,
            show_default=False,
        ),
    ] = None

    def loras(self) -> list[tuple[str, float]]:
        """The adapters of ``--lora``, each with its strength.

        Raises:
            UsageError: a strength is no number.
        """
        return [strength_of(given) for given in self.lora or ()]


@dataclass(frozen=True, kw_only=True)
class PlaceFlags:
    """What was given for the options about where checkpoints run."""

    device: Annotated[
        str,
        typer.Option(
            metavar="DEVICE", help="Where to run: auto, cpu, cuda, cuda:N or mps.", rich_help_panel=DEVICE
        ),
    ] = "auto"
    dtype: Annotated[
        Dtype,
        typer.Option(
            metavar="TYPE",  # the list would take the room of the default model's name
            help="Number format: auto, fp32, fp16, bf16 or int8; auto is fp16 on a GPU, bf16 on a CPU that "
            "has it, else fp32; of a PaliGemma always bf16.",
            rich_help_panel=DEVICE,
        ),
    ] = Dtype.AUTO
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="On a CPU: weights of 8 bits. Nearly the same answers, see the README for how nearly.",
            rich_help_panel=DEVICE,
        ),
    ] = False
    quantization: Annotated[
        Quantization,
        typer.Option(
            metavar="BITS",
            help="none, 8 or 4: bits of the language model's weights. Less memory, nearly the same answers; "
            "4 needs bitsandbytes.",
            rich_help_panel=DEVICE,
        ),
    ] = Quantization.NONE
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="The most answers to compute at a time. Default: as many as the device's memory takes, up "
            "to 8 on a CPU and 64 on a GPU. In fp32 it changes no answer.",
            rich_help_panel=DEVICE,
        ),
    ] = None
    offline: Annotated[
        bool, typer.Option("--offline", help="Never touch the network.", rich_help_panel=DEVICE)
    ] = False

    def precision(self) -> str:
        """The number format that ``--dtype`` and ``--fast`` ask for together; may be ``auto``.

        Raises:
            UsageError: they ask for two.
        """
        if self.fast and self.dtype not in (Dtype.AUTO, Dtype.INT8):
            raise UsageError(
                f"--fast is --dtype int8, and --dtype {self.dtype.value} is another. Give one of them."
            )
        return Dtype.INT8.value if self.fast else self.dtype.value


@dataclass(frozen=True, kw_only=True)
class DeviceFlags(PlaceFlags, _LoraFlags):
    """What was given for the options about where checkpoints run, and what is added to them."""


@dataclass(frozen=True, kw_only=True)
class AnswerFlags(QuestionFlags, DeviceFlags, _OneModel):
    """What was given for the options that captioning commands share."""

    def captioner(self, *, fetch: bool = True) -> Captioner:
        """A captioner whose checkpoint is there, downloaded first if need be.

        Args:
            fetch: False where none will be loaded.

        Raises:
            UsageError: the device, the number format or the quantization is not to be had, or the checkpoint
                takes no adapters.
            ModelFilesError: the checkpoint is not to be had.
        """
        from ..captioning import Captioner

        device, dtype = self.place()  # before a download, which a mistyped device should not start
        if fetch:
            self.fetch()
            device, dtype = self.place()  # its family is known now
        return Captioner(
            self.model, device=device, dtype=dtype, batch_size=self.batch_size, loras=self.loras(),
            quantization=self.quantization.value,
        )  # fmt: skip

    def place(self) -> tuple[str, str]:
        """The device and the number format for the checkpoint; ``auto`` while its family is not known.

        Raises:
            UsageError: one is not to be had, or not with the quantization, or the checkpoint takes no
                adapters.
            ModelFilesError: the name of the checkpoint stands for nothing.
        """
        from ..inference import check_quantization, resolve_device, resolve_dtype
        from ..models_cache import told_family

        try:
            device = resolve_device(self.device)
            dtype = self.precision()
            check_quantization(self.quantization.value, device, dtype)
            family = told_family(self.model)
            dtype = dtype if family is None else resolve_dtype(dtype, device, family)
        except ValueError as error:
            raise UsageError(str(error)) from error
        self._check_loras()
        return device, dtype

    def fetch(self) -> None:
        """See that the checkpoint and the adapters are there, downloading them if need be.

        Raises:
            UsageError: the checkpoint takes no adapters.
            ModelFilesError: one cannot be had.
        """
        from ..models_cache import ensure_adapter, ensure_checkpoint

        self._check_loras()
        ensure_checkpoint(self.model, offline=self.offline, progress=self.watched)
        self._check_loras()  # its family is known now
        for name, _ in self.loras():
            ensure_adapter(name, offline=self.offline, progress=self.watched)

    def _check_loras(self) -> None:
        if not self.lora:
            return
        from ..models_cache import shared_manager

        try:
            shared_manager().check(self.model, adapters=self.loras())
        except ValueError as error:
            raise UsageError(str(error)) from error


def strength_of(given: str) -> tuple[str, float]:
    """``NAME:STRENGTH`` taken apart. A folder may have colons in its name, and on Windows a drive."""
    name, colon, strength = given.rpartition(":")
    if not colon or not name or Path(given).is_dir():
        return given, 1.0
    try:
        number = float(strength)
    except ValueError:
        return given, 1.0
    if not math.isfinite(number):
        raise UsageError(f"--lora {given}: the strength is no number. Write {name}:0.8, for example.")
    return name, number
