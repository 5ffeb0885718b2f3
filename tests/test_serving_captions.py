"""The server's own face: its answers are the command line's, and what is wrong is said as exactly."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from .command_line import Promptgen
from .serving_host import ServerProcess, picture, serving_here

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

SHORT = {"max_new_tokens": 12}
DEMO_INSTRUCTIONS = (
    "GENERATE_TAGS", "CAPTION", "DETAILED_CAPTION", "MORE_DETAILED_CAPTION", "MIXED_CAPTION",
    "MIXED_CAPTION_PLUS", "ANALYZE", "OCR", "OD",
)  # fmt: skip

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("CAPTION", {"num_beams": 1, "max_new_tokens": 4}),
    ("GENERATE_TAGS", {"do_sample": True, "seed": 7, "temperature": 1.5, "top_k": 20, "top_p": 0.9}),
    ("MORE_DETAILED_CAPTION", {"num_beams": 2, "length_penalty": 0.5, "early_stopping": "never"}),
    ("CAPTION", {"early_stopping": "true", "min_new_tokens": 20, "repetition_penalty": 1.3}),
    ("CAPTION", {"no_repeat_ngram_size": 2, "do_sample": False}),
    (
        "GENERATE_TAGS",
        {"prefix": "my style", "suffix": "end", "exclude": "*humans, no", "replace": "red:dark_red;circle:"},
    ),
    ("GENERATE_TAGS", {"underscores": "underscores", "escape_parentheses": True, "deduplicate": True,
                       "prefix": "a (b), a (b)"}),
    ("CAPTION", {"background": "#0000ff"}),
    ("OD", {"scores": True}),
    ("OD", {"threshold": 0.3, "nms": 0.5, "max_regions": 1}),
    ("OD,OCR,CAPTION", {"tile": 64, "tile_overlap": 0.5, "tiles_only": True, "scores": True}),
    ("OD", {"tile": "auto"}),
    ("CAPTION,GENERATE_TAGS,MIXED_CAPTION", {"preset": "long-prompt", "seed": 5, "retries": 2,
                                             "max_new_tokens": 20, "min_words": 400}),
    ("MIXED_CAPTION", {"preset": "long-prompt", "seed": 5, "retries": 0, "remove_brackets": "<>",
                       "max_word_length": 5, "complete_sentences": False}),
    ("MORE_DETAILED_CAPTION", {"remove_characters": "e", "max_word_length": 6, "complete_sentences": True,
                               "max_new_tokens": 20}),
    ("GENERATE_TAGS", {"do_sample": True, "seed": 1, "retries": 3, "retry_word": "red",
                       "drop_underscored": True}),
    ("CAPTION_TO_PHRASE_GROUNDING", {"text_input": "a red circle", "max_new_tokens": 20}),
    ("REGION_TO_CATEGORY", {"text_input": "10,10,60,60; 0.1,0.2,0.5,0.9", "max_new_tokens": 20}),
]  # fmt: skip


@pytest.fixture(scope="module")
def client(demo_server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo_server.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pictures in the forms in which they come, by name."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    red = Image.open(io.BytesIO(picture()))
    wide = Image.new("RGB", (120, 60), "white")
    wide.paste(red.resize((60, 60)), (0, 0))
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    clear.paste((0, 128, 0, 255), (16, 16, 48, 48))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    saved: dict[str, Callable[[Path], None]] = {
        "red.png": red.save,
        "blue square.webp": lambda path: Image.open(io.BytesIO(picture("square", "blue"))).save(path),
        "turned.jpg": lambda path: wide.save(path, exif=exif),
        "clear.png": clear.save,
        "moving.gif": lambda path: red.save(path, save_all=True, append_images=[clear.convert("RGB")]),
        "grün 图.bmp": wide.save,
        "broken.png": lambda path: path.write_bytes(picture()[:150]) and None,
    }
    for name, save in saved.items():
        save(folder / name)
    return {name: folder / name for name in saved}


def command_records(
    promptgen: Promptgen, paths: Sequence[Path], instructions: str, options: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """What ``promptgen caption --format json`` writes, by the file's name alone."""
    flags: list[object] = []
    for name, value in (options or {}).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            flags += [flag, value]
    ended = promptgen(
        "caption", *paths, "--model", "demo", "-i", instructions, "--format", "json", "-q", *flags
    )
    records: list[dict[str, Any]] = json.loads(ended.stdout)
    return [{**record, "image": Path(record["image"]).name} for record in records]


