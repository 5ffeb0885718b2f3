"""The remote node in a real ComfyUI, against a real server: the Tagger's texts, and no model on this side."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from promptgen.captioning import INSTRUCTIONS
from promptgen.captioning.instructions import instructions_of
from promptgen.serving.settings import Limits, ServerSettings
from promptgen.training.demo.scenes import draw_scene

from .comfyui_host import Checkout, Entry, Host, HostError, start_host
from .command_line import Promptgen
from .helpers_dev import ROOT
from .serving_host import ServerProcess, serving_here, serving_process

pytestmark = pytest.mark.comfyui

COMPANION = Path(__file__).parent / "comfyui_companion"
WITH_COMPANION = ["--whitelist-custom-nodes", "promptgen-tagger", "companion"]
EXAMPLE = "circle-heart-square.png"
KEY = "sesame"
TEXT_INPUT = {"text": "a heart", "region": "0.1,0.1,0.6,0.7", "none": ""}


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def tagger(image: Sequence[Any], **inputs: Any) -> dict[str, Any]:
    return node(
        "PromptGenTagger", **{"image": image, "checkpoint": "demo", "instruction": "CAPTION", **inputs}
    )


def pictures(files: Sequence[str], *, form: str = "list", mode: str = "RGB") -> dict[str, Any]:
    return node("TestPictures", files="\n".join(files), form=form, mode=mode)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """Open to all; its limits are low enough to be met with small pictures."""
    with serving_process("--max-pixels", "500000") as running:
        yield running


@pytest.fixture(scope="module")
def guarded() -> Iterator[ServerProcess]:
    """Wants a key."""
    with serving_process("--api-key", KEY) as running:
        yield running


@pytest.fixture(scope="module")
def own(
    comfyui_checkout: Checkout, guarded: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """A host whose user has a key for ``guarded``."""
    base = tmp_path_factory.mktemp(f"remote-{comfyui_checkout.version}")
    shutil.copytree(COMPANION, base / "custom_nodes" / "companion")
    shutil.copytree(ROOT / "examples", base / "input")
    for index in range(5):
        draw_scene(7000 + index, size=(160, 128))[0].save(base / "input" / f"same{index}.png")
    for index, size in enumerate([(97, 240), (256, 128), (128, 128)]):
        draw_scene(7100 + index, size=size)[0].save(base / "input" / f"other{index}.png")
    draw_scene(7200, size=(800, 700))[0].save(base / "input" / "large.png")
    environment = {"PROMPTGEN_URL": guarded.url, "PROMPTGEN_API_KEY": KEY}
    with start_host(comfyui_checkout, base, arguments=WITH_COMPANION, environment=environment) as running:
        yield running


def remote(server: ServerProcess | str, image: Sequence[Any], /, **inputs: Any) -> dict[str, Any]:
    url = server if isinstance(server, str) else server.url
    return node("PromptGenRemoteTagger", **{"image": image, "url": url, "instruction": "CAPTION", **inputs})


def count(server: ServerProcess, name: str) -> int:
    """The sum over a counter's labels of what ``/metrics`` says."""
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if re.match(rf"{name}(?:\{{| )", line))


def failure(entry: Entry) -> str:
    assert entry.error is not None
    message: str = entry.error["exception_message"]
    return message


# What it gives ----------------------------------------------------------------------------


