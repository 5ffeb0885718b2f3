"""Checkpoints compared through the command, on drawn scenes: scores, answers kept, and the page."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from promptgen.captioning import Captioner, CaptionOptions, GenerationOptions
from promptgen.models_cache import ensure_checkpoint
from promptgen.training.demo.answers import answer
from promptgen.training.demo.scenes import EVALUATION_SEEDS, draw_scene
from safetensors.torch import load_file, save_file

from .adapters import save_adapter
from .browser import screenshot_folder
from .checkpoints import REFERENCE
from .command_line import Ended, Promptgen
from .paligemma_checkpoints import make_paligemma

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SCENES = 3
INSTRUCTIONS = ("CAPTION", "GENERATE_TAGS", "OD")
QUICK = ("--device", "cpu", "--dtype", "fp32", "--num-beams", "1", "--max-new-tokens", "40")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes with their true answers, in the published layout."""
    folder = tmp_path_factory.mktemp("scenes")
    for number, seed in enumerate(EVALUATION_SEEDS[:SCENES]):
        picture, scene = draw_scene(seed)
        picture.save(folder / f"{number}.png")
        for instruction in INSTRUCTIONS:
            (folder / instruction).mkdir(exist_ok=True)
            (folder / instruction / f"{number}.txt").write_text(answer(instruction, scene), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with noise in its weights, as the outcome of a run that has kept its losses."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(ensure_checkpoint("demo"), folder / "final")
    (path,) = (folder / "final").glob("*.safetensors")
    noise = torch.Generator().manual_seed(0)
    state = {
        name: (tensor.float() + 0.3 * tensor.float().std() * torch.randn(tensor.shape, generator=noise)).to(
            tensor.dtype
        )
        if tensor.dim() > 1
        else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(state, path, {"format": "pt"})
    notes = [{"step": step, "loss": 3 / step} for step in range(1, 101)]
    notes += [{"step": step, "evaluation_loss": 3.5 / step, "by_instruction": {}} for step in (50, 100)]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(note) + "\n" for note in notes), encoding="utf-8"
    )
    return folder / "final"


@pytest.fixture
def compare(promptgen: Promptgen, tmp_path: Path) -> Callable[..., Ended]:
    """The command on the quickest terms, writing to ``out``."""

    def run(*arguments: object) -> Ended:
        return promptgen("evaluate", *arguments, *QUICK, "--output", tmp_path / "out")

    return run


def numbers(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "metrics.json").read_text(encoding="utf-8"))


# Scores -------------------------------------------------------------------------------------


def test_two_checkpoints_are_scored(
    compare: Callable[..., Ended], scenes: Path, spoilt: Path, tmp_path: Path
) -> None:
    ended = compare("--data", scenes, "-m", "demo", "-m", spoilt, "--label", "original", "--label", "spoilt")
    assert ended.status == 0, ended.stderr
    found = numbers(tmp_path)
    assert found["images"] == SCENES
    assert found["questions"] == dict.fromkeys(INSTRUCTIONS, SCENES)
    good, bad = found["models"]
    assert (good["label"], bad["label"]) == ("original", "spoilt")
    assert good["loss"] < bad["loss"]
    assert good["instructions"]["GENERATE_TAGS"]["F1"] > bad["instructions"]["GENERATE_TAGS"]["F1"]
    assert good["instructions"]["OD"]["AP50"] > 0
    for name, scores in good["instructions"].items():
        assert f"{scores['loss']:.4f}" in ended.stdout, name
    # the whole is the sum of its parts, token by token
    assert min(one["loss"] for one in good["instructions"].values()) < good["loss"]
    assert good["loss"] < max(one["loss"] for one in good["instructions"].values())
    table = (tmp_path / "out" / "tables.md").read_text(encoding="utf-8")
    assert f"| original | **{good['loss']:.4f}** |" in table


