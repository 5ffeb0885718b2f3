"""Nothing that is sent to the server makes it fail, or takes it long to refuse."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import time
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .serving_host import ServerProcess, picture

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

IMAGE = base64.b64encode(picture(size=32)).decode()
PATHS = ("/v1/captions", "/v1/captions/digest", "/process_image", "/v1/chat/completions")
SECONDS = 15  # that nothing refused may take, on a busy machine
BOUNDED = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def client(demo_server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo_server.url, timeout=60) as client:
        yield client


def check_refused(response: httpx.Response, path: str) -> None:
    """It has the one form of every failure."""
    assert 400 <= response.status_code < 500, response.text
    body = response.json()
    assert isinstance(body["detail"], str)
    assert "\n" not in body["detail"]
    assert isinstance(body["code"], str)
    error = body["error"]
    assert (error["message"] if path.startswith("/v1/chat") else error) == body["detail"]
    assert "Traceback" not in response.text


def check_alive(client: httpx.Client) -> None:
    """The server still answers, and answers right."""
    assert client.get("/health").status_code == 200
    answer = client.post("/process_image", json={"image": IMAGE, "prompt": "<caption>"})
    assert answer.status_code == 200
    assert "red circle" in answer.json()["result"].lower()


DEEP = b"[" * 100_000 + b"]" * 100_000

BODIES: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \r\n ",
    "no JSON": b"image=1&prompt=2",
    "a number": b"1",
    "null": b"null",
    "a list": b"[]",
    "deep": DEEP,
    "deep within": b'{"image": ' + DEEP + b"}",
    "deep objects": b'{"options":' * 50_000 + b"1" + b"}" * 50_000,
    "cut off": b'{"image": "' + IMAGE[:50].encode(),
    "1e999": b'{"image": "%s", "prompt": "<CAPTION>", "timeout": 1e999}' % IMAGE.encode(),
    "NaN": b'{"image": "%s", "timeout": NaN}' % IMAGE.encode(),
    "huge number": b'{"image": "%s", "options": {"seed": %s}}' % (IMAGE.encode(), b"9" * 10_000),
    "large number": b'{"image": "%s", "seed": %s}' % (IMAGE.encode(), b"9" * 4_000),
    "NUL": b'{"image": "\\u0000", "prompt": "\\u0000", "instruction": "\\u0000"}',
    "bare NUL": b'{"image": "\x00"}',
    "half a pair": b'{"image": "\\ud800", "prompt": "\\udfff", "instruction": "\\udfff"}',
    "half a pair as a name": b'{"\\ud800": 1}',
    "Latin-1": '{"image": "é"}'.encode("latin-1"),
    "UTF-16 of a byte too few": '{"image": "é"}'.encode("utf-16")[:-1],
    "UTF-32 of nonsense": b"\xff\xfe\x00\x00" + b"\xff" * 16,
    "wrong types": b'{"image": {"a": []}, "prompt": [1], "messages": {"role": 1}, "instructions": 5}',
    "lists for texts": b'{"image": [[]], "images": [[]], "prompt": {}, "messages": [[]], "model": []}',
    "keys twice": b'{"image": "%s", "image": 1, "prompt": 1, "prompt": 2}' % IMAGE.encode(),
    "many names": json.dumps({f"name{number}": 1 for number in range(50_000)}).encode(),
    "many parts": b'{"images": [' + b"1," * 200_000 + b'1], "messages": [' + b"1," * 200_000 + b"1]}",
    "many lists": b"[" + b"[]," * 500_000 + b"[]]",
    "gzip": gzip.compress(b'{"image": "%s"}' % IMAGE.encode()),
    "a picture": picture(),
    "stars": json.dumps(
        {"image": IMAGE, "prompt": "*" * 90, "instruction": "*" * 90, "messages": [{"role": "*"}]}
    ).encode(),
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_body_makes_the_server_fail(client: httpx.Client, path: str) -> None:
    kinds = (b"application/json", b"text/plain; charset=utf-7", b"application/json; charset=x", b"\xff")
    for number, (name, body) in enumerate(BODIES.items()):
        started = time.monotonic()
        headers = [(b"content-type", kinds[number % len(kinds)])]
        response = client.post(path, content=body, headers=headers)
        assert time.monotonic() - started < SECONDS, name
        check_refused(response, path)
    check_alive(client)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (IMAGE[:-2], "not whole base64"),
        (IMAGE[:-5] + "=" * 5, "base64"),
        ("\u0000" + IMAGE, "base64"),
        ("é" * 8, "not base64"),
        ("=" * 400, "base64"),
        ("data:image/png;base64," + "A" * 10, "not whole base64"),
        ("data:image/png," + IMAGE, "data URI without base64"),
        ("data:" + "," * 1000, "data URI"),
        ("http://127.0.0.1/a.png", "address"),
        ("file:///etc/passwd", "base64"),
        ("/etc/passwd/", "image"),
        (base64.b64encode(b"/etc/passwd").decode(), "image"),
    ],
)
def test_texts_that_are_no_pictures_are_refused(client: httpx.Client, text: str, said: str) -> None:
    response = client.post("/v1/captions", json={"image": text})
    check_refused(response, "/v1/captions")
    assert said in response.json()["detail"]
    check_refused(client.post("/process_image", json={"image": text, "prompt": "CAPTION"}), "/process_image")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes, data: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    data = data or zlib.compress(b"\x00" * 1000)
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """So many, compressed."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join([*(packer.compress(block) for _ in range(count >> 20)), packer.flush()])


