"""LoRA adapters where they are used: the model manager, the captioner, folder runs, the command, the Hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from promptgen.captioning import Captioner, CaptionOptions, FeatureCache
from promptgen.captioning.runs.settings import settings_digest
from promptgen.florence2 import AdapterError, GenerationOptions
from promptgen.models_cache import (
    DownloadError,
    ModelFilesError,
    ModelManager,
    ModelNotFoundError,
    ensure_adapter,
    find_adapter,
    find_checkpoint,
    local_adapters,
    register_adapter_folder,
)
from promptgen.models_cache.families import load_family
from promptgen.models_cache.placement import DirectPlacement

from .adapters import save_adapter
from .checkpoints import REFERENCE, copy_reference
from .command_line import Promptgen
from .helpers_dev import ROOT
from .hub_server import running_hub

PICTURE = REFERENCE / "images" / "03.png"
SHORT = CaptionOptions(generation=GenerationOptions(num_beams=1, max_new_tokens=12))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two that make other texts, the second by other features."""
    folder = tmp_path_factory.mktemp("adapters")
    text = save_adapter(folder / "text", seed=1, size=0.3)
    vision = save_adapter(folder / "vision", seed=2, size=0.5, target_modules=["qkv"])
    return [str(text), str(vision)]


class Loads:
    """The real loader, counted."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, folder: Path, device: str, dtype: str, quantization: str) -> Any:
        self.count += 1
        return load_family(folder, device, dtype, quantization)


@pytest.fixture
def loads() -> Loads:
    return Loads()


@pytest.fixture
def manager(loads: Loads) -> Iterator[ModelManager]:
    manager = ModelManager(idle_seconds=None, loader=loads)
    yield manager
    manager.close()


def text(manager: ModelManager, *loras: tuple[str, float], cache: FeatureCache | None = None) -> str:
    captioner = Captioner(
        str(REFERENCE), device="cpu", dtype="fp32", manager=manager, loras=loras,
        feature_cache=cache or FeatureCache(),
    )  # fmt: skip
    [result] = captioner.caption(PICTURE, "CAPTION", SHORT)
    assert result.ok, result.error
    return result.results[0].raw


# --- the manager -------------------------------------------------------------------------------------------


def test_the_checkpoint_is_loaded_once_for_all_adapters(
    manager: ModelManager, loads: Loads, adapters: list[str]
) -> None:
    cache = FeatureCache()  # of all: features of another model would show
    first, second = adapters
    plain = text(manager, cache=cache)
    answers = [
        text(manager, (first, 1.0), cache=cache),
        text(manager, (second, 1.0), cache=cache),
        text(manager, (first, 1.0), (second, 1.0), cache=cache),
    ]
    assert len({plain, *answers}) == 4
    assert loads.count == 1
    assert text(manager, (second, 1.0)) == answers[1]  # with a cache of its own
    assert text(manager, (second, 1.0), (first, 1.0), cache=cache) == answers[2]
    assert text(manager, (first, 0.25), (first, 0.75), cache=cache) == answers[0]
    assert text(manager, (first, 0.0), cache=cache) == text(manager, cache=cache) == plain
    assert loads.count == 1
    found = sorted(tuple(sorted(folder.name for folder, _ in info.adapters)) for info in manager.loaded())
    assert found == [(), ("text",), ("text", "vision"), ("vision",)]
    assert {info.name for info in manager.loaded()} == {REFERENCE.name}
    assert all(info.in_use == 0 for info in manager.loaded())


def test_without_adapters_the_model_is_what_it_was(manager: ModelManager, adapters: list[str]) -> None:
    with manager.acquire(str(REFERENCE), device="cpu", dtype="fp32") as model:
        before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    text(manager, (adapters[1], 1.0))
    with manager.acquire(str(REFERENCE), device="cpu", dtype="fp32", adapters=[(adapters[1], 2.0)]) as other:
        assert other is not model
        with manager.acquire(str(REFERENCE), device="cpu", dtype="fp32") as again:
            assert again is model
    fresh = load_family(REFERENCE, "cpu", "fp32")
    now = model.network.state_dict() if before.keys() == model.network.state_dict().keys() else {}
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items() if name in now)
    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.encode_images(pixels), fresh.encode_images(pixels))


def test_a_model_goes_after_all_that_add_adapters_to_it(adapters: list[str]) -> None:
    unloading: list[str] = []

    class Watching(DirectPlacement):
        def unloading(self, model: Any) -> None:
            unloading.append(model.folder.name)

    manager = ModelManager(idle_seconds=None, placement=Watching())
    with manager.acquire(str(REFERENCE), device="cpu", dtype="fp32", adapters=[(adapters[0], 1.0)]) as model:
        with_adapter = weakref.ref(model)
        manager.unload()  # as soon as it is free
        assert len(manager.loaded()) == 2
        assert not unloading
    del model
    assert manager.loaded() == []
    assert with_adapter() is None
    assert unloading == [REFERENCE.name]  # the host knows of one model

    with manager.acquire(str(REFERENCE), device="cpu", dtype="fp32") as model:
        pass
    text(manager, (adapters[0], 1.0))
    nbytes = [info.nbytes for info in manager.loaded()]
    assert len(nbytes) == 2
    assert manager.release(model) == sum(nbytes)
    assert manager.loaded() == []
    manager.close()


def test_what_was_not_used_for_longest_goes_first_and_never_the_model_below(adapters: list[str]) -> None:
    manager = ModelManager(idle_seconds=None)
    for adapter in adapters:
        text(manager, (adapter, 1.0))
    nbytes = sum(info.nbytes for info in manager.loaded())
    manager.configure(budget_bytes=nbytes - 1)
    assert [[folder.name for folder, _ in info.adapters] for info in manager.loaded()] in (
        [["vision"], []], [[], ["vision"]],
    )  # fmt: skip
    manager.configure(budget_bytes=0)
    assert manager.loaded() == []
    manager.close()


def test_models_with_adapters_idle_away(adapters: list[str]) -> None:
    manager = ModelManager(idle_seconds=0.05)
    text(manager, (adapters[0], 1.0))
    end = time.monotonic() + 10
    while manager.loaded() and time.monotonic() < end:
        time.sleep(0.02)
    assert manager.loaded() == []
    manager.close()


def test_an_adapter_whose_file_changed_is_read_again(
    manager: ModelManager, loads: Loads, adapters: list[str], tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(adapters[0], adapter)
    first = text(manager, (str(adapter), 1.0))
    shutil.copy(Path(adapters[1]) / "adapter_model.safetensors", adapter)
    shutil.copy(Path(adapters[1]) / "adapter_config.json", adapter)
    assert text(manager, (str(adapter), 1.0)) == text(manager, (adapters[1], 1.0)) != first
    assert loads.count == 1
    assert len(manager.loaded()) == 3  # the model, and not the adapter as it was


def test_an_adapter_that_does_not_fit_costs_nothing(manager: ModelManager, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter")
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "peft_type": "LOHA"}))
    for _ in range(2):
        with pytest.raises(AdapterError, match="LOHA"):
            text(manager, (str(adapter), 1.0))
    [info] = manager.loaded()
    assert info.adapters == ()
    assert info.in_use == 0
    assert text(manager)
    manager.unload()
    assert manager.loaded() == []


# --- names and files ---------------------------------------------------------------------------------------


def test_an_adapter_is_found_by_what_its_folder_is_called(
    adapters: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTGEN_MODELS", str(tmp_path / "models"))
    shutil.copytree(adapters[0], tmp_path / "models" / "style")
    shutil.copytree(adapters[1], tmp_path / "models" / "someone" / "other")
    copy_reference(tmp_path / "models" / "checkpoint", weights=True)
    assert set(local_adapters()) >= {"style", "someone/other"}
    assert "checkpoint" not in local_adapters()
    assert find_adapter("style") == tmp_path / "models" / "style"
    assert find_adapter("someone/other") == tmp_path / "models" / "someone" / "other"
    with pytest.raises(ModelNotFoundError, match="Did you mean style"):
        find_adapter("styl")
    with pytest.raises(ModelNotFoundError, match="There is no folder"):
        find_adapter("./style")
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "for another model.safetensors").write_bytes(b"")
    shutil.copytree(adapters[0], tmp_path / "loras" / "beside")
    register_adapter_folder(tmp_path / "loras")
    assert find_adapter("beside") == tmp_path / "loras" / "beside"
    with pytest.raises(ModelFilesError, match=r"is a checkpoint, not a LoRA adapter\. Name it by --model"):
        ensure_adapter(tmp_path / "models" / "checkpoint")
    (tmp_path / "models" / "half").mkdir()
    (tmp_path / "models" / "half" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelFilesError, match=r"is not a whole LoRA adapter(.|\n)*adapter_config\.json"):
        ensure_adapter(tmp_path / "models" / "half")


def test_an_adapter_is_found_without_a_look_at_all_others(
    adapters: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTGEN_MODELS", str(tmp_path / "models"))
    for number in range(40):
        (tmp_path / "models" / f"other {number}").mkdir(parents=True)
    shutil.copytree(adapters[0], tmp_path / "models" / "someone" / "style")
    shutil.copytree(adapters[0], tmp_path / "outside")
    looked_at = []
    scandir = os.scandir

    def spy(path: Any) -> Any:
        looked_at.append(Path(path).name)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", spy)
    assert find_adapter("someone/style") == tmp_path / "models" / "someone" / "style"
    assert not [name for name in looked_at if name.startswith("other")]
    for name in ("someone/../style", "x/..", "../outside", "someone/"):
        with pytest.raises(ModelNotFoundError):
            find_adapter(name)


def test_an_adapter_of_the_catalogue_may_have_a_fixed_place(
    adapters: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {
        "My style": {"folder": adapters[0], "family": "lora"},
        "Lost": {"folder": "nowhere", "hub_id": "someone/lost", "family": "lora"},
    }
    (tmp_path / "models.json").write_text(json.dumps(entries))
    monkeypatch.setenv("PROMPTGEN_CATALOGUE", str(tmp_path / "models.json"))
    assert find_adapter("my style") == ensure_adapter("My style") == Path(adapters[0])
    assert find_adapter("Lost") is None
    with pytest.raises(DownloadError, match=r"someone/lost is not on this computer(.|\n)*nowhere"):
        ensure_adapter("Lost", offline=True)


@pytest.mark.skipif(os.name == "nt", reason="links in the Hub's cache")
def test_of_a_repository_only_the_adapter_is_fetched(
    adapters: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in Path(adapters[0]).iterdir() if path.is_file()}
    others = {"modeling.py": b"raise SystemExit('remote code was run')", "training_args.bin": b"never"}
    with running_hub() as hub:
        hub.add("someone/style", files | others | {"adapter_model.bin": b"never"})
        run = """
