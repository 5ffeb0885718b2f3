"""Configurations of training runs: the published files as they are, and every mistake by its name."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from promptgen.training.config import LoraOptions, TrainConfig
from promptgen.training.config_files import config_mapping, parse_config, read_config, write_config
from promptgen.training.data import DataSource, Layout
from promptgen.training.errors import ConfigError

SEED = """{
    "model_name": "microsoft/Florence-2-base", "task_prompt": "<CAPTION>",
    "dataset_path": "./0000_Datasets/Gemini", "wandb_project_name": "Florence-2-base",
    "run_name": "Florence-2-base-gemini-2.0-flash-thinking-exp-1219-v0.2-run1",
    "epochs": 2, "optimizer": "CAME", "learning_rate": 3e-6, "lr_scheduler": "REX",
    "gradient_checkpointing": true, "freeze_vision": false, "freeze_language": false, "freeze_other": false,
    "train_batch_size": 8, "eval_batch_size": 8, "gradient_accumulation_steps": 4, "clip_grad_norm": 1,
    "weight_decay": 1e-2, "save_total_limit": 3, "save_steps": 10, "eval_steps": 10, "warmup_steps": 10,
    "eval_split_ratio": 0.05, "seed": 42, "filtering_processes": 128, "attn_implementation": "sdpa"
}"""
"""The model card's configuration, all of its keys."""

PUBLISHED = """
# Project Settings
wandb_project_name: Florence-2-base
run_name: Florence-2-base-Example-v0.1-run1
wandb_x_stats_sampling_interval: 10  # used for logging system stats every x seconds, default is 10
model_name: microsoft/Florence-2-base
attn_implementation: sdpa  # sdpa, eager, or flash_attention_2
use_bf16: true  # true or false, will use fp16 if false
save_steps: 10
eval_steps: 10
save_total_limit: 3
do_extra_eval: true  # true or false
eval_before_training: true  # true or false
print_first_batch_predictions: true  # true or false
epochs: 2
optimizer: CAME
lr_scheduler: REX
learning_rate: 0.0000025
min_learning_rate: 0.00000025
train_batch_size: 4
eval_batch_size: 4
gradient_accumulation_steps: 16
gradient_checkpointing: # true or false, may not even work
warmup_steps: 20
clip_grad_norm: 0.5
weight_decay: 0.01
seed: 42
garbage_collection: # true or false
activation_offloading:  # cpu or disk or hybrid
gpu_limit_mb:
offload_cpu_limit_mb:
freeze_vision: # true or false
freeze_language: # true or false
freeze_other: # true or false
eval_split: 256
dataset_config:
{dataset_config}
filtering_processes_per_thread: 1
filtering_batch_size: 16
dataloader_workers: 12
persistent_workers: true  # true or false
dataloader_prefetch_factor: 2
"""
"""The published trainer's example, all of its keys; its README and its file differ in ``dataset_config``."""

FOLDERS = '  - "/data/Example1"\n  - "/data/Example2"'
BY_TASK = '  <CAPTION>:\n    - "/data/Short"\n  <DETAILED_CAPTION>:\n    - "/data/Long"\n    - "/data/Longer"'


def parse(**keys: Any) -> TrainConfig:
    return parse_config({"run_name": "a", "model_name": "demo", "dataset_config": ["photos"], **keys})


def read(folder: Path, text: str, name: str = "config.yaml", **options: Any) -> TrainConfig:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_config(path, **options)


def refusal(**keys: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(**keys)
    return str(caught.value)


# Published files


def test_the_cards_configuration_runs_as_it_is(tmp_path: Path) -> None:
    notes: list[str] = []
    config = read(tmp_path, SEED, "config.json", on_note=notes.append)

    (source,) = config.data.sources
    assert (source.path, source.instruction) == (Path("0000_Datasets/Gemini"), "<CAPTION>")
    assert config.data.eval_split == 0.05
    assert config.checkpoint.model_name == "microsoft/Florence-2-base"
    assert config.model.gradient_checkpointing
    assert config.model.freeze == ()
    optimizer = config.optimizer
    assert (optimizer.optimizer, optimizer.lr_scheduler, optimizer.warmup_steps) == ("CAME", "REX", 10)
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.clip_grad_norm) == (3e-6, 0.01, 1)
    assert (config.batches.train_batch_size, config.batches.gradient_accumulation_steps) == (8, 4)
    assert (config.saving.save_steps, config.saving.save_total_limit, config.evaluation.eval_steps) == (
        10,
        3,
        10,
    )
    assert config.run.folder == Path("checkpoints", config.run.run_name)
    assert len(notes) == 1
    assert notes[0].startswith("filtering_processes has no effect: ")