@pytest.mark.parametrize("instruction", instructions_of("florence2"))
def test_texts_are_the_local_nodes(own: Host, server: ServerProcess, instruction: str) -> None:
    """Regions are the vision node's."""
    asked = {"instruction": instruction, "text_input": TEXT_INPUT[INSTRUCTIONS[instruction].input]}
    names = ["triangle-heart-turned.jpg", "other0.png"]
    one_at_a_time = INSTRUCTIONS[instruction].input == "region"
    local = (
        node("PromptGenDocVQA", image=["1", 0], checkpoint="demo", question=asked["text_input"])
        if instruction == "DOCVQA"
        else tagger(["1", 0], instruction=instruction)
        if INSTRUCTIONS[instruction].answer.name in ("TAGS", "MIXED", "ANALYSIS", "CAPTION")
        else node(
            "PromptGenVision", image=["1", 0], checkpoint="demo", task=instruction, select="", threshold=0.0,
            text_input="" if one_at_a_time else asked["text_input"], per_object=False,
            **({"regions": asked["text_input"]} if one_at_a_time else {}),
        )
    )  # fmt: skip
    text_slot = 3 if local["class_type"] == "PromptGenVision" else 0
    prompt = {
        "1": pictures(names),
        "there": remote(server, ["1", 0], **asked),
        "here": local,
        "text here": node("TestTexts", texts=["here", text_slot]),
        **{f"{slot} there": node("TestTexts", texts=["there", slot]) for slot in range(3)},
    }
    if local["class_type"] == "PromptGenTagger":
        prompt["tags here"] = node("TestTexts", texts=["here", 1])
    if local["class_type"] == "PromptGenVision":
        prompt["json here"] = node("TestTexts", texts=["here", 4])
    entry = own.run(prompt)
    assert entry.succeeded, failure(entry)
    said = {key: output.get("texts") for key, output in entry.outputs.items()}
    assert len(said["0 there"]) == 2
    assert said["0 there"] == said["text here"] == entry.texts("there")
    assert said["1 there"] == said.get("tags here", [""] * 2)
    records = [json.loads(record) for record in said["2 there"]]
    assert [record["text"] for record in records] == said["text here"]
    assert [(record["width"], record["height"]) for record in records][1] == (97, 240)
    if "json here" in said:
        assert records == [json.loads(record) for record in said["json here"]]


def test_settings_are_the_local_nodes(own: Host, server: ServerProcess) -> None:
    cases = [
        {"instruction": "GENERATE_TAGS", "prefix": "my style", "suffix": "end", "exclude_tags": "*background",
         "replace": "pink circle:red disc", "underscores": "underscores"},
        {"instruction": "MIXED_CAPTION", "prefix": "my style", "replace": "heart:"},
        {"instruction": "MORE_DETAILED_CAPTION", "num_beams": 1, "max_new_tokens": 5},
        {"instruction": "MORE_DETAILED_CAPTION", "do_sample": True, "temperature": 3.0, "num_beams": 1,
         "top_k": 40, "top_p": 0.9, "seed": 2**64 - 1, "max_new_tokens": 40},
    ]  # fmt: skip
    prompt: dict[str, Any] = {"1": pictures([EXAMPLE, "same0.png"])}
    for index, case in enumerate(cases):
        prompt[f"here{index}"] = tagger(["1", 0], **case)
        prompt[f"there{index}"] = remote(server, ["1", 0], **case)
    entry = own.run(prompt)
    assert entry.succeeded, failure(entry)
    here, there = ([entry.texts(f"{where}{index}") for index in range(4)] for where in ("here", "there"))
    assert there == here
    assert here[0][0].startswith("my style, 3_shapes, red_disc, ")  # the settings do something
    assert len(here[2][0].split()) < 6


def test_the_preset_asks_again_and_marks_what_falls_short(
    own: Host, server: ServerProcess, promptgen: Promptgen
) -> None:
    flags = ("--model", "demo", "--device", "cpu", "-i", "CAPTION", "--preset", "long-prompt", "--seed", "5")
    ended = promptgen(
        "caption", ROOT / "examples" / EXAMPLE, *flags, "--prefix", "my style", "--format", "json"
    )
    assert ended.status == 0, ended.stderr
    (expected,) = json.loads(ended.stdout)
    assert expected["attempts"] == 11, "the demo model's captions are short"
    inputs = {"preset": "long-prompt", "seed": 5, "prefix": "my style", "num_beams": 4, "max_new_tokens": 3}
    asked = {
        "1": node("LoadImage", image=EXAMPLE),
        "2": remote(server, ["1", 0], **inputs),
        **{f"slot {slot}": node("TestTexts", texts=["2", slot]) for slot in (0, 2)},
    }
    entry = own.run(asked)
    assert entry.succeeded, failure(entry)
    (text,), (record,) = (entry.outputs[f"slot {slot}"]["texts"] for slot in (0, 2))
    assert text == expected["text"]
    assert json.loads(record)["unmet"] == expected["unmet"]
    assert "of at least 20" in expected["unmet"]
    assert entry.texts("2") == [f"Kept after 11 tries: {expected['unmet']}.\n\n{text}"]


