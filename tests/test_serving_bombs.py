"""Small files that would take a server's memory, and large ones that would take its time."""

from __future__ import annotations

import base64
import re
import struct
import time
import zlib
from collections.abc import Iterator
from io import BytesIO

import httpx
import pytest
from PIL import Image
from promptgen.serving.settings import Limits, ServerSettings

from .serving_host import LocalServer, picture, serving_here

BIG = 12 << 20  # bytes of small parts; takes Pillow 5 s or more


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with serving_here(ServerSettings(limits=Limits(pixels=1_000_000))) as server:
        yield server


def tiff_of_a_large_tile(side: int = 16_384) -> bytes:
    """16 × 16 pixels in one tile, whose decoding would take 768 MB."""
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(bytes(1 << 20)) for _ in range(3 * side * side >> 20)) + packer.flush()
    tags = [
        (256, 4, 16), (257, 4, 16), (258, 3, 8), (259, 3, 8), (262, 3, 2), (277, 3, 3), (284, 3, 1),
        (322, 4, side), (323, 4, side), (324, 4, 8), (325, 4, len(data)),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def jpeg_of_many_segments() -> bytes:
    file = picture(form="JPEG")
    return file[:2] + b"\xff\xe5\0\2" * (BIG // 4) + file[2:]


def png_of_many_chunks(place: int) -> bytes:
    file = picture()
    chunk = struct.pack(">I", 0) + b"abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    return file[:place] + chunk * (BIG // len(chunk)) + file[place:]


def qoi_of_many_pixels() -> bytes:
    return b"qoif" + struct.pack(">IIBB", 1000, 1000, 3, 0) + b"\x6a" * BIG + bytes(7) + b"\1"


def ico_of_a_large_png(side: int = 1100) -> bytes:
    """Its header has 16 × 16 pixels."""
    stream = BytesIO()
    Image.new("L", (side, side)).save(stream, "PNG")
    file = stream.getvalue()
    return struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(file), 22) + file


@pytest.mark.parametrize(
    ("file", "said"),
    [
        pytest.param(tiff_of_a_large_tile(), "tiles of 16384 × 16384", id="TIFF"),
        pytest.param(jpeg_of_many_segments(), "too many small parts", id="JPEG"),
        pytest.param(png_of_many_chunks(33), "too many small parts", id="PNG before its pixels"),
        pytest.param(png_of_many_chunks(-12), "too many small parts", id="PNG after its pixels"),
        pytest.param(qoi_of_many_pixels(), "too many small parts", id="QOI"),
        pytest.param(ico_of_a_large_png(), "1100 × 1100 pixels are too many", id="ICO"),
    ],
)
def test_bombs_are_refused_before_they_go_off(file: bytes, said: str, server: LocalServer) -> None:
    body = {"image": base64.b64encode(file).decode(), "prompt": "CAPTION"}
    started = time.monotonic()
    answer = httpx.post(f"{server.url}/process_image", json=body, timeout=60)
    assert answer.status_code == 400
    assert re.search(said, answer.json()["detail"]), answer.text
    assert time.monotonic() - started < 10


def test_small_tiffs_in_usual_tiles_are_read(server: LocalServer) -> None:
    stream = BytesIO()
    tiles = {322: 256, 323: 256}  # larger than the picture
    image = Image.open(BytesIO(picture(size=64)))
    image.save(stream, "TIFF", compression="tiff_adobe_deflate", tiffinfo=tiles)
    body = {"image": base64.b64encode(stream.getvalue()).decode(), "prompt": "CAPTION"}
    assert httpx.post(f"{server.url}/process_image", json=body, timeout=60).status_code == 200
