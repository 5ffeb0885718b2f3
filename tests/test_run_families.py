"""Folder runs of the second family of models and of quantised weights, and answers that are asked again."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from promptgen.captioning import (
    Captioner,
    CaptionOptions,
    CleaningOptions,
    GenerationOptions,
    RetryOptions,
    apply_preset,
)
from promptgen.captioning.runs.settings import settings_digest

from .command_line import Ended, Promptgen
from .paligemma_checkpoints import make_paligemma, pictures

Folder = Callable[..., Ended]

PLAIN_DIGEST = "7366e4ad1a486523d972fa09036b154059c1b959dc56602d0a8dac221dd48ffb"
ENDLESS = (
    "--do-sample",
    "--seed",
    "3",
    "--min-words",
    "500",
    "--max-new-tokens",
    "8",
)  # which no answer meets


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_paligemma(tmp_path_factory.mktemp("models") / "tiny-paligemma")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for number, picture in enumerate(pictures(3)):
        picture.save(folder / f"{number}.png")
    return folder


@pytest.fixture
def folder(promptgen: Promptgen, album: Path) -> Folder:
    return lambda *arguments: promptgen("folder", album, "--device", "cpu", *arguments)


def texts(album: Path) -> list[str]:
    return [path.read_text(encoding="utf-8").removesuffix("\n") for path in sorted(album.glob("*.txt"))]


# One command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", ["none", "8", "4"])
def test_pictures_in_a_folder_get_captions(folder: Folder, album: Path, checkpoint: Path, bits: str) -> None:
    given = ("--model", checkpoint, "--quantization", bits, "--preset", "long-prompt", "--seed", "1")
    quick = ("--max-new-tokens", "12", "--retries", "1")  # besides, what is given wins over the preset
    ended = folder(*given, *quick)
    assert ended.status == 0, ended.stderr
    assert "Images: 3 captioned." in ended.stderr
    assert len(texts(album)) == 3
    options = apply_preset(
        "long-prompt",
        CaptionOptions(GenerationOptions(max_new_tokens=12, seed=1), retries=RetryOptions(limit=1)),
    )
    captioner = Captioner(str(checkpoint), device="cpu", quantization=bits)
    expected = captioner.caption(sorted(album.glob("*.png")), "CAPTION", options)
    assert texts(album) == [result.results[0].text for result in expected]
    assert folder(*given, *quick).stderr.startswith("Images: 0 captioned, 3 done before.")


def test_without_an_instruction_it_is_asked_what_it_is_for(
    folder: Folder, checkpoint: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "captions.jsonl"
    ended = folder("--model", checkpoint, "--max-new-tokens", "8", "--output", lines)
    assert ended.status == 0, ended.stderr
    (first, *_) = map(json.loads, lines.read_text(encoding="utf-8").splitlines())
    assert list(first) == ["image", "width", "height", "CAPTION"]


def test_what_its_family_cannot_do_is_told_before_anything_is_written(
    folder: Folder, album: Path, checkpoint: Path
) -> None:
    before = sorted(album.iterdir())
    ended = folder("--model", checkpoint, "-i", "OD")
    assert ended.status == 2
    assert "PaliGemma" in ended.stderr
    assert "OPEN_VOCABULARY_DETECTION" in ended.stderr
    assert sorted(album.iterdir()) == before


def test_worker_processes_have_the_same_model(folder: Folder, album: Path, checkpoint: Path) -> None:
    given = ("--model", checkpoint, "--quantization", "4", "--max-new-tokens", "8", "--dtype", "fp32")
    assert folder(*given).status == 0
    alone = texts(album)
    for path in album.glob("*.txt"):
        path.unlink()
    ended = folder(*given, "--restart", "--device", "auto", "--devices", "cpu,cpu")
    assert ended.status == 0, ended.stderr
    assert texts(album) == alone


# Going on -------------------------------------------------------------------------------------


def test_what_shapes_answers_is_compared_when_a_run_goes_on(checkpoint: Path) -> None:
    """And what was not there before, such as quantisation, changes nothing where it is not used."""
    model = str(checkpoint)
    options = CaptionOptions(GenerationOptions(do_sample=True, seed=1))
    plain = settings_digest(Captioner(model), ["CAPTION"], options)

    def differs(other: Captioner, changed: CaptionOptions = options) -> bool:
        return settings_digest(other, ["CAPTION"], changed) != plain

    def with_options(**changes: object) -> CaptionOptions:
        return CaptionOptions(options.generation, **changes)  # type: ignore[arg-type]

    assert differs(Captioner(model, quantization="8"))
    assert differs(Captioner(model, quantization="4"))
    assert differs(Captioner(model), with_options(language="de"))
    assert differs(Captioner(model), with_options(cleaning=CleaningOptions(max_word_length=30)))
    assert differs(Captioner(model), with_options(retries=RetryOptions(3, 20)))
    assert differs(Captioner(model), apply_preset("long-prompt", options))
    assert not differs(Captioner(model, quantization="none", device="cpu", dtype="bf16"))
    assert not differs(Captioner(model), with_options(language="en"))
    # what is given counts like the same setting of the checkpoint's own
    limit = GenerationOptions(do_sample=True, seed=1, max_new_tokens=256)
    assert not differs(Captioner(model), CaptionOptions(limit))


def test_journals_of_before_go_on() -> None:
    """The digest of a plain run is what it was before there was a second family; for as long as the
    files of the demo model are what they were."""
    captioner = Captioner("demo", device="cpu", dtype="fp32")
    options = CaptionOptions(GenerationOptions(num_beams=1, max_new_tokens=8))
    assert settings_digest(captioner, ["GENERATE_TAGS"], options) == PLAIN_DIGEST


# Answers that are asked again -----------------------------------------------------------------


def test_answers_that_fall_short_are_kept_and_marked(folder: Folder, album: Path, tmp_path: Path) -> None:
    lines, page = tmp_path / "captions.jsonl", tmp_path / "report.html"
    flags = ("--model", "demo", "-i", "CAPTION,OD", "--retries", "2", *ENDLESS)
    ended = folder(*flags, "--format", "jsonl", "--output", lines, "--details")
    assert ended.status == 0, ended.stderr
    assert "Answers kept though they fail the conditions: 3." in ended.stderr
    assert f"the column 'unmet' of {lines}" in ended.stderr
    for line in map(json.loads, lines.read_text(encoding="utf-8").splitlines()):
        caption, detection = line["results"]
        assert caption["attempts"] == 3
        assert caption["unmet"].endswith("of at least 500")
        assert caption["text"] == line["CAPTION"] != ""
        assert "unmet" not in detection, "conditions are for captions"
    # a report tells which ones, too, also when nothing is left to do
    ended = folder(*flags, "--format", "jsonl", "--output", lines, "--details", "--report", page)
    assert ended.stderr.startswith("Images: 0 captioned, 3 done before.")
    told = page.read_text(encoding="utf-8")
    assert "3 answers in the journal were kept" in told
    assert "at least 500 words; asked again 2 times at most" in told, "among the settings"
    assert "None" not in told, "the beams are the checkpoint's own"
    files = folder(*flags, "--restart")
    assert "--report FILE.html" in files.stderr, "caption files tell nothing"
    for name in ("0.png", "1.png", "2.png"):
        assert name in told


def test_tables_mark_what_falls_short(folder: Folder, album: Path, tmp_path: Path) -> None:
    flags = ("--model", "demo", "-i", "CAPTION:told,OD", "--min-words", "19")
    tables = {form: tmp_path / f"captions.{form}" for form in ("jsonl", "csv", "parquet")}
    rows: dict[str, list[dict[str, Any]]] = {}
    for table in tables.values():
        assert folder(*flags, "--output", table).status == 0
    rows["jsonl"] = list(map(json.loads, tables["jsonl"].read_text(encoding="utf-8").splitlines()))
    with open(tables["csv"], encoding="utf-8", newline="") as stream:
        rows["csv"] = [{**row, "unmet": row["unmet"] or None} for row in csv.DictReader(stream)]
    rows["parquet"] = pyarrow.parquet.read_table(tables["parquet"]).to_pylist()
    for form, found in rows.items():
        counts = [len(row["told"].split()) for row in found]
        assert min(counts) < 19 <= max(counts)
        assert [row["unmet"] for row in found] == [
            None if words >= 19 else f"told: {words} words of at least 19" for words in counts
        ], form
    assert folder("--model", "demo", "-i", "CAPTION", "--output", tmp_path / "plain.csv").status == 0
    assert (tmp_path / "plain.csv").read_text(encoding="utf-8").startswith("image,width,height,CAPTION\n")
    taken = folder("--model", "demo", "-i", "CAPTION:unmet", "--min-words", "19", "--output", tables["csv"])
    assert taken.status == 1
    assert "two columns would be called 'unmet'" in taken.stderr


def test_an_answer_that_meets_the_conditions_is_not_asked_again(
    folder: Folder, album: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "captions.jsonl"
    flags = ("--model", "demo", "-i", "CAPTION", "--do-sample", "--retries", "2", "--min-words", "1")
    ended = folder(*flags, "--max-new-tokens", "12", "--output", lines, "--details")
    assert ended.status == 0, ended.stderr
    assert "conditions" not in ended.stderr
    for line in map(json.loads, lines.read_text(encoding="utf-8").splitlines()):
        assert "attempts" not in line["results"][0]


def test_to_ask_again_without_chance_is_refused(folder: Folder, album: Path) -> None:
    ended = folder("--model", "demo", "--retries", "2", "--min-words", "20")
    assert ended.status == 2
    assert "do_sample" in ended.stderr
    assert not list(album.glob("*.txt"))
