"""The model card of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from promptgen.training.base_model import base_model_id
from promptgen.training.card import CARD, DataFacts, card, write_card
from promptgen.training.config import (
    CheckpointOptions,
    DataOptions,
    LoraOptions,
    ModelOptions,
    OptimizerOptions,
    RunOptions,
    TrainConfig,
)
from promptgen.training.data.examples import Example
from promptgen.training.data.options import DataSource
from promptgen.training.data.pictures import ImageRef

FACTS = DataFacts({"CAPTION": 4500, "OCR": 12}, 4400, 250, 200, {})


def config(name: str = "microsoft/Florence-2-base", **groups: Any) -> TrainConfig:
    sources = (DataSource(path=Path("/home/somebody/secret")),)
    settings: dict[str, Any] = {
        "run": RunOptions(run_name="my style", output_dir=Path("/home/somebody/out")),
        "checkpoint": CheckpointOptions(model_name=name),
        "data": DataOptions(sources=sources, eval_sources=sources),
        "optimizer": OptimizerOptions(optimizer="CAME", learning_rate=3e-6, lr_scheduler="rex"),
    }
    return TrainConfig(**{**settings, **groups})


def losses(count: int) -> list[dict[str, Any]]:
    by_instruction = {"CAPTION": 1.25, "OCR": 0.5}
    return [
        {"step": 10 * place, "evaluation_loss": 2 - 0.01 * (place % 25), "by_instruction": by_instruction}
        for place in range(count)
    ]


def test_the_hub_can_read_the_card(tmp_path: Path) -> None:
    write_card(tmp_path, config(), FACTS, losses(3))
    read = ModelCard.load(tmp_path / CARD)
    assert read.data.base_model == "microsoft/Florence-2-base"
    assert read.data.library_name == "transformers"
    assert read.data.pipeline_tag == "image-text-to-text"
    assert "trained on 4,512 captions of 4,400 images: `CAPTION` (4,500), `OCR` (12)" in read.text
    assert "200 other images with 250 captions were held out" in read.text
    assert "promptgen caption image.jpg --model ./FOLDER --instruction CAPTION" in read.text


def test_an_adapters_card_says_how_to_use_it_with_its_base() -> None:
    text = card(config(model=ModelOptions(lora=LoraOptions(use_dora=True))), FACTS, [])
    assert "library_name: peft" in text
    assert "A DoRA adapter for [microsoft/Florence-2-base]" in text
    assert "--model microsoft/Florence-2-base --lora ./FOLDER" in text
    assert "Held-out loss" not in text


def test_settings_that_are_not_the_usual_ones_are_told_and_no_place_of_the_machine() -> None:
    text = card(config("/home/somebody/models/mine"), FACTS, [])
    assert '"optimizer": "CAME"' in text
    assert '"learning_rate": 3e-06' in text
    assert "clip_grad_norm" not in text
    assert '"model_name": "mine"' in text
    assert "base_model" not in text
    assert "somebody" not in text


def test_the_licence_is_the_bases(tmp_path: Path) -> None:
    assert "license: mit\n" in card(config(), FACTS, [])  # as the catalogue says
    assert "license" not in card(config("somebody/else"), FACTS, [], tmp_path)
    told = "---\nlicense: other\nlicense_name: house\nlicense_link: LICENSE\ntags: [a]\n---\n# A card\n"
    (tmp_path / "README.md").write_text(told, encoding="utf-8")
    text = card(config(str(tmp_path)), FACTS, [], tmp_path)
    for line in ("license: other\n", "license_name: house\n", "license_link: LICENSE\n"):
        assert line in text
    write_card(tmp_path, config(str(tmp_path)), FACTS, [], tmp_path)  # and goes on from there
    assert "license: other\n" in card(config(str(tmp_path)), FACTS, [], tmp_path)
    (tmp_path / "README.md").write_text("---\n[\n---\n", encoding="utf-8")
    assert "license" not in card(config("somebody/else"), FACTS, [], tmp_path)


def test_names_of_the_catalogue_lead_to_the_hub() -> None:
    text = card(config("Florence-2-base-PromptGen-v2.0"), FACTS, [])
    assert "base_model: MiaoshouAI/Florence-2-base-PromptGen-v2.0" in text


@pytest.mark.parametrize("count", [1, 20, 21, 400])
def test_the_table_of_losses_has_the_ends_and_the_best_and_is_never_long(count: int) -> None:
    text = card(config(), FACTS, [{"step": 1, "loss": 3.0}, *losses(count)])
    rows = [line for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert len(rows) == min(count, len(rows)) <= 20
    assert rows[0].startswith("| 0 | ")
    assert rows[-1].startswith(f"| {10 * (count - 1)} | ")
    best = min(range(count), key=lambda place: 2 - 0.01 * (place % 25))
    assert [row for row in rows if "**" in row] == [
        f"| {10 * best} | **{2 - 0.01 * (best % 25):.4f}** | 1.2500 | 0.5000 |"
    ]


def test_facts_count_each_example_once(tmp_path: Path) -> None:
    def example(image: str, instruction: str) -> Example:
        return Example(ImageRef(str(tmp_path / image), image), instruction, None, "a cat")

    one, two, three = example("1.png", "CAPTION"), example("1.png", "OCR"), example("2.png", "CAPTION")
    prompts = {"CAPTION": "<CAPTION>", "OD": "<OD>"}
    facts = DataFacts.of([one, two, three, one], [example("3.png", "OCR")], prompts)
    assert facts == DataFacts({"CAPTION": 2, "OCR": 1}, 2, 1, 1, {"CAPTION": "<CAPTION>"})
    assert "| `CAPTION` | `<CAPTION>` |" in card(config(), facts, [])


def test_a_folder_of_a_name_as_on_the_hub_is_not_the_hubs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert base_model_id("microsoft/Florence-2-base") == "microsoft/Florence-2-base"
    assert base_model_id("somebody/else") == "somebody/else"
    monkeypatch.chdir(tmp_path)
    for name in ("microsoft/Florence-2-base", "somebody/else", "Florence-2-base-PromptGen-v2.0"):
        Path(name).mkdir(parents=True)
    assert base_model_id("microsoft/Florence-2-base") is None
    assert base_model_id("somebody/else") is None
    assert base_model_id("Florence-2-base-PromptGen-v2.0") == "MiaoshouAI/Florence-2-base-PromptGen-v2.0"
    assert base_model_id("demo") is None
