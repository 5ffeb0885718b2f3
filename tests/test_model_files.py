"""From a model's name to a whole folder, on the disk alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from promptgen.models_cache import (
    DamagedCheckpointError,
    DownloadError,
    ModelNotFoundError,
    checkpoint_problems,
    ensure_checkpoint,
    find_checkpoint,
    known_family,
    local_checkpoints,
    register_folder,
    search_folders,
    unregister_folder,
    verify_checkpoint,
)
from promptgen.models_cache.checks import file_digest
from promptgen.models_cache.memory import estimate_bytes
from promptgen.models_cache.records import Record, write_record

from .checkpoints import LAYOUTS, REFERENCE, copy_reference, make_layout, reference_state

NAME = "Florence-2-base-PromptGen-v2.0"
HUB_ID = f"MiaoshouAI/{NAME}"


@pytest.fixture(autouse=True)
def nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No folders, cache or network but the test's own."""
    from huggingface_hub import constants

    for name in ("PROMPTGEN_MODELS", "PROMPTGEN_CATALOGUE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    yield
    for folder in search_folders():
        unregister_folder(folder)


def make(folder: Path) -> Path:
    return copy_reference(folder, weights=True)


def make_sharded(folder: Path) -> Path:
    return make_layout(folder, "safetensors, sharded")


def test_a_folder_by_its_path(tmp_path: Path) -> None:
    folder = make(tmp_path / "any.name v1")
    assert find_checkpoint(str(folder)) == folder
    assert ensure_checkpoint(folder) == folder
    assert ensure_checkpoint("./any.name v1") == folder
    assert ensure_checkpoint("any.name v1") == folder


@pytest.mark.parametrize("place", [NAME, f"MiaoshouAI--{NAME}", HUB_ID])
@pytest.mark.parametrize("model", [NAME, HUB_ID, HUB_ID.lower()])
def test_layouts_of_plain_folders(tmp_path: Path, place: str, model: str) -> None:
    folder = make(tmp_path / "models" / place)
    assert find_checkpoint(model) is None
    register_folder(tmp_path / "models")
    assert find_checkpoint(model) == folder


def test_a_hub_id_that_is_not_in_the_catalogue(tmp_path: Path) -> None:
    folder = make(tmp_path / "models" / "My-Florence")
    register_folder(tmp_path / "models")
    assert find_checkpoint("me/My-Florence") == folder
    assert find_checkpoint("My-Florence") == folder


def test_a_repository_of_the_same_last_name_is_another_checkpoint(tmp_path: Path) -> None:
    make(tmp_path / "models" / NAME)
    register_folder(tmp_path / "models")
    assert find_checkpoint(f"somebody/{NAME}") is None, "that name is the catalogue's"
    own = make(tmp_path / "models" / f"somebody--{NAME}")
    assert find_checkpoint(f"somebody/{NAME}") == own

    mine = make(tmp_path / "models" / "My-Florence")
    write_record(mine, Record("me/My-Florence", "1" * 40, complete=True))
    assert find_checkpoint("me/My-Florence") == mine
    assert find_checkpoint("you/My-Florence") is None


def test_the_order_of_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, first, second = (make(tmp_path / part / NAME) for part in ("host", "first", "second"))
    cached = _cached(tmp_path, "1" * 40)
    found = []
    register_folder(host.parent)
    monkeypatch.setenv("PROMPTGEN_MODELS", os.pathsep.join([str(first.parent), "", str(second.parent)]))
    for folder in (host, first, second, cached):
        found.append(find_checkpoint(NAME))
        shutil.rmtree(folder)
    assert found == [host, first, second, cached]
    assert find_checkpoint(NAME) is None


def _cached(tmp_path: Path, commit: str, *, main: bool = True) -> Path:
    """A snapshot laid out as the client does."""
    repository = tmp_path / "cache" / f"models--MiaoshouAI--{NAME}"
    folder = make(repository / "snapshots" / commit)
    if main:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
    return folder


def test_the_snapshot_of_main_comes_first_and_a_whole_one_before_a_partial_one(tmp_path: Path) -> None:
    older = _cached(tmp_path, "1" * 40)
    newer = _cached(tmp_path, "2" * 40)
    other = _cached(tmp_path, "3" * 40, main=False)
    os.utime(other)
    assert find_checkpoint(NAME) == newer
    (newer / "pytorch_model.bin").unlink()
    shutil.rmtree(other)
    assert find_checkpoint(NAME) == older


def test_a_broken_folder_is_passed_over_for_a_whole_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = make(tmp_path / "models" / NAME)
    (broken / "pytorch_model.bin").unlink()
    register_folder(tmp_path / "models")
    cached = _cached(tmp_path, "1" * 40)
    assert find_checkpoint(NAME) == cached
    assert str(broken) in caplog.text
    assert "pytorch_model.bin" in caplog.text


def test_the_embedded_name_wins_over_a_folder_of_the_same_name(tmp_path: Path) -> None:
    folder = make(tmp_path / "demo")
    assert find_checkpoint("demo") != folder
    assert find_checkpoint("./demo") == folder


def test_local_checkpoints_are_listed_without_reading_them(tmp_path: Path) -> None:
    register_folder(tmp_path / "models")
    assert local_checkpoints() == {}
    mine = make(tmp_path / "models" / "mine")
    nested = make(tmp_path / "models" / "org" / "theirs")
    (tmp_path / "models" / "empty").mkdir()
    assert local_checkpoints() == {"mine": mine, "org/theirs": nested}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_folder_that_may_not_be_looked_into_hides_no_other(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):  # pytest's own folders are closed to others
        if folder.stat().st_uid == os.geteuid() and "pytest" in str(folder):
            folder.chmod(0o755)
    register_folder(tmp_path / "models")
    mine = make(tmp_path / "models" / "mine")
    closed = tmp_path / "models" / "lost+found"
    closed.mkdir()
    closed.chmod(0)
    is_root = os.geteuid() == 0
    try:
        if is_root:  # whom no permission stops
            os.seteuid(65534)
        with pytest.raises(PermissionError):
            (closed / "config.json").stat()
        assert local_checkpoints() == {"mine": mine}
        assert find_checkpoint("mine") == mine
        with pytest.raises(ModelNotFoundError):
            find_checkpoint(str(closed / "folder"))
    finally:
        if is_root:
            os.seteuid(0)
        closed.chmod(0o755)


@pytest.mark.parametrize("name", [".mine", "~mine"])
def test_what_is_listed_is_found(tmp_path: Path, name: str) -> None:
    register_folder(tmp_path / "models")
    mine = make(tmp_path / "models" / name)
    assert local_checkpoints() == {name: mine}
    assert find_checkpoint(name) == mine


@pytest.mark.parametrize("name", ["~nobody-is-called-this/model", "x" * 5000])
def test_an_impossible_name_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        find_checkpoint(name)


@pytest.mark.parametrize(
    "config", ['{"model_type": ["florence2"]}', '{"model_type": null}', "[1]", "null", "{", "[" * 100_000, ""]
)
def test_a_strange_config_is_of_no_known_family(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    assert known_family(tmp_path) is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_that_can_be_loaded_counts_as_whole(tmp_path: Path, layout: str) -> None:
    assert checkpoint_problems(make_layout(tmp_path / "mine", layout)) == []


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _shorten(pattern: str) -> Callable[[Path], None]:
    def shorten(folder: Path) -> None:
        path = min(folder.glob(pattern))
        path.write_bytes(path.read_bytes()[:-100])

    return shorten


def _fill(name: str, content: bytes) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return fill


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
SHARD, INDEX = "model-00004-of-00004.safetensors", "model.safetensors.index.json"
LEFTOVER = ".cache/huggingface/download/x.1234.incomplete"
# what was whole, how it is broken, what is said of it
WAYS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], None], str]] = {
    "no config": (make, _remove("config.json"), "config.json: missing"),
    "no picture settings": (make, _remove("preprocessor_config.json"), "preprocessor_config.json: missing"),
    "no tokenizer": (make, _remove("tokenizer.json"), "tokenizer.json: missing"),
    "no weights": (make, _remove("pytorch_model.bin"), "and so is pytorch_model.bin"),
    "half a config": (make, _shorten("config.json"), "config.json: not whole JSON"),
    "half a tokenizer": (make, _shorten("tokenizer.json"), "tokenizer.json: not whole JSON"),
    "an empty file": (make, _fill("tokenizer.json", b""), "tokenizer.json: empty"),
    "half a bin": (make, _shorten("pytorch_model.bin"), "pytorch_model.bin: cut off"),
    "a bin of zeros": (make, _fill("pytorch_model.bin", bytes(10_000)), "pytorch_model.bin: cut off"),
    "a Git LFS pointer": (make, _fill("pytorch_model.bin", LFS_POINTER), "git lfs pull"),
    "half a shard": (make_sharded, _shorten("model-*.safetensors"), "where its header says"),
    "a missing shard": (make_sharded, _remove(SHARD), f"missing, though {INDEX} names it"),
    "a wrong index": (make_sharded, _fill(INDEX, b"{}"), f"{INDEX}: not an index"),
    "safetensors of a few bytes": (make, _fill("model.safetensors", b"abc"), "model.safetensors: cut off"),
    "a stopped download of the client": (make, _fill(LEFTOVER, b"half"), "x.1234.incomplete: a download"),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_whole_is_never_used(tmp_path: Path, way: str) -> None:
    whole, breaking, words = WAYS[way]
    folder = whole(tmp_path / "mine")
    assert checkpoint_problems(folder) == []
    breaking(folder)
    assert find_checkpoint(str(folder)) is None
    with pytest.raises(DamagedCheckpointError, match="not a whole checkpoint") as caught:
        ensure_checkpoint(str(folder))
    assert words in str(caught.value)
    assert caught.value.problems
    assert verify_checkpoint(str(folder))


def test_a_bin_whose_directory_reaches_beyond_its_end(tmp_path: Path) -> None:
    folder = make(tmp_path / "mine")
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda item: item.header_offset)
    content = path.read_bytes()
    path.write_bytes(content[: largest.header_offset] + content[largest.header_offset + 5000 :])
    assert "pytorch_model.bin" in str(checkpoint_problems(folder)[0])


