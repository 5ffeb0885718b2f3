"""The contract of florence2-visionapi, as the clients that were published for it use it."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

from promptgen.captioning import Captioner  # noqa: E402

from .serving_host import ServerProcess, picture  # noqa: E402

EXAMPLES = Path(__file__).parent.parent / "examples"
PROMPTS = (
    "GENERATE_TAGS", "CAPTION", "DETAILED_CAPTION", "MORE_DETAILED_CAPTION", "ANALYZE", "MIXED_CAPTION",
    "MIXED_CAPTION_PLUS",
)  # fmt: skip


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner("demo", device="cpu")


def curl(*arguments: object) -> tuple[int, str]:
    """Status and body."""
    command = ["curl", "-s", "--noproxy", "*", "-w", "\n%{http_code}", *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, check=True, timeout=60)
    body, _, status = run.stdout.decode().rpartition("\n")
    return int(status), body


def post(server: ServerProcess, body: Any, **headers: str) -> httpx.Response:
    given = {"content": body} if isinstance(body, bytes) else {"json": body}
    return httpx.post(f"{server.url}/process_image", headers=headers, timeout=60, trust_env=False, **given)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def as_powershell_writes(image: bytes, prompt: str) -> str:
    """What ConvertTo-Json makes of the published client's payload."""
    return f'{{\r\n    "prompt":  "\\u003c{prompt}\\u003e",\r\n    "image":  "{encoded(image)}"\r\n}}'


def refusal(response: httpx.Response) -> str:
    """What both of the published clients' keys say."""
    body = response.json()
    assert 400 <= response.status_code < 500
    assert body["error"] == body["detail"]
    assert "\n" not in body["detail"]
    return str(body["detail"])


# curl -----------------------------------------------------------------------------------


def test_the_readme_s_command(demo_server: ServerProcess, captioner: Captioner, tmp_path: Path) -> None:
    file = EXAMPLES / "circle-heart-square.png"
    line = subprocess.run(["base64", "-w", "0", file], capture_output=True, check=True, text=True).stdout
    payload = tmp_path / "payload.json"
    payload.write_text(f'{{\n  "image": "{line}",\n  "prompt": "<CAPTION>"\n}}\n')
    status, body = curl(
        "-X", "POST", f"{demo_server.url}/process_image", "-H", "Content-Type: application/json",
        "-d", f"@{payload}"
    )  # fmt: skip
    text = captioner.caption(file, "CAPTION")[0].results[0].text
    assert status == 200
    assert body == f'{{"result":"{text}"}}'  # to the byte


def test_prompts_and_model(demo_server: ServerProcess) -> None:
    assert curl(f"{demo_server.url}/prompts") == (
        200,
        json.dumps([f"<{name}>" for name in PROMPTS], separators=(",", ":")),
    )
    assert curl(f"{demo_server.url}/model") == (200, '"demo"')


@pytest.mark.parametrize("name", ["star-and-heart.jpg", "triangle-heart-turned.jpg", "play-transparent.webp"])
def test_files_of_other_kinds(
    demo_server: ServerProcess, captioner: Captioner, tmp_path: Path, name: str
) -> None:
    file = EXAMPLES / name
    payload = tmp_path / "payload.json"
    payload.write_text(json.dumps({"image": encoded(file.read_bytes()), "prompt": "<GENERATE_TAGS>"}))
    status, body = curl(
        f"{demo_server.url}/process_image", "-H", "Content-Type: application/json", "-d", f"@{payload}"
    )
    assert status == 200
    assert json.loads(body)["result"] == captioner.caption(file, "GENERATE_TAGS")[0].results[0].text


def test_the_content_type_is_not_needed_and_the_body_may_be_expected_later(
    demo_server: ServerProcess, tmp_path: Path
) -> None:
    payload = tmp_path / "payload.json"
    payload.write_text(json.dumps({"image": encoded(picture()), "prompt": "<CAPTION>"}))
    for headers in ([], ["-H", "Content-Type:"], ["-H", "Expect: 100-continue"]):
        status, body = curl(f"{demo_server.url}/process_image", *headers, "--data-binary", f"@{payload}")
        assert status == 200, body


# PowerShell -----------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_request_of_powershell(
    demo_server: ServerProcess, captioner: Captioner, tmp_path: Path, encoding: str
) -> None:
    """.NET makes a baseline JPEG of 1024 by 1024 pixels."""
    with Image.open(EXAMPLES / "stop.png") as image:
        image.convert("RGB").resize((1024, 1024)).save(
            tmp_path / "thumbnail.jpg", quality=75, progressive=False
        )
    jpeg = (tmp_path / "thumbnail.jpg").read_bytes()
    body = as_powershell_writes(jpeg, "MIXED_CAPTION").encode(encoding)
    response = post(demo_server, body, **{"Content-Type": "application/json", "Expect": "100-continue"})
    assert response.status_code == 200
    # PowerShell 5.1 takes what has no charset for Latin-1
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert response.json() == {"result": captioner.caption(jpeg, "MIXED_CAPTION")[0].results[0].text}
    assert "\n" in response.json()["result"]