def served_records(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """An answer of the server, as the command would have written it."""
    records = []
    for image in answer["images"]:
        if "error" in image:
            records.append({"image": image["image"], "error": image["error"]})
        for result in image.get("results", ()):
            size = {name: image[name] for name in ("width", "height")} if "regions" in result else {}
            records.append({"image": image["image"], "model": answer["model"], **result, **size})
    return records


def rounded(value: Any) -> Any:
    """With scores to a few digits: the sums are the same, in an order that depends on the batch."""
    if isinstance(value, list):
        return [rounded(one) for one in value]
    if isinstance(value, dict):
        return {
            name: pytest.approx(one, abs=2e-3) if name == "score" else rounded(one)
            for name, one in value.items()
        }
    return value


def encoded(path: Path) -> dict[str, str]:
    return {"data": base64.b64encode(path.read_bytes()).decode(), "name": path.name}


def answered(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    found: dict[str, Any] = response.json()
    return found


def refused(response: httpx.Response, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert body["detail"] == body["error"]
    assert "\n" not in body["detail"]
    assert body["code"] == code
    return str(body["detail"])


# Answers ------------------------------------------------------------------------------------


def test_answers_are_the_command_lines_for_all_instructions_and_kinds_of_files(
    client: httpx.Client, promptgen: Promptgen, files: dict[str, Path]
) -> None:
    paths = [path for name, path in files.items() if name != "broken.png"]
    asked = {"images": [encoded(path) for path in paths], "instructions": list(DEMO_INSTRUCTIONS)}
    answer = answered(client.post("/v1/captions", json=asked))
    assert [image["image"] for image in answer["images"]] == [path.name for path in paths]
    sizes = {image["image"]: (image["width"], image["height"]) for image in answer["images"]}
    assert sizes["turned.jpg"] == (60, 120)
    expected = command_records(promptgen, paths, ",".join(DEMO_INSTRUCTIONS))
    assert len(expected) == len(paths) * len(DEMO_INSTRUCTIONS)
    assert served_records(answer) == expected


@pytest.mark.parametrize(("instructions", "options"), OPTIONS)
def test_each_kind_of_option_does_what_it_does_on_the_command_line(
    client: httpx.Client,
    promptgen: Promptgen,
    files: dict[str, Path],
    instructions: str,
    options: dict[str, Any],
) -> None:
    path = files["clear.png" if "background" in options else "red.png"]
    expected = command_records(promptgen, [path], instructions, options)
    in_json = {name: True if value == "true" else value for name, value in options.items()}
    asked = {"image": encoded(path), "instructions": instructions, "options": in_json}
    assert served_records(answered(client.post("/v1/captions", json=asked))) == rounded(expected)

    form = {"instructions": instructions.split(",")}
    form |= {
        name: [str(value).lower() if isinstance(value, bool) else str(value)]
        for name, value in options.items()
    }
    upload = [("images", (path.name, path.read_bytes()))]
    assert served_records(answered(client.post("/v1/captions", data=form, files=upload))) == rounded(expected)


def test_options_have_an_effect(client: httpx.Client, files: dict[str, Path]) -> None:
    """Else what is compared above could be two answers without any."""

    def text(instruction: str, **options: Any) -> str:
        asked = {"image": encoded(files["clear.png"]), "instruction": instruction, "options": options}
        return str(answered(client.post("/v1/captions", json=asked))["images"][0]["results"][0]["text"])

    plain = text("CAPTION")
    assert text("CAPTION", background="blue") != plain
    assert text("CAPTION", prefix="mine") == f"mine, {plain}"
    assert text("CAPTION", max_new_tokens=3) != plain
    assert text("CAPTION", remove_characters=".") == plain.replace(".", "")
    assert text("CAPTION", drop_underscored=True, prefix="a_b") == f"a_b, {plain}", "affixes stay"
    wild = {"temperature": 20.0, "top_k": 0, "top_p": 1.0, "seed": 1, "retries": 0}
    assert text("CAPTION", preset="long-prompt", **wild) != plain, "it draws"
    greedy = {"preset": "long-prompt", "do_sample": False}
    assert text("CAPTION", **greedy) == text("CAPTION", **greedy, retries=0), "which is asked once"


def test_answers_that_fall_short_are_asked_again_and_marked(
    client: httpx.Client, files: dict[str, Path]
) -> None:
    def results(**options: Any) -> list[dict[str, Any]]:
        asked = {
            "images": [encoded(files["red.png"]), encoded(files["clear.png"])],
            "instructions": ["CAPTION", "OD"],
            "options": {"do_sample": True, "seed": 3, "temperature": 20.0, "top_k": 0, **SHORT, **options},
        }
        answers = answered(client.post("/v1/captions", json=asked))["images"]
        assert all("attempts" not in answer["results"][1] for answer in answers), "regions have no words"
        return [answer["results"][0] for answer in answers]

    once = results()
    assert all("attempts" not in one and "unmet" not in one for one in once)
    thrice = results(retries=2, min_words=300)
    assert [one["attempts"] for one in thrice] == [3, 3]
    assert all(one["unmet"].endswith("of at least 300") for one in thrice)
    last = results(seed=(3 + 2 * 0x9E3779B97F4A7C15) % 2**64)  # each attempt draws with a seed of its own
    assert [one["text"] for one in thrice] == [one["text"] for one in last] != [one["text"] for one in once]
    assert results(retries=2, min_words=1) == once


def test_a_form_is_answered_like_json(client: httpx.Client, files: dict[str, Path]) -> None:
    paths = [files[name] for name in ("red.png", "grün 图.bmp", "broken.png")]
    options = {"num_beams": 1, "exclude": ["no humans", "simple*"], "replace": ["red:crimson", "white:"]}
    asked = {"images": [encoded(path) for path in paths], "instructions": "CAPTION,GENERATE_TAGS"}
    as_json = answered(client.post("/v1/captions", json={**asked, "options": options}))
    assert "no humans" not in as_json["images"][0]["results"][1]["tags"]
    uploads = [("images", (path.name, path.read_bytes())) for path in paths]
    as_text = {"instructions": ["CAPTION", "GENERATE_TAGS"], "options": json.dumps(options)}
    assert answered(client.post("/v1/captions", data=as_text, files=uploads)) == as_json
    as_fields = {
        "instructions": "CAPTION,GENERATE_TAGS", "options": '{"num_beams": 1}', "model": "demo", "seed": "",
        "exclude": options["exclude"], "replace": options["replace"],
    }  # fmt: skip
    assert answered(client.post("/v1/captions", data=as_fields, files=uploads)) == as_json


def test_a_broken_picture_has_its_reason_and_stops_no_other(
    client: httpx.Client, promptgen: Promptgen, files: dict[str, Path]
) -> None:
    paths = [files["red.png"], files["broken.png"], files["clear.png"]]
    asked = {"images": [encoded(path) for path in paths], "instructions": "CAPTION"}
    good, broken, other = served_records(answered(client.post("/v1/captions", json=asked)))
    expected = command_records(promptgen, paths, "CAPTION")
    assert [good, other] == [expected[0], expected[2]]
    assert broken["image"] == "broken.png"
    assert expected[1]["error"] == f"{paths[1]}: {broken['error']}"


def test_pictures_none_of_which_can_be_read_are_a_failure(client: httpx.Client) -> None:
    asked = {"images": [base64.b64encode(b"not a picture").decode(), base64.b64encode(b"nor").decode()]}
    response = client.post("/v1/captions", json=asked)
    assert "image" in refused(response, 422, "unreadable_image")
    assert [image["image"] for image in response.json()["images"]] == ["image 1", "image 2"]
    assert all(image["error"] for image in response.json()["images"])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, ["GENERATE_TAGS"]),
        ({"instruction": "<caption>"}, ["CAPTION"]),
        ({"instructions": "od, <More Detailed-Caption>,od"}, ["OD", "MORE_DETAILED_CAPTION"]),
        ({"instructions": ["CAPTION", "OCR"], "instruction": "tags"}, ["GENERATE_TAGS", "CAPTION", "OCR"]),
        ({"model": "DEMO", "options": None, "timeout": 1e9}, ["GENERATE_TAGS"]),
    ],
)
def test_names_are_taken_as_on_the_command_line(
    client: httpx.Client, asked: dict[str, Any], expected: list[str]
) -> None:
    image = "data:image/png;base64," + base64.b64encode(picture()).decode()
    answer = answered(client.post("/v1/captions", json={"image": image, **asked}))
    assert answer["model"] == "demo"
    assert answer["images"][0]["image"] == "image 1"
    assert [result["instruction"] for result in answer["images"][0]["results"]] == expected


