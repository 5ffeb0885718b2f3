"""The demo model learns a new style of captions: from drawn pictures to a report, as users go about it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from promptgen.training.config_files import read_config
from promptgen.training.demo.scenes import EXAMPLE_SEEDS, Scene, draw_scene, drawn_scene
from promptgen.training.metrics import read_metrics

from .command_line import Ended, Promptgen
from .helpers_dev import ROOT
from .training_runs import write_settings

SCENES = 200
HELD_OUT = 30
FIRST_SEED = EXAMPLE_SEEDS[5000]

_FRAMES = ("{place} is a {thing}", "next {place} sits one {thing}", "then {place} shows the {thing}")
_THING = r"(?P<size>\w+) (?P<colour>\w+) (?P<shape>\w+)"
_PLACE = r"(?P<place>(?:(?:top|center|bottom) )?(?:left|center|right))"
_NEW = re.compile(rf"{_PLACE} (?:is a|sits one|shows the) {_THING}")
_OLD = re.compile(rf"\b(?:an?|one) {_THING} (?:at|in|near) the {_PLACE}\b", re.IGNORECASE)
_IN_STYLE = re.compile(r'ohwx sketch, \w+ ground: .* is a \w+ \w+ \w+.*\.( It reads "[A-Z]+"\.)?')


def styled(scene: Scene) -> str:
    """The true caption in the new style: a trigger word, the ground first, places before things."""
    parts = [
        frame.format(place=shape.place, thing=f"{shape.size} {shape.colour} {shape.shape}")
        for frame, shape in zip(_FRAMES, scene.shapes, strict=False)
    ]
    text = f"ohwx sketch, {scene.ground} ground: {', '.join(parts)}."
    return f'{text} It reads "{scene.word}".' if scene.word else text


def facts(text: str) -> set[tuple[str, str]]:
    """What a caption in either style says: of each thing, in their order, and of the whole."""
    found = {("ground", ground) for ground in re.findall(r"(\w+) (?:ground|background)\b", text)}
    found |= {("word", word) for word in re.findall(r'"(\w+)"', text)}
    things = list(_NEW.finditer(text)) or list(_OLD.finditer(text))
    for number, thing in enumerate(things):
        found |= {(f"{kind} of thing {number}", value) for kind, value in thing.groupdict().items()}
    return found


def right(answers: dict[str, str]) -> float:
    """The share of what is true of pictures that their captions say."""
    true = {name: facts(styled(drawn_scene(int(Path(name).stem)))) for name in answers}
    said = sum(len(true[name] & facts(text)) for name, text in answers.items())
    return said / sum(map(len, true.values()))


def in_style(answers: dict[str, str]) -> float:
    """The share of captions that are in the new style."""
    return sum(_IN_STYLE.fullmatch(text) is not None for text in answers.values()) / len(answers)


def succeed(done: Ended) -> Ended:
    assert done.status == 0, done.stderr
    return done


def answers_in(path: Path) -> dict[str, str]:
    """From the pictures in a file of ``promptgen evaluate`` to what was answered."""
    _, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["image"]: line["raw"] for line in lines if "raw" in line}


def test_both_styles_say_the_same() -> None:
    """What the tests below measure with."""
    from promptgen.training.demo.answers import answer

    for seed in range(FIRST_SEED, FIRST_SEED + SCENES):
        scene = drawn_scene(seed)
        assert facts(styled(scene)) == facts(answer("DETAILED_CAPTION", scene))
        assert len(facts(styled(scene))) == 4 * len(scene.shapes) + 1 + (scene.word is not None)
        assert _IN_STYLE.fullmatch(styled(scene))
        assert not _IN_STYLE.fullmatch(answer("DETAILED_CAPTION", scene))


@pytest.mark.slow
def test_the_demo_model_takes_a_new_style_over(
    tmp_path: Path, promptgen: Promptgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Caption, correct by hand, train, evaluate, caption: two hundred scenes, some minutes."""
    monkeypatch.chdir(tmp_path)
    pictures = Path("my pictures")
    pictures.mkdir()
    for seed in range(FIRST_SEED, FIRST_SEED + SCENES):
        draw_scene(seed)[0].save(pictures / f"{seed}.png")
    asked = ("--instruction", "DETAILED_CAPTION", "--device", "cpu")
    succeed(promptgen("folder", pictures, "--model", "demo", *asked, "--num-beams", 1, "-q"))
    written = sorted(pictures.glob("*.txt"))
    assert len(written) == SCENES
    for path in written:
        path.write_text(styled(drawn_scene(int(path.stem))), encoding="utf-8")

    keys = {
        "model_name": "demo",
        "dataset_config": {"DETAILED_CAPTION": [str(pictures)]},
        "eval_split": HELD_OUT,
        "eval_before_training": True,
        "learning_rate": 1e-3,
        "warmup_steps": 10,
        "epochs": 4,
        "freeze": ["vision", "other", "language_model.model.encoder.*"],  # what it sees stays as it is
    }
    config = write_settings(Path("my style.yaml"), keys)
    done = succeed(promptgen("train", config, "--cpu", "--offline"))
    run, final = Path("checkpoints/my style"), Path("checkpoints/my style/final")
    assert f"{SCENES - HELD_OUT} answers about {SCENES - HELD_OUT} images" in done.stderr
    assert f"promptgen evaluate '{run}'" in done.stderr
    entries = read_metrics(run / "metrics.jsonl")
    held_out = [entry["evaluation_loss"] for entry in entries if "evaluation_loss" in entry]
    assert held_out[-1] < 0.02 * held_out[0]

    done = succeed(promptgen("evaluate", run, "--offline"))
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == ["original", "fine-tuned"]
    names = ("original", "fine-tuned")
    before, after = (answers_in(run / f"evaluation/answers/{name}.jsonl") for name in names)
    assert len(before) == len(after) == HELD_OUT
    assert in_style(before) == 0
    assert in_style(after) > 0.9
    assert right(after) > right(before) - 0.08
    page = (run / "evaluation/report.html").read_text(encoding="utf-8")
    for part in ("ground truth", "original", "fine-tuned", "ohwx sketch", "<mark>", "<svg", "held out: "):
        assert part in page

    name, text = next(iter(after.items()))
    assert succeed(promptgen("caption", pictures / name, "--model", final, *asked)).stdout == f"{text}\n"


def test_help_shows_a_configuration_as_it_is_written(
    tmp_path: Path, promptgen: Promptgen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = succeed(promptgen("train", "--help")).stdout
    assert "'promptgen-tagger[train]'" in text
    shown = [line for line in text.splitlines() if re.match(r" +(model_name|dataset_config): ", line)]
    written = tmp_path / "shown.yaml"
    written.write_text("\n".join(line.strip() for line in shown), encoding="utf-8")
    config = read_config(written)
    assert [source.path for source in config.data.sources] == [Path("my-pictures")]


def test_all_keys_are_printed_with_their_defaults(tmp_path: Path, promptgen: Promptgen) -> None:
    text = succeed(promptgen("train", "--keys")).stdout
    keys = yaml.safe_load(text)
    assert {"model_name", "dataset_config", "lora", "eval_split", "save_total_limit"} <= keys.keys()
    (tmp_path / "all.yaml").write_text(text, encoding="utf-8")
    assert read_config(tmp_path / "all.yaml").run.epochs == keys["epochs"]


def test_the_example_of_the_readme_is_a_configuration() -> None:
    config = read_config(ROOT / "training" / "configs" / "style.yaml")
    assert (config.run.folder, config.checkpoint.model_name) == (Path("checkpoints/style"), "demo")