@pytest.mark.parametrize("dataset_config", [FOLDERS, BY_TASK], ids=["readme", "example"])
def test_the_published_example_runs_as_it_is(tmp_path: Path, dataset_config: str) -> None:
    notes: list[str] = []
    text = PUBLISHED.replace("{dataset_config}", dataset_config)
    config = read(tmp_path, text, on_note=notes.append)

    found = [(source.path.name, source.instruction) for source in config.data.sources]
    if dataset_config is FOLDERS:
        assert found == [("Example1", None), ("Example2", None)]
    else:
        assert found == [
            ("Short", "<CAPTION>"), ("Long", "<DETAILED_CAPTION>"), ("Longer", "<DETAILED_CAPTION>")
        ]  # fmt: skip
    assert config.data.eval_split == 256
    assert config.checkpoint.mixed_precision == "bf16"
    assert not config.model.gradient_checkpointing
    assert not config.checkpoint.activation_offloading
    assert config.optimizer.min_learning_rate == 2.5e-7
    assert config.evaluation.do_extra_eval
    assert config.evaluation.eval_before_training
    assert config.logging.wandb_project_name == "Florence-2-base"
    assert {note.partition(" ")[0] for note in notes} == {
        "filtering_processes_per_thread", "filtering_batch_size",
    }  # fmt: skip


def test_what_the_published_trainer_does_otherwise() -> None:
    assert parse(use_bf16=False).checkpoint.mixed_precision == "fp16"
    assert parse(freeze_vision=True, freeze=["!vision_tower.blocks.3.*"]).model.freeze == (
        "vision", "!vision_tower.blocks.3.*",
    )  # fmt: skip
    assert parse(activation_offloading="cpu").checkpoint.activation_offloading
    assert "activation_offloading: hybrid is refused: " in refusal(activation_offloading="hybrid")


# Mistakes


def test_every_wrong_key_is_named_at_once_with_the_nearest() -> None:
    told = refusal(epocs=2, lr=1e-5, freeze_vison=True, lora={"rnk": 8}).splitlines()
    assert told == [
        "epocs: there is no such key; did you mean epochs?",
        "lr: there is no such key; here it is learning_rate",
        "freeze_vison: there is no such key; did you mean freeze_vision?",
        "lora.rnk: there is no such key; did you mean rank?",
    ]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"epochs": 0}, "epochs: 0 is not a number from 1 on"),
        ({"epochs": True}, "epochs: true is no number"),
        ({"learning_rate": "fast"}, "learning_rate: "),
        ({"learning_rate": -1e-5}, "learning_rate: -1e-05 must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate: nan must be above 0"),
        ({"learning_rate": 1e-5, "min_learning_rate": 1e-4}, "min_learning_rate: 0.0001 is above"),
        ({"warmup_steps": 2.5}, "warmup_steps: 2.5 is neither a count nor a fraction"),
        ({"warmup_steps": float("inf")}, "warmup_steps: inf is not a number from 0 on"),
        ({"eval_split": -1}, "eval_split: -1"),
        ({"eval_split": float("inf")}, "eval_split: inf"),
        ({"run_name": "a\n---"}, r"run_name: 'a\n---' cannot be the name of a folder"),
        ({"run_name": ".."}, "run_name: '..' cannot be the name of a folder"),
        ({"mixed_precision": "fp8"}, "mixed_precision: "),
        ({"use_bf16": True, "mixed_precision": "no"}, "use_bf16, mixed_precision: give one of them"),
        ({"use_bf16": "yes"}, "use_bf16: 'yes' is neither true nor false"),
        ({"background": "nocolour"}, "background: "),
        ({"augment": {"brightness": 3}}, "augment: brightness: 3.0 is not between 0 and 0.5"),
        ({"augment": {"flip": True}}, "augment.flip: there is no such key"),
        ({"lora": {"rank": 0}}, "lora.rank is 0"),
        ({"lora": 8}, "lora: 8 is no group of options"),
        ({"attn_implementation": "flash"}, "attn_implementation is 'flash'. Choose "),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"run_name": "a/b"}, "run_name: 'a/b' cannot be the name of a folder"),
        ({"model_name": " "}, "model_name: name a checkpoint"),
        ({"model_name": None}, "model_name: must be given"),
        ({"dataset_config": []}, "dataset_config: name a folder or table"),
        ({"dataset_config": {"CAPTOIN": ["a"]}}, "dataset_config.CAPTOIN: unknown instruction 'CAPTOIN'."),
        ({"dataset_config": [{"path": "a", "repeats": 0}]}, "dataset_config: repeats: 0 is below 1"),
        ({"dataset_config": [{"path": "a", "instruktion": "CAPTION"}]}, "did you mean instruction?"),
        ({"dataset_path": "a"}, "dataset_path, dataset_config: give one of them"),
        ({"sources": ["a"]}, "sources: there is no such key"),
        ({"wandb": True}, "wandb_project_name: name the project"),
        ({"prompts": {"CAPTOIN": "x"}}, "Did you mean CAPTION?"),
        ({"prompts": {"CAPTION": "x", "<caption>": "y"}}, "prompts: CAPTION is there twice"),
        ({"prompts": {"OPEN_VOCABULARY_DETECTION": "Where?"}}, "prompts: OPEN_VOCABULARY_DETECTION takes a"),
        ({"save_total_limit": "None"}, "save_total_limit: None is a text here; leave it blank"),
        ({"wandb_project_name": "None"}, "wandb_project_name: None is a text here"),
        ({"dataset_config": ""}, "dataset_config.path: it is empty"),
        ({"dataset_config": {"folder_path": "a"}}, "dataset_config.folder_path: there is no such key; here "),
        ({"lora": {"r": 8}}, "lora.r: there is no such key; here it is rank"),
        ({"eval_split_ratio": 5}, "eval_split_ratio: 5 is not below 1; "),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_its_key(keys: dict[str, Any], told: str) -> None:
    assert told in refusal(**keys)


