"""Everything that is ComfyUI's to decide: folders, devices, memory, progress, cancelling.

Models belong to the shared manager, and their place in memory to the host: each loaded model is wrapped in a
``ModelPatcher``, so that a large model may push it out of the GPU's memory and it may push out others.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import comfy.model_management as model_management
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from comfy.utils import ProgressBar
from comfy_execution.utils import get_executing_context

from .. import models_cache

if TYPE_CHECKING:
    from ..models_cache import DownloadProgress, LoadedModel, ModelManager

logger = logging.getLogger(__name__)

# Where node packs keep Florence-2 checkpoints, each in a folder of its own. Downloads go to the first.
_FOLDER_KEYS = ("LLM", "florence2")

# Where LoRA adapters may lie as well, beside those for other models.
_ADAPTER_FOLDER_KEY = "loras"

# Pictures for which the host is asked to make room; with what is then free, the engine chooses its batches.
_LARGEST_BATCH = 16

_CANCEL_SECONDS = 0.1  # between two looks at the cancel button

T = TypeVar("T")


# Folders ----------------------------------------------------------------------------------


def use_model_folders() -> None:
    """Let the engine look where this host keeps models; ``extra_model_paths.yaml`` has the first word."""
    for key in _FOLDER_KEYS:
        folder_paths.add_model_folder_path(key, os.path.join(folder_paths.models_dir, key))  # noqa: PTH118
        for path in folder_paths.get_folder_paths(key):
            models_cache.register_folder(path, download=key == _FOLDER_KEYS[0])
    for path in folder_paths.get_folder_paths(_ADAPTER_FOLDER_KEY):
        models_cache.register_adapter_folder(path)


def checkpoint_names(family: str | None = None) -> list[str]:
    """What the checkpoint menus offer: the default, the catalogue, and what lies in the model folders.

    Args:
        family: only such; None: those of all families.
    """
    use_model_folders()
    found = {name: _local_family(folder) for name, folder in models_cache.local_checkpoints().items()}
    local = {name: its for name, its in found.items() if its is not None}
    try:
        known = {  # what is told is not looked for on the disk: menus are made while ComfyUI starts
            name: entry.family or models_cache.family_of_model(name)
            for name, entry in models_cache.catalogue().items()
        }
    except models_cache.CatalogueError as error:
        known = {}  # the nodes must still appear; running one raises this error
        _tell_once(f"{error} The checkpoint menus lack the catalogue until it is mended.")
    families = {models_cache.DEFAULT_MODEL: "florence2", **local, **known}
    names = dict.fromkeys([models_cache.DEFAULT_MODEL, *known, *local])
    return [name for name in names if family in (None, families[name])]


def adapter_names() -> list[str]:
    """What the menus of LoRA adapters offer: what lies in the model folders, then the catalogue."""
    use_model_folders()
    try:
        known = list(models_cache.adapter_catalogue())
    except models_cache.CatalogueError as error:
        known = []
        _tell_once(f"{error} The LoRA menus lack the catalogue until it is mended.")
    return list(dict.fromkeys([*models_cache.local_adapters(), *known]))


@functools.cache
def _tell_once(message: str) -> None:
    logger.error("%s", message)


def _local_family(folder: Path) -> str | None:
    """The family in the folder, if we know it: ``models/LLM`` is full of other people's models."""
    try:
        changed = (folder / "config.json").stat().st_mtime_ns
    except OSError:
        return None
    return _family_at(folder, changed)


@functools.lru_cache(maxsize=1024)
def _family_at(folder: Path, changed: int) -> str | None:
    return models_cache.known_family(folder)


def prepare_checkpoint(checkpoint: str) -> None:
    """Have the checkpoint's files on this computer, downloading them with progress if need be.

    Raises:
        ModelFilesError: they are not to be had; the message says what to do.
        InterruptProcessingException: the user cancelled. What came is kept, the next try goes on from there.
    """
    _require_offered(checkpoint)
    if models_cache.find_checkpoint(checkpoint) is None:
        _download(models_cache.ensure_checkpoint, checkpoint)


