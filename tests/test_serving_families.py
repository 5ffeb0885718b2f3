"""Servers of the second family of models and of quantised weights, over HTTP."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from promptgen.captioning import Captioner
from promptgen.cli.choices import Quantization
from promptgen.cli.quantized_names import split_quantization
from promptgen.serving.errors import ModelNotServedError
from promptgen.serving.models import ServedModel, ServedModels

from .checkpoints import edit_json
from .command_line import Promptgen
from .paligemma_checkpoints import make_paligemma, pictures
from .serving_host import ServerProcess, check_failure, serving_process

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

SHORT = {"max_new_tokens": 8}
BASE = "Florence-2-base-PromptGen-v2.0"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_paligemma(tmp_path_factory.mktemp("models") / "tiny-paligemma")


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[ServerProcess]:
    """With one of each family: PaliGemma's, which is the first, with weights of 8 bits, Florence-2's with
    these and others."""
    with serving_process("--model", "demo", "--model", "demo@8", model=f"{checkpoint}@8") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    pictures(1)[0].save(path)
    return path


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def captions(client: httpx.Client, picture: Path, **asked: Any) -> dict[str, Any]:
    answer = client.post("/v1/captions", json={"image": encoded(picture), "options": SHORT, **asked})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["images"][0]["results"][0]
    return found


def chat(client: httpx.Client, picture: Path, said: str, **fields: Any) -> httpx.Response:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(picture)}"}}
    message = {"role": "user", "content": [image, {"type": "text", "text": said}]}
    return client.post("/v1/chat/completions", json={"messages": [message], **SHORT, **fields})


def test_the_list_of_models_tells_family_and_quantization(client: httpx.Client) -> None:
    models = {one["id"]: one for one in client.get("/v1/models").json()["data"]}
    tiny, demo = models["tiny-paligemma"], models["demo"]
    assert (tiny["family"], tiny["quantization"], tiny["default_instruction"]) == (
        "paligemma",
        "8",
        "CAPTION",
    )
    assert (demo["family"], demo["quantization"], demo["default_instruction"]) == (
        "florence2", "none", "GENERATE_TAGS",
    )  # fmt: skip
    assert models["demo@8"]["quantization"] == "8"
    assert "DESCRIBE" in tiny["instructions"]
    assert "OD" not in tiny["instructions"], "its family has no such"
    assert client.get("/v1/models/tiny-paligemma").json()["family"] == "paligemma"


@pytest.mark.parametrize(
    "name", ["tiny-paligemma", "tiny-paligemma@8", "TINY-paligemma@8", "demo@none", "demo@8"]
)
def test_a_model_is_called_with_its_bits_and_without(client: httpx.Client, picture: Path, name: str) -> None:
    assert captions(client, picture, model=name)["text"]
    found = client.get(f"/v1/models/{name}:CAPTION").json()
    assert found["quantization"] == ("none" if "none" in name else "8")


def test_one_that_is_told_apart_by_its_bits_is_said_to_be_loaded(client: httpx.Client, picture: Path) -> None:
    assert captions(client, picture, model="demo@8")["text"]
    assert client.get("/v1/models/demo@8").json()["loaded"] is True


def test_of_other_bits_than_its_own_it_is_not_called(client: httpx.Client, picture: Path) -> None:
    for name in ("tiny-paligemma@4", "tiny-paligemma@none", "demo@4"):
        answer = client.post("/v1/captions", json={"image": encoded(picture), "model": name})
        assert "there is tiny-paligemma, demo, demo@8." in check_failure(answer, 404, "model_not_found")


def models_of(*bits: str) -> ServedModels:
    """As if served with so many of each."""
    return ServedModels(ServedModel.of(Captioner(BASE, quantization=one)) for one in bits)


def test_of_one_name_models_are_told_apart_by_their_bits() -> None:
    for given in (("none", "4"), ("4", "none")):
        models = models_of(*given)
        assert {one.name for one in models} == {BASE, f"{BASE}@4"}
        for name in (BASE, "promptgen_base_v2.0", f"MiaoshouAI/{BASE}"):
            assert models.find(name).captioner.quantization == "none"
            assert models.find(f"{name}@none").captioner.quantization == "none"
            assert models.find(f"{name}@4").captioner.quantization == "4"
    models = models_of("8", "4")
    assert [one.name for one in models] == [f"{BASE}@8", f"{BASE}@4"]
    assert models.find(None).captioner.quantization == "8"
    with pytest.raises(ModelNotServedError, match=f"there is {BASE}@8, {BASE}@4"):
        models.find(BASE)
    with pytest.raises(ValueError, match=f"Two of the models are called {BASE}@4"):
        models_of("4", "4")


@pytest.mark.parametrize("bits", ["5", "16", "0"])
def test_bits_that_there_are_not_are_told(
    promptgen: Promptgen, checkpoint: Path, tmp_path: Path, bits: str
) -> None:
    picture = tmp_path / "a.png"
    pictures(1)[0].save(picture)
    picture.with_suffix(".txt").write_text("a cat", encoding="utf-8")
    for name in (checkpoint, "demo", "google/paligemma-3b-mix-224", "./nowhere"):
        for command in (
            ("serve", "--port", 0),
            ("evaluate", "--data", tmp_path, "-i", "CAPTION", "--output", tmp_path / "out"),
        ):
            ended = promptgen(*command, "-m", f"{name}@{bits}", "--offline")
            assert ended.status == 2, ended.stderr
            assert f"no weights of {bits} bits" in ended.stderr
            assert "none, 8, 4" in ended.stderr


def test_a_folder_may_be_called_as_if_it_had_bits(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTGEN_MODELS", str(tmp_path))
    shutil.copytree(checkpoint, tmp_path / "tiny@5")
    for given in ("tiny@5", str(tmp_path / "tiny@5")):
        assert split_quantization(given, Quantization.EIGHT) == (given, Quantization.EIGHT)
    assert split_quantization("tiny@5@4", Quantization.NONE) == ("tiny@5", Quantization.FOUR)


def test_a_family_that_is_not_known_ends_it_at_start(
    promptgen: Promptgen, checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "other")
    edit_json(folder / "config.json", lambda config: config.update(model_type="llava"))
    ended = promptgen("serve", "--port", 0, "--model", "demo", "--model", folder, "--offline")
    assert ended.status == 1, ended.stderr
    assert f"{folder / 'config.json'} states model_type 'llava'" in ended.stderr
    assert "Serving" not in ended.stderr


def test_old_clients_are_told_what_they_can_ask(client: httpx.Client, picture: Path) -> None:
    assert client.get("/prompts").json() == ["<CAPTION>", "<LONG_PROMPT>", "<DESCRIBE>", "<OCR>"]
    answer = client.post("/process_image", json={"image": encoded(picture), "prompt": "<OCR>"})
    assert answer.status_code == 200, answer.text


def test_instructions_tell_their_families(client: httpx.Client) -> None:
    table = {one["name"]: one for one in client.get("/v1/instructions").json()["instructions"]}
    assert set(table["CAPTION"]["families"]) == {"florence2", "paligemma"}
    assert table["OD"]["families"] == ["florence2"]
    assert table["LONG_PROMPT"]["families"] == ["paligemma"]


def test_answers_are_those_of_the_command_line(
    client: httpx.Client, promptgen: Promptgen, checkpoint: Path, picture: Path
) -> None:
    def said(*flags: object) -> str:
        given = ("--model", checkpoint, "--quantization", "8", "--max-new-tokens", "8", "-q")
        return promptgen("caption", picture, *given, *flags).stdout.removesuffix("\n")

    assert captions(client, picture)["instruction"] == "CAPTION", "since nothing else was asked"
    assert captions(client, picture)["text"] == said()
    german = {**SHORT, "language": "de"}
    assert captions(client, picture, options=german)["text"] == said("--language", "de")
    assert captions(client, picture, options=german)["text"] != said()
    question = {**SHORT, "text_input": "what colour?"}
    asked = ("-i", "VQA", "--text-input", "what colour?")
    assert captions(client, picture, instruction="VQA", options=question)["text"] == said(*asked)
    preset = {**SHORT, "preset": "long-prompt", "seed": 2, "retries": 1}
    flags = ("--preset", "long-prompt", "--seed", "2", "--retries", "1")
    assert captions(client, picture, options=preset)["text"] == said(*flags)


def test_each_model_is_asked_in_its_own_way(client: httpx.Client, picture: Path) -> None:
    assert captions(client, picture, model="demo")["instruction"] == "GENERATE_TAGS"
    answer = client.post("/v1/captions", json={"image": encoded(picture), "instruction": "OD"})
    assert "OPEN_VOCABULARY_DETECTION" in check_failure(answer, 400, "bad_request")
    assert captions(client, picture, model="demo", instruction="OD")["instruction"] == "OD"


def test_a_text_that_is_no_instruction_is_the_prompt(client: httpx.Client, picture: Path) -> None:
    def result(said: str, **fields: Any) -> dict[str, Any]:
        answer = chat(client, picture, said, **fields)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["choices"][0]["message"]["results"][0]
        return found

    free = result("describe de")
    assert free["instruction"] == "PROMPT"
    german = captions(client, picture, instruction="DESCRIBE", options={**SHORT, "language": "de"})
    assert free["raw"] == german["raw"]
    assert result("OCR")["instruction"] == "OCR"
    assert result("")["instruction"] == "CAPTION"
    assert result("what is this?", model="tiny-paligemma:VQA")["instruction"] == "VQA"
    assert result("anything", model="tiny-paligemma:CAPTION")["text"] == captions(client, picture)["text"]
    refused = chat(client, picture, "what is this?", model="demo")
    assert refused.status_code == 400
    assert "is no instruction" in refused.json()["error"]["message"]


def test_with_a_preset_that_draws_the_temperature_acts(client: httpx.Client, picture: Path) -> None:
    fields = {"model": "tiny-paligemma:CAPTION", "temperature": 1.5, "seed": 4}
    without = chat(client, picture, "", **fields).json()
    assert without["ignored"] == ["seed", "temperature"]
    with_preset = chat(client, picture, "", preset="long-prompt", retries=0, **fields).json()
    assert "ignored" not in with_preset
    options = {**SHORT, "temperature": 1.5, "seed": 4, "preset": "long-prompt", "retries": 0}
    expected = captions(client, picture, options=options)
    assert with_preset["choices"][0]["message"]["content"] == expected["text"]
    wrong = chat(client, picture, "", preset="short")
    assert "unknown preset" in wrong.json()["error"]["message"]


def test_metrics_tell_quantised_models_apart(client: httpx.Client, picture: Path) -> None:
    captions(client, picture)
    text = client.get("/metrics").text
    assert 'quantization="8"' in next(
        line
        for line in text.splitlines()
        if line.startswith("promptgen_model_bytes{") and "paligemma" in line
    )


# The commands that ask it -----------------------------------------------------------------------


def test_remote_commands_ask_what_the_model_is_for(
    promptgen: Promptgen, server: ServerProcess, picture: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "album"
    folder.mkdir()
    for number, one in enumerate(pictures(2)):
        stream = BytesIO()
        one.save(stream, "PNG")
        (folder / f"{number}.png").write_bytes(stream.getvalue())
    given = ("--url", server.url, "--max-new-tokens", "8")
    lines = tmp_path / "captions.jsonl"
    ended = promptgen("remote", "folder", folder, *given, "--output", lines)
    assert ended.status == 0, ended.stderr
    assert '"CAPTION": ' in lines.read_text(encoding="utf-8")
    named = promptgen("remote", "caption", folder / "0.png", *given, "-m", "demo", "--format", "jsonl")
    assert '"GENERATE_TAGS"' in named.stdout
    unnamed = promptgen("remote", "caption", folder / "0.png", *given, "--format", "jsonl")
    assert '"CAPTION"' in unnamed.stdout


def test_remote_runs_mark_answers_that_fall_short(
    promptgen: Promptgen, server: ServerProcess, picture: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "captions.jsonl"
    asked = ("--do-sample", "--seed", "1", "--retries", "1", "--retry-word", "the,a", "--min-words", "300")
    given = ("--url", server.url, "--max-new-tokens", "8", *asked)
    ended = promptgen("remote", "folder", picture, *given, "--output", lines, "--details")
    assert ended.status == 0, ended.stderr
    assert "Answers kept though they fail the conditions" in ended.stderr
    assert '"attempts": 2, "unmet": ' in lines.read_text(encoding="utf-8")
