"""Models in memory, with the real model class on real checkpoints."""

from __future__ import annotations

import gc
import random
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from PIL import Image
from promptgen.florence2 import CheckpointError, Florence2Config, Florence2Model, GenerationOptions
from promptgen.models_cache import (
    DirectPlacement,
    LoadedModel,
    ModelManager,
    ModelNotFoundError,
    shared_manager,
)
from promptgen.models_cache.families import load_family
from safetensors.torch import save_file

from .checkpoints import REFERENCE, copy_reference, edit_json, expected

SIZE = 6_000_000  # the reference checkpoint in fp32, rounded up


class Loads:
    """The real loader, counted, slowed down or failing on demand."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.failures: list[BaseException] = []
        self.waits_for: threading.Event | None = None
        self.started = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, folder: Path, device: str, dtype: str, quantization: str) -> LoadedModel:
        with self._lock:
            self.count[folder.name] += 1
            failure = self.failures.pop(0) if self.failures else None
        self.started.set()
        if self.waits_for is not None:
            assert self.waits_for.wait(20)
        if failure is not None:
            raise failure
        return load_family(folder, device, dtype, quantization)


@pytest.fixture
def loads() -> Loads:
    return Loads()


MakeManager = Callable[..., ModelManager]


@pytest.fixture
def make_manager(loads: Loads) -> Iterator[MakeManager]:
    managers = []

    def make(**options: Any) -> ModelManager:
        managers.append(ModelManager(**{"loader": loads, **options}))
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()


@pytest.fixture(autouse=True)
def no_other_timers() -> None:
    """What other tests have left in the shared manager has a timer as well."""
    shared_manager().unload()
    assert wait_until(lambda: _timers() == 0)


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    return [str(copy_reference(tmp_path / name, weights=True)) for name in "ABCD"]


@pytest.fixture(autouse=True)
def _a_processor_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are counted in fp32 here, whatever ``auto`` means on the computer at hand."""
    monkeypatch.setattr("promptgen.inference.processor.has_bfloat16", lambda: False)


def use(manager: ModelManager, model: str, **options: str) -> weakref.ref[Any]:
    """Acquire and release a model; a weak reference to it."""
    with manager.acquire(model, **options) as loaded:
        assert loaded.encode_images(torch.zeros(1, 3, 128, 128)).shape[0] == 1
        return weakref.ref(loaded)


def names(manager: ModelManager) -> list[str]:
    return [info.name for info in manager.loaded()]


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_a_model_that_is_acquired_answers(make_manager: MakeManager) -> None:
    case = expected()["cases"][0]
    with make_manager().acquire(str(REFERENCE), device="cpu", dtype="fp32") as model:
        assert isinstance(model, Florence2Model)
        with Image.open(REFERENCE / "images" / Path(case["image"]).name) as image:
            features = model.encode_images(model.preprocess([image.convert("RGB")]))
        options = GenerationOptions(**case.get("settings", {}))
        [answer] = model.generate(features, [expected()["prompts"][case["instruction"]]], options)
    assert answer.token_ids == tuple(case["ids"])


def test_many_threads_load_once(make_manager: MakeManager, loads: Loads, folders: list[str]) -> None:
    manager = make_manager()
    loads.waits_for = threading.Event()
    together = threading.Barrier(9)

    def ask() -> int:
        together.wait(20)
        with manager.acquire(folders[0]) as model:
            return id(model)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask) for _ in range(8)]
        together.wait(20)
        time.sleep(0.2)
        loads.waits_for.set()
        assert len({future.result(20) for future in asked}) == 1
    assert loads.count == {"A": 1}


