"""Chat completions, as OpenAI's own Python client asks for them and reads them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")

import httpx  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from promptgen.captioning import Captioner  # noqa: E402

from .serving_host import ServerProcess, picture  # noqa: E402

EXAMPLES = Path(__file__).parent.parent / "examples"
FILE = EXAMPLES / "star-and-heart.jpg"


@pytest.fixture(scope="module")
def client(demo_server: ServerProcess) -> Iterator[Any]:
    with client_of(demo_server.url) as one:
        yield one


def client_of(url: str, key: str = "none") -> Any:
    return openai.OpenAI(
        base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60,
        http_client=httpx.Client(trust_env=False),
    )  # fmt: skip


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner("demo", device="cpu")


def uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image(data: bytes | None = None, **more: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": uri(picture() if data is None else data), **more}}


def user(*parts: Any) -> dict[str, Any]:
    """A message; a string among the parts is a text."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": content}


def ask(client: Any, *parts: Any, model: str = "demo", **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[user(*parts)], **more)


def text(completion: Any) -> str:
    [choice] = completion.choices
    return str(choice.message.content)


# Answers --------------------------------------------------------------------------------


@pytest.mark.parametrize("instruction", ["CAPTION", "GENERATE_TAGS", "MIXED_CAPTION_PLUS", "OD"])
def test_an_answer_is_that_of_the_command_line(client: Any, captioner: Captioner, instruction: str) -> None:
    [expected] = captioner.caption(FILE, instruction)
    completion = ask(client, f"<{instruction}>", image(FILE.read_bytes(), detail="high"))
    [choice] = completion.choices
    assert choice.message.content == expected.results[0].text
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert completion.model == "demo"
    assert completion.object == "chat.completion"
    assert completion.usage is None  # rather than numbers that are made up
    [result] = choice.message.results  # what is typed, beside what OpenAI has
    width, height = expected.size or (0, 0)
    assert result == {"width": width, "height": height, **expected.results[0].to_dict()}


@pytest.mark.parametrize("spelling", ["<CAPTION>", "CAPTION", "caption", " <caption>\n", "Caption", "SIMPLE"])
def test_an_instruction_in_any_spelling(client: Any, spelling: str) -> None:
    assert text(ask(client, spelling, image())) == text(ask(client, "CAPTION", image()))


@pytest.mark.parametrize(
    "said",
    [
        "CAPTION_TO_PHRASE_GROUNDING: a red circle",
        "<CAPTION_TO_PHRASE_GROUNDING>a red circle",
        "<caption_to_phrase_grounding>: a red circle",
        "caption to phrase grounding:\na red circle",
        "CAPTION_TO_PHRASE_GROUNDING\na red circle",
    ],
)
def test_an_instruction_with_its_text(client: Any, captioner: Captioner, said: str) -> None:
    from promptgen.captioning import CaptionOptions

    options = CaptionOptions(text_input="a red circle")
    [expected] = captioner.caption([picture()], "CAPTION_TO_PHRASE_GROUNDING", options)
    assert ask(client, said, image()).choices[0].message.results[0]["raw"] == expected.results[0].raw
    # and in parts of their own, in any order
    parts = ask(client, image(), "CAPTION_TO_PHRASE_GROUNDING", "a red circle")
    assert parts.choices[0].message.results[0]["raw"] == expected.results[0].raw


def test_without_a_text_the_default_instruction_is_meant(client: Any) -> None:
    assert text(ask(client, image())) == text(ask(client, "GENERATE_TAGS", image()))


def test_a_region_is_a_text_too(client: Any) -> None:
    name, region = "REGION_TO_DESCRIPTION", "<loc_100><loc_100><loc_800><loc_800>"
    answers = {
        text(ask(client, said, image()))
        for said in (f"{name}: {region}", f"<{name}>{region}", f"{name} {region}")
    }  # fmt: skip
    assert len(answers) == 1