import sys
from promptgen.models_cache import ensure_adapter
print(ensure_adapter("someone/style", progress=False))
print(ensure_adapter("someone/style", offline=True))
"""
        environment = {
            **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*",
            "PROMPTGEN_MODELS": "",
        }  # fmt: skip
        environment.pop("HF_HUB_OFFLINE", None)
        environment.pop("HF_HUB_CACHE", None)
        command = [sys.executable, "-m", "promptgen.cli", "models", "download", "--lora", "someone/style"]
        ended = subprocess.run(
            [sys.executable, "-c", run], env=environment, capture_output=True, text=True, timeout=60
        )
        again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        first, second = ended.stdout.split()
        assert first == second == again.stdout.strip()
        assert hub.resolved() <= {"adapter_config.json", "adapter_model.safetensors"}
        wanted = {"adapter_config.json", "adapter_model.safetensors"}
        assert {path.name for path in Path(first).iterdir()} == wanted
        assert all((Path(first) / name).read_bytes() == files[name] for name in wanted)


def test_what_only_the_checkpoint_was_not_trained_on_is_no_reason_to_warn(
    manager: ModelManager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = save_adapter(tmp_path / "adapter", find_checkpoint("demo") or Path())
    told = []
    for strength in (1.0, 0.0):
        caplog.clear()
        captioner = Captioner("demo", device="cpu", manager=manager, loras=[(str(adapter), strength)])
        captioner.caption(PICTURE, "REGION_PROPOSAL", SHORT)
        told.append("was not trained on REGION_PROPOSAL" in caplog.text)
    assert told == [False, True]


# --- runs and the command ----------------------------------------------------------------------------------


def test_the_settings_of_a_run_tell_adapters_by_their_bytes(adapters: list[str], tmp_path: Path) -> None:
    def digest(*loras: tuple[str, float]) -> str:
        return settings_digest(Captioner(str(REFERENCE), loras=loras), ["CAPTION"], SHORT)

    first, second = adapters
    shutil.copytree(first, tmp_path / "copy")
    plain, one = digest(), digest((first, 1.0))
    assert digest((first, 0.0)) == plain
    assert digest((str(tmp_path / "copy"), 1.0)) == digest((first, 0.5), (first, 0.5)) == one
    assert digest((first, 1.0), (second, 1.0)) == digest((second, 1.0), (first, 1.0))
    assert (
        len({plain, one, digest((first, 0.5)), digest((second, 1.0)), digest((first, 1), (second, 1))}) == 5
    )


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_is_a_number(strength: float) -> None:
    with pytest.raises(ValueError, match="takes a number"):
        Captioner(loras=[("x", strength)])


def test_the_sum_of_strengths_is_a_number(manager: ModelManager, adapters: list[str]) -> None:
    for strengths in ([1e308, 1e308], [float("nan")], [1e308, 1e308, -1e308]):
        with (
            pytest.raises(ValueError, match="takes a number"),
            manager.acquire(str(REFERENCE), adapters=[(adapters[0], strength) for strength in strengths]),
        ):
            pass
    assert manager.loaded() == []


QUICK = (
    "-m", REFERENCE, "--device", "cpu", "--dtype", "fp32", "--num-beams", 1, "--max-new-tokens", 12, "-i",
    "CAPTION",
)  # fmt: skip


def test_the_command_adds_adapters(promptgen: Promptgen, manager: ModelManager, adapters: list[str]) -> None:
    first, second = adapters
    for given, loras in (
        ([], []),
        (["--lora", first], [(first, 1.0)]),
        (["--lora", f"{first}:0.5", "--lora", f"{second}:-1"], [(first, 0.5), (second, -1.0)]),
    ):
        status, out, err = promptgen("caption", PICTURE, *QUICK, *given, "--format", "json")
        assert status == 0, err
        assert json.loads(out)[0]["raw"] == text(manager, *loras)


def test_the_command_says_what_is_wrong_with_an_adapter(promptgen: Promptgen, adapters: list[str]) -> None:
    status, _, err = promptgen("caption", PICTURE, *QUICK, "--lora", "nowhere")
    assert status != 0
    assert "No LoRA 'nowhere' is known" in err
    status, _, err = promptgen("caption", PICTURE, *QUICK, "--lora", f"{adapters[0]}:nan")
    assert status == 2
    assert "the strength is no number" in err
    status, _, err = promptgen("caption", PICTURE, "-m", "demo", "--lora", adapters[0], "--offline")
    assert status != 0
    assert "does not fit this model" in err
    assert "Traceback" not in err


def test_a_folder_run_does_again_what_another_adapter_has_done(
    promptgen: Promptgen, adapters: list[str], tmp_path: Path
) -> None:
    shutil.copy(PICTURE, tmp_path / "a.png")
    command = ("folder", tmp_path, *QUICK, "--existing", "overwrite")
    assert promptgen(*command)[0] == 0
    plain = (tmp_path / "a.txt").read_text()
    assert promptgen(*command, "--lora", adapters[0])[0] == 0
    adapted = (tmp_path / "a.txt").read_text()
    assert adapted != plain
    assert promptgen(*command)[0] == 0
    assert (tmp_path / "a.txt").read_text() == plain
    devices = ("folder", tmp_path, *QUICK[:2], *QUICK[4:], "--existing", "overwrite", "--devices", "cpu")
    status, _, err = promptgen(*devices, "--lora", adapters[0])
    assert status == 0, err
    assert (tmp_path / "a.txt").read_text() == adapted


def test_an_adapter_is_no_checkpoint_and_a_checkpoint_no_adapter(
    adapters: list[str], promptgen: Promptgen
) -> None:
    """Where one is given in place of the other, the error says where it belongs."""
    picture = ROOT / "examples" / "one-ring.png"
    done = promptgen("caption", picture, "--model", adapters[0])
    assert done.status == 1
    assert "is a LoRA adapter, not a checkpoint. Add it to a checkpoint by --lora" in done.stderr
    done = promptgen("caption", picture, "--model", "demo", "--lora", REFERENCE)
    assert done.status == 1
    assert "is a checkpoint, not a LoRA adapter. Name it by --model" in done.stderr
