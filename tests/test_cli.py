"""The ``promptgen`` command, run as users run it, on the reference checkpoint."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from promptgen.cli import main
from promptgen.cli.output_file import OutputFile
from promptgen.cli.reporting import CommandError
from promptgen.cli.writers import JsonWriter
from promptgen.inference.processor import has_int8

from .command_line import Ended, Promptgen
from .hub_server import running_hub

REFERENCE = Path(__file__).parent / "data" / "florence2-tiny-original"
ROOT = Path(__file__).parents[1]
IMAGES = sorted((REFERENCE / "images").glob("*.png"))
CASES = json.loads((REFERENCE / "expected.json").read_text(encoding="utf-8"))["cases"]
GREEDY = {"num_beams": 1, "max_new_tokens": 96}
# fp32, since the published answers are: what auto means depends on the processor.
QUICK = (
    "--model", REFERENCE, "--device", "cpu", "--dtype", "fp32", "--num-beams", 1, "--max-new-tokens", 96,
)  # fmt: skip

posix = pytest.mark.skipif(os.name == "nt", reason="signals, pipes and terminals as POSIX has them")


def published_text(image: str, instruction: str, settings: dict[str, Any] = GREEDY) -> str:
    """What the published implementation answers."""
    (text,) = (
        case["text"]
        for case in CASES
        if (case["image"], case["instruction"], case["settings"]) == (image, instruction, settings)
    )
    return str(text)


def lines_of(ended: Ended) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ended.stdout.splitlines()]


# Answers and their forms --------------------------------------------------------------------


def test_one_image_and_one_instruction_give_just_the_text(promptgen: Promptgen) -> None:
    ended = promptgen("caption", IMAGES[0], *QUICK, "--instruction", "GENERATE_TAGS")
    assert ended == Ended(0, "1 object, white triangle, cyan background\n", "")


def test_several_answers_are_told_apart(promptgen: Promptgen) -> None:
    ended = promptgen("caption", IMAGES[0], IMAGES[2], *QUICK, "-i", "generate_tags", "-i", "<CAPTION>")
    blocks = [
        f"==> {image}: {instruction} <==\n{published_text(image.name, instruction)}\n"
        for image in (IMAGES[0], IMAGES[2])
        for instruction in ("GENERATE_TAGS", "CAPTION")
    ]
    assert ended == Ended(0, "\n".join(blocks), "")


def test_table_names_image_instruction_and_text(promptgen: Promptgen) -> None:
    ended = promptgen("caption", IMAGES[0], *QUICK, "--instruction", "GENERATE_TAGS,OCR", "--format", "table")
    assert ended.status == 0
    for part in (IMAGES[0].name, "GENERATE_TAGS", "OCR", "1 object, white triangle, cyan background"):
        assert part in ended.stdout.replace("\n", "")


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_json_agrees_with_the_published_code(promptgen: Promptgen, form: str) -> None:
    instructions = ["GENERATE_TAGS", "CAPTION", "MIXED_CAPTION", "ANALYZE", "OD", "OCR"]
    ended = promptgen("caption", *IMAGES, *QUICK, "--instruction", ",".join(instructions), "--format", form)
    assert ended.status == 0, ended.stderr
    records = json.loads(ended.stdout) if form == "json" else lines_of(ended)
    assert [(record["image"], record["instruction"]) for record in records] == [
        (str(image), instruction) for image in IMAGES for instruction in instructions
    ]
    for record in records:
        assert record["model"] == str(REFERENCE)
        assert record["raw"] == published_text(Path(record["image"]).name, record["instruction"])
        assert record["truncated"] is False
        assert list(record)[:5] == ["image", "model", "instruction", "text", "raw"]


def test_json_holds_what_the_kind_of_answer_adds(promptgen: Promptgen) -> None:
    asked = "GENERATE_TAGS,MIXED_CAPTION,ANALYZE,OD,CAPTION"
    ended = promptgen("caption", IMAGES[0], *QUICK, "--instruction", asked, "--format", "json")
    tags, mixed, analysis, boxes, prose = json.loads(ended.stdout)
    assert tags["tags"] == ["1 object", "white triangle", "cyan background"]
    assert mixed["prose"]
    assert isinstance(mixed["tags"], list)
    assert isinstance(analysis["analysis"], (dict, list))
    assert "<loc_" in boxes["raw"]
    assert "<loc_" not in boxes["text"]
    for region in boxes["regions"]:
        assert region["label"]
        assert len(region["box"]) == 4
    assert not {"tags", "prose", "analysis", "regions"} & set(prose)


SETTINGS = [json.loads(text) for text in sorted({json.dumps(case["settings"]) for case in CASES})]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_generation_settings_give_the_published_answers(
    promptgen: Promptgen, settings: dict[str, Any]
) -> None:
    options: list[object] = []
    for name, value in settings.items():
        options += [f"--{name.replace('_', '-')}", str(value).lower()]
    cases = {
        (case["image"], case["instruction"]): case["text"] for case in CASES if case["settings"] == settings
    }
    images = [REFERENCE / "images" / name for name in sorted({image for image, _ in cases})]
    asked = (
        "--instruction",
        ",".join(sorted({instruction for _, instruction in cases})),
        "--format",
        "jsonl",
    )
    model = ("--model", REFERENCE, "--device", "cpu", "--dtype", "fp32")
    ended = promptgen("caption", *images, *model, *options, *asked)
    assert ended.status == 0, ended.stderr
    answers = {(Path(line["image"]).name, line["instruction"]): line["raw"] for line in lines_of(ended)}
    assert {key: answers[key] for key in cases} == cases


def test_every_option_reaches_the_engine(promptgen: Promptgen, monkeypatch: pytest.MonkeyPatch) -> None:
    import promptgen.captioning as engine

    seen: list[Any] = []

    class Watched(engine.Captioner):
        def stream(self, images: Any, instructions: Any, options: Any = None, on_step: Any = None) -> Any:
            seen.append((self.device, self.dtype, self.batch_size, options))
            return super().stream(images, instructions, options, on_step)

    monkeypatch.setattr(engine, "Captioner", Watched)
    generation = {
        "num_beams": 2, "max_new_tokens": 9, "min_new_tokens": 2, "do_sample": True, "temperature": 0.5,
        "top_k": 7, "top_p": 0.5, "repetition_penalty": 1.5, "length_penalty": 0.5, "no_repeat_ngram_size": 4,
        "early_stopping": "never", "seed": 3,
    }  # fmt: skip
    arguments: list[object] = []
    for name, value in generation.items():
        arguments += [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
    tags = (
        "--prefix",
        "p",
        "--suffix",
        "s",
        "--exclude",
        "x,y",
        "--exclude",
        "z",
        "--replace",
        "a:b",
        "--deduplicate",
    )
    tags += ("--replace", "c:", "--underscores", "spaces", "--bare-parentheses", "--background", "#010203")
    run = ("--model", REFERENCE, "--device", "cpu", "--dtype", "bf16", "--batch-size", 3)
    assert promptgen("caption", IMAGES[0], *run, *arguments, *tags).status == 0
    ((device, dtype, batch_size, options),) = seen
    assert (device, dtype, batch_size) == ("cpu", "bf16", 3)
    assert options.generation == engine.captioner.GenerationOptions(**generation)
    assert options.background == (1, 2, 3)
    assert options.tags == engine.TagOptions(
        prefix="p", suffix="s", exclude=("x", "y", "z"), replace=(("a", "b"), ("c", "")),
        underscores="spaces", escape_parentheses=False, deduplicate=True,
    )  # fmt: skip
    for text, value in {"true": True, "false": False}.items():
        promptgen("caption", IMAGES[0], *QUICK, "--early-stopping", text, "--no-do-sample")
        assert seen[-1][3].generation.early_stopping is value
        assert seen[-1][3].generation.do_sample is False
    regions = ("--scores", "--threshold", 0.25, "--max-regions", 3, "--nms", 0.5)
    promptgen("caption", IMAGES[0], *QUICK, "-i", "OD", *regions)
    assert seen[-1][3].vision == engine.VisionOptions(True, threshold=0.25, top_k=3, nms_iou=0.5)
    for flags, tile in (
        (["--tile", "auto"], engine.TileOptions()),
        (["--tile", 500, "--tile-overlap", 0.4, "--tiles-only"], engine.TileOptions(500, 0.4, whole=False)),
    ):
        promptgen("caption", IMAGES[0], *QUICK, "-i", "OD", *flags)
        assert seen[-1][3].vision == engine.VisionOptions(tile=tile)


def test_regions_have_scores_where_they_are_asked_for(promptgen: Promptgen) -> None:
    asked = ("caption", ROOT / "examples" / "circle-heart-square.png", "--model", "demo", "-i", "OD")
    found = []
    for flags in ([], ["--scores"], ["--max-regions", 1]):
        (line,) = lines_of(
            promptgen(*asked, "--device", "cpu", "--dtype", "fp32", "--format", "jsonl", *flags)
        )
        found.append([(region["label"], region.get("score")) for region in line["regions"]])
    plain, scored, best = found
    assert plain == [("circle", None), ("heart", None), ("square", None)]
    assert [label for label, _ in scored] == ["circle", "heart", "square"]
    assert best == [max(scored, key=lambda region: region[1])]


def test_large_pictures_are_looked_at_in_tiles(promptgen: Promptgen, tmp_path: Path) -> None:
    from PIL import Image

    with Image.open(ROOT / "examples" / "circle-heart-square.png") as picture:
        picture.convert("RGB").resize((600, 400)).save(tmp_path / "large.png")
    shutil.copy(ROOT / "examples" / "circle-heart-square.png", tmp_path / "small.png")
    asked = ("--model", "demo", "-i", "OD", "--device", "cpu", "--dtype", "fp32", "--tile", 350)
    lines = lines_of(
        promptgen("caption", tmp_path / "large.png", tmp_path / "small.png", *asked, "--format", "jsonl")
    )
    assert [line.get("tiles") for line in lines] == [4, None]
    promptgen("folder", tmp_path, *asked, "--output", tmp_path / "found.jsonl")
    records = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [record["OD"] for record in records] == [line["text"] for line in lines]


def test_sampling_repeats_with_a_seed(promptgen: Promptgen) -> None:
    options = ("--do-sample", "--temperature", 3, "--top-k", 40, "--top-p", 0.95, "--max-new-tokens", 40)
    model = ("--model", REFERENCE, "--device", "cpu", "--num-beams", 1)
    answers = [
        promptgen("caption", IMAGES[0], *model, *options, "-i", "CAPTION", "--seed", seed).stdout
        for seed in (1, 1, 2)
    ]
    assert answers[0] == answers[1]
    assert answers[0] != answers[2]


def test_truncated_answers_say_so(promptgen: Promptgen) -> None:
    options = ("--model", REFERENCE, "--device", "cpu", "--max-new-tokens", 3, "--format", "jsonl")
    assert lines_of(promptgen("caption", IMAGES[0], *options))[0]["truncated"] is True


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--max-new-tokens", 5000), "Choose at most 1024"),
        (("-i", "PROMPT", "--text-input", "word " * 3000), "there is room for"),
    ],
    ids=["answer", "prompt"],
)
def test_what_does_not_fit_the_checkpoint_is_told_in_a_line(
    promptgen: Promptgen, options: tuple[Any, ...], told: str
) -> None:
    ended = promptgen("caption", IMAGES[0], "--model", REFERENCE, "--device", "cpu", *options)
    assert ended.status == 1
    assert told in ended.stderr
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr


def test_tags_are_edited_as_asked(promptgen: Promptgen) -> None:
    ended = promptgen(
        "caption", IMAGES[0], *QUICK, "--prefix", "my_style", "--suffix", "best quality",
        "--exclude", "1 object", "--replace", "white:red;cyan background:sea", "--underscores", "underscores",
        "--format", "jsonl",
    )  # fmt: skip
    (record,) = lines_of(ended)
    assert record["tags"][1:3] == ["red_triangle", "sea"]
    assert record["text"].startswith("my_style, red_triangle, sea, ")
    assert record["raw"] == "1 object, white triangle, cyan background"


def test_regions_come_from_the_text_input(promptgen: Promptgen) -> None:
    asked = (
        "--instruction",
        "CAPTION_TO_PHRASE_GROUNDING",
        "--text-input",
        "a triangle",
        "--format",
        "jsonl",
    )
    ended = promptgen("caption", IMAGES[0], *QUICK, *asked)
    assert ended.status == 0, ended.stderr
    assert "regions" in lines_of(ended)[0]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batch_size_changes_no_answer(promptgen: Promptgen, batch_size: int) -> None:
    ended = promptgen("caption", *IMAGES, *QUICK, "--batch-size", batch_size, "--format", "jsonl")
    assert [record["raw"] for record in lines_of(ended)] == [
        published_text(image.name, "GENERATE_TAGS") for image in IMAGES
    ]


@pytest.mark.skipif(not has_int8(), reason="this CPU has no int8 products (VNNI)")
def test_fast_is_int8_and_answers_alike(promptgen: Promptgen) -> None:
    pictures = sorted((Path(__file__).parents[1] / "examples").glob("*.png"))
    asked = ("caption", *pictures, "--model", "demo", "--device", "cpu", "--format", "jsonl")
    fast, int8, exact = (
        lines_of(promptgen(*asked, *how)) for how in (["--fast"], ["--dtype", "int8"], ["--dtype", "fp32"])
    )
    assert fast == int8
    assert [record["image"] for record in fast] == [record["image"] for record in exact]
    assert sum(a["raw"] == b["raw"] for a, b in zip(fast, exact, strict=True)) >= len(exact) - 1


def test_fast_with_another_dtype_is_wrong_usage(promptgen: Promptgen) -> None:
    ended = promptgen("caption", IMAGES[0], "--model", "demo", "--fast", "--dtype", "fp32")
    assert ended.status == 2
    assert "--fast" in ended.stderr
    assert "--dtype fp32" in ended.stderr


# Which images -------------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pictures that is the working directory."""
    for number, name in enumerate(["a.png", "b.png", "photo[1].png", "deep/er/c.png", "雪 é.png"]):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(IMAGES[number], target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "stdin", "names"),
    [
        (["b.png", "a.png"], b"", ["b.png", "a.png"]),
        (["[ab].png"], b"", ["a.png", "b.png"]),
        (["photo[1].png"], b"", ["photo[1].png"]),
        (["**/c.*"], b"", [str(Path("deep", "er", "c.png"))]),
        (["-"], b"b.png\na.png\n", ["b.png", "a.png"]),
        (["-"], b"\xef\xbb\xbfb.png\r\n\r\na.png\r\n", ["b.png", "a.png"]),
        (["a.png", "-"], "雪 é.png".encode(), ["a.png", "雪 é.png"]),
        (["-", "--null"], b"b.png\0a.png\0", ["b.png", "a.png"]),
        (["-", "-0"], b"b.png\0", ["b.png"]),
        (["--", "-b.png", "-[b].png"], b"", ["-b.png", "-b.png"]),
        ([str(Path("~", "[ab].png"))], b"", ["{album}a.png", "{album}b.png"]),
    ],
)
def test_images_are_named_in_many_ways(
    promptgen: Promptgen,
    album: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    stdin: bytes,
    names: list[str],
) -> None:
    shutil.copy2(IMAGES[0], album / "-b.png")
    monkeypatch.setenv("HOME", str(album))
    monkeypatch.setenv("USERPROFILE", str(album))
    ended = promptgen("caption", *QUICK, "--format", "jsonl", *arguments, stdin=stdin)
    assert ended.status == 0, ended.stderr
    images = [name.replace("{album}", f"{album}{os.sep}") for name in names]
    assert [record["image"] for record in lines_of(ended)] == images