def test_quantised_weights_and_another_family_have_scores_and_no_loss(
    promptgen: Promptgen, scenes: Path, tmp_path: Path
) -> None:
    """A loss is of Florence-2's network in fp32; of anything else it would be of what was not asked."""
    tiny = make_paligemma(tmp_path / "tiny")
    given = ("--device", "cpu", "--num-beams", "1", "--max-new-tokens", "12", "--only", "CAPTION")
    models = ("-m", "demo", "-m", "demo@8", "-m", tiny)

    def run() -> Ended:
        return promptgen("evaluate", "--data", scenes, *models, *given, "--output", tmp_path / "out")

    ended = run()
    assert ended.status == 0, ended.stderr
    plain, quantised, other = numbers(tmp_path)["models"]
    assert [one["label"] for one in (plain, quantised, other)] == ["demo", "demo@8", "tiny"]
    assert [one["quantization"] for one in (plain, quantised, other)] == ["none", "8", "none"]
    assert plain["loss"] > 0
    assert (quantised["loss"], other["loss"]) == (None, None)
    assert quantised["instructions"]["CAPTION"]["CIDEr-D"] > other["instructions"]["CAPTION"]["CIDEr-D"]
    assert "demo@8 has no loss: losses are those of the weights in fp32" in ended.stderr
    assert "tiny has no loss: losses are computed with Florence-2's network" in ended.stderr
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "no loss of tiny" in page
    # answers are kept, each with its own weights
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "answers").iterdir()}
    assert run().status == 0
    assert numbers(tmp_path)["models"] == [plain, quantised, other]
    assert {path.name for path in (tmp_path / "out" / "answers").iterdir()} == set(kept)


def test_what_a_family_cannot_be_asked_is_told_first(
    promptgen: Promptgen, scenes: Path, tmp_path: Path
) -> None:
    tiny = make_paligemma(tmp_path / "tiny")
    ended = promptgen("evaluate", "--data", scenes, "-m", "demo", "-m", tiny, "--output", tmp_path / "out")
    assert ended.status == 2
    assert "PaliGemma" in ended.stderr
    assert not list((tmp_path / "out").rglob("*.jsonl"))


def test_boxes_of_both_families_are_compared_in_pixels(
    promptgen: Promptgen, scenes: Path, tmp_path: Path
) -> None:
    tiny = make_paligemma(tmp_path / "tiny", locations=True)
    data = tmp_path / "boxes.jsonl"
    row = {
        "image": str(scenes / "0.png"), "instruction": "OPEN_VOCABULARY_DETECTION", "text_input": "circle",
        "text": "circle<loc_100><loc_100><loc_500><loc_500>",
    }  # fmt: skip
    data.write_text(json.dumps(row) + "\n", encoding="utf-8")
    given = ("--device", "cpu", "--max-new-tokens", "24", "--output", tmp_path / "out")
    lengths = []
    for _ in range(2):  # the second time from what was kept
        ended = promptgen("evaluate", "--data", data, "-m", tiny, *given)
        assert ended.status == 0, ended.stderr
        (asked,) = map(json.loads, (tmp_path / "out" / "questions.jsonl").read_text().splitlines())
        assert re.search(r"<loc\d{4}>", asked["answers"]["tiny"]), "as PaliGemma writes them"
        (model,) = numbers(tmp_path)["models"]
        scores = model["instructions"]["OPEN_VOCABULARY_DETECTION"]
        assert "AP50" in scores
        page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        lengths.append(re.findall(r"length \d+", page))
    assert lengths[0] == lengths[1]
    assert lengths[0][1:] != ["length 0"], "the boxes that it has found"