def test_one_checkpoint_by_several_names_is_one_model(
    make_manager: MakeManager, loads: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "Florence-2-base-PromptGen-v2.0"
    folder = copy_reference(tmp_path / "models" / name, weights=True)
    monkeypatch.setenv("PROMPTGEN_MODELS", str(folder.parent))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    manager = make_manager()
    for model in (name, name.lower(), f"MiaoshouAI/{name}", str(folder), f"models/{name}", "link"):
        use(manager, model)
    assert loads.count == {name: 1}
    [info] = manager.loaded()
    assert (info.name, info.device, info.dtype, info.in_use) == (name, "cpu", "fp32", 0)
    assert info.nbytes == Florence2Model.load(folder).nbytes
    assert manager.unload(f"MiaoshouAI/{name}") == info.nbytes


def test_each_dtype_is_a_model_of_its_own(
    make_manager: MakeManager, loads: Loads, folders: list[str]
) -> None:
    manager = make_manager()
    use(manager, folders[0], dtype="fp32")
    use(manager, folders[0], dtype="bf16")
    use(manager, folders[0], dtype="auto", device="cpu")
    assert loads.count == {"A": 2}
    small, large = sorted(info.nbytes for info in manager.loaded())
    assert large == 2 * small


def test_names_and_devices_that_do_not_exist(make_manager: MakeManager, folders: list[str]) -> None:
    manager = make_manager()
    for options in ({"device": "gpu"}, {"dtype": "fp8"}):
        with pytest.raises(ValueError, match=r"unknown"), manager.acquire(folders[0], **options):
            pass
    with pytest.raises(ModelNotFoundError), manager.acquire("no such model"):
        pass
    with pytest.raises(ModelNotFoundError):
        manager.unload("no such model")
    assert manager.loaded() == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "fp16"}, "cannot be loaded as fp16"),
        ({"dtype": "int8", "quantization": "8"}, "int8"),
        ({"dtype": "auto", "quantization": "5"}, "'5' is unknown"),
        ({"device": "tpu"}, "tpu"),
        ({"adapters": [("x", 0.5)]}, "LoRA adapters go with Florence-2"),
    ],
)
def test_what_cannot_be_is_known_without_the_files(
    make_manager: MakeManager, options: dict[str, Any], said: str
) -> None:
    manager = make_manager(find=_fetch, find_adapter=_fetch)
    model = "google/paligemma-3b-mix-224"
    given = {"device": "cpu", **options}
    with pytest.raises(ValueError, match=said):
        manager.check(model, **given)
    with pytest.raises(ValueError, match=said), manager.acquire(model, **given):
        pass
    manager.check(model, device="cpu", dtype="bf16", quantization="8", adapters=[("x", 0.0)])


def test_adapters_are_refused_as_soon_as_the_family_is_known(
    make_manager: MakeManager, loads: Loads, folders: list[str]
) -> None:
    edit_json(Path(folders[0]) / "config.json", lambda config: config.update(model_type="paligemma"))
    manager = make_manager(find=lambda name: Path(folders[0]), find_adapter=Path)
    manager.check("nobody/some-model", adapters=[(folders[1], 1.0)])
    with (
        pytest.raises(ValueError, match="LoRA adapters go with Florence-2"),
        manager.acquire("nobody/some-model", device="cpu", adapters=[(folders[1], 1.0)]),
    ):
        pass
    assert not loads.count


def _fetch(name: str) -> Path:
    raise AssertionError(f"{name} was downloaded")


def test_a_family_that_is_not_known(make_manager: MakeManager, folders: list[str]) -> None:
    edit_json(Path(folders[0]) / "config.json", lambda config: config.update(model_type="llava"))
    with pytest.raises(ValueError, match=r"'llava'.*florence2"), make_manager().acquire(folders[0]):
        pass


def test_a_failed_load_is_told_to_all_that_wait_and_the_next_one_loads_anew(
    make_manager: MakeManager, loads: Loads, folders: list[str]
) -> None:
    manager = make_manager()
    loads.waits_for = threading.Event()
    loads.failures = [OSError("the disk is gone")]
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(use, manager, folders[0]) for _ in range(4)]
        assert wait_until(lambda: sum(slot.users for slot in manager._slots.values()) == 4)
        loads.waits_for.set()
        for future in asked:
            with pytest.raises(OSError, match="the disk is gone"):
                future.result(20)
    assert manager.loaded() == []
    assert not manager._slots
    assert use(manager, folders[0])() is not None
    assert loads.count == {"A": 2}


def test_a_checkpoint_that_does_not_fit_leaves_nothing(make_manager: MakeManager, folders: list[str]) -> None:
    edit_json(Path(folders[0]) / "config.json", lambda config: config["text_config"].update(encoder_layers=4))
    manager = make_manager()
    with pytest.raises(CheckpointError, match=r"encoder\.layers"), manager.acquire(folders[0]):
        pass
    assert manager.loaded() == []