def test_the_name_of_the_model_may_hold_the_instruction(client: Any) -> None:
    expected = text(ask(client, "<CAPTION>", image()))
    for name in ("demo:CAPTION", "DEMO:caption", "demo:<CAPTION>"):
        completion = ask(client, "Describe this image in detail, please: what is it?", image(), model=name)
        assert text(completion) == expected
        assert completion.model == "demo:CAPTION"
    assert text(ask(client, image(), model="demo:CAPTION")) == expected  # without a text


def test_the_text_is_the_input_of_an_instruction_that_takes_one(client: Any) -> None:
    name = "demo:CAPTION_TO_PHRASE_GROUNDING"
    expected = ask(client, "CAPTION_TO_PHRASE_GROUNDING: a red circle", image())
    completion = ask(client, "a red circle", image(), model=name)
    assert completion.choices[0].message.results == expected.choices[0].message.results
    with pytest.raises(openai.BadRequestError, match="needs a text input"):
        ask(client, image(), model=name)


def test_several_pictures_are_answered_in_order(client: Any) -> None:
    circle, square = picture("circle", "red"), picture("square", "blue")
    alone = [text(ask(client, "CAPTION", image(one))) for one in (circle, square)]
    assert alone[0] != alone[1]
    completion = ask(client, image(circle), "CAPTION", image(square), image(circle))
    assert text(completion) == f"Image 1: {alone[0]}\n\nImage 2: {alone[1]}\n\nImage 3: {alone[0]}"
    assert [one["text"] for one in completion.choices[0].message.results] == [alone[0], alone[1], alone[0]]


def test_the_last_message_with_a_picture_counts(client: Any) -> None:
    circle, square = picture("circle", "red"), picture("square", "blue")
    expected = text(ask(client, "CAPTION", image(square)))
    tags = text(ask(client, "GENERATE_TAGS", image(square)))

    def say(*messages: Any) -> str:
        return text(client.chat.completions.create(model="demo", messages=list(messages)))

    system = {"role": "system", "content": "You answer with <OCR>."}
    assistant = {"role": "assistant", "content": "A red circle."}
    earlier = user("<GENERATE_TAGS>", image(circle))
    assert say(system, earlier, assistant, user("CAPTION", image(square))) == expected
    assert say(user("CAPTION", image(square)), assistant) == expected
    # a later text asks about the same picture
    assert (
        say(user("CAPTION", image(square)), assistant, {"role": "user", "content": "<GENERATE_TAGS>"}) == tags
    )
    assert say(user(image(square)), user("CAPTION")) == expected
    # what does not count need not make sense
    assert say(user({"type": "input_audio", "input_audio": {}}), user("CAPTION", image(square))) == expected


# Fields ---------------------------------------------------------------------------------


def test_options_go_by_the_names_that_they_have_everywhere(client: Any, captioner: Captioner) -> None:
    from promptgen.captioning import CaptionOptions, GenerationOptions, TagOptions

    options = CaptionOptions(
        GenerationOptions(num_beams=1, no_repeat_ngram_size=3), TagOptions(prefix="a drawing")
    )
    [expected] = captioner.caption(FILE, "MORE_DETAILED_CAPTION", options)
    given = {"num_beams": 1, "no_repeat_ngram_size": 3, "prefix": "a drawing"}
    completion = ask(client, "MORE_DETAILED_CAPTION", image(FILE.read_bytes()), extra_body=given)
    assert text(completion) == expected.results[0].text
    regions = ask(client, "OD", image(), extra_body={"scores": True}).choices[0].message.results[0]["regions"]
    assert all(0 <= region["score"] <= 1 for region in regions)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_most_tokens(client: Any, name: str) -> None:
    whole = text(ask(client, "MORE_DETAILED_CAPTION", image()))
    completion = ask(client, "MORE_DETAILED_CAPTION", image(), **{name: 5})
    assert completion.choices[0].finish_reason == "length"
    assert completion.choices[0].message.results[0]["truncated"] is True
    assert len(text(completion)) < len(whole)
    # more than an answer can have is no limit
    assert text(ask(client, "MORE_DETAILED_CAPTION", image(), **{name: 100_000})) == whole
    assert text(ask(client, "MORE_DETAILED_CAPTION", image(), **{name: -1})) == whole  # as llama.cpp has it
    with pytest.raises(openai.BadRequestError, match="max_new_tokens"):
        ask(client, "CAPTION", image(), **{name: 0})