# What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"image": None}, "no picture"),
        ({"images": [], "image": None}, "no picture"),
        ({"picture": "x"}, "'picture' is unknown"),
        ({"image": 5}, "image must be a valid string"),
        ({"image": "a"}, "image 1 is not whole base64"),
        ({"images": [{"dta": "x"}]}, "Did you mean data?"),
        ({"instructions": "CAPTOIN"}, "Did you mean CAPTION?"),
        ({"instructions": []}, None),
        ({"instructions": [1]}, "instructions.0 must be a valid string; it is 1."),
        ({"timeout": 0}, "timeout must be greater than or equal to 1; it is 0."),
        ({"timeout": "5"}, "timeout must be a valid number; it is '5'."),
        ({"options": {"num_beam": 1}}, "Did you mean num_beams?"),
        ({"options": {"num_beams": 0}}, "options.num_beams must be greater than or equal to 1; it is 0."),
        ({"options": {"num_beams": 1.5}}, "options.num_beams must be a valid integer; it is 1.5."),
        ({"options": {"num_beams": 1000}}, "num_beams is 1000; this server allows 16"),
        ({"options": {"max_new_tokens": 10**6}}, "max_new_tokens is 1000000; this server allows 1024"),
        ({"options": {"do_sample": "yes"}}, "options.do_sample must be a valid boolean; it is 'yes'."),
        ({"options": {"replace": "nothing"}}, "has no colon"),
        ({"options": {"background": "nocolour"}}, "'nocolour' is no colour"),
        ({"options": {"background": "rgb(99999999999999999999,0,0)"}}, "is no colour"),
        ({"options": {"tile": "large"}}, "options.tile must be 'auto' or be a valid integer"),
        ({"options": {"tiles_only": True}, "instructions": "OD"}, "tiles_only has no use without tile"),
        ({"options": {"tile": 40}}, "tiles have no use"),
        ({"options": {"scores": True}}, "scores of regions"),
        ({"options": {"text_input": "a cat"}}, "has no use"),
        ({"options": {"text_input": "a " * 3000}, "instruction": "OPEN_VOCABULARY_DETECTION"}, "room for"),
        ({"options": {"text_input": "5,5,1,1,1"}, "instruction": "REGION_TO_OCR"}, "region"),
        ({"instruction": "REGION_TO_OCR"}, "needs a region"),
        ({"options": {"min_new_tokens": 9, "max_new_tokens": 8}}, "min_new_tokens 9 is above"),
        ({"options": {"preset": "long"}}, "unknown preset 'long'"),
        ({"options": {"preset": "long-prompt", "do_sample": False, "retries": 10}}, "do_sample"),
        ({"options": {"language": "de"}}, "not asked in a language"),
        ({"options": {"retries": 3, "min_words": 9}}, "do_sample"),
        ({"options": {"retries": 101}}, "options.retries must be less than or equal to 100; it is 101."),
        ({"options": {"remove_brackets": "(("}}, "pairs of different characters"),
        ({"options": {"retry_word": [str(number) for number in range(300)]}}, "300 words; 256 is the most"),
        ({"instruction": "LONG_PROMPT"}, "MIXED_CAPTION"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    client: httpx.Client, changed: dict[str, Any], said: str | None
) -> None:
    body = {"image": base64.b64encode(picture()).decode(), **changed}
    response = client.post("/v1/captions", json=body)
    if said is None:
        answered(response)
    else:
        assert said in refused(response, 400, "bad_request")