def test_a_broken_folder_of_a_known_model_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    folder = make(tmp_path / "models" / NAME)
    (folder / "pytorch_model.bin").unlink()
    for model in (str(folder), NAME):
        register_folder(tmp_path / "models")
        with pytest.raises(DownloadError) as caught:
            ensure_checkpoint(model)
        text = str(caught.value)
        assert "model.safetensors: missing" in text
        assert f"hf download {HUB_ID}" in text
        assert f"put the files into {folder}." in text


def test_a_tokenizer_of_sentencepiece_alone_says_what_to_do(tmp_path: Path) -> None:
    folder = make(tmp_path / "mine")
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    (problem,) = checkpoint_problems(folder)
    assert problem.file == "tokenizer.json"
    assert "save_pretrained" in str(problem)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=f"Did you mean {re.escape(NAME)}"):
        find_checkpoint("Florence-2-base-PromtGen-v2.0")
    with pytest.raises(ModelNotFoundError, match="Hub id"):
        find_checkpoint("something else")
    with pytest.raises(ModelNotFoundError, match="no folder"):
        ensure_checkpoint(str(tmp_path / "absent"))
    with pytest.raises(ModelNotFoundError, match="empty"):
        ensure_checkpoint("")
    with pytest.raises(ModelNotFoundError, match="not on this computer"):
        verify_checkpoint(NAME)