def test_an_error_keeps_no_half_loaded_model_alive(make_manager: MakeManager, folders: list[str]) -> None:
    halves: list[weakref.ref[Any]] = []

    def fail(folder: Path, device: str, dtype: str, quantization: str) -> LoadedModel:
        half = torch.nn.Linear(10, 10)
        halves.append(weakref.ref(half))
        try:
            raise MemoryError("no room")
        except MemoryError as error:
            raise RuntimeError("not loaded") from error

    manager = make_manager(loader=fail)
    with pytest.raises(RuntimeError) as caught, manager.acquire(folders[0]):
        pass
    gc.collect()
    assert halves[0]() is None
    assert isinstance(caught.value.__cause__, MemoryError)


def test_an_interrupted_load_is_not_the_others_business(
    make_manager: MakeManager, loads: Loads, folders: list[str]
) -> None:
    manager = make_manager()
    loads.waits_for = threading.Event()
    loads.failures = [KeyboardInterrupt()]
    with ThreadPoolExecutor(2) as pool:
        interrupted = pool.submit(use, manager, folders[0])
        assert loads.started.wait(20)
        other = pool.submit(use, manager, folders[0])
        assert wait_until(lambda: sum(slot.users for slot in manager._slots.values()) == 2)
        loads.waits_for.set()
        assert other.result(20)() is not None
        with pytest.raises(KeyboardInterrupt):
            interrupted.result(20)
    assert loads.count == {"A": 2}
    assert [info.in_use for info in manager.loaded()] == [0]


def test_least_recently_used_goes_first(make_manager: MakeManager, loads: Loads, folders: list[str]) -> None:
    manager = make_manager(budget_bytes=2 * SIZE)
    first, second = use(manager, folders[0]), use(manager, folders[1])
    use(manager, folders[0])
    assert names(manager) == ["A", "B"]
    use(manager, folders[2])
    assert names(manager) == ["C", "A"]
    assert second() is None
    assert first() is not None
    assert loads.count == {"A": 1, "B": 1, "C": 1}


def test_room_is_made_before_a_model_is_loaded(make_manager: MakeManager, folders: list[str]) -> None:
    seen: list[list[str]] = []

    def load(folder: Path, device: str, dtype: str, quantization: str) -> LoadedModel:
        seen.append(names(manager))
        return load_family(folder, device, dtype, quantization)

    manager = make_manager(budget_bytes=SIZE, loader=load)
    use(manager, folders[0])
    use(manager, folders[1])
    assert seen == [[], []]