def test_a_model_that_is_not_served_is_named(client: httpx.Client) -> None:
    asked = {"image": base64.b64encode(picture()).decode(), "model": "Florence-2-large"}
    assert "there is demo" in refused(client.post("/v1/captions", json=asked), 404, "model_not_found")


def test_too_many_pictures_are_refused_before_they_are_read(client: httpx.Client) -> None:
    assert "65" in refused(client.post("/v1/captions", json={"images": ["x"] * 65}), 413, "too_large")
    uploads = [("images", (f"{number}.png", b"x")) for number in range(65)]
    assert "65" in refused(client.post("/v1/captions", files=uploads), 413, "too_large")


def test_an_answer_that_takes_too_long_is_given_up(client: httpx.Client) -> None:
    images = [base64.b64encode(picture(size=64 + number)).decode() for number in range(64)]
    asked = {
        "images": images, "instructions": DEMO_INSTRUCTIONS, "options": {"num_beams": 8}, "timeout": 1,
    }  # fmt: skip
    assert "within 1 seconds" in refused(client.post("/v1/captions", json=asked), 504, "deadline")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ([("num_beams", "1"), ("num_beams", "2")], "'num_beams' is given 2 times"),
        ([("num_beams", "1"), ("options", '{"num_beams": 1}')], "num_beams is given twice"),
        ([("num_beams", "one")], "options.num_beams must be a valid integer"),
        ([("options", "{")], "not valid JSON"),
        ([("options", "[]")], "must be an object"),
        ([("images", "text")], "images is a text; it takes a file"),
        ([("beams", "1")], "'beams' is unknown"),
        ([("timeout", "nan")], "timeout must be"),
    ],
)
def test_fields_of_a_form_are_read_as_strictly(
    client: httpx.Client, fields: list[tuple[str, str]], said: str
) -> None:
    parts = [("images", ("a.png", picture())), *((name, (None, value)) for name, value in fields)]
    assert said in refused(client.post("/v1/captions", files=parts), 400, "bad_request")


