"""Models in memory: loaded once, shared by everyone who asks, let go when they are idle or in the way."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import EllipsisType
from typing import TypeVar

from ..inference import AdapterError, check_quantization
from .adapters import adapter_fingerprint, ensure_adapter
from .families import LoadedModel, Loader, known_family, load_family
from .files import ensure_checkpoint
from .folders import resolve
from .memory import estimate_bytes, fingerprint, return_memory
from .model_family import DEFAULT_FAMILY, told_family
from .placement import DirectPlacement, Placement
from .records import snapshot_hub_id

logger = logging.getLogger(__name__)

Adapters = Sequence[tuple[str, float]]
"""LoRA adapters by name (a folder, a Hub id, or a name in a folder of models), each with its strength."""

__all__ = ["LoadedInfo", "LoadedModel", "ModelManager", "shared_manager"]


@dataclass(frozen=True)
class LoadedInfo:
    """One loaded model: ``nbytes`` of weights, ``in_use`` by so many, unused for ``idle_seconds``.

    A checkpoint with ``adapters`` (folders and strengths) is a model beside the one without, whose ``nbytes``
    are those that the two do not have in common.
    """

    name: str
    device: str
    dtype: str
    nbytes: int
    in_use: int
    idle_seconds: float
    folder: Path
    adapters: tuple[tuple[Path, float], ...] = ()
    quantization: str = "none"


@dataclass(frozen=True)
class _Adapter:
    folder: Path
    fingerprint: str
    strength: float


@dataclass(frozen=True)
class _Key:
    folder: Path
    fingerprint: str
    device: str
    dtype: str
    quantization: str = "none"
    adapters: tuple[_Adapter, ...] = ()

    @property
    def precision(self) -> str:
        """For the log."""
        return self.dtype if self.quantization == "none" else f"{self.dtype}, {self.quantization} bits"

    @property
    def parts(self) -> tuple[_Key | _Adapter, ...]:
        """All that has a folder with files."""
        return (self, *self.adapters)


@dataclass(eq=False)
class _Slot:
    """A model that is loaded or being loaded. All fields are guarded by the manager's lock."""

    key: _Key
    name: str
    nbytes: int  # an estimate until it is loaded
    base: _Slot | None = None  # of a model with adapters: the one without
    variants: int = 0  # models with adapters, loaded or being loaded, that have this one as their base
    users: int = 0
    last_used: int = 0  # a running number, larger is later
    idle_since: float = 0.0
    unwanted: bool = False  # to be unloaded as soon as nobody uses it
    model: LoadedModel | None = None
    error: BaseException | None = None
    ready: threading.Event = field(default_factory=threading.Event)

    @property
    def title(self) -> str:
        """For the log."""
        return " + ".join([self.name, *(adapter.folder.name for adapter in self.key.adapters)])

    def held(self) -> LoadedModel:
        """The model of a slot that is loaded."""
        if self.model is None:
            raise RuntimeError(f"{self.name} is used though it is not loaded.")
        return self.model

    @property
    def is_free(self) -> bool:
        """Whether it can be let go."""
        return not self.users and not self.variants

    def is_called(self, names: set[str]) -> bool:
        """Whether it has one of these names, which are casefolded, or lies in a folder of that path."""
        return self.name.casefold() in names or str(self.key.folder).casefold() in names

    def info(self, now: float) -> LoadedInfo:
        return LoadedInfo(
            self.name,
            self.key.device,
            self.key.dtype,
            self.nbytes,
            self.users,
            0.0 if self.users else now - self.idle_since,
            self.key.folder,
            tuple((adapter.folder, adapter.strength) for adapter in self.key.adapters),
            self.key.quantization,
        )


