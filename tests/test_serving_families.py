"""Servers of the second family of models and of quantised weights, over HTTP."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from .command_line import Promptgen
from .paligemma_checkpoints import make_paligemma, pictures
from .serving_host import ServerProcess, check_failure, serving_process

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

SHORT = {"max_new_tokens": 8}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_paligemma(tmp_path_factory.mktemp("models") / "tiny-paligemma")


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[ServerProcess]:
    """With one of each family: PaliGemma's, which is the first, with weights of 8 bits."""
    with serving_process("--model", "demo", model=f"{checkpoint}@8") as server:
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
    assert "DESCRIBE" in tiny["instructions"]
    assert "OD" not in tiny["instructions"], "its family has no such"
    assert client.get("/v1/models/tiny-paligemma").json()["family"] == "paligemma"


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