def test_sampling_acts_only_with_do_sample(client: Any) -> None:
    expected = text(ask(client, "MORE_DETAILED_CAPTION", image()))
    completion = ask(
        client, "MORE_DETAILED_CAPTION", image(), temperature=0, top_p=0.1, seed=-1, user="me", store=False
    )
    assert text(completion) == expected
    assert completion.ignored == ["seed", "store", "temperature", "top_p", "user"]
    sample = {"do_sample": True, "num_beams": 1}
    sampled = [
        text(ask(client, "CAPTION", image(), temperature=5, seed=seed, max_tokens=20, extra_body=sample))
        for seed in (1, 2, 1)
    ]
    assert sampled[0] == sampled[2]
    assert sampled[0] != sampled[1]
    with pytest.raises(openai.BadRequestError, match="temperature"):
        ask(client, "CAPTION", image(), temperature=0, extra_body={"do_sample": True})


def test_an_empty_preset_is_none(client: Any) -> None:
    expected = text(ask(client, "CAPTION", image()))
    completion = ask(client, "CAPTION", image(), temperature=5, extra_body={"preset": ""})
    assert text(completion) == expected
    assert completion.ignored == ["temperature"]
    with pytest.raises(openai.BadRequestError, match="unknown preset"):
        ask(client, "CAPTION", image(), extra_body={"preset": " "})


def test_a_temperature_of_0_is_no_sampling_with_a_preset_too(client: Any) -> None:
    def answer(temperature: float | None = None, **more: Any) -> Any:
        given = {} if temperature is None else {"temperature": temperature}
        return ask(client, "CAPTION", image(), extra_body={"preset": "long-prompt", **more}, **given)

    expected = text(answer(do_sample=False))
    for zero in (0, 0.0):
        completion = answer(zero, seed=-1)
        assert text(completion) == expected
        assert completion.ignored == ["seed"], "the temperature was obeyed"
    with pytest.raises(openai.BadRequestError, match="do_sample"):
        answer(0, retries=3)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        answer(0, do_sample=True)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        answer(-1)
    with pytest.raises(openai.BadRequestError, match="unknown preset"):
        ask(client, "CAPTION", image(), temperature=0, extra_body={"preset": "short"})


def test_an_answer_ends_before_what_stops_it(client: Any) -> None:
    whole = text(ask(client, "CAPTION", image()))
    word = whole.split()[2]
    completion = ask(client, "CAPTION", image(), stop=["nowhere", word], extra_body={"max_new_tokens": 100})
    assert text(completion) == whole[: whole.index(word)]
    assert completion.choices[0].finish_reason == "stop"
    assert text(ask(client, "CAPTION", image(), stop=word)) == whole[: whole.index(word)]
    assert text(ask(client, "CAPTION", image(), stop="nowhere")) == whole