def test_powershell_reads_the_reason(demo_server: ServerProcess) -> None:
    """Its client shows ``error`` where the status is 400, and nothing of use where it is another."""
    for image, prompt in ((picture(), "NOTHING"), (b"no picture", "CAPTION"), (picture()[:200], "CAPTION")):
        response = post(demo_server, as_powershell_writes(image, prompt).encode("utf-8-sig"))
        assert response.status_code == 400
        assert refusal(response)


# The rest -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt", ["<CAPTION>", "CAPTION", "caption", "<caption>", " <Caption> ", "<<CAPTION>>"]
)
def test_prompts_in_any_spelling(demo_server: ServerProcess, prompt: str) -> None:
    first = post(demo_server, {"image": encoded(picture()), "prompt": "<CAPTION>"}).json()
    assert post(demo_server, {"image": encoded(picture()), "prompt": prompt}).json() == first


@pytest.mark.parametrize("prompt", PROMPTS)
def test_each_prompt_answers_as_the_command_line_does(
    demo_server: ServerProcess, captioner: Captioner, prompt: str
) -> None:
    file = EXAMPLES / "star-and-heart.jpg"
    response = post(demo_server, {"image": encoded(file.read_bytes()), "prompt": f"<{prompt}>"})
    assert response.json() == {"result": captioner.caption(file, prompt)[0].results[0].text}


def test_line_breaks_in_the_base64_and_unknown_fields_are_no_matter(demo_server: ServerProcess) -> None:
    wrapped = base64.encodebytes(picture()).decode().replace("\n", "\r\n")
    body = {"image": wrapped, "prompt": "CAPTION", "client": "mine"}
    assert post(demo_server, body).status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"\xff\xfe", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"image=abc&prompt=CAPTION", "not valid JSON"),
        (b"\xff\xff\xff\xff", "Unicode"),
        (b"[" * 100_000, "JSON"),
        ([], "object"),
        ("CAPTION", "object"),
        (None, "object"),
        ({}, "image is missing"),
        ({"prompt": "CAPTION"}, "image is missing"),
        ({"image": encoded(picture())}, "prompt is missing"),
        ({"image": None, "prompt": "CAPTION"}, "image must be a valid string"),
        ({"image": [encoded(picture())], "prompt": "CAPTION"}, "image must be a valid string"),
        ({"image": 5, "prompt": "CAPTION"}, "image must be a valid string"),
        ({"image": encoded(picture()), "prompt": 5}, "prompt must be a valid string"),
        ({"image": encoded(picture()), "prompt": ""}, "unknown instruction"),
        ({"image": encoded(picture()), "prompt": "DEPICT"}, "unknown instruction"),
        ({"image": encoded(picture()), "prompt": "DESCRIBE"}, "DESCRIBE is for PaliGemma"),
        ({"image": encoded(picture()), "prompt": "CAPTION" * 1000}, "prompt"),
        ({"image": encoded(picture()), "prompt": "REGION_TO_OCR"}, "needs a region"),
        ({"image": "", "prompt": "CAPTION"}, "empty"),
        ({"image": " \n", "prompt": "CAPTION"}, "empty"),
        ({"image": encoded(picture())[:-3], "prompt": "CAPTION"}, "cut off"),
        ({"image": encoded(picture())[:400], "prompt": "CAPTION"}, "cannot be read"),
        ({"image": "not base64!!", "prompt": "CAPTION"}, "not base64"),
        ({"image": encoded(picture()).replace("A", "-"), "prompt": "CAPTION"}, "not base64"),
        ({"image": "QUJDRA==QUJD", "prompt": "CAPTION"}, "not base64"),
        ({"image": "QUJDRB==", "prompt": "CAPTION"}, "not base64"),
        ({"image": encoded(b"plain text"), "prompt": "CAPTION"}, "cannot be read"),
        ({"image": "https://example.com/cat.jpg", "prompt": "CAPTION"}, "address"),
        ({"image": "data:image/png,abcd", "prompt": "CAPTION"}, "data URI"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(demo_server: ServerProcess, body: Any, said: str) -> None:
    response = post(demo_server, body) if body is not None else post(demo_server, b"null")
    assert said in refusal(response)
    assert response.status_code == 400


def test_a_bomb_is_refused(demo_server: ServerProcess) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert "pixels" in refusal(post(demo_server, {"image": encoded(bomb), "prompt": "CAPTION"}))


def test_a_data_uri_is_taken_too(demo_server: ServerProcess) -> None:
    body = {"image": f"data:image/png;base64,{encoded(picture())}", "prompt": "CAPTION"}
    assert post(demo_server, body).status_code == 200


def test_other_methods_and_paths_fail_in_the_same_form(demo_server: ServerProcess) -> None:
    for method, path in (("GET", "/process_image"), ("POST", "/prompts"), ("GET", "/process_images")):
        assert refusal(httpx.request(method, demo_server.url + path, trust_env=False))