def tiff(width: int, height: int) -> bytes:
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 1), (259, 3, 1, 32946), (262, 3, 1, 1),
        (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 100),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    data = zlib.compress(bytes(1000)).ljust(100, b"\0")
    return b"II*\0" + struct.pack("<I", 108) + data + struct.pack("<H", len(entries)) + directory + bytes(4)


def webp(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    data = b"\x2f" + struct.pack("<I", bits) + bytes(20)
    body = b"WEBPVP8L" + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bombs() -> dict[str, bytes]:
    """Small files that would be large pictures, or none."""
    whole = io.BytesIO()
    with gzip.GzipFile(fileobj=whole, mode="wb") as file:
        file.write(bytes(10_000_000))
    jpeg = bytearray(picture(form="JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = b"\xff\xdc\xff\xdc"
    return {
        "PNG of 30000 × 30000": png(30_000, 30_000, data=zeros(30_000 * 3_751)),
        "PNG of no size": png(0, 0),
        "PNG of 2³¹ × 2³¹": png(2**31 - 1, 2**31 - 1),
        "PNG with a text of 50 MB": png(30_000, 30_000, chunk(b"zTXt", b"a\0\0" + zeros(50 << 20))),
        "small PNG with a text of 50 MB": png(8, 8, chunk(b"zTXt", b"a\0\0" + zeros(50 << 20))),
        "GIF": b"GIF89a" + b"\xff" * 4 + bytes(3) + b"," + bytes(4) + b"\xff" * 4 + b"\0\2\2D\1\0;",
        "TIFF": tiff(60_000, 60_000),
        "TIFF of 2³² × 2³²": tiff(2**32 - 1, 2**32 - 1),
        "WEBP": webp(16_383, 16_383),
        "JPEG": bytes(jpeg),
        "BMP": b"BM" + struct.pack("<IIIIiiHH", 100, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 1) + bytes(24),
        "PPM": b"P6 100000 100000 255\n" + bytes(100),
        "ICO in itself": b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, 22, 22),
        "gzip": whole.getvalue(),
        "ZIP": b"PK\x03\x04" + bytes(60),
        "PDF": b"%PDF-1.7\n1 0 obj <</Type /Catalog>> endobj\n" + picture(),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        "SVG": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "' + b"c" * 1000 + b'">]><svg>&b;</svg>',
        "HTML before a picture": b"<html><script>alert(1)</script>" + picture(),
        "a picture's beginning": picture()[:60],
        "nothing": b"\0",
    }  # fmt: skip


def test_bombs_and_polyglots_are_refused(client: httpx.Client) -> None:
    files = bombs()
    assert max(map(len, files.values())) < 1 << 20
    for name, file in files.items():
        started = time.monotonic()
        response = client.post(
            "/process_image", json={"image": base64.b64encode(file).decode(), "prompt": "OD"}
        )
        if name != "small PNG with a text of 50 MB":
            check_refused(response, "/process_image")
        assert response.status_code < 500, name
        assert time.monotonic() - started < SECONDS, name
    uploads = [("images", (name, file)) for name, file in files.items()]
    response = client.post("/v1/captions", files=[*uploads, ("images", ("good", picture()))])
    assert response.status_code == 200
    assert [image["image"] for image in response.json()["images"] if "error" not in image][-1] == "good"
    check_alive(client)


PART = b'Content-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n' + picture(size=32)

FORMS: dict[str, tuple[str, bytes]] = {
    "no boundary": ("multipart/form-data", b"--x\r\n" + PART + b"\r\n--x--\r\n"),
    "another boundary": ("multipart/form-data; boundary=y", b"--x\r\n" + PART + b"\r\n--x--\r\n"),
    "long boundary": (f"multipart/form-data; boundary={'x' * 5000}", b"--x\r\n" + PART),
    "two boundaries": ("multipart/form-data; boundary=x; boundary=y", b"--z\r\n" + PART + b"\r\n--z--\r\n"),
    "no parts": ("multipart/form-data; boundary=x", b"--x--\r\n"),
    "nothing": ("multipart/form-data; boundary=x", b""),
    "empty parts": ("multipart/form-data; boundary=x", b"--x\r\n\r\n\r\n" * 50 + b"--x--\r\n"),
    "no name": ("multipart/form-data; boundary=x", b"--x\r\nA: b\r\n\r\nc\r\n--x--\r\n"),
    "no end": ("multipart/form-data; boundary=x", b"--x\r\n" + PART),
    "no end of headers": ("multipart/form-data; boundary=x", b"--x\r\n" + PART[:40]),
    "no colon": ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition\r\n\r\n\r\n--x--\r\n"),
    "long header": (
        "multipart/form-data; boundary=x", b"--x\r\nA: " + b"b" * 200_000 + b"\r\n\r\nc\r\n--x--\r\n",
    ),
    "many headers": ("multipart/form-data; boundary=x", b"--x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n--x--\r\n"),
    "many fields": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="seed"\r\n\r\n1\r\n' * 5000 + b"--x--\r\n",
    ),
    "large field": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="options"\r\n\r\n' + b" " * 500_000 + b"\r\n--x--\r\n",
    ),
    "deep options": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="options"\r\n\r\n' + DEEP + b"\r\n--x--\r\n",
    ),
    "charset of bytes": ("multipart/form-data; boundary=x; charset=base64", b"--x\r\nA: b\r\n\r\n--x--\r\n"),
    "charset with NUL": ("multipart/form-data; boundary=x; charset=a%00", b"--x--\r\n"),
    "text as an image": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="images"\r\n\r\nabc\r\n--x--\r\n',
    ),
    "empty file": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="images"; filename=""\r\n\r\n\r\n--x--\r\n',
    ),
    "mixed": ("multipart/mixed; boundary=x", b"--x\r\n" + PART + b"\r\n--x--\r\n"),
    "encoded": ("application/x-www-form-urlencoded", b"image=" + IMAGE.encode()),
    **{
        f"charset {name}": (
            f"multipart/form-data; boundary=x; charset={name}",
            b'--x\r\nContent-Disposition: form-data; name="text_input"\r\n\r\n'
            b"\\ud800\xff\xfexn--\xff.+AAA-\r\n--x--\r\n",
        )
        for name in ("idna", "punycode", "unicode_escape", "utf-7", "utf-16", "undefined", "rot13", "zip")
    },
}  # fmt: skip