def test_a_batch_is_one_request(own: Host, server: ServerProcess) -> None:
    before = {
        name: count(server, name)
        for name in ("promptgen_requests_total", "promptgen_pictures_accepted_total")
    }
    entry = own.run(
        {
            "1": pictures([f"same{index}.png" for index in range(5)], form="batch"),
            "2": remote(server, ["1", 0], suffix="one request"),
            "3": tagger(["1", 0], suffix="one request"),
        }
    )
    assert entry.texts("2") == entry.texts("3")
    assert len(set(entry.texts("2"))) == 5
    assert count(server, "promptgen_requests_total") - before["promptgen_requests_total"] == 1
    assert (
        count(server, "promptgen_pictures_accepted_total") - before["promptgen_pictures_accepted_total"] == 5
    )


def test_a_list_of_sizes_is_one_request_and_long_lists_are_several(own: Host, server: ServerProcess) -> None:
    names = ["other0.png", "same1.png", "other1.png", "other2.png"]
    for times, requests in ((1, 1), (17, 2)):
        before = count(server, "promptgen_requests_total")
        entry = own.run(
            {
                "1": pictures(names * times),
                "2": remote(server, ["1", 0], instruction="GENERATE_TAGS", max_new_tokens=30),
                "3": tagger(["1", 0], instruction="GENERATE_TAGS", max_new_tokens=30),
            }
        )
        assert entry.succeeded, failure(entry)
        assert entry.texts("2") == entry.texts("3")
        assert len(entry.texts("2")) == 4 * times
        assert count(server, "promptgen_requests_total") - before == requests


def test_a_server_that_takes_less_gets_several_requests(own: Host) -> None:
    with serving_here(ServerSettings(limits=Limits(images=2))) as small:
        entry = own.run(
            {
                "1": pictures([f"same{index}.png" for index in range(5)]),
                "2": remote(small.url, ["1", 0]),
                "3": tagger(["1", 0]),
            }
        )
        assert entry.succeeded, failure(entry)
        assert entry.texts("2") == entry.texts("3")


def test_transparency_and_masks(own: Host, server: ServerProcess) -> None:
    name = "play-transparent.webp"
    prompt: dict[str, Any] = {
        "rgba": pictures([name], form="batch", mode="RGBA"),
        "load": node("LoadImage", image=name),
        "mask": node("MaskToImage", mask=["load", 1]),
        "grey": pictures(["same0.png", "same1.png"], form="batch", mode="L"),
    }
    for image in ("rgba", "load", "mask", "grey"):
        prompt[f"{image} here"] = tagger([image, 0], instruction="MORE_DETAILED_CAPTION")
        prompt[f"{image} there"] = remote(server, [image, 0], instruction="MORE_DETAILED_CAPTION")
    entry = own.run(prompt)
    assert entry.succeeded, failure(entry)
    for image in ("rgba", "load", "mask", "grey"):
        assert entry.texts(f"{image} there") == entry.texts(f"{image} here")


def test_lists_of_questions_go_with_the_images(
    own: Host, server: ServerProcess, guarded: ServerProcess
) -> None:
    """Each image its own instruction, and its own server."""
    instructions = ["CAPTION", "GENERATE_TAGS", "GENERATE_TAGS"]
    entry = own.run(
        {
            "1": pictures([EXAMPLE, "same0.png", "same1.png"]),
            "what": node("TestValues", values=json.dumps(instructions)),
            "where": node("TestValues", values=json.dumps([server.url, server.url, guarded.url])),
            "2": remote("", ["1", 0], url=["where", 0], instruction=["what", 0]),
            "3": tagger(["1", 0], instruction=["what", 0]),
        }
    )
    assert entry.succeeded, failure(entry)
    assert entry.texts("2") == entry.texts("3")


