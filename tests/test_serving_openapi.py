"""The server says exactly what it takes and gives."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .serving_host import ServerProcess, picture, serving_here

httpx = pytest.importorskip("httpx")
pytest.importorskip("schemathesis")
pytest.importorskip("fastapi")

IMAGE = base64.b64encode(picture(size=32)).decode()

# What the description cannot say: whether a text is a picture, and whether options go together.
# 504 is for who sets a short time while the machine has much else to do.
SCHEMATHESIS = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "504"]
positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "413", "422", "504"]
negative_data_rejection.expected-statuses = ["400", "404", "405", "413", "422"]
"""


@pytest.fixture(scope="module")
def client(demo_server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo_server.url, timeout=60) as client:
        yield client


def test_every_route_is_as_described(
    demo_server: ServerProcess, client: httpx.Client, tmp_path: Path
) -> None:
    """By schemathesis: statuses, media types and bodies as described, what is not allowed refused, no 5xx."""
    loaded = client.post("/process_image", json={"image": IMAGE, "prompt": "<CAPTION>"})
    assert loaded.status_code == 200
    (tmp_path / "schemathesis.toml").write_text(SCHEMATHESIS, encoding="utf-8")
    ended = subprocess.run(
        [
            sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run",
            f"{demo_server.url}/openapi.json", "--phases", "examples,coverage,fuzzing", "--max-examples", "5",
            "--seed", "1", "--no-shrink", "--no-color", "--request-timeout", "60",
        ],
        cwd=tmp_path, capture_output=True, encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-8000:]
    tested = re.search(r"Tested: (\d+)", ended.stdout)
    assert tested is not None
    assert int(tested[1]) >= 12


@pytest.mark.parametrize(
    ("instructions", "options"),
    [
        (None, {"scores": True}),
        (("OCR", "OCR_WITH_REGION", "OD"), {"tile": 32}),
        (("CAPTION_TO_PHRASE_GROUNDING", "REFERRING_EXPRESSION_SEGMENTATION"), {"text_input": "circle"}),
        (("OPEN_VOCABULARY_DETECTION", "DOCVQA"), {"text_input": "circle"}),
        (
            ("REGION_TO_SEGMENTATION", "REGION_TO_OCR", "REGION_TO_CATEGORY"),
            {"text_input": "1,1,9,9;0,0,5,5"},
        ),
    ],
)
def test_answers_of_every_kind_are_as_described(
    client: httpx.Client, instructions: tuple[str, ...] | None, options: dict[str, Any]
) -> None:
    from promptgen.captioning import INSTRUCTIONS
    from promptgen.serving.answers import CaptionsAnswer
    from pydantic import TypeAdapter

    if instructions is None:
        known = INSTRUCTIONS.items()
        instructions = tuple(
            name for name, one in known if not one.needs_input and "florence2" in one.families
        )
    images = [base64.b64encode(picture(size=80)).decode(), IMAGE, base64.b64encode(b"no picture").decode()]
    asked = {
        "images": images, "instructions": instructions, "options": {**options, "max_new_tokens": 40},
    }  # fmt: skip
    response = client.post("/v1/captions", json=asked)
    assert response.status_code == 200, response.text
    TypeAdapter(CaptionsAnswer).validate_json(response.content, strict=True)


def test_every_route_has_an_example_and_its_errors(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    examples = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], path
            contents = list(operation["responses"]["200"]["content"].values())
            assert "example" in contents[0], path
            assert set(operation["responses"]) >= {"200", "503"}
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in content.get("examples", {}).values():
                response = client.request(method, path, json=example["value"])
                assert response.status_code == 200, (path, response.text)
                examples += 1
    assert examples >= 5


def test_the_answers_of_the_examples_are_valid() -> None:
    from promptgen.serving.operations import operations
    from pydantic import TypeAdapter

    for operation in operations("demo").values():
        if operation.answer is not None:
            TypeAdapter(operation.answer).validate_python(operation.example, strict=True)


def test_options_have_a_range_a_default_and_a_description(client: httpx.Client) -> None:
    options = client.get("/openapi.json").json()["components"]["schemas"]["AnswerOptions"]
    assert options["additionalProperties"] is False
    for name, option in options["properties"].items():
        assert option["description"], name
        assert "default" in option, name
    assert options["properties"]["num_beams"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 16}


def test_a_key_is_described_where_one_is_needed() -> None:
    from promptgen.serving.settings import ServerSettings

    with serving_here(ServerSettings(api_keys=("secret",))) as server:
        document = httpx.get(f"{server.url}/openapi.json").json()
        asked = document["paths"]["/v1/captions"]["post"]
        assert asked["security"] == [{"bearer": []}, {"header": []}]
        assert "401" in asked["responses"]
        assert "security" not in document["paths"]["/health"]["get"]
        assert httpx.post(f"{server.url}/v1/captions", json={}).status_code == 401
        for headers in ({"Authorization": "Bearer secret"}, {"X-API-Key": "secret"}):
            assert httpx.post(f"{server.url}/v1/captions", json={}, headers=headers).status_code == 400


def test_the_page_of_the_description_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    response = client.get("/docs")
    assert response.status_code == 200
    assert "script" not in response.text.replace("description", "")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert client.get("/page/docs.css").status_code == 200
    assert client.get("/redoc", follow_redirects=True).text == response.text
    for said in ("POST /v1/captions", "num_beams", "at most 16", "queue_full", "/metrics"):
        assert said in response.text
