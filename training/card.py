"""The model card of what a run saves: what it is, how to use it, how it was made and how well it went."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..captioning.instructions import find_instruction
from .base_model import base_licence, base_model_id
from .config import CheckpointOptions, DataOptions, RunOptions, TrainConfig
from .config_values import config_mapping
from .data.examples import Example

CARD = "README.md"

_PROJECT = "https://github.com/promptgen-tagger/promptgen-tagger"
_MOST_ROWS = 20  # of the table of losses
# What everybody asks of a run, also where it is the default.
_ALWAYS = (
    "model_name", "epochs", "optimizer", "learning_rate", "lr_scheduler", "train_batch_size",
    "gradient_accumulation_steps", "seed",
)  # fmt: skip
_PLACES = (
    "dataset_config",
    "eval_dataset_config",
    "output_dir",
    "split_file",
    "wandb_project_name",
)  # are nobody's business but the trainer's


@dataclass(frozen=True)
class DataFacts:
    """What a run was trained on and measured on, in numbers."""

    examples: Mapping[str, int]  # by instruction, each example once
    images: int
    held_out_examples: int
    held_out_images: int
    prompts: Mapping[str, str]  # literal prompts that replaced the usual ones

    @classmethod
    def of(
        cls, train: Sequence[Example], evaluation: Sequence[Example], prompts: Mapping[str, str]
    ) -> DataFacts:
        """Of the examples, which may be repeated, and all prompts that the run knows of."""
        once = set(train)
        asked = Counter(example.instruction for example in once)
        return cls(
            examples=dict(asked.most_common()),
            images=len({example.image for example in once}),
            held_out_examples=len(evaluation),
            held_out_images=len({example.image for example in evaluation}),
            prompts={name: prompt for name, prompt in prompts.items() if name in asked},
        )


def write_card(
    folder: Path,
    config: TrainConfig,
    data: DataFacts,
    entries: Sequence[Mapping[str, Any]],
    base: Path | None = None,
) -> None:
    """Write ``README.md``, as the Hugging Face Hub shows it.

    Args:
        entries: of the run's ``metrics.jsonl``, up to now.
        base: the folder of what was trained, whose licence is that of what comes out.
    """
    text = card(config, data, entries, base)
    (folder / CARD).write_text(text, encoding="utf-8", newline="\n")


def card(
    config: TrainConfig, data: DataFacts, entries: Sequence[Mapping[str, Any]], base: Path | None = None
) -> str:
    """The card's text."""
    parts = [
        _front_matter(config, base),
        f"# {config.run.run_name}\n",
        _what_it_is(config, data),
        _use(config, data),
        _losses(entries),
        _settings(config),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(config: TrainConfig, base: Path | None) -> str:
    from huggingface_hub import ModelCardData

    is_adapter = config.model.lora is not None
    licence = base_licence(config.checkpoint.model_name, base)
    data = ModelCardData(
        base_model=base_model_id(config.checkpoint.model_name),
        license=licence.get("license"),
        license_name=licence.get("license_name"),
        license_link=licence.get("license_link"),
        library_name="peft" if is_adapter else "transformers",
        model_name=config.run.run_name,
        pipeline_tag="image-text-to-text",
        tags=["florence-2", "image-captioning", "promptgen", *(["lora"] if is_adapter else [])],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _what_it_is(config: TrainConfig, data: DataFacts) -> str:
    hub_id = base_model_id(config.checkpoint.model_name)
    base = f"[{hub_id}](https://huggingface.co/{hub_id})" if hub_id else f"`{_base_name(config)}`"
    lora = config.model.lora
    kind = "A fine-tune of" if lora is None else f"A {'DoRA' if lora.use_dora else 'LoRA'} adapter for"
    asked = ", ".join(f"`{name}` ({count:,})" for name, count in data.examples.items())
    held_out = "No images were held out."
    if data.held_out_images:
        held_out = (
            f"{data.held_out_images:,} other images with {data.held_out_examples:,} captions were held out; "
            "`split.json` names them."
        )
    return (
        f"{kind} {base}, trained on {sum(data.examples.values()):,} captions of {data.images:,} images: "
        f"{asked}. {held_out}\n"
    )


def _use(config: TrainConfig, data: DataFacts) -> str:
    usual = next(iter(data.examples), "CAPTION")
    question = f"--instruction {usual}"
    if find_instruction(usual).needs_input:
        question += ' --text-input "..."'
    model = "--model ./FOLDER"
    if config.model.lora is not None:
        model = f"--model {base_model_id(config.checkpoint.model_name) or _base_name(config)} --lora ./FOLDER"
    lines = [
        "## Use\n",
        f"With [promptgen-tagger]({_PROJECT}), `FOLDER` being this one:\n",
        f"```bash\npromptgen caption image.jpg {model} {question}\n```\n",
    ]
    if data.prompts:
        lines.append("It was asked with prompts of its own:\n")
        lines.append("| instruction | prompt |\n| --- | --- |")
        lines += [f"| `{name}` | `{_cell(prompt)}` |" for name, prompt in data.prompts.items()]
        lines.append("")
    return "\n".join(lines)


def _losses(entries: Sequence[Mapping[str, Any]]) -> str:
    """Cross-entropy per target token on held-out images, by step."""
    measured = [entry for entry in entries if "evaluation_loss" in entry]
    if not measured:
        return ""
    best = min(measured, key=lambda entry: entry["evaluation_loss"])
    names = list(dict.fromkeys(name for entry in measured for name in entry.get("by_instruction", {})))
    names = names if len(names) > 1 else []
    lines = [
        "## Held-out loss\n",
        "Cross-entropy per target token on the held-out images, padding left out; the best in bold.\n",
        f"| {' | '.join(['step', 'all', *names])} |",
        f"| {' | '.join(['---:'] * (2 + len(names)))} |",
    ]
    for entry in _some(measured, best):
        by_name = entry.get("by_instruction", {})
        numbers = [entry["evaluation_loss"], *(by_name.get(name) for name in names)]
        cells = ["" if number is None else f"{number:.4f}" for number in numbers]
        if entry is best:
            cells[0] = f"**{cells[0]}**"
        lines.append(f"| {' | '.join([str(entry['step']), *cells])} |")
    return "\n".join([*lines, "", "`metrics.jsonl` has all numbers of the run.\n"])


def _some(measured: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The first, the last, the best, and some between, evenly."""
    if len(measured) <= _MOST_ROWS:
        return [*measured]
    last = len(measured) - 1
    kept = {round(last * place / (_MOST_ROWS - 2)) for place in range(_MOST_ROWS - 1)}
    return [entry for place, entry in enumerate(measured) if place in kept or entry is best]


def _settings(config: TrainConfig) -> str:
    """Those that are not the usual ones, as a file would have them."""
    usual = config_mapping(
        TrainConfig(
            run=RunOptions(run_name="-"),
            checkpoint=CheckpointOptions(model_name="-"),
            data=DataOptions(sources=config.data.sources),
        )
    )
    given = config_mapping(config)
    told = {
        name: value
        for name, value in given.items()
        if name in _ALWAYS or (value != usual.get(name) and name not in _PLACES)
    }
    told["model_name"] = _base_name(config)
    settings = json.dumps(told, indent=2, ensure_ascii=False, default=str)
    return (
        "## Training settings\n\n"
        f"Trained with promptgen-tagger {__version__}. What is not listed was left as it is by default; "
        "`training_config.yaml` has everything.\n\n"
        f"```json\n{settings}\n```\n"
    )


def _base_name(config: TrainConfig) -> str:
    """What was trained, without the folders of the machine that it was trained on."""
    name = config.checkpoint.model_name
    return Path(name).name if Path(name).is_absolute() else name


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
