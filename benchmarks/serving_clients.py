"""Clients as they come: most ask and wait, some leave, some send rubbish, some are slow."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LEAVING = GARBAGE = 0.05  # shares of the requests
SLOW = 0.02

_TOO_LONG = 600.0  # seconds for which a client waits


@dataclass
class Tally:
    """What became of all requests."""

    answered: int = 0
    left: int = 0  # by clients that did not wait
    refused: int = 0  # rubbish, with a status from 400 to 499 and a reason
    busy: int = 0  # 429 with a time to come back
    problems: list[str] = field(default_factory=list)  # what must not be
    faces: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return self.answered + self.left + self.refused + self.busy + len(self.problems)


@dataclass(frozen=True)
class Load:
    """What is asked: each picture with each instruction, by any of the three faces.

    ``expected`` has the text for each (picture, instruction), None where it is not known.
    """

    pictures: Sequence[bytes]
    instructions: Sequence[str]
    options: Mapping[str, Any]
    expected: Mapping[tuple[int, str], str] | None = None
    is_kind: bool = False  # nobody leaves, sends rubbish or is slow
    faces: Sequence[str] = ("visionapi", "openai", "captions")


async def run_clients(host: str, port: int, load: Load, clients: int, seconds: float, seed: int = 0) -> Tally:
    """So many clients, each of which asks again as soon as it has its answer, for so long."""
    tally = Tally()
    began = time.perf_counter()
    until = began + seconds

    async def client(number: int) -> None:
        luck = random.Random(seed * 1000 + number)
        while time.perf_counter() < until:
            await _one(host, port, load, luck, tally)

    await asyncio.gather(*[client(number) for number in range(clients)])
    tally.seconds = time.perf_counter() - began
    return tally


async def run_requests(host: str, port: int, load: Load, clients: int) -> Tally:
    """Every picture once, with one of the instructions in turn, by so many clients."""
    tally = Tally()
    began = time.perf_counter()
    left = iter(range(len(load.pictures)))

    async def client() -> None:
        for number in left:
            instruction = load.instructions[number % len(load.instructions)]
            await _ask(host, port, load, load.faces[number % len(load.faces)], number, instruction, tally, 0)

    await asyncio.gather(*[client() for _ in range(clients)])
    tally.seconds = time.perf_counter() - began
    return tally


async def _one(host: str, port: int, load: Load, luck: random.Random, tally: Tally) -> None:
    number, instruction = luck.randrange(len(load.pictures)), luck.choice(load.instructions)
    face = luck.choice(load.faces)
    chance = 1.0 if load.is_kind else luck.random()
    if chance < LEAVING:
        await _leave(host, port, load, face, number, instruction, luck, tally)
    elif chance < LEAVING + GARBAGE:
        await _send_garbage(host, port, load, luck, tally)
    else:
        slowly = 2.0 if chance < LEAVING + GARBAGE + SLOW else 0.0
        await _ask(host, port, load, face, number, instruction, tally, slowly)


async def _ask(
    host: str, port: int, load: Load, face: str, number: int, instruction: str, tally: Tally, slowly: float
) -> None:
    path, body = _request(load, face, number, instruction)
    tally.faces[face] += 1
    try:
        status, answer = await asyncio.wait_for(post(host, port, path, body, slowly=slowly), _TOO_LONG)
    except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
        tally.problems.append(f"{face}: {error!r}")
        return
    if status == 429:
        tally.busy += 1
        await asyncio.sleep(1)
        return
    text = _text(face, answer) if status == 200 else None
    expected = None if load.expected is None else load.expected[number, instruction]
    if status != 200 or (expected is not None and text != expected):
        tally.problems.append(f"{face}, {instruction}: {status} {answer[:200]!r}, expected {expected!r}")
    else:
        tally.answered += 1


async def _leave(
    host: str, port: int, load: Load, face: str, number: int, instruction: str, luck: random.Random,
    tally: Tally,
) -> None:  # fmt: skip
    """Ask, and go before the answer, or in the middle of the request."""
    path, body = _request(load, face, number, instruction)
    _, writer = await asyncio.open_connection(host, port)
    data = _head(host, path, len(body)) + body
    writer.write(data if luck.random() < 0.7 else data[: luck.randrange(len(data))])
    await asyncio.sleep(luck.random())
    writer.transport.abort()
    tally.left += 1


async def _send_garbage(host: str, port: int, load: Load, luck: random.Random, tally: Tally) -> None:
    image = base64.b64encode(luck.choice(load.pictures)).decode()
    path, body = luck.choice(
        [
            ("/process_image", luck.randbytes(luck.randrange(1, 100_000))),
            ("/process_image", json.dumps({"image": image[: len(image) // 3], "prompt": "CAPTION"}).encode()),
            ("/process_image", json.dumps({"image": image, "prompt": "NO_SUCH_THING"}).encode()),
            ("/process_image", json.dumps({"image": [1, 2], "prompt": {}}).encode()),
            ("/v1/captions", json.dumps({"images": ["AAAA"], "instructions": "CAPTION"}).encode()),
            ("/v1/captions", json.dumps({"images": [image], "options": {"num_beams": "many"}}).encode()),
            ("/v1/chat/completions", b'{"model": "demo", "messages": []}'),
            ("/v1/chat/completions", b"[" * 50_000),
        ]
    )
    try:
        status, answer = await asyncio.wait_for(post(host, port, path, body), _TOO_LONG)
    except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
        tally.problems.append(f"garbage to {path}: {error!r}")
        return
    if 400 <= status < 500 and b'"detail"' in answer:
        tally.refused += 1
    else:
        tally.problems.append(f"garbage to {path}: {status} {answer[:200]!r}")


def _request(load: Load, face: str, number: int, instruction: str) -> tuple[str, bytes]:
    image = base64.b64encode(load.pictures[number]).decode()
    if face == "visionapi":  # which has no options
        return "/process_image", json.dumps({"image": image, "prompt": f"<{instruction}>"}).encode()
    if face == "openai":
        content = [
            {"type": "text", "text": instruction},
            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{image}"}},
        ]
        asked = {"messages": [{"role": "user", "content": content}], **load.options}
        return "/v1/chat/completions", json.dumps(asked).encode()
    asked = {"images": [image], "instructions": [instruction], "options": dict(load.options)}
    return "/v1/captions", json.dumps(asked).encode()


def _text(face: str, answer: bytes) -> str:
    data = json.loads(answer)
    if face == "visionapi":
        return str(data["result"])
    if face == "openai":
        return str(data["choices"][0]["message"]["content"])
    return str(data["images"][0]["results"][0]["text"])


async def post(host: str, port: int, path: str, body: bytes, *, slowly: float = 0.0) -> tuple[int, bytes]:
    """Status and body of the answer; the request takes so many seconds to send."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        data = _head(host, path, len(body)) + body
        pieces = 20 if slowly else 1
        step = -(-len(data) // pieces)
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
            await writer.drain()
            await asyncio.sleep(slowly / pieces)
        return await _answer(reader)
    finally:
        writer.close()


def _head(host: str, path: str, length: int) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", "Connection: close",
        f"Content-Length: {length}",
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split()[1])
    length = int(head.partition("content-length:")[2].split()[0])
    return status, await reader.readexactly(length)