def test_answers_are_those_of_the_engine(compare: Callable[..., Ended], scenes: Path, tmp_path: Path) -> None:
    ended = compare("--data", scenes, "-m", "demo", "--no-loss")
    assert ended.status == 0, ended.stderr
    _, *lines = (tmp_path / "out" / "answers" / "demo.jsonl").read_text(encoding="utf-8").splitlines()
    kept = {(line["image"], line["instruction"]): line["raw"] for line in map(json.loads, lines)}
    options = CaptionOptions(GenerationOptions(num_beams=1, max_new_tokens=40))
    captioner = Captioner("demo", device="cpu", dtype="fp32")
    for number in range(SCENES):
        (result,) = captioner.caption(scenes / f"{number}.png", INSTRUCTIONS, options)
        for one in result.results:
            assert kept[f"{number}.png", one.instruction] == one.raw
    assert len(kept) == SCENES * len(INSTRUCTIONS)
    assert "loss" not in numbers(tmp_path)["models"][0]["instructions"]["CAPTION"]


def test_all_about_an_image_is_asked_while_it_is_at_hand(
    compare: Callable[..., Ended], scenes: Path, tmp_path: Path
) -> None:
    """Also where answers of a kind lie together, as in these folders."""
    assert compare("--data", scenes, "-m", "demo", "--no-loss").status == 0
    _, *lines = (tmp_path / "out" / "answers" / "demo.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line)["image"] for line in lines]
    assert asked == sorted(asked)
    assert set(asked) == {"0.png", "1.png", "2.png"}


def test_an_adapter_takes_part_by_its_folder_or_beside_its_checkpoint(
    compare: Callable[..., Ended], tmp_path: Path
) -> None:
    adapter = save_adapter(tmp_path / "adapter", seed=5)
    config = adapter / "adapter_config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) | {"base_model_name_or_path": str(REFERENCE)}
    config.write_text(json.dumps(settings), encoding="utf-8")
    data = tmp_path / "data" / "CAPTION"
    data.mkdir(parents=True)
    shutil.copy(REFERENCE / "images" / "00.png", data.parent)
    (data / "00.txt").write_text("a red circle", encoding="utf-8")
    ended = compare(
        "--data", data.parent, "-m", REFERENCE, "-m", adapter, "-m", f"{REFERENCE}+{adapter}:0.5",
        "--label", "base", "--label", "whole", "--label", "half",
    )  # fmt: skip
    assert ended.status == 0, ended.stderr
    base, whole, half = numbers(tmp_path)["models"]
    assert whole["loras"] == [[str(adapter), 1.0]]
    assert half["loras"] == [[str(adapter), 0.5]]
    assert numbers(tmp_path)["settings"]["checkpoint half"].endswith("adapter:0.5")
    assert len({base["loss"], whole["loss"], half["loss"]}) == 3


def test_several_true_answers_are_one_question(compare: Callable[..., Ended], tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "b.png")
    rows = [("a.png", "red paper"), ("a.png", "a red background"), ("b.png", "blue")]
    table = tmp_path / "table.jsonl"
    table.write_text(
        "".join(json.dumps({"image": image, "caption": text}) + "\n" for image, text in rows),
        encoding="utf-8",
    )
    ended = compare("--data", table, "-i", "caption", "-m", "demo")
    assert ended.status == 0, ended.stderr
    found = numbers(tmp_path)
    assert found["questions"] == {"CAPTION": 2}
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8").count("ground truth 2") == 1


# What is kept -------------------------------------------------------------------------------


def without_scores(lines: list[bytes]) -> dict[tuple[str, str], dict[str, Any]]:
    """Answers by what was asked, all that is kept of them but how sure the model was of regions."""
    entries = {(entry["image"], entry["instruction"]): entry for entry in map(json.loads, lines)}
    for entry in entries.values():
        entry.pop("scores", None)
    return entries


def test_an_evaluation_goes_on_where_it_was_stopped(
    compare: Callable[..., Ended], scenes: Path, tmp_path: Path
) -> None:
    arguments = ("--data", scenes, "-m", "demo", "--no-loss")
    assert "demo: answers, 9" in compare(*arguments).stderr
    answers = tmp_path / "out" / "answers" / "demo.jsonl"
    whole, scored = answers.read_bytes(), numbers(tmp_path)
    lines = whole.splitlines(keepends=True)
    answers.write_bytes(b"".join(lines[:6]) + lines[6][:30])  # killed within a write
    assert "demo: answers, 4" in compare(*arguments).stderr
    # in an order of its own, and but for the last digits of scores, which depend on what is asked together
    _, *again = answers.read_bytes().splitlines()
    assert without_scores(again) == without_scores(lines[1:])
    assert numbers(tmp_path) == scored
    assert "answers" not in compare(*arguments).stderr.replace("demo.jsonl", "")
    # asked in another way, or another checkpoint of that name: anew
    assert "demo: answers, 9" in compare(*arguments, "--length-penalty", "0.5").stderr
    answers.write_bytes(lines[0][:10])  # killed within the first write
    assert "demo: answers, 9" in compare(*arguments).stderr
    assert answers.read_bytes() == whole


def test_losses_are_kept_as_answers_are(compare: Callable[..., Ended], scenes: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(scenes, tmp_path / "mine")
    # labels that are one name to file systems
    arguments = ("--data", mine, "-m", "demo", "-m", "demo", "--label", "a/b", "--label", "A-b")
    ended = compare(*arguments)
    assert ended.status == 0, ended.stderr
    assert "a/b: loss, 9" in ended.stderr
    scored = numbers(tmp_path)
    kept = tmp_path / "out" / "answers" / "a-b.losses.jsonl"
    whole = kept.read_bytes()
    assert "loss, " not in (again := compare(*arguments).stderr), again
    assert "answers, " not in again
    assert numbers(tmp_path) == scored
    kept.write_bytes(b"".join(whole.splitlines(keepends=True)[:-4]))
    assert "a/b: loss, 4" in compare(*arguments).stderr
    assert numbers(tmp_path)["models"][0]["loss"] == pytest.approx(scored["models"][0]["loss"], rel=1e-6)
    (mine / "CAPTION" / "1.txt").write_text("something else", encoding="utf-8")
    ended = compare(*arguments)
    assert "a/b: loss, 1" in ended.stderr
    assert "answers, " not in ended.stderr
    assert numbers(tmp_path)["models"][0]["loss"] != pytest.approx(scored["models"][0]["loss"], rel=1e-3)


def test_programs_get_all_numbers(compare: Callable[..., Ended], scenes: Path, tmp_path: Path) -> None:
    ended = compare("--data", scenes, "-m", "demo", "-m", "demo", "--label", "a, b", "--label", "c")
    assert ended.status == 0, ended.stderr
    found = numbers(tmp_path)
    with open(tmp_path / "out" / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    told = {(row["checkpoint"], row["instruction"], row["metric"]): row["value"] for row in rows}
    first, _ = found["models"]
    assert float(told["a, b", "all", "loss"]) == first["loss"]
    for instruction, scores in first["instructions"].items():
        for name, value in scores.items():
            assert told["a, b", instruction, name] == ("" if value is None else str(value))
    assert len(told) == len(rows)
    assert found["settings"]["num_beams"] == "1"
    questions = (tmp_path / "out" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(questions) == SCENES * len(INSTRUCTIONS)
    one = json.loads(questions[0])
    assert one["true"] == [(scenes / one["instruction"] / "0.txt").read_text(encoding="utf-8")]
    assert set(one["answers"]) == set(one["losses"]) == {"a, b", "c"}


def test_that_synonyms_are_not_counted_is_told_once(
    compare: Callable[..., Ended], scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("promptgen.training.evaluation.texts._wordnet", lambda: None)
    ended = compare("--data", scenes, "-m", "demo", "--no-loss", "--only", "CAPTION")
    assert ended.status == 0, ended.stderr
    assert ended.stderr.count("nltk.downloader wordnet") == 1
    assert "METEOR (no synonyms)" in ended.stdout
    ended = compare("--data", scenes, "-m", "demo", "--no-loss", "--only", "OD")
    assert "nltk.downloader" not in ended.stderr


def test_synonyms_that_cannot_be_read_are_told_before_anything_is_asked(
    compare: Callable[..., Ended], scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk.data
    from promptgen.training.evaluation import texts

    corpora = tmp_path / "nltk" / "corpora"
    corpora.mkdir(parents=True)
    (corpora / "wordnet.zip").write_bytes(b"half of it")
    monkeypatch.setattr(nltk.data, "path", [str(corpora.parent)])
    texts._wordnet.cache_clear()  # what an earlier test has found
    ended = compare("--data", scenes, "-m", "demo")
    texts._wordnet.cache_clear()
    assert ended.status == 1
    assert "WordNet" in ended.stderr
    assert "--force" in ended.stderr
    assert not list((tmp_path / "out" / "answers").iterdir())


def test_a_picture_that_has_changed_is_asked_again(
    compare: Callable[..., Ended], scenes: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(scenes, tmp_path / "mine")
    arguments = ("--data", mine, "-m", "demo", "--no-loss", "--only", "caption")
    assert "demo: answers, 3" in compare(*arguments).stderr
    Image.new("RGB", (50, 60), "green").save(mine / "1.png")
    assert "demo: answers, 1" in compare(*arguments).stderr


def test_a_picture_that_cannot_be_read_is_left_out(
    compare: Callable[..., Ended], scenes: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(scenes, tmp_path / "mine")
    whole = (mine / "1.png").read_bytes()
    (mine / "1.png").write_bytes(whole[: len(whole) // 2])  # its header is well
    ended = compare("--data", mine, "-m", "demo", "--only", "caption")
    assert ended.status == 1, ended.stderr
    found = numbers(tmp_path)
    assert found["images"] == 2
    assert [one["question"] for one in found["failed"]] == ["1.png [CAPTION]"]
    assert "left out: 1.png [CAPTION]" in ended.stderr
    assert "could not be asked" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


# What is asked ------------------------------------------------------------------------------


def test_only_what_was_held_out(compare: Callable[..., Ended], scenes: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"version": 1, "evaluation": ["2.png"], "train": ["0.png", "1.png"]}))
    ended = compare("--data", scenes, "--split", split, "-m", "demo", "--only", "OD", "--no-loss")
    assert ended.status == 0, ended.stderr
    assert numbers(tmp_path)["questions"] == {"OD": 1}
    split.write_text(json.dumps({"version": 1, "evaluation": ["9.png"], "train": []}))
    ended = compare("--data", scenes, "--split", split, "-m", "demo")
    assert ended.status == 1
    assert "held out" in ended.stderr


def test_so_many_images_by_chance(compare: Callable[..., Ended], scenes: Path, tmp_path: Path) -> None:
    arguments = ("--data", scenes, "-m", "demo", "--no-loss", "--images", "1", "--only", "CAPTION,OD")

    def asked(seed: int) -> str:
        assert compare(*arguments, "--seed", seed).status == 0
        page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        assert numbers(tmp_path)["questions"] == {"CAPTION": 1, "OD": 1}
        return str(sorted(set(re.findall(r"\d\.png", page))))

    assert asked(0) == asked(0)
    assert len({asked(seed) for seed in range(6)}) > 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-m", "demo"), "--data"),
        (("--data", "{scenes}"), "--model"),
        (("--data", "{scenes}", "-m", "demo", "-m", "demo"), "--label"),
        (("--data", "{scenes}", "-m", "demo", "--label", "a", "--label", "b"), "--label"),
        (("--data", "{scenes}", "-m", "demo", "--only", "OCR"), "CAPTION, GENERATE_TAGS, OD"),
        (("--data", "{scenes}", "-m", "demo", "--only", "captoin"), "CAPTION"),
        (("--data", "{scenes}", "-m", "demo", "--background", "blau"), "blau"),
        (("--data", "{scenes}", "-m", "demo+"), "CHECKPOINT+ADAPTER"),
        (("--data", "{scenes}", "-m", "demo", "--layout", "tree"), "imagefolder"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_done(
    compare: Callable[..., Ended], scenes: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    ended = compare(*(one.replace("{scenes}", str(scenes)) for one in arguments))
    assert ended.status == 2, ended.stderr
    assert said in ended.stderr
    assert not (tmp_path / "out").exists()


def test_a_library_that_is_missing_is_told_before_anything_is_asked(
    compare: Callable[..., Ended], scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    ended = compare("--data", scenes, "-m", "demo")
    assert ended.status == 1
    assert "pycocotools" in ended.stderr
    assert "promptgen-tagger[train]" in ended.stderr
    assert not list((tmp_path / "out" / "answers").iterdir())
    assert compare("--data", scenes, "-m", "demo", "--only", "CAPTION", "--no-loss").status == 0


def test_nothing_of_others_is_overwritten(
    compare: Callable[..., Ended], scenes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "answers").mkdir(parents=True)
    arguments = ("--data", scenes, "-m", "demo", "--no-loss", "--only", "CAPTION")
    for name in (
        "report.html", "metrics.json", "tables.md", "scores.csv", "questions.jsonl", "answers/demo.jsonl",
    ):  # fmt: skip
        (out / name).write_text("mine\n", encoding="utf-8")
        ended = compare(*arguments)
        assert ended.status == 1
        assert Path(name).name in ended.stderr
        assert (out / name).read_text(encoding="utf-8") == "mine\n"
        (out / name).unlink()
    assert compare(*arguments).status == 0
    assert compare(*arguments).status == 0


# A run --------------------------------------------------------------------------------------


def test_a_training_run_is_compared_to_what_it_began_with(
    compare: Callable[..., Ended], tmp_path: Path
) -> None:
    from .training_runs import draw_data, train

    run = tmp_path / "run"
    train(draw_data(tmp_path / "data"), run, max_steps=4)
    ended = compare(run)
    assert ended.status == 0, ended.stderr
    found = numbers(tmp_path)
    before, after = found["models"]
    assert (before["label"], after["label"]) == ("original", "fine-tuned")
    assert found["images"] == 3  # that were held out
    notes = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    told = [note["evaluation_loss"] for note in notes if "evaluation_loss" in note]
    assert after["loss"] == pytest.approx(told[-1], rel=1e-3)  # saved as the checkpoint is, in fp16
    assert after["loss"] < before["loss"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "held out: " in page
    for given, status, said in (
        ((tmp_path / "data",), 1, "no folder of a training run"),
        ((tmp_path / "none",), 1, "There is no"),
        ((run, "-i", "CAPTION"), 2, "--instruction has no use"),
    ):
        ended = compare(*given)
        assert (ended.status, said in ended.stderr) == (status, True), ended.stderr


# The page -----------------------------------------------------------------------------------


def test_the_page_in_a_browser(
    compare: Callable[..., Ended], scenes: Path, spoilt: Path, tmp_path: Path, browser: Browser
) -> None:
    mine = shutil.copytree(scenes, tmp_path / "mine")
    hostile = '</p><script>document.title = "x"</script><img src="http://a.example/x">'
    (mine / "CAPTION" / "0.txt").write_text(f"A heart {hostile}", encoding="utf-8")
    ended = compare(
        "--data", mine, "-m", "demo", "-m", spoilt, "--label", "original", "--label", "fine-tuned"
    )
    assert ended.status == 0, ended.stderr
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(error.message))
    report = (tmp_path / "out" / "report.html").as_uri()
    page.goto(report)
    page.screenshot(path=screenshot_folder() / "evaluation-report.png", full_page=True)
    assert [url for url in asked if not url.startswith("data:")] == [report]
    assert complaints == []
    assert page.title() == "original and fine-tuned on 3 images"
    # a case for each question: picture, truth and two answers
    cases = page.locator("article.case")
    assert cases.count() == SCENES * len(INSTRUCTIONS)
    first = cases.first
    assert first.locator("h4").all_inner_texts() == ["ground truth", "original", "fine-tuned"]
    assert hostile in first.inner_text()
    assert "script" in " ".join(first.locator(".true mark").all_inner_texts())  # nobody else says that
    loaded = page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert loaded
    assert page.locator("article.case img").count() >= SCENES * len(INSTRUCTIONS) + SCENES  # with boxes on
    assert page.locator("svg.chart polyline").count() == 3  # training, the same smoothed, held out
    assert "held out: 0.0700 → 0.0350" in page.locator(".legend").inner_text()
    # what is written is what is seen: the best of a column is marked, and the numbers are those of the file
    good = numbers(tmp_path)["models"][0]
    row = page.locator("h3", has_text="CAPTION").first.locator("xpath=following::tbody[1]/tr[1]")
    assert f"{good['instructions']['CAPTION']['loss']:.4f}" in row.inner_text()
    assert page.locator("td.best").count() > 0
    width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1]
    page.set_viewport_size({"width": 420, "height": 900})
    width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1]
    page.close()


def test_the_page_stays_in_order_with_any_text(
    compare: Callable[..., Ended], tmp_path: Path, browser: Browser
) -> None:
    data = tmp_path / "data"
    (data / "CAPTION").mkdir(parents=True)
    captions = {
        "a <b>&'q'": "قطة صغيرة تجلس على السجادة",
        "b": "一只灰色的猫坐在红色的垫子上。",
        "c": "Donaudampfschifffahrt" * 12,
        "d": "word " * 300,
    }
    for number, (name, text) in enumerate(captions.items()):
        Image.new("RGB", (40 + 300 * number, 600 - 180 * number), "red").save(data / f"{name}.png")
        (data / "CAPTION" / f"{name}.txt").write_text(text, encoding="utf-8")
    label = "<script>document.title = 'x'</script>"
    models = ("-m", "demo", "-m", "demo", "-m", "demo", "--label", "one", "--label", label, "--label", "قطة")
    ended = compare("--data", data, *models, "--no-loss")
    assert ended.status == 0, ended.stderr
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    page.goto((tmp_path / "out" / "report.html").as_uri())
    cases = page.locator("article.case")
    assert sorted(cases.nth(number).get_attribute("aria-label") or "" for number in range(4)) == [
        f"{name}.png, CAPTION" for name in captions
    ]
    assert page.title() != "x"
    # Arabic begins on the right, Chinese on the left
    first = cases.filter(has_text="a <b>").locator(".true p").first
    assert first.evaluate("element => getComputedStyle(element).direction") == "rtl"
    second = cases.filter(has_text="b.png").locator(".true p").first
    assert second.evaluate("element => getComputedStyle(element).direction") == "ltr"
    for width in (1280, 1000, 700, 340):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        picture, answers = (cases.first.locator(f":scope > div >> nth={place}") for place in (0, 1))
        box, other = picture.bounding_box(), answers.bounding_box()
        assert box
        assert other
        beside = other["x"] >= box["x"] + box["width"]
        assert beside or other["y"] >= box["y"] + box["height"]
        assert beside == (width > 960)
    page.close()


def test_boxes_are_drawn_where_they_were_found(
    compare: Callable[..., Ended], scenes: Path, tmp_path: Path
) -> None:
    assert compare("--data", scenes, "-m", "demo", "--only", "OD", "--no-loss").status == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(found)))
        for found in re.findall(r'base64,([A-Za-z0-9+/=]+)"[^>]*alt="Regions of ground', page)
    ]
    assert len(pictures) >= SCENES
    original = Image.open(scenes / "0.png").convert("RGB")
    drawn = pictures[0].convert("RGB")
    assert max(drawn.size) <= 384
    plain = original.resize(drawn.size)
    off = np.abs(np.asarray(drawn, int) - np.asarray(plain, int)).sum(axis=2)  # [H, W]
    assert 50 < (off > 120).sum() < off.size / 4
