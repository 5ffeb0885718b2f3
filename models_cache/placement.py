"""The seam at which a host decides where models live.

On its own the package puts a model on the device it was asked for and leaves it there until it is unloaded.
A host with a memory manager of its own (ComfyUI) gives the manager a :class:`Placement`: weights are then
read to the device that the host names, and before each use the host may make room for them and move them.
"""

from __future__ import annotations

from typing import Protocol

from .families import LoadedModel


class Placement(Protocol):
    """What a host decides. The manager calls these from the threads that use models, one at a time."""

    def resolve(self, device: str, dtype: str, family: str = "florence2") -> tuple[str, str]:
        """What ``auto`` means here.

        Args:
            device: ``auto`` or a device's name.
            dtype: ``auto``, ``fp32``, ``fp16``, ``bf16`` or ``int8``.
            family: of the model that is to be loaded.

        Returns:
            The device that the model computes on and its dtype, neither of them ``auto``.

        Raises:
            ValueError: a name that is not known, a device that this computer lacks, or a dtype that does not
                go with device or family.
        """
        ...

    def load_device(self, device: str, quantization: str, nbytes: int) -> str:
        """Where to read the weights of a model that computes on ``device``: ``device`` itself, or ``cpu``.

        Called just before they are read.

        Args:
            quantization: ``none``, ``8`` or ``4``; quantising is faster on a GPU.
            nbytes: about how many bytes the weights take.
        """
        ...

    def entering(self, model: LoadedModel, device: str) -> None:
        """Called before each use: on return the model must be on ``device``.

        What it raises ends the use; the model stays loaded.
        """
        ...

    def leaving(self, model: LoadedModel, device: str) -> None:
        """Called after each use, also after one that failed."""
        ...

    def unloading(self, model: LoadedModel) -> None:
        """Called once before the manager lets go of the model: drop every reference to it."""
        ...


class DirectPlacement:
    """No host: ``auto`` is the best device there is, and a model stays where it was loaded."""

    def resolve(self, device: str, dtype: str, family: str = "florence2") -> tuple[str, str]:
        """See :meth:`Placement.resolve`."""
        from ..inference import resolve_device, resolve_dtype

        device = resolve_device(device)
        if device.startswith("cuda"):  # "cuda" and "cuda:0" are one device, and a model on it is one model
            import torch

            device = f"cuda:{int(device[5:]) if device[5:] else torch.cuda.current_device()}"
        return device, resolve_dtype(dtype, device, family)

    def load_device(self, device: str, quantization: str, nbytes: int) -> str:
        """See :meth:`Placement.load_device`."""
        return device

    def entering(self, model: LoadedModel, device: str) -> None:
        """See :meth:`Placement.entering`."""

    def leaving(self, model: LoadedModel, device: str) -> None:
        """See :meth:`Placement.leaving`."""

    def unloading(self, model: LoadedModel) -> None:
        """See :meth:`Placement.unloading`."""
