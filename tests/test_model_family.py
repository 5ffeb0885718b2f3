"""Which family a model is of, wherever it lies and whatever it is called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from promptgen.captioning import Captioner, default_instruction
from promptgen.captioning.instructions import instructions_of
from promptgen.models_cache import entry_of, family_of_model, told_family
from promptgen.serving.models import ServedModel

from .checkpoints import copy_reference
from .command_line import Promptgen
from .paligemma_checkpoints import make_paligemma, pictures


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_paligemma(tmp_path_factory.mktemp("tiny") / "original")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "p0.png"
    pictures(1)[0].save(path)
    return path


def instruction_asked(promptgen: Promptgen, picture: Path, model: object) -> str:
    """Which one the command asks where nobody chooses; it may warn of nothing."""
    flags = ("--device", "cpu", "--max-new-tokens", 5, "--format", "json")
    ended = promptgen("caption", picture, "--model", model, *flags)
    assert ended.status == 0, ended.stderr
    assert "not trained on" not in ended.stderr
    return str(json.loads(ended.stdout)[0]["instruction"])


# Folders that are called as an entry of the catalogue ------------------------------------


def test_a_folder_called_demo_is_what_its_config_says(
    promptgen: Promptgen, original: Path, picture: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    folder.symlink_to(original, target_is_directory=True)
    assert entry_of(str(folder)) is None
    assert told_family(str(folder)) == "paligemma"
    assert instruction_asked(promptgen, picture, folder) == "CAPTION"


def test_a_folder_called_as_a_published_checkpoint_is_what_its_config_says(
    original: Path, tmp_path: Path
) -> None:
    paligemma = tmp_path / "Florence-2-base"
    paligemma.symlink_to(original, target_is_directory=True)
    florence = copy_reference(tmp_path / "paligemma-3b-mix-224")
    assert (told_family(str(paligemma)), default_instruction(str(paligemma))) == ("paligemma", "CAPTION")
    assert told_family(str(florence)) == "florence2"
    (tmp_path / "paligemma2-3b-mix-224").mkdir()  # nothing in it tells
    assert family_of_model(str(tmp_path / "paligemma2-3b-mix-224")) == "paligemma"


def test_the_folder_of_the_demo_is_the_demo_by_its_path_too() -> None:
    entry = entry_of("demo")
    assert entry is not None
    assert entry_of(str(entry.folder)) is entry
    assert told_family(str(entry.folder)) == "florence2"


def test_a_folder_called_as_another_one_of_the_users(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {"mine": {"folder": str(original), "prompts": {"CAPTION": "say it"}}}
    (tmp_path / "models.json").write_text(json.dumps(entries), encoding="utf-8")
    monkeypatch.setenv("PROMPTGEN_CATALOGUE", str(tmp_path / "models.json"))
    other = copy_reference(tmp_path / "mine")
    assert entry_of(str(other)) is None
    assert told_family(str(other)) == "florence2"
    assert entry_of("mine") is not None


# Entries of the user's catalogue ---------------------------------------------------------


@pytest.fixture
def listed(promptgen: Promptgen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What ``promptgen models list`` tells of an entry of the user's."""

    def add(**entry: object) -> Any:
        (tmp_path / "models.json").write_text(json.dumps({"mypali": entry}), encoding="utf-8")
        monkeypatch.setenv("PROMPTGEN_CATALOGUE", str(tmp_path / "models.json"))
        ended = promptgen("models", "list", "--format", "json")
        assert ended.status == 0, ended.stderr
        return next(row for row in json.loads(ended.stdout) if row["name"] == "mypali")

    return add


def test_an_entry_with_a_folder_is_what_that_holds(
    promptgen: Promptgen, original: Path, picture: Path, listed: Callable[..., Any]
) -> None:
    row = listed(folder=str(original))
    assert (row["family"], row["instructions"]) == ("paligemma", [])
    assert instruction_asked(promptgen, picture, "mypali") == "CAPTION"
    flags = ("--device", "cpu", "--max-new-tokens", 5)
    ended = promptgen("caption", picture, "--model", "mypali", "-i", "describe", *flags)
    assert ended.status == 0, ended.stderr
    assert "not trained on" not in ended.stderr
    served = ServedModel.of(Captioner("mypali"))
    assert (served.family, served.instructions) == ("paligemma", instructions_of("paligemma"))
    listed(folder=str(original), instructions=["OCR"])
    assert instruction_asked(promptgen, picture, "mypali") == "OCR"


def test_an_entry_whose_folder_is_not_there_is_of_no_family(listed: Callable[..., Any]) -> None:
    assert listed(folder="nowhere")["family"] is None
    assert listed(folder="nowhere", family="paligemma")["family"] == "paligemma"
    assert told_family("mypali") is None
    assert family_of_model("mypali") == "paligemma"
    assert listed(folder="nowhere", hub_id="nobody/mine")["family"] is None
    assert family_of_model("mypali") == "florence2"


def test_an_entry_with_a_hub_id_is_what_it_says(listed: Callable[..., Any]) -> None:
    row = listed(hub_id="nobody/mine")
    assert (row["family"], row["instructions"]) == ("florence2", [])
    row = listed(hub_id="nobody/mine", family="paligemma")
    assert (row["family"], row["instructions"]) == ("paligemma", [])
    assert default_instruction("mypali") == "CAPTION"
    row = listed(hub_id="nobody/mine", family="florence2")
    assert "REGION_TO_OCR" in row["instructions"]


def test_the_help_of_the_list_names_the_families(promptgen: Promptgen) -> None:
    text = promptgen("models", "list", "--help").stdout
    assert '"family": "paligemma"' in " ".join(text.split())