def test_no_model_is_loaded_here(comfyui_checkout: Checkout, server: ServerProcess, tmp_path: Path) -> None:
    """And nothing that would be needed for one."""
    shutil.copytree(COMPANION, tmp_path / "custom_nodes" / "companion")
    with start_host(comfyui_checkout, tmp_path, arguments=WITH_COMPANION) as fresh:
        picture = fresh.upload(ROOT / "examples" / EXAMPLE)
        entry = fresh.run(
            {
                "1": node("LoadImage", image=picture),
                "2": remote(server, ["1", 0]),
                "3": node("TestModules", after=["2", 0]),
            }
        )
        assert entry.succeeded, failure(entry)
        modules = set(entry.outputs["3"]["modules"])
        assert not modules & {"timm", "captioning.captioner", "florence2.model", "models_cache.manager"}
        assert "serving.client" in modules
        assert not modules & {"fastapi", "uvicorn"}


def test_unchanged_inputs_do_not_run_again(own: Host, server: ServerProcess) -> None:
    graph = {"1": node("LoadImage", image=EXAMPLE), "2": remote(server, ["1", 0], suffix="again")}
    first = own.run(graph)
    before = count(server, "promptgen_requests_total")
    second = own.run(graph)
    assert first.succeeded
    assert "2" in second.cached
    assert count(server, "promptgen_requests_total") == before


# The key ----------------------------------------------------------------------------------


def test_the_key_of_the_environment_opens_its_server(own: Host, guarded: ServerProcess) -> None:
    entry = own.run(
        {
            "1": node("LoadImage", image=EXAMPLE),
            "2": remote(guarded, ["1", 0]),
            "3": remote("", ["1", 0]),  # named in the environment, too
            "4": tagger(["1", 0]),
        }
    )
    assert entry.succeeded, failure(entry)
    assert entry.texts("2") == entry.texts("3") == entry.texts("4")


def test_no_other_server_gets_the_key_of_the_environment(own: Host, guarded: ServerProcess) -> None:
    load = node("LoadImage", image=EXAMPLE)
    with strange_server(200, "{}") as strange:
        message = failure(own.run({"1": load, "2": remote(strange.url, ["1", 0])}))
        assert f"{strange.url} is no PromptGen server" in message
        own.run({"1": load, "2": remote(strange.url, ["1", 0], api_key=["3", 0]), "3": text("connected")})
        assert strange.keys == [None, "Bearer connected"]
    with serving_here(ServerSettings(api_keys=(KEY,))) as another:
        message = failure(own.run({"1": load, "2": remote(another.url, ["1", 0])}))
        assert another.url in message
        assert f"keeps it for {guarded.url}" in message
        assert KEY not in message


def test_a_wrong_key_says_so(own: Host, guarded: ServerProcess) -> None:
    graph = {"1": node("LoadImage", image=EXAMPLE), "3": text("open")}
    message = failure(own.run({**graph, "2": remote(guarded, ["1", 0], api_key=["3", 0])}))
    assert "the key that is connected to 'api_key'" in message
    assert "open " not in message


def test_the_key_is_no_widget(own: Host) -> None:
    """What is typed into one would be saved with the workflow."""
    inputs = own.object_info("PromptGenRemoteTagger")["input"]
    assert inputs["optional"]["api_key"][1]["forceInput"] is True


def text(value: str) -> dict[str, Any]:
    return node("TestValues", values=json.dumps([value]))


# What goes wrong --------------------------------------------------------------------------