def test_what_is_in_use_stays_and_goes_when_it_is_free(
    make_manager: MakeManager, folders: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager(budget_bytes=SIZE)
    with manager.acquire(folders[0]) as first:
        gone = weakref.ref(first)
        second = use(manager, folders[1])
        assert "budget" in caplog.text
        assert names(manager) == ["A"]
        assert second() is None
        assert first.count_tokens("still here") > 2
        del first
    assert names(manager) == ["A"]
    assert gone() is not None


def test_a_model_above_the_budget_is_usable(make_manager: MakeManager, folders: list[str]) -> None:
    manager = make_manager(budget_bytes=1000)
    assert use(manager, folders[0])() is None
    assert manager.loaded() == []


def test_idle_models_are_unloaded(make_manager: MakeManager, folders: list[str]) -> None:
    manager = make_manager(idle_seconds=0.5)
    with manager.acquire(folders[1]) as busy:
        idle = use(manager, folders[0])
        assert _timers() == 1
        assert wait_until(lambda: idle() is None)
        time.sleep(0.6)
        assert names(manager) == ["B"], "what is in use is not idle"
        assert busy.count_tokens("x") > 0
        del busy
    assert wait_until(lambda: manager.loaded() == [])
    assert wait_until(lambda: _timers() == 0), "no thread while nothing is loaded"
    assert use(manager, folders[0])() is not None
    assert wait_until(lambda: manager.loaded() == [])


def _timers() -> int:
    return sum(thread.name == "promptgen-idle-models" for thread in threading.enumerate())


def test_a_model_that_is_not_idle_for_long_stays(make_manager: MakeManager, folders: list[str]) -> None:
    manager = make_manager(idle_seconds=30)
    use(manager, folders[0])
    time.sleep(0.3)
    [info] = manager.loaded()
    assert 0.3 <= info.idle_seconds < 30


def test_never_idle(make_manager: MakeManager, folders: list[str]) -> None:
    manager = make_manager(idle_seconds=None)
    use(manager, folders[0])
    time.sleep(0.1)
    assert manager.loaded()[0].idle_seconds >= 0.1
    assert _timers() == 0
    manager.configure(idle_seconds=0.1)
    assert wait_until(lambda: manager.loaded() == [])


def test_settings_can_be_changed(make_manager: MakeManager, folders: list[str]) -> None:
    manager = make_manager()
    for folder in folders[:3]:
        use(manager, folder)
    manager.configure(budget_bytes=2 * SIZE)
    assert names(manager) == ["C", "B"]
    with pytest.raises(RuntimeError, match="placement"):
        manager.configure(placement=DirectPlacement())
    for wrong in ({"budget_bytes": -1}, {"idle_seconds": -0.5}):
        with pytest.raises(ValueError, match="at least 0"):
            manager.configure(**wrong)
        with pytest.raises(ValueError, match="at least 0"):
            ModelManager(**wrong)


def test_release_lets_go_of_one_model_alone_though_its_folder_is_gone(
    make_manager: MakeManager, folders: list[str]
) -> None:
    manager = make_manager()
    half = use(manager, folders[0], device="cpu", dtype="bf16")
    with manager.acquire(folders[0], device="cpu", dtype="fp32") as model:
        shutil.rmtree(folders[0])
        full = weakref.ref(model)
        assert manager.release(model) == 0, "it is in use"
        assert model.count_tokens("x") > 0
        del model
    assert full() is None
    assert half() is not None
    assert [info.dtype for info in manager.loaded()] == ["bf16"]


def test_unload(make_manager: MakeManager, folders: list[str]) -> None:
    manager = make_manager()
    assert manager.unload() == 0
    assert manager.unload(folders[0]) == 0
    gone = [use(manager, folder) for folder in folders[:3]]
    nbytes = manager.loaded()[0].nbytes
    assert manager.unload(folders[1]) == nbytes
    assert [reference() is None for reference in gone] == [False, True, False]
    with manager.acquire(folders[0]) as model:
        assert manager.unload() == nbytes, "only the one that is free goes at once"
        assert model.count_tokens("x") > 0
        assert names(manager) == ["A"]
        del model
    assert manager.loaded() == []
    assert [reference() is None for reference in gone] == [True, True, True]
    use(manager, folders[0])
    manager.unload()
    assert wait_until(lambda: _timers() == 0), "nothing is left to watch"


def test_a_model_of_the_cache_is_called_by_its_name_and_not_by_its_commit(
    make_manager: MakeManager, tmp_path: Path
) -> None:
    snapshot = tmp_path / "models--me--My-Florence" / "snapshots" / ("1" * 40)
    copy_reference(snapshot, weights=True)
    manager = make_manager(find=lambda model: snapshot)
    for model in ("me/My-Florence", str(snapshot)):
        use(manager, model)
        assert names(manager) == ["My-Florence"]
        assert manager.unload("me/My-Florence") > 0


def test_cuda_is_the_device_that_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    resolve = DirectPlacement().resolve
    assert resolve("cuda", "auto") == resolve("auto", "auto") == resolve("cuda:1", "fp16")
    assert resolve("cuda:0", "fp32") == ("cuda:0", "fp32")


def test_the_listing_begins_with_the_latest(make_manager: MakeManager, folders: list[str]) -> None:
    manager = make_manager()
    for folder in folders[:3]:
        use(manager, folder)
    assert names(manager) == ["C", "B", "A"]
    with manager.acquire(folders[0]), manager.acquire(folders[0]):
        assert names(manager) == ["A", "C", "B"]
        assert [info.in_use for info in manager.loaded()] == [2, 0, 0]


def test_close(make_manager: MakeManager, folders: list[str]) -> None:
    manager = make_manager()
    with manager.acquire(folders[0]):
        manager.close()
        assert names(manager) == ["A"]
        with pytest.raises(RuntimeError, match="closed"), manager.acquire(folders[0]):
            pass
    assert manager.loaded() == []
    assert wait_until(lambda: _timers() == 0)


def test_a_checkpoint_that_has_changed_on_disk_is_loaded_anew(
    make_manager: MakeManager, loads: Loads, folders: list[str]
) -> None:
    manager = make_manager()
    old = use(manager, folders[0])
    edit_json(Path(folders[0]) / "generation_config.json", lambda settings: settings.update(num_beams=2))
    new = use(manager, folders[0])
    assert old() is None
    assert new() is not None
    assert loads.count == {"A": 2}


def test_the_shared_manager_is_one() -> None:
    with ThreadPoolExecutor(4) as pool:
        managers = list(pool.map(lambda _: shared_manager(), range(8)))
    assert len(set(map(id, managers))) == 1


class Host(DirectPlacement):
    """A host that keeps models on one device and moves them to another for use, as ComfyUI does."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.calls: list[str] = []  # but for what was asked
        self.fails = False

    def resolve(self, device: str, dtype: str, family: str = "florence2") -> tuple[str, str]:
        self.asked.add(f"{device} {dtype}")
        return ("meta" if device == "auto" else device), ("bf16" if dtype == "auto" else dtype)

    def load_device(self, device: str, quantization: str, nbytes: int) -> str:
        return "cpu"

    def entering(self, model: LoadedModel, device: str) -> None:
        self.calls.append(f"entering from {model.device} to {device}")
        if self.fails:
            raise MemoryError("the host has no room")
        model.to(device)

    def leaving(self, model: LoadedModel, device: str) -> None:
        self.calls.append("leaving")

    def unloading(self, model: LoadedModel) -> None:
        self.calls.append("unloading")


def test_a_host_decides_where_models_live(make_manager: MakeManager, folders: list[str]) -> None:
    host = Host()
    manager = make_manager(placement=host)
    with manager.acquire(folders[0]) as model:
        assert model.device.type == "meta"
        assert model.dtype == torch.bfloat16
        del model
    manager.unload()
    assert host.asked == {"auto auto"}
    assert host.calls == ["entering from cpu to meta", "leaving", "unloading"]


def test_a_host_that_has_no_room_and_a_use_that_fails(make_manager: MakeManager, folders: list[str]) -> None:
    host = Host()
    manager = make_manager(placement=host)
    host.fails = True
    with pytest.raises(MemoryError, match="no room"), manager.acquire(folders[0], device="cpu"):
        pass
    assert host.calls == ["entering from cpu to cpu"]
    assert [info.in_use for info in manager.loaded()] == [0]
    host.fails = False
    with pytest.raises(ZeroDivisionError), manager.acquire(folders[0], device="cpu"):
        1 / 0  # noqa: B018
    assert host.calls[-1] == "leaving"
    assert [info.in_use for info in manager.loaded()] == [0]


def test_a_host_may_ask_the_manager_for_room(make_manager: MakeManager, folders: list[str]) -> None:
    class Greedy(Host):
        def entering(self, model: LoadedModel, device: str) -> None:
            manager.unload()

        def unloading(self, model: LoadedModel) -> None:
            other = threading.Thread(target=manager.loaded, daemon=True)
            other.start()
            other.join(10)
            assert not other.is_alive(), "a lock of the manager is held while the host is asked"

    manager = make_manager(placement=Greedy())
    assert use(manager, folders[0], device="cpu", dtype="fp32")() is None


def test_a_host_that_cannot_let_go_of_one_model_stops_no_other(
    make_manager: MakeManager, folders: list[str]
) -> None:
    class Stubborn(Host):
        def unloading(self, model: LoadedModel) -> None:
            super().unloading(model)
            if model.folder.name == "A":
                raise RuntimeError("the host is in a mess")

    host = Stubborn()
    manager = make_manager(placement=host)
    gone = [use(manager, folder, device="cpu") for folder in folders[:3]]
    with pytest.raises(RuntimeError, match="in a mess"):
        manager.unload()
    assert host.calls.count("unloading") == 3
    gc.collect()  # the error remembers A for as long as it lives
    assert [reference() for reference in gone] == [None, None, None]

    manager.configure(idle_seconds=0.05)
    for folder in folders[:2]:
        use(manager, folder, device="cpu")
        assert wait_until(lambda: manager.loaded() == []), "the timer is still there"


def test_a_model_that_could_not_be_watched_keeps_nobody_waiting(
    make_manager: MakeManager, folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    manager = make_manager()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        for _attempt in ("first", "second"):  # which must not wait for the first
            with pytest.raises(RuntimeError, match="new thread"), manager.acquire(folders[0]):
                pass
    assert manager.loaded() == []
    use(manager, folders[0])


def test_models_in_use_survive_any_order_of_events(make_manager: MakeManager, folders: list[str]) -> None:
    manager = make_manager(budget_bytes=2 * SIZE, idle_seconds=0.01)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(6):
                with manager.acquire(chance.choice(folders)) as model:
                    assert model.encode_images(torch.zeros(1, 3, 128, 128)).isfinite().all()
                if chance.random() < 0.2:
                    manager.unload(chance.choice([*folders, None]))
                manager.loaded()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)
    assert sum(info.nbytes for info in manager.loaded()) <= 2 * SIZE
    assert wait_until(lambda: manager.loaded() == [])


@pytest.fixture(scope="module")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of about 200 MB: the reference with a wider language model, its weights zero."""
    from promptgen.florence2.loading import original_state_dict
    from promptgen.florence2.network import Florence2Network

    folder = copy_reference(tmp_path_factory.mktemp("large"))

    def widen(config: dict[str, Any]) -> None:
        config["vision_config"]["projection_dim"] = config["projection_dim"] = 768
        config["text_config"].update(d_model=768, encoder_ffn_dim=3072, decoder_ffn_dim=3072)

    edit_json(folder / "config.json", widen)
    with torch.device("meta"):
        network = Florence2Network(Florence2Config.from_folder(folder))
    state = {name: torch.zeros(tensor.shape) for name, tensor in original_state_dict(network).items()}
    save_file(state, folder / "model.safetensors")
    return folder


MEMORY_IS_RETURNED = """
import gc, sys, time, weakref
import psutil
from promptgen.models_cache import ModelManager

small, large, way = sys.argv[1:]

def wait_until(condition):
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()

manager = ModelManager(
    budget_bytes=250_000_000 if way == "evict" else None, idle_seconds=0.2 if way == "idle" else None
)
rss = lambda: psutil.Process().memory_info().rss
with manager.acquire(small):  # what every load brings along is there from here on
    pass
gc.collect()
before = rss()
with manager.acquire(large, dtype="fp32") as model:
    gone, nbytes = weakref.ref(model), model.nbytes
    assert nbytes > 150_000_000, nbytes
    assert rss() - before > 0.8 * nbytes, (rss() - before, nbytes)
    del model
if way == "unload":
    assert manager.unload(large) == nbytes
elif way == "evict":
    with manager.acquire(large, dtype="bf16"):
        assert [info.dtype for info in manager.loaded()] == ["bf16"]
assert wait_until(lambda: gone() is None)
manager.unload()
assert wait_until(lambda: rss() - before < 0.1 * nbytes), (rss() - before, nbytes)
"""


@pytest.mark.parametrize("way", ["unload", "evict", "idle"])
def test_memory_is_returned_to_the_system(folders: list[str], large_checkpoint: Path, way: str) -> None:
    """In a process of its own: here, what earlier tests have freed would be used again."""
    command = [sys.executable, "-c", MEMORY_IS_RETURNED, folders[0], str(large_checkpoint), way]
    child = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=120)
    assert child.returncode == 0, child.stderr


def test_a_load_that_fails_in_the_middle_returns_its_memory(
    make_manager: MakeManager, large_checkpoint: Path, folders: list[str]
) -> None:
    def fail(folder: Path, device: str, dtype: str, quantization: str) -> LoadedModel:
        model = load_family(folder, device, dtype, quantization)
        raise MemoryError(f"no room for {model.nbytes} bytes")

    manager = make_manager(loader=fail)
    process = psutil.Process()
    before = process.memory_info().rss
    with pytest.raises(MemoryError) as caught, manager.acquire(str(large_checkpoint)):
        pass
    assert process.memory_info().rss - before < 20_000_000, "although the error itself is still held"
    assert "no room" in str(caught.value)