class ModelManager:
    """Loads each (checkpoint, device, dtype, quantization) once and shares it. Any number of threads may use
    it.

    Args:
        budget_bytes: keep at most so many bytes of weights, of all devices together, by unloading what was
            not used for longest. A model in use is never unloaded, so the budget may be exceeded while models
            are in use; a model larger than the budget is unloaded after every use. None: no bound.
        idle_seconds: unload a model that nobody has used for so long. None: never.
        placement: a host's say in where models live.
        loader: reads a folder to a device in a dtype and so many bits; the family in ``config.json`` decides
            if not given.
        find: from a model's name to its folder; :func:`ensure_checkpoint` if not given.
        find_adapter: the same of adapters; :func:`ensure_adapter` if not given.
    """

    def __init__(
        self,
        budget_bytes: int | None = None,
        idle_seconds: float | None = 300.0,
        placement: Placement | None = None,
        *,
        loader: Loader | None = None,
        find: Callable[[str], Path] | None = None,
        find_adapter: Callable[[str], Path] | None = None,
    ) -> None:
        self._budget_bytes = _checked("budget_bytes", budget_bytes)
        self._idle_seconds = _checked("idle_seconds", idle_seconds)
        self._placement: Placement = placement if placement is not None else DirectPlacement()
        self._loader = loader if loader is not None else load_family
        self._find = find if find is not None else ensure_checkpoint
        self._find_adapter = find_adapter if find_adapter is not None else ensure_adapter
        self._slots: dict[_Key, _Slot] = {}
        self._condition = threading.Condition(threading.RLock())
        self._placing = threading.RLock()
        self._ticks = itertools.count(1)
        self._timer: threading.Thread | None = None
        self._closed = False

    def check(
        self,
        model: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        adapters: Adapters = (),
        quantization: str = "none",
    ) -> None:
        """See that a model can be had so, as far as that is known without its files. Nothing is fetched.

        The arguments are those of :meth:`acquire`, which does this first; for callers that fetch the files
        themselves.

        Raises:
            ModelNotFoundError: the name stands for nothing.
            ValueError: an unknown device, dtype or quantization, such that do not go together or with the
                model's family, or adapters for a family that takes none.
        """
        family = told_family(model) or DEFAULT_FAMILY
        resolved = self._placement.resolve(device, dtype, family)
        check_quantization(quantization, *resolved)
        _check_adapters(family, any(strength for _, strength in adapters))

    @contextmanager
    def acquire(
        self,
        model: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        adapters: Adapters = (),
        quantization: str = "none",
    ) -> Iterator[LoadedModel]:
        """Hold ``model`` in memory for the length of a ``with`` block; yields the family's model object.

        The first to ask loads it (and downloads it, if need be), others that ask meanwhile wait for the same
        load. Keep no reference to the model beyond the block.

        A model with adapters is made from the one without, which is loaded only if it is not there, and stays
        as it is. Different adapters may be in use at the same time.

        Args:
            model: catalogue name, Hub id or folder.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            dtype: ``auto``, ``fp32``, ``fp16``, ``bf16`` or ``int8``.
            adapters: LoRA adapters; their order does not matter.
            quantization: ``none``, or the bits of the language model's weights: ``8`` or ``4``.

        Raises:
            ModelFilesError: the files are not to be had.
            ValueError: an unknown device, dtype, quantization or family, such that do not go together, a
                checkpoint that does not fit its config, an adapter that does not fit the checkpoint, or a
                strength that is no number.
            RuntimeError: the manager is closed.
        """
        self._refuse_if_closed()
        self.check(model, device=device, dtype=dtype, adapters=adapters, quantization=quantization)
        wanted = self._wanted(adapters)
        with self._base(model, device, dtype, quantization, with_adapters=bool(wanted)) as base:
            if not wanted:
                yield base.held()
                return
            variant = self._enter_variant(base, wanted)
            try:
                yield variant.held()
            finally:
                self._leave(variant, entered=False)

    @contextmanager
    def _base(
        self, model: str, device: str, dtype: str, quantization: str, *, with_adapters: bool
    ) -> Iterator[_Slot]:
        """The slot of a model without adapters, in use and in its place. A host knows only these.

        Args:
            with_adapters: some are to be added to it.
        """
        slot = self._enter(model, device, dtype, quantization, with_adapters=with_adapters)
        entered = False
        try:
            with self._placing:
                self._placement.entering(slot.held(), slot.key.device)
            entered = True
            yield slot
        finally:
            self._leave(slot, entered)

    def unload(self, model: str | None = None) -> int:
        """Let go of a model in all its devices and dtypes, or of every model.

        What is in use is let go as soon as it is free. A model that is not loaded is no error.

        Returns:
            The number of bytes of weights let go at once.

        Raises:
            ModelNotFoundError: the name stands for nothing.
        """
        names = None if model is None else _names(model)
        with self._condition:
            slots = [slot for slot in self._slots.values() if names is None or slot.is_called(names)]
            free = self._dismiss(slots)
        return self._let_go(free)

    def release(self, model: LoadedModel) -> int:
        """Let go of exactly this loaded model, and not of the same checkpoint on another device or in another
        dtype; as :meth:`unload` otherwise. Its folder may be gone. What adds adapters to it goes with it.

        Returns:
            The number of bytes of weights let go at once.
        """
        with self._condition:
            slots = [
                slot
                for slot in self._slots.values()
                if slot.model is model or (slot.base is not None and slot.base.model is model)
            ]
            free = self._dismiss(slots)
        return self._let_go(free)

    def loaded(self) -> list[LoadedInfo]:
        """What is in memory, most lately used first. Models that are just being loaded are left out."""
        now = time.monotonic()
        with self._condition:
            slots = [slot for slot in self._slots.values() if slot.model is not None]
            slots.sort(key=lambda slot: slot.last_used, reverse=True)
            return [slot.info(now) for slot in slots]

    def configure(
        self,
        *,
        budget_bytes: int | EllipsisType | None = ...,
        idle_seconds: float | EllipsisType | None = ...,
        placement: Placement | EllipsisType = ...,
    ) -> None:
        """Change settings of a manager that is at work; what is not given stays as it is.

        Raises:
            ValueError: a negative number.
            RuntimeError: another placement while models are loaded; unload them first.
        """
        with self._condition:
            if not isinstance(placement, EllipsisType):
                if self._slots:
                    raise RuntimeError("The placement can only be changed while no model is loaded.")
                self._placement = placement
            if not isinstance(budget_bytes, EllipsisType):
                self._budget_bytes = _checked("budget_bytes", budget_bytes)
            if not isinstance(idle_seconds, EllipsisType):
                self._idle_seconds = _checked("idle_seconds", idle_seconds)
                self._condition.notify_all()
            if self._slots:
                self._start_timer()
            removed = self._take_for(0)
        self._let_go(removed)

    def close(self) -> None:
        """Unload everything and refuse further use. What is in use is let go as soon as it is free."""
        self._closed = True
        self.unload()

    # ---- entering and leaving

    def _wanted(self, adapters: Adapters) -> tuple[_Adapter, ...]:
        """The adapters that have an effect, in one order, each once with the sum of its strengths."""
        found: dict[Path, float] = {}
        for name, strength in adapters:
            folder = self._find_adapter(name).resolve()
            found[folder] = found.get(folder, 0.0) + float(strength)
            if not math.isfinite(found[folder]):
                raise ValueError(f"The strength of LoRA {name} is {found[folder]}; it takes a number.")
        return tuple(
            _Adapter(folder, adapter_fingerprint(folder), strength)
            for folder, strength in sorted(found.items())
            if strength
        )

    def _enter(self, model: str, device: str, dtype: str, quantization: str, *, with_adapters: bool) -> _Slot:
        """A slot whose model is loaded, with the caller counted among its users."""
        self._refuse_if_closed()
        folder = self._find(model)
        family = known_family(folder) or DEFAULT_FAMILY  # which was perhaps not known before
        device, dtype = self._placement.resolve(device, dtype, family)
        _check_adapters(family, with_adapters)
        key = _Key(folder.resolve(), fingerprint(folder), device, dtype, quantization)
        new = _Slot(key, _name(model, key.folder), estimate_bytes(key.folder, dtype, quantization))
        return self._hold(new, lambda: self._read(new))

    def _read(self, slot: _Slot) -> LoadedModel:
        key = slot.key
        with self._placing:
            device = self._placement.load_device(key.device, key.quantization, slot.nbytes)
        return self._loader(key.folder, device, key.dtype, key.quantization)

    def _enter_variant(self, base: _Slot, adapters: tuple[_Adapter, ...]) -> _Slot:
        """The same for ``base``, which is in use, with adapters."""
        new = _Slot(replace(base.key, adapters=adapters), base.name, 0, base)
        folders = [(adapter.folder, adapter.strength) for adapter in adapters]
        return self._hold(new, lambda: base.held().with_adapters(folders))

    def _hold(self, new: _Slot, load: Callable[[], LoadedModel]) -> _Slot:
        """``new``, or the slot that is there already with the same key, loaded, with one user more."""
        while True:
            slot, mine, removed = self._join(new)
            try:
                if mine:
                    self._load(slot, load, removed)
                else:
                    slot.ready.wait()
                if slot.error is None:
                    return slot
                raise slot.error
            except BaseException as error:
                self._leave(slot, entered=False)
                if mine or isinstance(error, Exception) or error is not slot.error:
                    raise
                # Somebody else's load was interrupted (Ctrl-C in their thread): load it ourselves.

    def _join(self, new: _Slot) -> tuple[_Slot, bool, list[_Slot]]:
        """The slot with the key of ``new`` with one user more, whether the caller is to load it, what must go
        for it."""
        with self._condition:
            self._refuse_if_closed()
            removed: list[_Slot] = []
            slot = self._slots.get(new.key)
            mine = slot is None
            if slot is None:
                removed += self._take_outdated(new.key)
                removed += self._take_for(new.nbytes)
                slot = self._slots[new.key] = new
                if new.base is not None:
                    new.base.variants += 1
            slot.users += 1
            slot.last_used = next(self._ticks)
            return slot, mine, removed

    def _load(self, slot: _Slot, load: Callable[[], LoadedModel], removed: list[_Slot]) -> None:
        """Load the model of a new slot; on failure take the slot away and leave the error in it."""
        started = time.monotonic()
        try:
            self._let_go(removed)
            model = load()
            nbytes = model.nbytes
            with self._condition:
                self._start_timer()
                slot.model, slot.nbytes = model, nbytes
                removed = self._take_for(0)
        except BaseException as error:  # noqa: BLE001 - it is raised again, here and in all that wait
            _forget_frames(error)
            with self._condition:
                if self._slots.get(slot.key) is slot:
                    self._strike(slot)
            slot.error = error
            slot.ready.set()
            return_memory()
            return
        slot.ready.set()
        del model  # a local variable here would outlive an unload from elsewhere
        self._let_go(removed)
        logger.info(
            "Loaded %s on %s in %s: %.0f MB in %.1f s",
            slot.title, slot.key.device, slot.key.precision, nbytes / 1e6, time.monotonic() - started,
        )  # fmt: skip

    def _leave(self, slot: _Slot, entered: bool) -> None:
        try:
            if entered:
                with self._placing:
                    self._placement.leaving(slot.held(), slot.key.device)
        finally:
            with self._condition:
                slot.users -= 1
                slot.last_used = next(self._ticks)
                slot.idle_since = time.monotonic()
                removed = self._take([slot]) if slot.unwanted or self._closed else []
                removed += self._take_for(0)
                self._condition.notify_all()
            self._let_go(removed)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("This ModelManager is closed. Make a new one, or use shared_manager().")

    # ---- letting go: slots are taken out with the lock held, and their models let go without it, so that a
    # host's placement may call the manager

    def _take(self, slots: list[_Slot]) -> list[_Slot]:
        """Take out of the table those of ``slots`` that nobody uses, and unwanted ones that were kept for
        them alone."""
        free = []
        pending = sorted(slots, key=lambda slot: slot.base is None)  # a base after what is made from it
        for slot in pending:
            if slot.is_free and self._slots.get(slot.key) is slot:
                self._strike(slot)
                free.append(slot)
                if slot.base is not None and (slot.base.unwanted or self._closed):
                    pending.append(slot.base)
        self._condition.notify_all()  # the timer may have nothing left to wait for
        return free

    def _strike(self, slot: _Slot) -> None:
        del self._slots[slot.key]
        if slot.base is not None:
            slot.base.variants -= 1

    def _dismiss(self, slots: list[_Slot]) -> list[_Slot]:
        """Take out those of ``slots`` that nobody uses, and see that the others go when they are free."""
        for slot in slots:
            slot.unwanted = True
        return self._take(slots)

    def _take_outdated(self, key: _Key) -> list[_Slot]:
        """Take out what was loaded from the same folders before their files changed."""
        now = {key.folder: key.fingerprint}
        now |= {adapter.folder: adapter.fingerprint for adapter in key.adapters}
        outdated = [
            slot
            for slot in self._slots.values()
            if any(now.get(part.folder, part.fingerprint) != part.fingerprint for part in slot.key.parts)
        ]
        return self._dismiss(outdated)

    def _take_for(self, needed: int) -> list[_Slot]:
        """Take out what was not used for longest, until ``needed`` more bytes fit the budget."""
        removed: list[_Slot] = []
        if self._budget_bytes is None:
            return removed
        while (held := sum(slot.nbytes for slot in self._slots.values())) + needed > self._budget_bytes:
            idle = [slot for slot in self._slots.values() if slot.is_free]
            if not idle:
                if needed:
                    logger.warning(
                        "%.0f MB are needed and %.0f MB are in use: the budget of %.0f MB is exceeded until "
                        "something is free again.",
                        needed / 1e6, held / 1e6, self._budget_bytes / 1e6,
                    )  # fmt: skip
                break
            removed += self._take([min(idle, key=lambda slot: slot.last_used)])
        return removed

    def _let_go(self, slots: list[_Slot]) -> int:
        """Drop the models of slots that were taken out; returns the bytes of their weights."""
        with ExitStack() as every:  # each is let go, whatever the host makes of the others
            if slots:
                every.callback(return_memory)
            for slot in reversed(slots):
                every.callback(self._drop, slot)
        return sum(slot.nbytes for slot in slots)

    def _drop(self, slot: _Slot) -> None:
        try:
            if slot.base is None:
                with self._placing:
                    self._placement.unloading(slot.held())
        finally:
            slot.model = None
        logger.info("Unloaded %s from %s: %.0f MB", slot.title, slot.key.device, slot.nbytes / 1e6)

    # ---- idle models

    def _start_timer(self) -> None:
        if self._idle_seconds is not None and self._timer is None:
            timer = threading.Thread(target=self._watch, name="promptgen-idle-models", daemon=True)
            timer.start()  # it waits for the lock, which is held here
            self._timer = timer

    def _watch(self) -> None:
        """Unload models that were idle for too long; ends when nothing is loaded."""
        while True:
            with self._condition:
                if not self._slots or self._idle_seconds is None:
                    self._timer = None
                    return
                now = time.monotonic()
                idle = [slot for slot in self._slots.values() if slot.is_free]
                expired = self._take([slot for slot in idle if now - slot.idle_since >= self._idle_seconds])
                if not expired:
                    due = min((slot.idle_since for slot in idle), default=None)
                    del idle  # nothing may be kept alive while waiting
                    self._condition.wait(None if due is None else due + self._idle_seconds - now)
                    continue
                del idle
            try:
                self._let_go(expired)
            except Exception:  # a host's placement: nobody waits for this thread, and other models are left
                logger.exception("Unloading idle models failed")
            del expired