class StrangeServer(http.server.ThreadingHTTPServer):
    """Gives one answer to everything, and keeps what came as authorization."""

    def __init__(self, status: int, body: str, headers: dict[str, str]) -> None:
        self.answer = (status, body.encode(), headers)
        self.keys: list[str | None] = []
        super().__init__(("127.0.0.1", 0), _Strange)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Strange(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, StrangeServer)
        status, body, headers = self.server.answer
        self.server.keys.append(self.headers.get("Authorization"))
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def strange_server(status: int, body: str, **headers: str) -> Iterator[StrangeServer]:
    with StrangeServer(status, body, headers) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()


def test_a_server_that_is_not_there_says_so(own: Host) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens on it
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        entry = own.run({"1": node("LoadImage", image=EXAMPLE), "2": remote(url, ["1", 0])})
    message = failure(entry)
    assert f"Nobody can be reached at {url}" in message
    assert "promptgen serve" in message


@pytest.mark.parametrize(
    ("status", "body", "headers", "said"),
    [
        (200, "<html>Welcome to nginx!</html>", {}, "no PromptGen server"),
        (404, "<html>Not here: secret page</html>", {}, "no PromptGen server"),
        (200, '{"images": "none"}', {}, "no PromptGen server"),
        (307, "", {"Location": "http://127.0.0.1:1/v1/captions"}, "sends its callers on to http://127.0.0.1:1"),
        (429, '{"detail": "too much is waiting", "error": "x", "code": "queue_full"}', {"Retry-After": "0"},
         "says: too much is waiting"),
    ],
)  # fmt: skip
def test_a_server_that_answers_otherwise_says_so(
    own: Host, status: int, body: str, headers: dict[str, str], said: str
) -> None:
    with strange_server(status, body, **headers) as strange:
        load = node("LoadImage", image=EXAMPLE)
        message = failure(own.run({"1": load, "2": remote(strange.url, ["1", 0])}))
    assert said in message
    assert strange.url in message
    assert "secret page" not in message  # of whatever can be reached from here, nothing gets into a history


def test_comfyui_itself_is_no_server_of_ours(own: Host) -> None:
    entry = own.run({"1": node("LoadImage", image=EXAMPLE), "2": remote(own.url, ["1", 0])})
    assert f"What answers at {own.url} is no PromptGen server" in failure(entry)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"url": "ftp://127.0.0.1/"}, "no URL of a server"),
        ({"checkpoint": "no-such-model"}, "there is demo"),
        ({"instruction": "PAINT_IT"}, "PAINT_IT"),
        ({"instruction": "CAPTION_TO_PHRASE_GROUNDING"}, "CAPTION_TO_PHRASE_GROUNDING needs a text input"),
        ({"instruction": "REGION_TO_OCR", "text_input": "left"}, "left"),
        ({"replace": "no colon"}, "no colon"),
        ({"underscores": "maybe"}, "underscores"),
        ({"preset": "short"}, "preset"),
    ],
)
def test_wrong_settings_say_so(own: Host, server: ServerProcess, inputs: dict[str, Any], said: str) -> None:
    graph = {"1": node("LoadImage", image=EXAMPLE), "2": remote(server, ["1", 0], **inputs)}
    try:
        message = failure(own.run(graph))
    except HostError as refused:  # when it is queued
        message = str(refused)
    assert said in message


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("image", [None], "image input got NoneType"),
        ("url", [None], "'url' got nothing"),
        ("url", [8188], "'url' got 8188"),
        ("instruction", [], "'instruction' got nothing"),
        ("checkpoint", [7], "'checkpoint' got 7"),
        ("api_key", [["a"]], "'api_key' got ['a']"),
        ("timeout", ["long"], "'timeout' got 'long'; it takes a number"),
        ("top_k", [[3]], "'top_k' got [3]; it takes a number"),
    ],
)
def test_a_wire_with_something_else_says_so(
    own: Host, server: ServerProcess, name: str, values: list[Any], said: str
) -> None:
    graph = {
        "1": node("LoadImage", image=EXAMPLE),
        "odd": node("TestValues", values=json.dumps(values)),
        "2": remote(server, ["1", 0], **{name: ["odd", 0]}),
    }
    assert said in failure(own.run(graph))