def test_a_form_that_was_cut_off_is_not_taken_for_a_shorter_one(client: httpx.Client) -> None:
    request = client.build_request(
        "POST", "/v1/captions", files=[("images", ("a.png", picture())), ("images", ("b.png", picture()))]
    )
    whole = request.read()
    headers = {"content-type": request.headers["content-type"]}
    assert len(answered(client.post("/v1/captions", content=whole, headers=headers))["images"]) == 2
    for end in (len(whole) - 100, len(whole) // 2 + 60, 20):
        response = client.post("/v1/captions", content=whole[:end], headers=headers)
        assert "cut off" in refused(response, 400, "bad_request")


def test_limits_are_the_servers(client: httpx.Client) -> None:
    from promptgen.serving.settings import Limits, ServerSettings

    image = base64.b64encode(picture()).decode()
    with serving_here(ServerSettings(limits=Limits(images=1, beams=2, pixels=100))) as server:
        url = f"{server.url}/v1/captions"
        assert "1" in refused(httpx.post(url, json={"images": [image] * 2}), 413, "too_large")
        options = {"num_beams": 3}
        refused(httpx.post(url, json={"image": image, "options": options}), 400, "bad_request")
        assert "pixels" in refused(httpx.post(url, json={"image": image}), 422, "unreadable_image")
        schemas = httpx.get(f"{server.url}/openapi.json").json()["components"]["schemas"]
    assert schemas["CaptionsRequest"]["properties"]["images"]["anyOf"][0]["maxItems"] == 1
    assert schemas["AnswerOptions"]["properties"]["num_beams"]["anyOf"][0]["maximum"] == 2


# Digests and instructions --------------------------------------------------------------------


def test_the_digest_is_the_one_that_runs_here_keep(client: httpx.Client) -> None:
    from promptgen.captioning import Captioner, CaptionOptions, GenerationOptions
    from promptgen.captioning.runs.settings import settings_digest

    def digest(**asked: Any) -> str:
        return str(answered(client.post("/v1/captions/digest", json=asked))["digest"])

    assert digest(instructions="<caption>,OD") == settings_digest(
        Captioner("demo"), ["CAPTION", "OD"], CaptionOptions()
    )
    greedy = CaptionOptions(GenerationOptions(num_beams=1))
    assert digest(instruction="od", options={"num_beams": 1}) == settings_digest(
        Captioner("demo"), ["OD"], greedy
    )
    assert digest(instruction="OD") != digest(instruction="OD", options={"num_beams": 1})
    assert "unknown" in refused(client.post("/v1/captions/digest", json={"image": "x"}), 400, "bad_request")


def test_the_instructions_are_those_of_the_table(client: httpx.Client) -> None:
    from promptgen.captioning import INSTRUCTIONS

    listed = answered(client.get("/v1/instructions"))["instructions"]
    assert [one["name"] for one in listed] == list(INSTRUCTIONS)
    found = {one["name"]: one for one in listed}
    assert found["REGION_TO_OCR"]["input"] == "region"
    assert found["OD"]["answer"] == "boxes"
