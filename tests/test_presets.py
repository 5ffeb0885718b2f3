"""Presets and the flags of clean-up and retries, through ``promptgen caption``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from promptgen.captioning import (
    PRESETS,
    Captioner,
    CaptionOptions,
    CleaningOptions,
    GenerationOptions,
    RetryOptions,
    TagOptions,
    apply_preset,
)

from .checkpoints import REFERENCE, expected
from .command_line import Ended, Promptgen
from .paligemma_checkpoints import make_paligemma

IMAGE = REFERENCE / "images" / expected()["images"][0]
SHAPES = Path(__file__).parents[1] / "examples" / "circle-heart-square.png"
QUICK = ("--model", REFERENCE, "--device", "cpu", "--dtype", "fp32")
DRAWN = (*QUICK, "-i", "CAPTION", "--do-sample", "--num-beams", 1, "--max-new-tokens", 12, "--seed", 1)
SEED_STEP = 0x9E3779B97F4A7C15  # from the seed of one attempt to that of the next
SCRIPT = CaptionOptions(  # what the published batch script does
    GenerationOptions(
        num_beams=1, max_new_tokens=256, do_sample=True, temperature=0.7, top_k=50, top_p=0.9,
        repetition_penalty=1.15, no_repeat_ngram_size=2,
    ),
    cleaning=CleaningOptions(True, '#/、@|;~"*^', "()[]{}", 30),
    retries=RetryOptions(10, 20, ("no_parallel",)),
)  # fmt: skip


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The captioners and the options of each call, which is not answered."""
    import promptgen.captioning as engine

    found: list[Any] = []

    class Watched(engine.Captioner):
        def stream(self, images: Any, instructions: Any, options: Any = None, on_step: Any = None) -> Any:
            found.append((self, instructions, options))
            return iter(())

    monkeypatch.setattr(engine, "Captioner", Watched)
    return found


def options_of(promptgen: Promptgen, seen: list[Any], *arguments: object) -> CaptionOptions:
    assert promptgen("caption", IMAGE, *QUICK, *arguments).status == 0
    options = seen[-1][2]
    assert isinstance(options, CaptionOptions)
    return options


def records(ended: Ended) -> list[dict[str, Any]]:
    assert ended.status == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_the_preset_is_what_the_published_script_does(promptgen: Promptgen, seen: list[Any]) -> None:
    assert apply_preset("long-prompt") == SCRIPT
    assert options_of(promptgen, seen, "--preset", "Long_Prompt") == SCRIPT


def test_what_is_not_of_a_preset_stays() -> None:
    given = CaptionOptions(tags=TagOptions(prefix="x"), language="de", text_input="y")
    assert apply_preset("long-prompt", given) == dataclasses.replace(
        SCRIPT, tags=given.tags, language="de", text_input="y"
    )
    assert apply_preset(None, given) is given


def test_without_sampling_a_preset_asks_once() -> None:
    still = CaptionOptions(GenerationOptions(do_sample=False))
    found = apply_preset("long-prompt", still)
    assert (found.generation.do_sample, found.retries) == (False, RetryOptions(0, 20, ("no_parallel",)))
    # a limit that somebody chose stays, and is refused where it is used
    chosen = dataclasses.replace(still, retries=RetryOptions(limit=3))
    assert apply_preset("long-prompt", chosen).retries.limit == 3
    with pytest.raises(ValueError, match="without sampling"):
        Captioner("demo").inquire("CAPTION", apply_preset("long-prompt", chosen))
    Captioner("demo").inquire("CAPTION", found)


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        (["--temperature", 1.2, "--seed", 3], {"temperature": 1.2, "seed": 3}),
        (["--num-beams", 2, "--no-repeat-ngram-size", 0], {"num_beams": 2, "no_repeat_ngram_size": 0}),
        (["--retries", 0, "--no-do-sample"], {"limit": 0, "do_sample": False}),
        (["--no-do-sample"], {"limit": 0, "do_sample": False}),
        (["--min-words", 0, "--retry-word", ""], {"min_words": 0, "retry_words": ()}),
        (
            ["--min-words", 5, "--retry-word", "a", "--retry-word", "b"],
            {"min_words": 5, "retry_words": ("a", "b")},
        ),
        (
            ["--no-complete-sentences", "--drop-underscored"],
            {"complete_sentences": False, "drop_underscored": True},
        ),
        (
            ["--remove-characters", "", "--remove-brackets", ""],
            {"remove_characters": "", "remove_brackets": ""},
        ),
        (
            ["--remove-characters", "%", "--max-word-length", 9],
            {"remove_characters": "%", "max_word_length": 9},
        ),
        (["--max-word-length", 0, "--no-drop-underscored"], {"max_word_length": None}),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_what_is_given_beside_a_preset_wins(
    promptgen: Promptgen, seen: list[Any], flags: list[object], changed: dict[str, object]
) -> None:
    wanted = {
        part: dataclasses.replace(
            getattr(SCRIPT, part),
            **{name: value for name, value in changed.items() if hasattr(getattr(SCRIPT, part), name)},
        )
        for part in ("generation", "cleaning", "retries")
    }
    assert options_of(promptgen, seen, "--preset", "long-prompt", *flags) == CaptionOptions(**wanted)