def test_no_form_makes_the_server_fail(client: httpx.Client) -> None:
    taken = []
    for name, (kind, body) in FORMS.items():
        started = time.monotonic()
        response = client.post("/v1/captions", content=body, headers={"content-type": kind})
        assert time.monotonic() - started < SECONDS, name
        assert response.status_code < 500, (name, response.text)
        if response.status_code == 200:
            taken.append(name)
        else:
            check_refused(response, "/v1/captions")
    assert taken == []
    check_alive(client)


def test_encodings_of_bodies_are_not_undone(client: httpx.Client) -> None:
    """None is announced, so none is taken; a bomb in one stays as small as it is."""
    body = gzip.compress(json.dumps({"image": IMAGE, "prompt": "CAPTION"}).encode())
    for encoding in ("gzip", "deflate", "br", "zip", "gzip, gzip"):
        for path in PATHS:
            headers = {"content-encoding": encoding, "content-type": "application/json"}
            check_refused(client.post(path, content=body, headers=headers), path)


VALID: dict[str, tuple[str, bytes]] = {
    "/v1/captions": (
        "application/json",
        json.dumps({"image": IMAGE, "instructions": ["OD"], "options": {"num_beams": 1, "seed": 5}}).encode(),
    ),
    "/process_image": ("application/json", json.dumps({"image": IMAGE, "prompt": "<CAPTION>"}).encode()),
    "/v1/captions/digest": ("application/json", b'{"instructions": "OD", "options": {"tile": "auto"}}'),
    "form": ("multipart/form-data; boundary=x", b"--x\r\n" + PART + b"\r\n--x--\r\n"),
}