def test_an_empty_batch_says_so(own: Host, server: ServerProcess) -> None:
    for form, said in (("batch", "batch is empty"), ("list", "list of images is empty")):
        message = failure(own.run({"1": pictures([], form=form), "2": remote(server, ["1", 0])}))
        assert said in message


def test_an_image_that_the_server_refuses_is_named(own: Host, server: ServerProcess) -> None:
    """It has more pixels than this server takes."""
    for names, place in (
        (["same0.png", "same1.png", "large.png", "same2.png"], "3 of 4"),
        (["large.png"], "1 of 1"),
    ):
        entry = own.run({"1": pictures(names), "2": remote(server, ["1", 0])})
        message = failure(entry)
        assert f"Image {place} was refused: " in message
        assert "pixels" in message


# Progress and cancelling ------------------------------------------------------------------


def test_progress_moves_and_cancel_drops_the_request(own: Host) -> None:
    """The server here reads the request and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener, own.events() as events:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        graph = {
            "1": pictures([f"same{index}.png" for index in range(5)]),
            "2": remote(url, ["1", 0], suffix="cancelled"),
        }
        prompt_id = own.queue(graph, client_id=events.client_id)
        listener.settimeout(30)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            received = b""
            while not received.rstrip().endswith(b"--"):  # the end of a form
                received += connection.recv(1 << 20)
            events.wait_for(lambda event: event.type == "progress" and event.data["value"] == 5, timeout=30)
            asked = time.monotonic()
            own.interrupt()
            stopped = events.wait_for("execution_interrupted", timeout=30)
            assert connection.recv(1) == b""  # it has hung up
            assert time.monotonic() - asked < 1.0
    assert stopped.time - asked < 1.0
    assert own.wait(prompt_id).interrupted


def test_the_server_drops_what_is_cancelled_and_goes_on(own: Host, server: ServerProcess) -> None:
    names = [f"same{index}.png" for index in range(5)]
    graph = {
        "1": pictures(names * 12),
        "2": remote(server, ["1", 0], instruction="MORE_DETAILED_CAPTION", num_beams=16, suffix="cancelled"),
    }
    accepted = count(server, "promptgen_pictures_accepted_total")
    with own.events() as events:
        prompt_id = own.queue(graph, client_id=events.client_id)
        deadline = time.monotonic() + 30
        while count(server, "promptgen_pictures_accepted_total") == accepted and time.monotonic() < deadline:
            time.sleep(0.05)
        asked = time.monotonic()
        own.interrupt()
        stopped = events.wait_for("execution_interrupted", timeout=30)
    assert stopped.time - asked < 1.0
    assert own.wait(prompt_id).interrupted
    with events_of_one(own, server) as (entry, seconds):
        assert entry.succeeded, failure(entry)
        assert seconds < 20
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        assert 'outcome="dropped"' in answer.read().decode()


@contextlib.contextmanager
def events_of_one(own: Host, server: ServerProcess) -> Iterator[tuple[Entry, float]]:
    start = time.monotonic()
    entry = own.run({"1": node("LoadImage", image=EXAMPLE), "2": remote(server, ["1", 0], suffix="after")})
    yield entry, time.monotonic() - start


# What is written down twice ---------------------------------------------------------------


def test_the_limits_that_it_keeps_to_are_the_servers(own: Host) -> None:
    source = (ROOT / "nodes" / "remote_work.py").read_text(encoding="utf-8")
    most = int(re.search(r"MOST_PICTURES = (\d+)", source)[1])  # type: ignore[index]
    size = int(re.search(r"MOST_BYTES = (\d+) << 20", source)[1]) << 20  # type: ignore[index]
    assert most == Limits().images
    assert 0.9 * Limits().body_bytes < size < Limits().body_bytes - (1 << 20)  # there is more than pictures