@pytest.mark.parametrize(
    "more",
    [
        {"n": 1},
        {"response_format": {"type": "text"}},
        {"tools": [], "tool_choice": "none"},
        {"logprobs": False},
        {"metadata": {"a": "b"}, "store": True, "frequency_penalty": 0.5, "presence_penalty": 0.1},
        {"extra_body": {"keep_alive": 5, "num_beams": None}},
    ],
)  # fmt: skip
def test_what_asks_for_nothing_is_no_matter(client: Any, more: dict[str, Any]) -> None:
    assert text(ask(client, "CAPTION", image(), **more))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"n": 2}, "n cannot be 2"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"extra_body": {"num_beams": 0}}, "num_beams"),
        ({"extra_body": {"num_beams": 1000}}, "num_beams"),
        ({"extra_body": {"num_beams": "3"}}, "num_beams"),
        ({"extra_body": {"do_sample": "yes"}}, "do_sample"),
        ({"extra_body": {"text_input": "a red car"}}, "has no use"),
        ({"extra_body": {"scores": True}}, "no regions"),
        ({"extra_body": {"stop": 5}}, "stop"),
        ({"extra_body": {"stop": ["a"] * 101}}, "stop"),
        ({"extra_body": {"stream": "yes"}}, "stream"),
        ({"extra_body": {"model": 5}}, "model"),
        ({"extra_body": {"messages": "CAPTION"}}, "messages"),
        ({"extra_body": {"messages": []}}, "picture"),
        ({"extra_body": {"messages": [5]}}, r"messages\[0\]"),
        ({"extra_body": {"messages": [{"content": "CAPTION"}]}}, r"messages\[0\]"),
        ({"extra_body": {"messages": [user("CAPTION")]}}, "picture"),
        ({"extra_body": {"messages": [{"role": "user", "content": 5}]}}, r"messages\[0\].content"),
        ({"extra_body": {"messages": [user({"type": "file", "file": {}})]}}, r"content\[0\].*'file'"),
        ({"extra_body": {"messages": [user({"type": "image_url"})]}}, r"content\[0\].image_url"),
        ({"extra_body": {"messages": [user({"type": "image_url", "image_url": {"url": 5}})]}}, "image_url"),
        ({"extra_body": {"messages": [user({"type": "text"})]}}, r"content\[0\].text"),
    ],
)  # fmt: skip
def test_what_is_not_to_be_had_is_said(client: Any, more: dict[str, Any], said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as raised:
        ask(client, "CAPTION", image(), **more)
    check_error(raised.value, "invalid_request_error", "bad_request")


def check_error(error: Any, kind: str, code: str) -> None:
    """As OpenAI's client understands it."""
    assert error.type == kind
    assert error.code == code
    assert error.body["message"] in str(error)
    assert error.response.json()["detail"] == error.body["message"]  # for other clients


# Errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", ["Describe this image.", "NOTHING", "<NOTHING>", "What is it: a car?", "a <b> c"]
)
def test_a_text_that_is_no_instruction(client: Any, said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=r"MIXED_CAPTION_PLUS.*demo:GENERATE_TAGS"):
        ask(client, said, image())


def test_a_model_that_is_not_served(client: Any) -> None:
    for name in ("gpt-4o", "", "demo:", "demo:NOTHING", "other:CAPTION", ":CAPTION", "x" * 5000):
        with pytest.raises(openai.NotFoundError) as raised:
            ask(client, "CAPTION", image(), model=name)
        check_error(raised.value, "invalid_request_error", "model_not_found")
        assert len(str(raised.value)) < 4000


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "empty"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,!!!!", "not base64"),
        ("data:image/png,abcd", "without base64"),
        ("cat.jpg", "base64"),
    ],
)  # fmt: skip
def test_a_picture_that_is_none_of_the_kind(client: Any, url: str, said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=f"image_url 2.*{said}"):
        ask(client, "CAPTION", image(), {"type": "image_url", "image_url": {"url": url}})


def test_pictures_that_cannot_be_read(client: Any) -> None:
    for stream in (False, True):
        with pytest.raises(openai.UnprocessableEntityError, match="image 2 cannot be read") as raised:
            list(ask(client, "CAPTION", image(), image(b"no picture"), stream=stream))
        check_error(raised.value, "invalid_request_error", "unreadable_image")


def test_addresses_are_not_fetched_unless_the_server_was_told(client: Any) -> None:
    for url in (
        "http://127.0.0.1:1/cat.png",
        "https://example.com/cat.png",
        "file:///etc/passwd",
        "ftp://x/y",
    ):
        with pytest.raises(openai.BadRequestError, match="data URI"):
            ask(client, "CAPTION", {"type": "image_url", "image_url": {"url": url}})


def test_a_body_that_is_none(demo_server: ServerProcess) -> None:
    for body in (b"", b"{", b"[]", b"5", b"null"):
        response = httpx.post(f"{demo_server.url}/v1/chat/completions", content=body, trust_env=False)
        assert response.status_code == 400
        assert response.json()["error"]["message"] == response.json()["detail"]


