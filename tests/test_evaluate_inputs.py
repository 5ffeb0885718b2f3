"""What checkpoints are compared on, and how they are asked: data of all layouts, prompts, limits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from promptgen.training.data.examples import Example
from promptgen.training.data.pictures import ImageRef
from promptgen.training.evaluation.held_out import prompts_of
from promptgen.training.evaluation.questions import questions_of

from .checkpoints import REFERENCE
from .command_line import Ended, Promptgen

QUICK = ("--device", "cpu", "--dtype", "fp32", "--num-beams", "1", "--max-new-tokens", "8", "--offline")


@pytest.fixture
def compare(promptgen: Promptgen, tmp_path: Path) -> Callable[..., Ended]:
    """The command on the quickest terms, writing to ``out``."""

    def run(*arguments: object) -> Ended:
        return promptgen("evaluate", *arguments, *QUICK, "--output", tmp_path / "out")

    return run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A CSV with columns that nobody could guess."""
    for name in ("a", "b"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / f"{name}.png")
    path = tmp_path / "table.csv"
    path.write_text('datei,worte,merkmale\na.png,a red card,red\nb.png,a red paper,"red, plain"\n')
    return path


def source(table: Path) -> dict[str, Any]:
    columns = {"worte": "CAPTION", "merkmale": "GENERATE_TAGS"}
    return {"path": str(table), "image_column": "datei", "columns": columns}


def asked(folder: Path) -> list[dict[str, Any]]:
    """The questions with their answers, as programs read them."""
    lines = (folder / "out" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_data_are_told_as_in_a_configuration(
    compare: Callable[..., Ended], table: Path, tmp_path: Path, suffix: str
) -> None:
    keys = {"dataset_config": [source(table)]}
    path = tmp_path / f"held_out{suffix}"
    path.write_text(json.dumps(keys) if suffix == ".json" else yaml.safe_dump(keys))
    ended = compare("--data", path, "-m", REFERENCE, "--no-loss")
    assert ended.status == 0, ended.stderr
    truths = {(one["image"], one["instruction"]): one["true"] for one in asked(tmp_path)}
    assert truths == {
        ("a.png", "CAPTION"): ["a red card"],
        ("a.png", "GENERATE_TAGS"): ["red"],
        ("b.png", "CAPTION"): ["a red paper"],
        ("b.png", "GENERATE_TAGS"): ["red, plain"],
    }


def test_of_a_configuration_what_is_held_out_counts(
    compare: Callable[..., Ended], table: Path, tmp_path: Path
) -> None:
    held_out = {"path": str(table), "image_column": "datei", "columns": {"worte": "DETAILED_CAPTION"}}
    keys = {
        "model_name": "demo",
        "learning_rate": "1e-5",
        "dataset_config": [source(table)],
        "eval_dataset_config": [held_out],
        "prompts": {"DETAILED_CAPTION": "<DESCRIPTION>Tell."},
        "max_target_tokens": 12,
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(keys))
    ended = compare("--data", path, "-m", REFERENCE)
    assert ended.status == 0, ended.stderr
    assert {one["instruction"] for one in asked(tmp_path)} == {"DETAILED_CAPTION"}
    settings = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["settings"]
    assert settings["prompt of DETAILED_CAPTION"] == "<DESCRIPTION>Tell."
    keys["max_target_tokens"] = 3
    path.write_text(yaml.safe_dump(keys))
    ended = compare("--data", path, "-m", REFERENCE)
    assert ended.status == 1
    assert "over-long caption: 2 left out" in ended.stderr


@pytest.mark.parametrize(
    ("keys", "more", "said"),
    [
        ({"dataset_config": [{"path": "x", "colums": {}}]}, (), "dataset_config.colums"),
        ({"datasett_config": ["x"]}, (), "did you mean dataset_config?"),
        ({"prompts": {}}, (), "dataset_config"),
        ({"dataset_config": ["x"]}, ("-i", "CAPTION"), "--instruction"),
        ({"dataset_config": ["x"]}, ("--layout", "table"), "--layout"),
    ],
)
def test_wrong_keys_are_told(
    compare: Callable[..., Ended], tmp_path: Path, keys: dict[str, Any], more: tuple[str, ...], said: str
) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump(keys))
    ended = compare("--data", path, "-m", REFERENCE, *more)
    assert (ended.status, said in ended.stderr) == (2, True), ended.stderr
    assert not (tmp_path / "out").exists()