@pytest.mark.parametrize(
    ("arguments", "stdin", "told"),
    [
        (["deep"], b"", str(Path("deep", "*.png"))),
        (["*.jpeg"], b"", "no file matches '*.jpeg'"),
        (["-"], b"\n\n", "holds no path"),
        (["-", "-"], b"a.png", "only once"),
    ],
)
def test_what_names_no_image_is_refused_at_once(
    promptgen: Promptgen, album: Path, arguments: list[str], stdin: bytes, told: str
) -> None:
    ended = promptgen("caption", *arguments, "--model", "no-such-model", stdin=stdin)
    assert (ended.status, ended.stdout) == (2, "")
    assert told in ended.stderr


def test_patterns_are_expanded_here_and_not_by_click(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows click would take photo[1].jpg for a pattern, and expand patterns in all options."""
    import promptgen.cli.app as module

    given: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "app", lambda **options: given.append(options))
    main()
    assert given == [{"windows_expand_args": False}]


def test_a_path_that_the_system_refuses_stops_no_other(promptgen: Promptgen, album: Path) -> None:
    ended = promptgen("caption", "x" * 300 + ".png", "a.png", *QUICK, "--format", "jsonl")
    assert ended.status == 1
    assert ["error" in record for record in lines_of(ended)] == [True, False], ended.stderr


def test_an_image_named_twice_is_answered_twice(promptgen: Promptgen, album: Path) -> None:
    ended = promptgen("caption", "a.png", "a.png", *QUICK, "--format", "json")
    first, second = json.loads(ended.stdout)
    assert first == second


def test_a_bad_image_stops_no_other(promptgen: Promptgen, album: Path) -> None:
    (album / "empty.png").touch()
    (album / "text.png").write_text("not a picture", encoding="utf-8")
    given = ["a.png", "empty.png", "b.png", "gone.png", "text.png", "雪 é.png"]
    ended = promptgen("caption", *given, *QUICK, "--format", "jsonl", "-i", "GENERATE_TAGS,CAPTION")
    assert ended.status == 1
    records = lines_of(ended)
    assert list(dict.fromkeys(record["image"] for record in records)) == given
    failures = [record for record in records if "error" in record]
    assert [record["image"] for record in failures] == ["empty.png", "gone.png", "text.png"]
    assert all(set(record) == {"image", "error"} and record["error"] for record in failures)
    for name in ("empty.png", "gone.png", "text.png"):
        assert f"error: {name}: " in ended.stderr
        assert ended.stderr.count(name) == 1
    assert "3 of 6 images captioned, 3 failed." in ended.stderr


# Files, encodings, terminals ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["new/deeper/out.jsonl", "out.json", "out.txt", "OUT.JSONL"])
def test_output_file_takes_the_form_that_its_name_says(promptgen: Promptgen, album: Path, name: str) -> None:
    ended = promptgen("caption", "a.png", "雪 é.png", *QUICK, "--output", name)
    assert ended == Ended(0, "", "")
    text = (album / name).read_bytes().decode("utf-8")
    assert "雪 é.png" in text
    assert "\r" not in text
    if name.lower().endswith("jsonl"):
        assert len([json.loads(line) for line in text.splitlines()]) == 2
    elif name.endswith("json"):
        assert len(json.loads(text)) == 2
    else:
        assert text.startswith("==> a.png: GENERATE_TAGS <==\n")
    assert not list(album.rglob("*partial*"))


def test_output_never_overwrites_unasked(promptgen: Promptgen, album: Path) -> None:
    (album / "out.jsonl").write_text("mine", encoding="utf-8")
    ended = promptgen("caption", "a.png", *QUICK, "--output", "out.jsonl")
    assert ended.status == 2
    assert "--overwrite" in ended.stderr
    assert (album / "out.jsonl").read_text(encoding="utf-8") == "mine"
    assert promptgen("caption", "a.png", *QUICK, "--output", "out.jsonl", "--overwrite").status == 0
    assert json.loads((album / "out.jsonl").read_text(encoding="utf-8"))["image"] == "a.png"


def test_output_keeps_what_an_earlier_run_left(promptgen: Promptgen, album: Path) -> None:
    (album / "out.jsonl.partial").write_text("earlier work", encoding="utf-8")
    assert promptgen("caption", "a.png", *QUICK, "--output", "out.jsonl").status == 0
    assert (album / "out.jsonl.partial").read_text(encoding="utf-8") == "earlier work"


@pytest.mark.parametrize("name", ["deep", "a.png/out.jsonl"])
def test_output_that_cannot_be_is_told(promptgen: Promptgen, album: Path, name: str) -> None:
    ended = promptgen("caption", "a.png", *QUICK, "--output", name)
    assert ended.status in (1, 2)
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr


@posix
@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_output_replaces_no_device_or_pipe(promptgen: Promptgen, album: Path, options: tuple[str]) -> None:
    os.mkfifo(album / "pipe")
    ended = promptgen("caption", "a.png", *QUICK, "--output", "pipe", *options)
    assert ended.status == 2
    assert "no regular file" in ended.stderr
    assert (album / "pipe").is_fifo()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    output = OutputFile(tmp_path / "out.txt")
    output.stream.close()
    output.stream = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 - output closes it
    with pytest.raises(CommandError, match=r"out\.txt\.partial.*No space left"), output as stream:
        stream.write("much")
    assert stream.closed
    assert not output.path.exists()


@posix
def test_a_closed_standard_output_is_told() -> None:
    command = f"exec {shlex.quote(sys.executable)} -m promptgen.cli caption {shlex.quote(str(IMAGES[0]))} >&-"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, encoding="utf-8", timeout=120)
    assert (done.returncode, done.stderr) == (
        2, "error: standard output is closed; name a file with --output.\n"
    )  # fmt: skip


def test_json_is_whole_when_ctrl_c_strikes_in_the_middle_of_a_write() -> None:
    class Struck(io.StringIO):
        def write(self, text: str) -> int:
            super().write(text)
            if "image" in text:
                raise KeyboardInterrupt
            return len(text)

    stream = Struck()
    writer = JsonWriter(stream)
    with pytest.raises(KeyboardInterrupt):
        writer.write([{"image": "a.png"}])
    writer.close()
    assert json.loads(stream.getvalue()) == [{"image": "a.png"}]


def test_a_model_that_fails_leaves_no_file(promptgen: Promptgen, album: Path) -> None:
    ended = promptgen("caption", "a.png", "--model", "./deep", "--output", "out.jsonl")
    assert ended.status == 1
    assert not list(album.glob("out*"))


def start(*arguments: object, **more: Any) -> subprocess.Popen[bytes]:
    """The command as a process of its own."""
    command = [sys.executable, "-m", "promptgen.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more.pop("env", {})}
    environment.pop("PYTHONUNBUFFERED", None)  # it would hide a flush that is missing
    # Unbuffered, so that reading one line leaves the rest to communicate().
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, bufsize=0, **more)


@pytest.mark.parametrize(("encoding", "form"), [("cp936", "jsonl"), ("ascii", "table")])
def test_piped_output_is_utf8_whatever_the_locale(album: Path, encoding: str, form: str) -> None:
    shutil.copy2(IMAGES[0], album / "🦊 ñ.png")
    process = start(
        "caption", "🦊 ñ.png", "gone 雪.png", *QUICK, "--format", form,
        stdout=subprocess.PIPE, env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1, stderr
    assert "🦊 ñ.png" in stdout.decode("utf-8")
    assert "gone 雪.png" in stderr.decode("utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are not text exist on Linux only")
def test_a_file_name_that_is_not_text_gives_valid_json(album: Path) -> None:
    name = b"caf\xe9.png"
    shutil.copy2(IMAGES[0], os.fsencode(album) + b"/" + name)
    process = start(
        "caption", "-", *QUICK, "--format", "jsonl", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    stdout, stderr = process.communicate(name, timeout=120)
    assert process.returncode == 0, stderr
    assert os.fsencode(json.loads(stdout.decode("utf-8"))["image"]) == name


LONG_RUN = [IMAGES[number % 6] for number in range(3000)]


@pytest.fixture
def endless(tmp_path: Path) -> list[Path]:
    """Two pictures, and a third whose opening waits for ever: a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "waits.png")
    return [IMAGES[0], IMAGES[1], tmp_path / "waits.png"]