def test_a_mistake_hides_no_other() -> None:
    told = refusal(epochs="many", activation_offloading="disk", dataset_config=[], modle_name="x")
    assert [line.partition(":")[0] for line in told.splitlines()] == [
        "activation_offloading", "epochs", "modle_name", "dataset_config",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.yaml", "epochs: 2\nmodel_name: demo\nepochs: 3\n", "epochs: it is given twice (line 3)"),
        ("a.json", '{"epochs": 2, "epochs": 3}', "epochs: it is given twice"),
        ("a.yaml", "epochs: [2", "it is no YAML"),
        ("a.json", '{"epochs": 2,}', "it is no JSON"),
        ("a.yaml", "- epochs\n", "it holds no keys with values"),
        ("a.yaml", "? [a, b]\n: c\n", "a key is a list or a mapping (line 1)"),
        ("a.yaml", "model_name: demo\ndataset_config: a\non: 3\n", "True: there is no such key"),
        ("a.yaml", "!!python/object/apply:os.getcwd []\n", "it is no YAML"),
        ("a.toml", "epochs = 2", "a .yaml, .yml or .json file"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, name)
    assert told in str(caught.value)
    assert name in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: it cannot be read: No such file"):
        read_config(tmp_path / "none.yaml")


def test_what_is_spoilt_is_not_called_missing() -> None:
    assert refusal(dataset_config=[{"path": "a", "layuot": "table"}]).splitlines() == [
        "dataset_config.layuot: there is no such key; did you mean layout?"
    ]


# Values


def test_values_as_yaml_spells_them(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "model_name: demo\ndataset_config: photos\nlearning_rate: 3e-6\nmixed_precision: no\nrun_name: 2024\n"
        "warmup_steps: 0.1\nfreeze: vision\nlora: true\nwandb: off\nclip_grad_norm: null\n"
        "save_total_limit: null\n",
    )
    assert config.optimizer.learning_rate == 3e-6  # a text for YAML
    assert config.checkpoint.mixed_precision == "no"  # false for YAML
    assert config.run.run_name == "2024"
    assert config.model.freeze == ("vision",)
    assert config.model.lora is not None
    assert config.logging.wandb is False
    assert config.optimizer.clip_grad_norm is None
    assert config.saving.save_total_limit is None


def test_what_only_looks_like_another_thing(tmp_path: Path) -> None:
    """Numbers that YAML 1.1 takes for texts, and texts that it takes for days and numbers."""
    text = (
        "model_name: demo\ndataset_config: a\nmax_steps: 1e3\noptimizer_args: {eps: 1e-8, betas: [0.9, 1]}\n"
    )
    config = read(tmp_path, text)
    assert config.optimizer.optimizer_args == {"eps": 1e-8, "betas": [0.9, 1]}
    assert config.run.max_steps == 1000
    for name in ("2024-11-21", "0042", "1e5"):
        named = read(tmp_path, f"{text}run_name: {json.dumps(name)}\n")
        write_config(named, tmp_path / "written.yaml")
        assert read_config(tmp_path / "written.yaml").run.run_name == name
        if name != "1e5":
            assert read(tmp_path, f"{text}run_name: {name}\n").run.run_name == name


def test_prompts_are_found_by_any_spelling_of_the_instruction() -> None:
    assert parse(prompts={"<caption>": "x", "tags": "y"}).data.prompts == {
        "CAPTION": "x",
        "GENERATE_TAGS": "y",
    }


def test_a_run_without_a_name_has_the_files(tmp_path: Path) -> None:
    assert read(tmp_path, "model_name: demo\ndataset_config: a\n", "cats.yaml").run.run_name == "cats"


def test_sources_in_full() -> None:
    config = parse(
        dataset_config=[
            "~/photos",
            {
                "path": "a",
                "extensions": {"txt": "MORE_DETAILED_CAPTION", "tags": "GENERATE_TAGS"},
                "repeats": 3,
            },
            {"path": "b.jsonl", "layout": "table", "columns": {"caption": "caption"}, "images_dir": "c"},
        ],
        eval_dataset_config={"<CAPTION>": "held-out"},
    )
    first, second, third = config.data.sources
    assert first.path == Path.home() / "photos"
    assert (second.extensions["tags"], second.repeats) == ("GENERATE_TAGS", 3)
    assert (third.layout, third.images_dir) == (Layout.TABLE, Path("c"))
    assert [source.instruction for source in config.data.eval_sources] == ["<CAPTION>"]


def test_overrides_come_before_the_file(tmp_path: Path) -> None:
    text = "model_name: demo\ndataset_config: photos\nepochs: 9\nlora: {rank: 4, alpha: 4}\n"
    overrides = {"epochs": "1", "lora.rank": "8", "learning_rate": "1e-4", "augment.jpeg": "0.5"}
    config = read(tmp_path, text, overrides=overrides)
    assert (config.run.epochs, config.optimizer.learning_rate, config.batches.augment.jpeg) == (1, 1e-4, 0.5)
    assert config.model.lora is not None
    assert (config.model.lora.rank, config.model.lora.alpha) == (8, 4)
    with pytest.raises(ConfigError, match="epochs is no group of options"):
        read(tmp_path, text, overrides={"epochs.first": "1"})
    with pytest.raises(ConfigError, match=r"--set epochs=\[1: it is no YAML"):
        read(tmp_path, text, overrides={"epochs": "[1"})


def test_a_written_configuration_is_the_same_one(tmp_path: Path) -> None:
    config = parse(
        dataset_config=[{"path": "ä/b", "columns": {"text": "OCR"}}],
        lora={"rank": 3, "target_modules": ["q_proj"]}, optimizer_args={"betas": [0.9, 0.95]},
        save_total_limit=None, augment={"noise": 2}, freeze_other=True, warmup_steps=0.25,
        prompts={"OCR": "x"},
    )  # fmt: skip
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config
    assert parse_config(json.loads(json.dumps(config_mapping(config)))) == config


def test_the_reference_has_every_key_with_its_default() -> None:
    import yaml

    path = Path(__file__).parents[1] / "training" / "configs" / "reference.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    config = read_config(path)
    assert set(written) == set(config_mapping(config))

    sources = [set(one) for one in written["dataset_config"] if isinstance(one, dict)]
    assert set().union(*sources) | {"instruction"} == {one.name for one in fields(DataSource)}
    told = path.read_text(encoding="utf-8")
    assert all(f"#  {one.name}: " in told for one in fields(LoraOptions))

    bare = parse(
        run_name="reference",
        model_name=config.checkpoint.model_name,
        dataset_config=written["dataset_config"],
    )
    assert config == bare