def test_every_flag_works_without_a_preset(promptgen: Promptgen, seen: list[Any]) -> None:
    given = (
        "--do-sample", "--complete-sentences", "--remove-characters", "# *", "--remove-brackets", "()",
        "--max-word-length", 12, "--drop-underscored", "--retries", 4, "--min-words", 6, "--retry-word",
        "bad",
    )  # fmt: skip
    assert options_of(promptgen, seen, *given) == CaptionOptions(
        GenerationOptions(do_sample=True),
        cleaning=CleaningOptions(True, "#*", "()", 12, True),
        retries=RetryOptions(4, 6, ("bad",)),
    )
    assert options_of(promptgen, seen) == CaptionOptions()


def test_presets_are_listed(promptgen: Promptgen) -> None:
    ended = promptgen("caption", "--preset", "?")
    assert ended.status == 0
    for preset in PRESETS.values():
        assert f"{preset.name}: {preset.summary}" in ended.stdout
    assert "--retry-word no_parallel" in ended.stdout
    assert "--temperature 0.7" in ended.stdout
    assert "--complete-sentences\n" in ended.stdout


def test_what_the_list_says_gives_the_same_options(promptgen: Promptgen, seen: list[Any]) -> None:
    listed = promptgen("caption", "--preset", "?").stdout.splitlines()[1:]
    flags = [part for line in listed for part in line.strip().split(" ", 1)]
    assert options_of(promptgen, seen, *flags) == SCRIPT


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--preset", "long-promt"], "Did you mean long-prompt? Known are: long-prompt."),
        (
            ["--preset", "long-prompt", "--no-do-sample", "--retries", "10"],
            "without sampling (do_sample) every attempt",
        ),
        (["--retries", "3", "--min-words", "5"], "without sampling (do_sample) every attempt"),
        (["--do-sample", "--retries", "3"], "--retries has no use without --min-words or --retry-word"),
        (["--do-sample", "--retries", "101", "--min-words", "5"], "retries is 101; it takes a whole number"),
        (["--min-words", "-1"], "min_words is -1"),
        (["--remove-brackets", "("], "remove_brackets is '('; it takes pairs"),
        (["--quantization", "5"], "--quantization"),
        (["--quantization", "8", "--fast"], "int8 (--fast) and quantization 8"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_told_before_the_model_is_looked_for(
    promptgen: Promptgen, arguments: list[str], told: str
) -> None:
    ended = promptgen("caption", IMAGE, "--model", "no-such-model", *arguments)
    assert (ended.status, ended.stdout) == (2, "")
    assert told in " ".join(ended.stderr.replace("│", " ").split())


def test_an_answer_that_falls_short_is_told_and_marked(promptgen: Promptgen) -> None:
    short = ("--retries", 2, "--min-words", 100)
    text = promptgen("caption", IMAGE, *DRAWN, *short)
    assert text.status == 0
    assert text.stdout.strip()
    (record,) = records(promptgen("caption", IMAGE, *DRAWN, *short, "--format", "jsonl"))
    assert record["text"] == text.stdout.strip()
    assert record["attempts"] == 3
    assert record["unmet"].endswith("words of at least 100")
    assert text.stderr == f"warning: {IMAGE}: CAPTION kept after 2 retries: {record['unmet']}\n"
    assert promptgen("caption", IMAGE, *DRAWN, *short, "--quiet").stderr == ""
    once = promptgen("caption", IMAGE, *DRAWN, "--min-words", 100).stderr
    assert "CAPTION kept: " in once


def test_good_answers_have_no_marks(promptgen: Promptgen) -> None:
    plain = promptgen("caption", IMAGE, *DRAWN, "--format", "jsonl")
    good = promptgen("caption", IMAGE, *DRAWN, "--format", "jsonl", "--retries", 2, "--min-words", 1)
    assert good == plain
    assert not {"attempts", "unmet"} & set(records(plain)[0])


def test_an_answer_that_was_asked_again_says_how_often(promptgen: Promptgen) -> None:
    asked = (*DRAWN, "--temperature", 2, "--format", "jsonl")
    seeds = [(1 + attempt * SEED_STEP) % 2**64 for attempt in range(5)]
    drawn = [records(promptgen("caption", IMAGE, *asked, "--seed", seed))[0] for seed in seeds]
    words = [set(record["text"].replace(",", " ").split()) for record in drawn]
    word, attempt = next(
        (word, attempt)
        for attempt in range(1, 5)
        for word in sorted(set.intersection(*words[:attempt]) - words[attempt])
    )
    (again,) = records(promptgen("caption", IMAGE, *asked, "--retries", 9, "--retry-word", word))
    assert again == drawn[attempt] | {"attempts": attempt + 1}


def test_the_demo_model_under_the_preset(promptgen: Promptgen) -> None:
    asked = ("--model", "demo", "--device", "cpu", "--dtype", "fp32", "--preset", "long-prompt", "--seed", 1)
    (record,) = records(
        promptgen("caption", SHAPES, *asked, "-i", "MORE_DETAILED_CAPTION", "--format", "jsonl")
    )
    assert len(record["text"].split()) >= 20
    assert record["text"].endswith(".")
    assert not set(record["text"]) & set('"()')


def test_a_paligemma_is_asked_for_what_it_is_for(promptgen: Promptgen, tmp_path: Path) -> None:
    checkpoint = make_paligemma(tmp_path / "tiny")
    asked = ("--model", checkpoint, "--device", "cpu", "--max-new-tokens", 8, "--format", "jsonl")
    (record,) = records(promptgen("caption", IMAGE, *asked))
    assert record["instruction"] == "CAPTION"
    (german,) = records(promptgen("caption", IMAGE, *asked, "--language", "de"))
    assert german["raw"] != record["raw"]
    (again,) = records(
        promptgen("caption", IMAGE, *asked, "--preset", "long-prompt", "--retries", 1, "-i", "LONG_PROMPT")
    )
    assert again["instruction"] == "LONG_PROMPT"
    assert again["attempts"] == 2
    refused = promptgen("caption", IMAGE, "--model", checkpoint, "--device", "cpu", "--dtype", "fp16")
    assert refused.status == 2
    assert "A PaliGemma cannot be loaded as fp16" in refused.stderr


def test_what_a_paligemma_cannot_do_is_told_before_a_download(promptgen: Promptgen) -> None:
    model = ("--model", "mnemic/paligemma-longprompt-v1-safetensors", "--quantization", "8", "--offline")
    ended = promptgen("caption", IMAGE, *model, "-i", "OD")
    assert ended.status == 2
    assert "PaliGemma checkpoints have no such instruction" in ended.stderr
    ended = promptgen("caption", IMAGE, *model)
    assert ended.status == 1
    assert "could not be downloaded" in ended.stderr


@pytest.mark.parametrize("bits", ["8", "4"])
def test_quantization_reaches_the_weights(promptgen: Promptgen, tmp_path: Path, bits: str) -> None:
    if bits == "4":
        pytest.importorskip("bitsandbytes")
    asked = ("--model", "demo", "--device", "cpu", "-i", "CAPTION", "--quantization", bits)
    ended = promptgen("caption", SHAPES, *asked)
    assert ended.status == 0, ended.stderr
    assert "circle" in ended.stdout


def test_quantization_is_the_captioners(promptgen: Promptgen, seen: list[Any]) -> None:
    for bits in ("none", "8"):
        assert promptgen("caption", IMAGE, *QUICK, "--quantization", bits).status == 0
        assert seen[-1][0].quantization == bits