def test_images_of_two_folders_that_are_called_alike_are_two(
    compare: Callable[..., Ended], tmp_path: Path
) -> None:
    for folder, colour in (("one", "red"), ("two", "blue")):
        (tmp_path / folder / "CAPTION").mkdir(parents=True)
        Image.new("RGB", (40, 30), colour).save(tmp_path / folder / "a.png")
        (tmp_path / folder / "CAPTION" / "a.txt").write_text(f"a {colour} card", encoding="utf-8")
    ended = compare("--data", tmp_path / "one", "--data", tmp_path / "two", "-m", REFERENCE, "--no-loss")
    assert ended.status == 0, ended.stderr
    assert {one["image"]: one["true"] for one in asked(tmp_path)} == {
        str(tmp_path / "one" / "a.png"): ["a red card"],
        str(tmp_path / "two" / "a.png"): ["a blue card"],
    }


def test_the_name_of_an_image_is_as_short_as_it_may_be() -> None:
    examples = [
        Example(ImageRef("a.png", "/x/a.png"), "CAPTION", None, "a"),
        Example(ImageRef("a.png", "/x/a.png"), "OD", None, "b"),
        Example(ImageRef("b.png", "/x/b.png"), "CAPTION", None, "c"),
        Example(ImageRef("t.parquet#3", "/x/t.parquet", "image", 3), "CAPTION", None, "d"),
        Example(ImageRef("t.parquet#3", "/y/t.parquet", "image", 3), "CAPTION", None, "e"),
    ]
    names = [question.image.name for question in questions_of(examples)]
    assert names == ["a.png", "a.png", "b.png", "/x/t.parquet#3", "/y/t.parquet#3"]


# Prompts ------------------------------------------------------------------------------------


def test_a_trained_checkpoint_is_asked_as_it_was_trained(
    compare: Callable[..., Ended], table: Path, tmp_path: Path
) -> None:
    """Without its run being named: its configuration lies with it."""
    trained = shutil.copytree(REFERENCE, tmp_path / "trained")
    literal = "<DESCRIPTION>Tell me what is in the image."
    config = {"model_name": str(REFERENCE), "dataset_config": ["x"], "prompts": {"CAPTION": literal}}
    (trained / "training_config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert prompts_of(trained) == {"CAPTION": literal}
    data = tmp_path / "data.yaml"
    data.write_text(yaml.safe_dump({"dataset_config": [source(table)]}))
    models = ("-m", REFERENCE, "-m", trained, "--label", "before", "--label", "after")
    ended = compare("--data", data, *models, "--only", "CAPTION,GENERATE_TAGS")
    assert ended.status == 0, ended.stderr
    before, after = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["models"]
    tags = "GENERATE_TAGS"
    same = pytest.approx(before["instructions"][tags]["loss"], rel=1e-5)
    assert after["instructions"][tags]["loss"] == same
    other = pytest.approx(before["instructions"]["CAPTION"]["loss"], rel=1e-3)
    assert after["instructions"]["CAPTION"]["loss"] != other


def test_prompts_of_a_checkpoint_come_from_its_run(tmp_path: Path) -> None:
    final = tmp_path / "run" / "final"
    final.mkdir(parents=True)
    assert prompts_of(final) == {}
    config = {"model_name": "gokaygokay/Florence-2-Flux", "dataset_config": ["x"]}
    path = tmp_path / "run" / "training_config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert prompts_of(final)["MORE_DETAILED_CAPTION"].startswith("<DESCRIPTION>")
    gone = config | {"model_name": str(tmp_path / "gone"), "prompts": {"CAPTION": "x"}}
    path.write_text(yaml.safe_dump(gone), encoding="utf-8")
    assert prompts_of(final) == {"CAPTION": "x"}