def prepare_adapter(name: str) -> None:
    """The same for a LoRA adapter.

    Raises:
        ModelFilesError: its files are not to be had, or it is not among those that the menu offers.
        InterruptProcessingException: the user cancelled.
    """
    offered = adapter_names()
    hub_ids = [entry.hub_id for entry in models_cache.adapter_catalogue().values()]
    if name not in (*offered, *hub_ids):  # for the reason told below
        folders = ", ".join(folder_paths.get_folder_paths(_ADAPTER_FOLDER_KEY))
        catalogue = models_cache.user_catalogue_path()
        raise models_cache.ModelNotFoundError(
            f"There is no LoRA {name!r} here. Choose another in the menu, or put its folder, with "
            f"adapter_config.json in it, into one of {folders}. LoRAs of the Hub can be added to "
            f'{catalogue}, with "family": "lora". Known names: {", ".join(offered)}.',
            model=name,
        )
    if models_cache.find_adapter(name) is None:
        _download(models_cache.ensure_adapter, name)


def _download(ensure: Callable[..., Path], name: str) -> None:
    download = _Download(ensure, name)
    download.start()
    bar: ProgressBar | None = None
    try:
        while download.is_alive():
            download.join(_CANCEL_SECONDS)
            model_management.throw_exception_if_processing_interrupted()
            if (at := download.progress) is not None:
                bar = bar or ProgressBar(max(1, at.total))
                bar.update_absolute(at.done, max(1, at.total))
    finally:
        download.stopped.set()
    if download.error is not None:
        raise download.error


def _require_offered(checkpoint: str) -> None:
    """A workflow comes from anywhere: it may not have other folders looked at, nor strange files downloaded.

    Raises:
        ModelNotFoundError: neither in the catalogue nor in the model folders.
    """
    use_model_folders()
    if models_cache.find_entry(checkpoint) is not None:
        return  # without looking through the model folders, which is for menus
    offered = checkpoint_names()
    if checkpoint in offered:
        return
    folders = ", ".join(str(folder) for folder in models_cache.search_folders())
    raise models_cache.ModelNotFoundError(
        f"There is no model {checkpoint!r} here. Choose another in the menu, or put its folder into one of "
        f"{folders}. Models of the Hub that the menu lacks can be added to "
        f"{models_cache.user_catalogue_path()}. Known names: {', '.join(offered)}.",
        model=checkpoint,
    )


class _Download(threading.Thread):
    """Fetches a model's files. In a thread of its own: a network that stalls heeds no cancel button."""

    def __init__(self, ensure: Callable[..., Path], name: str) -> None:
        super().__init__(name="promptgen-download", daemon=True)
        self._ensure = ensure
        self._model = name
        self.progress: DownloadProgress | None = None
        self.error: BaseException | None = None
        self.stopped = threading.Event()

    def run(self) -> None:
        try:
            self._ensure(self._model, progress=self._note)
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            self.error = error

    def _note(self, progress: DownloadProgress) -> None:
        if self.stopped.is_set():
            raise InterruptedError("the download was cancelled")
        self.progress = progress


def input_folder() -> str:
    """Where the user's pictures are, unless they name another folder."""
    return str(folder_paths.get_input_directory())


def output_folder() -> str:
    """Where results go, unless they name another folder."""
    return str(folder_paths.get_output_directory())


# Devices ----------------------------------------------------------------------------------


def device_names() -> list[str]:
    """What the device menus offer."""
    names = ["auto", "cpu"]
    if torch.cuda.is_available():
        names += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def manager() -> ModelManager:
    """The process's shared manager, with its models under this host's memory management."""
    shared = models_cache.shared_manager()
    with _configuring:
        if not _placement.configured:
            # Models go when the host says so, in its own thread: its lists are not made for several.
            shared.configure(placement=_placement, idle_seconds=None)
            _placement.configured = True
    return shared


# Memory -----------------------------------------------------------------------------------


class _Weights(torch.nn.Module):
    """What the patcher holds; it sets attributes on it that a model may refuse."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network


class _Placed:
    """A loaded model under the host's management."""

    def __init__(self, model: LoadedModel, patcher: Any) -> None:
        self.model = model
        self.patcher = patcher  # the host knows it by a weak reference: this one keeps it alive
        self.users = 0
        self.uses = 0  # counts up

    @property
    def rests_elsewhere(self) -> bool:
        """Whether the host has another place for it while it is not in use."""
        return bool(self.patcher.offload_device != self.patcher.load_device)