def read_until(process: subprocess.Popen[bytes], *wanted: str) -> str:
    """What the process writes, until all of ``wanted`` are in it. After two minutes it is ended."""
    assert process.stdout is not None
    patience = threading.Timer(120, process.kill)
    patience.start()
    text = b""
    while not all(part.encode() in text for part in wanted):
        chunk = process.stdout.read(65536)
        assert chunk, text
        text += chunk
    patience.cancel()
    return text.decode()


@posix
@pytest.mark.parametrize("form", ["json", "jsonl", "text"])
def test_ctrl_c_stops_at_once_and_keeps_what_is_done(endless: list[Path], form: str) -> None:
    process = start("caption", *endless, *QUICK, "--format", form, "--batch-size", 1, stdout=subprocess.PIPE)
    # Results are flushed as they come: both are here while the run is still at its third picture.
    text = read_until(process, IMAGES[0].name, IMAGES[1].name)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    rest, stderr = process.communicate(timeout=60)
    assert time.monotonic() - started < 2  # taking torch apart alone takes longer
    assert process.returncode == 130
    text += rest.decode()
    if form == "text":
        assert text.count("==> ") == 2
        assert text.endswith("\n")
    else:
        records = json.loads(text) if form == "json" else [json.loads(line) for line in text.splitlines()]
        assert [record["image"] for record in records] == [str(image) for image in endless[:2]]
    assert b"Stopped" in stderr
    assert b"Traceback" not in stderr