_shared_lock = threading.Lock()
_shared: ModelManager | None = None


def shared_manager() -> ModelManager:
    """The manager that the whole process shares: every node, request and run."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = ModelManager()
        return _shared


_Number = TypeVar("_Number", int, float)


def _checked(name: str, value: _Number | None) -> _Number | None:
    if value is not None and value < 0:
        raise ValueError(f"{name} is {value}; it must be None or at least 0.")
    return value


def _check_adapters(family: str, wanted: bool) -> None:
    """See that models of a family take LoRA adapters, if they are to have some.

    Raises:
        AdapterError: they do not.
    """
    if wanted and family != DEFAULT_FAMILY:
        raise AdapterError(
            "LoRA adapters go with Florence-2 checkpoints; PaliGemma checkpoints are used as they are. Leave "
            "the adapter out, or merge it into its checkpoint with peft (merge_and_unload, save_pretrained), "
            "and load that."
        )


def _name(model: str, folder: Path) -> str:
    """What a slot is called in listings, and by whom wants it unloaded."""
    reference = resolve(model)
    if reference.entry is not None:
        return reference.entry.name
    # A snapshot in the Hugging Face cache is called after its commit, which tells nobody anything.
    hub_id = reference.hub_id if reference.folder is None else snapshot_hub_id(folder)
    return folder.name if hub_id is None else hub_id.rpartition("/")[2]


def _names(model: str) -> set[str]:
    """What the slots of ``model`` may be called, casefolded."""
    reference = resolve(model)
    names = set(reference.names)
    if reference.entry is not None:
        names.add(reference.entry.name)
    if reference.folder is not None:
        names = {str(reference.folder.resolve())}
    return {name.casefold() for name in names}


def _forget_frames(error: BaseException) -> None:
    """Clear the local variables that an error's traceback keeps alive: they hold half a model."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if current.__traceback__ is not None:
            traceback.clear_frames(current.__traceback__)
        pending += [current.__cause__, current.__context__]