class HostPlacement:
    """The host's say in where models live; a ``models_cache.Placement``."""

    def __init__(self) -> None:
        self.configured = False
        self._placed: dict[int, _Placed] = {}  # by id of the model

    def resolve(self, device: str, dtype: str, family: str = "florence2") -> tuple[str, str]:
        """``auto`` is the host's device; on a GPU fp16, as they were published, if the host allows it. What
        other families take there is theirs to say."""
        if device != "auto":
            device, _ = models_cache.DirectPlacement().resolve(device, "fp32")
        else:
            device = str(model_management.get_torch_device())
        on_cpu = torch.device(device).type == "cpu"
        if dtype == "int8" and not on_cpu:
            raise ValueError(f"int8 is for the CPU, and this model runs on {device}. Choose auto precision.")
        if dtype != "auto" or on_cpu or family != "florence2":
            return device, models_cache.DirectPlacement().resolve("cpu", dtype, family)[1]
        half = model_management.should_use_fp16(torch.device(device))
        return device, "fp16" if half else "fp32"

    def load_device(self, device: str, quantization: str, nbytes: int) -> str:
        """Weights are read to main memory; the host makes room before they are moved.

        Those that are quantised go straight to the GPU, which does that many times faster: the host makes
        room for them before.
        """
        if quantization == "none" or torch.device(device).type == "cpu":
            return "cpu"
        with torch.inference_mode(False):
            needed = nbytes + model_management.minimum_inference_memory()
            model_management.free_memory(needed, torch.device(device))
        return device

    def entering(self, model: LoadedModel, device: str) -> None:
        """Have the host make room and move the weights to ``device``."""
        placed = self._placed.get(id(model))
        if placed is None:
            placed = self._placed[id(model)] = self._place(model, torch.device(device))
        placed.users += 1  # before the host acts: what is in use is not let go
        placed.uses += 1
        try:
            # Moving parameters in inference mode, which nodes run in, would tear tied ones apart.
            with torch.inference_mode(False):
                model_management.load_models_gpu(
                    [placed.patcher],
                    memory_required=_activation_bytes(model) + model.adapters_nbytes,
                    force_full_load=True,
                )
            # What the host did not move (with --novram it moves nothing that it cannot page layer by layer),
            # and what it tore apart when it took single layers away.
            model.to(device)
        except BaseException:
            placed.users -= 1
            raise

    def leaving(self, model: LoadedModel, device: str) -> None:
        """Put back what the host did not move itself and would not know to be on the GPU."""
        placed = self._placed.get(id(model))
        if placed is None:
            return
        placed.users -= 1
        if placed.rests_elsewhere and placed.patcher.loaded_size() < placed.patcher.model_size() // 2:
            model.to(placed.patcher.offload_device)

    def unloading(self, model: LoadedModel) -> None:
        """Let the host forget it: its references are weak."""
        self._placed.pop(id(model), None)

    def _place(self, model: LoadedModel, device: torch.device) -> _Placed:
        offload = torch.device("cpu")
        if device.type != "cpu" and model_management.unet_offload_device().type != "cpu":
            offload = device  # --highvram: nothing ever leaves the GPU
        patcher = ModelPatcher(
            _Weights(model.network), load_device=device, offload_device=offload, size=model.nbytes
        )
        placed = _Placed(model, patcher)
        patcher.add_callback(
            CallbacksMP.ON_DETACH, lambda _, unpatch_all: self._detached(placed) if unpatch_all else None
        )
        return placed

    def _detached(self, placed: _Placed) -> None:
        """The host has taken the weights off the device.

        Another model needs the room: they wait in main memory for their next use. Nobody runs, so the host
        was told to unload its models; or they have no other place: they are let go.
        """
        placed.model.to(placed.patcher.offload_device)
        told_to_unload = get_executing_context() is None
        if not placed.users and (told_to_unload or not placed.rests_elsewhere):
            release = threading.Thread(
                target=self._release, args=(placed, placed.uses), name="promptgen-release", daemon=True
            )
            release.start()

    def _release(self, placed: _Placed, uses: int) -> None:
        """Drop a model that nobody has used since, once the host has struck it from its list.

        Not before: a model's end makes the host tidy up that list, in which it is just now counting.
        """
        while any(loaded.model is placed.patcher for loaded in [*model_management.current_loaded_models]):
            if placed.uses != uses:
                return
            time.sleep(0.02)
        if placed.uses == uses:
            models_cache.shared_manager().release(placed.model)


_placement = HostPlacement()
_configuring = threading.Lock()
_pictures: ContextVar[int] = ContextVar("promptgen_pictures", default=1)