def test_verify_says_when_there_was_nothing_to_compare_with(tmp_path: Path) -> None:
    folder = make(tmp_path / "mine")
    assert verify_checkpoint(str(folder)) == []
    register_folder(tmp_path / "models")
    make(tmp_path / "models" / NAME)
    [problem] = verify_checkpoint(NAME)
    assert problem.kind == "unchecked"


def test_the_user_may_edit_settings(tmp_path: Path) -> None:
    folder = make(tmp_path / "mine")
    (folder / "generation_config.json").write_text(json.dumps({"num_beams": 1}))
    assert find_checkpoint(str(folder)) == folder


def test_a_record_that_cannot_be_brought_up_to_date_costs_one_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container: the copy has other times than the record says, and nobody may write there."""
    folder = make(tmp_path / "mine")
    weights = folder / "pytorch_model.bin"
    record = Record("me/mine", "1" * 40, complete=True)
    record.note(folder, weights.name, file_digest(weights, "sha256"))
    write_record(folder, record)
    os.utime(weights, (0, 0))
    read: list[Path] = []

    def refuse(folder: Path, record: Record) -> None:
        raise OSError("a file system for reading only")

    def count(path: Path, kind: str) -> str:
        read.append(path)
        return file_digest(path, kind)

    monkeypatch.setattr("promptgen.models_cache.records.write_record", refuse)
    monkeypatch.setattr("promptgen.models_cache.records.file_digest", count)
    for _ in range(3):
        assert find_checkpoint(str(folder)) == folder
    assert read == [weights]
    assert verify_checkpoint(str(folder)) == []
    assert read == [weights, weights], "verify reads every byte"


def test_bytes_are_estimated_from_the_files(tmp_path: Path) -> None:
    state = reference_state()
    numbers = sum(tensor.numel() for tensor in state.values())
    folder = make_sharded(tmp_path / "mine")
    assert estimate_bytes(folder, "fp32") == 4 * numbers
    assert estimate_bytes(folder, "bf16") == 2 * numbers
    assert estimate_bytes(REFERENCE, "fp32") == (REFERENCE / "pytorch_model.bin").stat().st_size


def test_importing_and_looking_loads_nothing_heavy(tmp_path: Path) -> None:
    folder = make(tmp_path / "mine")
    code = (
        "import sys, promptgen.models_cache as models_cache\n"
        "from promptgen.models_cache.manager import shared_manager\n"
        f"assert models_cache.find_checkpoint({str(folder)!r})\n"
        "shared_manager()\n"
        "print({'torch', 'transformers', 'timm', 'PIL', 'numpy', 'requests', 'httpx2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