ANYTHING = st.recursive(
    st.sampled_from([None, True, "OD"]) | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
URL = st.just(uri(b"abc")) | ANYTHING
PART = ANYTHING | st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url"])},
    optional={"text": ANYTHING, "image_url": URL | st.fixed_dictionaries({"url": URL})},
)
MESSAGE = ANYTHING | st.fixed_dictionaries(
    {"role": st.just("user") | ANYTHING}, optional={"content": ANYTHING | st.lists(PART, max_size=4)}
)
FIELDS = [
    "n",
    "tools",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "max_tokens",
    "do_sample",
    "num_beams",
]
BODY = ANYTHING | st.fixed_dictionaries(
    {"messages": ANYTHING | st.lists(MESSAGE, max_size=3)},
    optional={"model": ANYTHING | st.just("demo:CAPTION")} | dict.fromkeys(FIELDS, ANYTHING),
)


@given(body=BODY)
@settings(max_examples=400, deadline=None)
def test_any_body_is_read_or_refused(body: Any) -> None:
    from promptgen.serving.chat_requests import read_chat
    from promptgen.serving.errors import ServingError
    from promptgen.serving.models import ServedModel, ServedModels
    from promptgen.serving.settings import Limits

    models = ServedModels([ServedModel.of(Captioner("demo"))])
    with contextlib.suppress(ServingError):  # and nothing else
        assert read_chat(body, models, Limits()).images


# Models ---------------------------------------------------------------------------------


def test_the_list_of_models(client: Any) -> None:
    models = {model.id: model for model in client.models.list()}
    assert list(models)[:3] == ["demo", "demo:GENERATE_TAGS", "demo:CAPTION"]
    assert "demo:CAPTION_TO_PHRASE_GROUNDING" not in models
    for name, model in models.items():
        assert model.object == "model"
        assert model.owned_by
        assert model.created <= time.time()
        assert client.models.retrieve(name) == model
    assert "MIXED_CAPTION" in models["demo"].instructions
    ask(client, "CAPTION", image())
    assert client.models.retrieve("demo").loaded is True


def test_a_model_by_any_of_its_names(client: Any) -> None:
    assert client.models.retrieve("DEMO:caption").id == "demo:CAPTION"
    assert client.models.retrieve("demo:REGION_TO_OCR").instructions == ["REGION_TO_OCR"]
    for name in ("gpt-4o", "demo:NOTHING", "a/b/c", "demo/CAPTION"):
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(name)


# Streams --------------------------------------------------------------------------------


def test_a_stream(client: Any) -> None:
    whole = ask(client, "OD", image())
    chunks = list(ask(client, "OD", image(), stream=True))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text(whole)
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "stop"]
    assert chunks[1].choices[0].delta.results == whole.choices[0].message.results


def test_a_stream_that_ends_with_what_was_used(client: Any) -> None:
    chunks = list(
        ask(client, "CAPTION", image(), stream=True, stream_options={"include_usage": True}, max_tokens=3)
    )
    assert chunks[-1].choices == []
    assert chunks[-2].choices[0].finish_reason == "length"


def test_the_client_s_own_way_of_putting_a_stream_together(client: Any) -> None:
    with client.chat.completions.stream(model="demo", messages=[user("CAPTION", image())]) as stream:
        completion = stream.get_final_completion()
    assert text(completion) == text(ask(client, "CAPTION", image()))


def test_the_asynchronous_client(demo_server: ServerProcess) -> None:
    async def run() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{demo_server.url}/v1", api_key="none", http_client=httpx.AsyncClient(trust_env=False)
        ) as client:
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model="demo:CAPTION", messages=[user(image(picture(colour=colour)))]
                    )
                    for colour in ("red", "blue", "red", "green")
                )
            )
        return [text(answer) for answer in answers]

    red, blue, again, green = asyncio.run(run())
    assert red == again
    assert len({red, blue, green}) == 3


def test_the_bytes_of_a_stream(demo_server: ServerProcess) -> None:
    body = {"model": "demo", "messages": [user("CAPTION", image())], "stream": True}
    response = httpx.post(f"{demo_server.url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    events = response.text.split("\n\n")
    assert events.pop() == ""
    assert events.pop() == "data: [DONE]"
    assert all(
        json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk" for event in events
    )