def _activation_bytes(model: LoadedModel) -> int:
    batch = min(_pictures.get(), _LARGEST_BATCH)
    return max(model.encoding_bytes(batch), model.generating_bytes(batch))


# Progress ---------------------------------------------------------------------------------


def heed_cancel() -> None:
    """
    Raises:
        InterruptProcessingException: the user cancelled.
    """
    model_management.throw_exception_if_processing_interrupted()


def wait_for(pending: Future[T]) -> T:
    """What is worked on elsewhere, once it is there.

    Raises:
        InterruptProcessingException: the user cancelled; ``pending`` is cancelled, too.
    """
    try:
        while not wait([pending], _CANCEL_SECONDS).done:
            heed_cancel()
    except BaseException:
        pending.cancel()
        raise
    return pending.result()


_MESSAGE_SECONDS = 0.1  # between two messages about one bar to the browser, at least


class StepProgress:
    """The host's progress bar for work in equal steps; each also heeds its cancel button."""

    def __init__(self, steps: int) -> None:
        self._bar = ProgressBar(max(1, steps))
        self._steps = steps
        self._done = 0
        self._due = 0.0

    def step(self) -> None:
        """Another one is done.

        Raises:
            InterruptProcessingException: the user cancelled.
        """
        heed_cancel()
        self._done += 1
        if self._done == self._steps or time.monotonic() >= self._due:
            self.show()

    def show(self) -> None:
        """Let the browser know now; for before a step that may take long."""
        self._due = time.monotonic() + _MESSAGE_SECONDS
        self._bar.update_absolute(self._done)


class CaptionProgress:
    """The host's progress bar for a run over ``pictures``; each step also heeds its cancel button.

    How long an answer gets is not known beforehand, so within a picture the bar slows down with each token.
    """

    _PER_PICTURE = 1000
    _EVERY = 4  # tokens between two messages to the browser

    def __init__(self, pictures: int) -> None:
        self._bar = ProgressBar(pictures * self._PER_PICTURE)
        self._done = 0
        self._shown = 0

    def on_step(self, tokens: int) -> None:
        """A token is about to be decoded, or with 0 the vision tower works.

        Raises:
            InterruptProcessingException: the user cancelled.
        """
        model_management.throw_exception_if_processing_interrupted()
        if tokens % self._EVERY == 0 and tokens:
            self._show(self._done * self._PER_PICTURE + self._PER_PICTURE * tokens // (tokens + 60))

    def picture_done(self) -> None:
        """A picture's answers are there."""
        self._done += 1
        self._show(self._done * self._PER_PICTURE)

    def _show(self, value: int) -> None:
        if value > self._shown:
            self._shown = value
            self._bar.update_absolute(value)


@contextmanager
def caption_progress(pictures: int) -> Iterator[CaptionProgress]:
    """Progress of a run, and room in memory for a run of that size."""
    token = _pictures.set(pictures)
    try:
        yield CaptionProgress(pictures)
    finally:
        _pictures.reset(token)


class FolderProgress:
    """The host's progress bar for a run over a folder, which comes to a good end when the user cancels.

    The first cancel sets ``stop``: what is in flight is finished and written. A second one ends the run where
    it is.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._cancelled: Exception | None = None
        self._bar = ProgressBar(1)
        self._due = 0.0

    def show(self, done: int, total: int | None) -> None:
        """So many pictures of all are dealt with; to be called often.

        Args:
            total: None while it is not known.

        Raises:
            InterruptProcessingException: the user cancelled twice.
        """
        try:
            heed_cancel()
            if total and (done == total or time.monotonic() >= self._due):
                self._due = time.monotonic() + _MESSAGE_SECONDS
                self._bar.update_absolute(done, total)
        except model_management.InterruptProcessingException as cancelled:
            if self._cancelled is not None:
                raise
            self._cancelled = cancelled
            self.stop.set()

    def raise_if_cancelled(self) -> None:
        """
        Raises:
            InterruptProcessingException: the user did.
        """
        if self._cancelled is not None:
            raise self._cancelled


@contextmanager
def folder_progress() -> Iterator[FolderProgress]:
    """Progress of a run over a folder, and room in memory for its batches."""
    token = _pictures.set(_LARGEST_BATCH)
    try:
        yield FolderProgress()
    finally:
        _pictures.reset(token)
