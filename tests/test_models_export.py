"""``promptgen models export``: a checkpoint in another form, with adapters in its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from promptgen.models_cache import find_entry, own_prompts

from .adapters import save_adapter
from .command_line import Promptgen

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "models_cache" / "demo"
PICTURE = next(ROOT.glob("examples/*.png"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that changes what the demo model says."""
    return save_adapter(tmp_path_factory.mktemp("lora") / "adapter", DEMO, size=0.15)


def captions(promptgen: Promptgen, *options: object) -> str:
    asked = ("caption", PICTURE, "-i", "CAPTION,GENERATE_TAGS", "--device", "cpu", "--dtype", "fp32")
    done = promptgen(*asked, "--format", "json", "-q", *options)
    assert done.status == 0, done.stderr
    return json.dumps([(row["instruction"], row["raw"]) for row in json.loads(done.stdout)])


@pytest.mark.parametrize("form", ["original", "converted"])
def test_what_is_exported_with_an_adapter_answers_as_the_two_did(
    promptgen: Promptgen, adapter: Path, tmp_path: Path, form: str
) -> None:
    output = tmp_path / "a new folder"
    done = promptgen(
        "models", "export", "demo", output, "--lora", f"{adapter}:0.7", "--format", form, "--dtype", "fp32"
    )

    assert done.status == 0, done.stderr
    together = captions(promptgen, "--model", "demo", "--lora", f"{adapter}:0.7")
    assert captions(promptgen, "--model", output) == together
    assert together != captions(promptgen, "--model", "demo")  # or the above would say nothing
    entry = find_entry("demo")
    assert entry is not None
    assert json.loads((output / "promptgen.json").read_text())["instructions"] == list(entry.instructions)


def test_an_adapter_is_asked_as_its_catalogue_says_once_it_is_in_the_weights(
    promptgen: Promptgen, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    literal = "<CAPTION>Say it in one line."
    entry = {"folder": str(adapter), "family": "lora", "prompts": {"CAPTION": literal}}
    catalogue = tmp_path / "models.json"
    catalogue.write_text(json.dumps({"my-style": entry}), encoding="utf-8")
    monkeypatch.setenv("PROMPTGEN_CATALOGUE", str(catalogue))

    done = promptgen("models", "export", "demo", tmp_path / "whole", "--lora", "my-style", "-q")

    assert done.status == 0, done.stderr
    assert own_prompts("demo", [("my-style", 1.0)])["CAPTION"] == literal
    assert own_prompts(tmp_path / "whole")["CAPTION"] == literal


def test_a_checkpoint_goes_into_the_other_format_and_back(promptgen: Promptgen, tmp_path: Path) -> None:
    assert promptgen("models", "export", "demo", tmp_path / "c", "--format", "converted", "-q").status == 0
    assert promptgen("models", "export", tmp_path / "c", tmp_path / "o", "-q").status == 0

    weights = json.loads((tmp_path / "o/config.json").read_text())
    assert weights["vision_config"]["model_type"] == "davit"
    assert captions(promptgen, "--model", tmp_path / "o") == captions(promptgen, "--model", "demo")


def test_what_cannot_be_is_told_and_leaves_nothing(
    promptgen: Promptgen, adapter: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "mine.txt").write_text("mine")
    done = promptgen("models", "export", "demo", there)
    assert done.status == 2
    assert "is there already" in done.stderr
    assert [path.name for path in there.iterdir()] == ["mine.txt"]

    (adapter.parent / "broken").mkdir(exist_ok=True)
    done = promptgen("models", "export", "demo", tmp_path / "new", "--lora", adapter.parent / "broken")
    assert done.status == 1
    assert "error" in done.stderr.lower()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]