@given(
    which=st.sampled_from(sorted(VALID)),
    cuts=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 4), st.binary(max_size=8)), min_size=1, max_size=4
    ),
)
@settings(BOUNDED, max_examples=150)
def test_a_damaged_body_gets_an_answer_or_a_reason(
    client: httpx.Client, which: str, cuts: list[tuple[float, int, bytes]]
) -> None:
    kind, body = VALID[which]
    for place, length, other in cuts:
        start = int(place * len(body))
        body = body[:start] + other + body[start + length :]
    path = "/v1/captions" if which == "form" else which
    response = client.post(path, content=body, headers={"content-type": kind})
    if response.status_code != 200:
        check_refused(response, path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(options=st.data())
@settings(BOUNDED, max_examples=80)
def test_options_of_any_type_get_an_answer_or_a_reason(client: httpx.Client, options: st.DataObject) -> None:
    from promptgen.serving.options import AnswerOptions

    names = st.sampled_from(list(AnswerOptions.model_fields))
    chosen = options.draw(st.dictionaries(names, JSON, min_size=1, max_size=3))
    response = client.post("/v1/captions", json={"image": IMAGE, "instruction": "OD", "options": chosen})
    if response.status_code != 200:
        check_refused(response, "/v1/captions")


def test_rules_for_tags_that_take_long_to_match_do_not(client: httpx.Client) -> None:
    """A pattern with many stars, and texts that backtracking would go through again and again."""
    hostile = [
        ("exclude", ["*".join("e" * 90), "*e" * 90 + "*x"]),
        ("exclude", "\\" * 10_000),
        ("exclude", ["a" * 200] * 500),
        ("replace", "\\" * 5000 + "(:b;" + " _" * 2000 + ":c"),
        ("replace", ";".join(f"{number}:{number + 1}" for number in range(900))),
        ("replace", "red:" + "w0 " * 30 + ";" + ";".join(f"w{n}:" + f"w{n + 1} " * 10 for n in range(30))),
        ("replace", "red:" + "blue " * 1900),
        ("prefix", "(" * 500 + "\\" * 500),
        ("suffix", "x" * 100_000),
    ]
    for name, value in hostile:
        started = time.monotonic()
        asked = {"image": IMAGE, "instruction": "GENERATE_TAGS", "options": {name: value}}
        response = client.post("/v1/captions", json=asked)
        assert response.status_code in (200, 400)
        if response.status_code == 400:
            check_refused(response, "/v1/captions")
        assert time.monotonic() - started < SECONDS, (name, value)