@posix
def test_ctrl_c_keeps_the_output_file_as_partial(endless: list[Path], tmp_path: Path) -> None:
    partial = tmp_path / "out.json.partial"
    process = start("caption", *endless, *QUICK, "--output", tmp_path / "out.json", "--batch-size", 1)
    deadline = time.monotonic() + 120
    while not (partial.exists() and IMAGES[1].name in partial.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert str(partial) in stderr.decode()
    assert not (tmp_path / "out.json").exists()
    assert len(json.loads(partial.read_text(encoding="utf-8"))) == 2


@posix
def test_a_reader_that_leaves_ends_the_run_quietly() -> None:
    process = start(
        "caption", *LONG_RUN, *QUICK, "--format", "jsonl", "--batch-size", 1, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    stderr = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert stderr == b""


@posix
@pytest.mark.parametrize("watched", ["stderr", "stdout"])
def test_terminals_get_progress_and_tables_and_pipes_do_not(watched: str) -> None:
    import fcntl
    import pty
    import struct
    import termios

    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("4H", 40, 100, 0, 0))
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, watched: its_end}
    arguments = ["caption", *IMAGES, *QUICK, "--batch-size", 1]
    command = [sys.executable, "-m", "promptgen.cli", *map(str, arguments)]
    process = subprocess.Popen(
        command, env={**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"}, **streams
    )
    os.close(its_end)
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:  # how Linux says that the last process has closed the terminal
        pass
    piped = (process.stderr if watched == "stdout" else process.stdout).read()  # type: ignore[union-attr]
    assert process.wait(timeout=120) == 0
    os.close(terminal)
    if watched == "stderr":
        assert b"6/6" in shown
        assert piped.startswith(b"==> ")
        assert b"\x1b" not in piped
        assert b"\r" not in piped
    else:
        assert "│".encode() in shown
        assert piped == b""


# Wrong usage and other ends -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--instruction", "GENERATE_TAG"], "Did you mean GENERATE_TAGS?"),
        (["--instruction", " , "], "no instruction"),
        (["--num-beams", "0"], "num_beams is 0"),
        (["--num-beams", "many"], "--num-beams"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--early-stopping", "maybe"], "maybe"),
        (["--dtype", "fp64"], "fp64"),
        (["--device", "tpu"], "tpu"),
        (["--batch-size", "0"], "--batch-size"),
        (["--underscores", "none"], "none"),
        (["--replace", "a"], "has no colon"),
        (["--background", "blurple"], "blurple"),
        (["--instruction", "REGION_TO_CATEGORY"], "needs a region"),
        (["--text-input", "a cat"], "has no use"),
        (["--scores"], "GENERATE_TAGS finds no regions"),
        (["-i", "OD", "--threshold", "1.5"], "--threshold is 1.5; it takes a number from 0 to 1"),
        (["-i", "OD", "--nms", "-1"], "--nms is -1"),
        (["-i", "OD", "--max-regions", "0"], "--max-regions is 0"),
        (["-i", "OD", "--tile", "large"], "--tile is 'large'; it takes a number of pixels, or auto"),
        (["-i", "OD", "--tile", "8"], "--tile is 8; it takes a whole number of pixels of at least 32"),
        (["-i", "OD", "--tile", "auto", "--tile-overlap", "1"], "--tile-overlap is 1.0; it takes"),
        (["-i", "OD", "--tiles-only"], "--tiles-only has no use without --tile"),
        (["-i", "CAPTION", "--tile", "auto"], "tiles have no use: CAPTION is about the whole picture"),
        (["--format", "yaml"], "yaml"),
        (["--no-such-option"], "--no-such-option"),
        ([], "MISSING"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_clear_message_and_status_2(
    promptgen: Promptgen, arguments: list[str], told: str
) -> None:
    if arguments:
        # The model comes last: a mistyped option must not begin a download.
        ended = promptgen("caption", IMAGES[0], "--model", "no-such-model", *arguments)
        assert told in ended.stderr
    else:
        ended = promptgen("caption")
    assert (ended.status, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr


def test_unknown_model_names_the_known_ones(promptgen: Promptgen) -> None:
    ended = promptgen("caption", IMAGES[0], "--model", "Florence-2-bse-PromptGen-v2.0", "--offline")
    assert (ended.status, ended.stdout) == (1, "")
    assert "Did you mean Florence-2-base-PromptGen-v2.0?" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_verbose_adds_the_traceback(promptgen: Promptgen) -> None:
    ended = promptgen("caption", IMAGES[0], "--model", "no-such-model", "-v")
    assert ended.status == 1
    assert "Traceback" in ended.stderr
    assert "error: " in ended.stderr


def test_default_model_and_instruction_are_the_engines(promptgen: Promptgen) -> None:
    from promptgen.captioning.captioner import DEFAULT_INSTRUCTION, DEFAULT_MODEL

    help_text = promptgen("caption", "--help").stdout
    assert DEFAULT_MODEL in help_text
    assert f"[default: ({DEFAULT_INSTRUCTION}" in help_text


def test_version(promptgen: Promptgen) -> None:
    from promptgen import __version__

    assert promptgen("--version") == Ended(0, f"promptgen {__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["caption", "--help"], ["models", "list"]], ids=" ".join)
def test_the_demo_model_is_said_to_know_drawn_shapes_only(promptgen: Promptgen, arguments: list[str]) -> None:
    ended = promptgen(*arguments)
    text = " ".join(ended.stdout.replace("│", " ").split())
    assert "knows drawn shapes only" in text.replace("Knows", "knows")


# The other commands -------------------------------------------------------------------------


def test_instructions_lists_the_whole_table(promptgen: Promptgen) -> None:
    from promptgen.captioning.instructions import INSTRUCTIONS

    listed = json.loads(promptgen("instructions", "--format", "json").stdout)
    assert [row["name"] for row in listed] == list(INSTRUCTIONS)
    mixed_plus = next(row for row in listed if row["name"] == "MIXED_CAPTION_PLUS")
    assert "Florence-2-base-PromptGen-v2.0" in mixed_plus["models"]
    assert "Florence-2-base-PromptGen-v1.5" not in mixed_plus["models"]
    lines = promptgen("instructions").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(INSTRUCTIONS)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No model anywhere, and no network."""
    from huggingface_hub import constants  # which has read the environment by now

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("PROMPTGEN_MODELS", str(tmp_path / "models"))
    return tmp_path


def test_models_list_says_where_they_are(promptgen: Promptgen, empty_cache: Path) -> None:
    from promptgen.models_cache import catalogue

    shutil.copytree(REFERENCE, empty_cache / "models" / "Florence-2-large")
    shutil.copytree(REFERENCE, empty_cache / "models" / "my-own")
    listed = {row["name"]: row for row in json.loads(promptgen("models", "list", "--format", "json").stdout)}
    assert set(listed) == {*catalogue(), "my-own"}
    assert listed["Florence-2-large"]["folder"] == str(empty_cache / "models" / "Florence-2-large")
    assert listed["my-own"]["folder"] == str(empty_cache / "models" / "my-own")
    assert listed["Florence-2-base"]["folder"] is None
    assert listed["Florence-2-base"]["licence"] == "MIT"
    text = promptgen("models", "list").stdout
    assert "not downloaded" in text
    assert "0.77 B" in text


def test_models_list_help_says_how_to_add_ones_own(
    promptgen: Promptgen, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "$PROMPTGEN_CATALOGUE" in promptgen("models", "list", "--help").stdout  # as the README promises
    own = empty_cache / "own.json"
    own.write_text('{"NAME": {"hub_id": "ORG/NAME"}}', encoding="utf-8")
    monkeypatch.setenv("PROMPTGEN_CATALOGUE", str(own))
    assert "NAME " in promptgen("models", "list").stdout


def test_models_where_and_verify(promptgen: Promptgen, empty_cache: Path) -> None:
    folder = shutil.copytree(REFERENCE, empty_cache / "models" / "Florence-2-large")
    assert promptgen("models", "where", "florence-2-LARGE") == Ended(0, f"{folder}\n", "")
    ended = promptgen("models", "where", "Florence-2-base", "Florence-2-large")
    assert (ended.status, ended.stdout) == (1, f"{folder}\n")
    assert "promptgen models download Florence-2-base" in ended.stderr

    ended = promptgen("models", "verify", folder)  # a name of the catalogue, but no network to compare with
    assert ended.status == 1
    assert ended.stdout.startswith(f"{folder}: not compared\n")
    own = folder.rename(folder.with_name("my-own"))
    assert promptgen("models", "verify", own) == Ended(0, f"{own}: whole\n", "")
    folder = own
    weights = folder / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:-1000])
    ended = promptgen("models", "verify", folder)
    assert ended.status == 1
    assert ended.stdout.startswith(f"{folder}: not whole\n  pytorch_model.bin: ")


def test_models_download_without_a_network_says_what_to_do(promptgen: Promptgen, empty_cache: Path) -> None:
    ended = promptgen("models", "download", "Florence-2-base", REFERENCE)
    assert ended.status == 1
    assert ended.stdout == f"{REFERENCE}\n"
    assert "hf download microsoft/Florence-2-base" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_model_of_the_hub_is_downloaded_and_answers(tmp_path: Path) -> None:
    """The whole way in one process: the real client, a local hub, the published answer."""
    hub_id = "MiaoshouAI/Florence-2-base-PromptGen-v2.0"
    with running_hub() as hub:
        hub.add(hub_id, {path.name: path.read_bytes() for path in REFERENCE.iterdir() if path.is_file()})
        home = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
        }
        asked = ("caption", IMAGES[0], "--num-beams", 1, "--device", "cpu")
        process = start(*asked, stdout=subprocess.PIPE, env=home)
        stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (0, b"1 object, white triangle, cyan background\n"), stderr
    assert stderr == b""


def test_completion_knows_models_and_instructions() -> None:
    from promptgen.cli.completion import complete_instruction, complete_model

    assert "Florence-2-base-PromptGen-v2.0" in complete_model("florence-2-base-p")
    assert complete_instruction("GENERATE_TAGS,mixed") == [
        "GENERATE_TAGS,MIXED_CAPTION",
        "GENERATE_TAGS,MIXED_CAPTION_PLUS",
    ]
