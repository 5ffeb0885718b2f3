"""The nodes in a real ComfyUI: what a user gets, the same as from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from promptgen.captioning import split_mixed
from promptgen.training.demo.scenes import draw_scene

from .comfyui_host import Checkout, Entry, Host, HostError, start_host
from .helpers_dev import ROOT
from .hub_server import running_hub

pytestmark = pytest.mark.comfyui

COMPANION = Path(__file__).parent / "comfyui_companion"
WITH_COMPANION = ["--whitelist-custom-nodes", "promptgen-tagger", "companion"]
INSTRUCTIONS = (
    "GENERATE_TAGS",
    "CAPTION",
    "DETAILED_CAPTION",
    "MORE_DETAILED_CAPTION",
    "MIXED_CAPTION",
    "MIXED_CAPTION_PLUS",
    "ANALYZE",
)
EXAMPLE = "circle-heart-square.png"


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def tagger(image: Sequence[Any], instruction: str = "GENERATE_TAGS", **inputs: Any) -> dict[str, Any]:
    return node("PromptGenTagger", image=image, instruction=instruction, **{"checkpoint": "demo", **inputs})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five scenes of one size, three of sizes of their own, the examples, one with transparency."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(5):
        draw_scene(7000 + index, size=(160, 128))[0].save(folder / f"same{index}.png")
    for index, size in enumerate([(97, 240), (256, 128), (128, 128)]):
        draw_scene(7100 + index, size=size)[0].save(folder / f"other{index}.png")
    for example in (ROOT / "examples").iterdir():
        shutil.copy(example, folder)
    return folder


@pytest.fixture(scope="module")
def expected(pictures: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """What the command line answers: picture, instruction, result."""
    files = sorted(str(path) for path in pictures.iterdir())
    command = [sys.executable, "-m", "promptgen.cli", "caption", *files, "--model", "demo", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--instruction", ",".join(INSTRUCTIONS), "--format", "json"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    answers: dict[str, dict[str, dict[str, Any]]] = {}
    for record in json.loads(done.stdout):
        answers.setdefault(Path(record["image"]).name, {})[record["instruction"]] = record
    return answers


@pytest.fixture(scope="module")
def own(
    comfyui_checkout: Checkout, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """A host that also has the nodes of ``comfyui_companion``."""
    base = tmp_path_factory.mktemp(f"nodes-{comfyui_checkout.version}")
    shutil.copytree(COMPANION, base / "custom_nodes" / "companion")
    shutil.copytree(pictures, base / "input")
    with start_host(comfyui_checkout, base, arguments=WITH_COMPANION) as running:
        yield running


def text(entry: Entry, key: str) -> list[str]:
    assert entry.succeeded, entry.error
    texts: list[str] = entry.outputs[key]["texts"]
    return texts


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_the_text_is_the_one_of_the_command_line(
    own: Host, expected: Mapping[str, Any], instruction: str
) -> None:
    names = [EXAMPLE, "stop.png", "triangle-heart-turned.jpg", "other0.png"]
    prompt: dict[str, Any] = {}
    for index, name in enumerate(names):
        prompt[f"load{index}"] = node("LoadImage", image=name)
        prompt[f"tag{index}"] = tagger([f"load{index}", 0], instruction)
        prompt[f"caption{index}"] = node("TestTexts", texts=[f"tag{index}", 0])
        prompt[f"tags{index}"] = node("TestTexts", texts=[f"tag{index}", 1])
    entry = own.run(prompt)
    for index, name in enumerate(names):
        result = expected[name][instruction]
        assert entry.texts(f"tag{index}") == [result["text"]]  # shown on the node
        assert text(entry, f"caption{index}") == [result["text"]]
        assert text(entry, f"tags{index}") == [", ".join(result.get("tags", []))]


def test_a_batch_gives_one_caption_per_frame(own: Host, expected: Mapping[str, Any]) -> None:
    names = [f"same{index}.png" for index in range(5)]
    entry = own.run(
        {
            "1": node("TestPictures", files="\n".join(names), form="batch", mode="RGB"),
            "2": tagger(["1", 0], "CAPTION"),
            "3": node("TestTexts", texts=["2", 0]),
        }
    )
    right = [expected[name]["CAPTION"]["text"] for name in names]
    assert len(set(right)) == 5
    assert text(entry, "3") == right
    assert entry.texts("2") == right


def test_a_list_of_images_of_different_sizes(own: Host, expected: Mapping[str, Any]) -> None:
    names = ["other0.png", "same1.png", "other1.png", "other2.png"]
    entry = own.run(
        {
            "1": node("TestPictures", files="\n".join(names), form="list", mode="RGB"),
            "2": tagger(["1", 0]),
            "3": node("TestTexts", texts=["2", 1]),
            "4": node("PromptGenCaptions", image=["1", 0], checkpoint="demo", want_mixed=False),
            "5": node("TestTexts", texts=["4", 1]),
        }
    )
    assert text(entry, "3") == [", ".join(expected[name]["GENERATE_TAGS"]["tags"]) for name in names]
    assert text(entry, "5") == [expected[name]["CAPTION"]["text"] for name in names]


def test_one_picture_is_a_list_too(own: Host, expected: Mapping[str, Any]) -> None:
    entry = own.run(
        {
            "1": node("LoadImage", image="same0.png"),
            "2": tagger(["1", 0]),
            "3": node("TestTexts", texts=["2", 0]),
        }
    )
    assert text(entry, "3") == [expected["same0.png"]["GENERATE_TAGS"]["text"]]
    assert own.object_info("PromptGenTagger")["output_is_list"] == [True, True]


def test_transparency_and_masks(own: Host, expected: Mapping[str, Any]) -> None:
    name = "play-transparent.webp"
    entry = own.run(
        {
            "1": node("TestPictures", files=name, form="batch", mode="RGBA"),
            "2": tagger(["1", 0], "MORE_DETAILED_CAPTION"),
            "3": node("LoadImage", image=name),
            "4": node("MaskToImage", mask=["3", 1]),
            "5": tagger(["4", 0]),
            "6": node("TestPictures", files="same0.png\nsame1.png", form="batch", mode="L"),
            "7": tagger(["6", 0]),
        }
    )
    assert entry.succeeded, entry.error
    assert entry.texts("2") == [expected[name]["MORE_DETAILED_CAPTION"]["text"]]
    assert len(entry.texts("5")) == 1
    assert len(entry.texts("7")) == 2  # a batch of grey frames [B, H, W]


def test_all_at_once_answers_what_single_taggers_answer(own: Host, expected: Mapping[str, Any]) -> None:
    outputs = (
        "GENERATE_TAGS",
        "CAPTION",
        "DETAILED_CAPTION",
        "MORE_DETAILED_CAPTION",
        "MIXED_CAPTION",
        "ANALYZE",
    )
    prompt = {
        "1": node("TestPictures", files=f"{EXAMPLE}\nsame0.png", form="list", mode="RGB"),
        "2": node("PromptGenCaptions", image=["1", 0], checkpoint="demo"),
        **{f"out{index}": node("TestTexts", texts=["2", index]) for index in range(6)},
    }
    entry = own.run(prompt)
    for index, instruction in enumerate(outputs):
        assert text(entry, f"out{index}") == [
            expected[name][instruction]["text"] for name in (EXAMPLE, "same0.png")
        ]
    shown = entry.texts("2")
    assert len(shown) == 2
    assert all(expected[EXAMPLE][instruction]["text"] in shown[0] for instruction in outputs)


def test_an_answer_that_is_switched_off_stops_what_hangs_on_it(
    own: Host, expected: Mapping[str, Any]
) -> None:
    with own.events() as events:
        entry = own.run(
            {
                "1": node("LoadImage", image=EXAMPLE),
                "2": node("PromptGenCaptions", image=["1", 0], checkpoint="demo", want_caption=False),
                "tags": node("TestTexts", texts=["2", 0]),
                "caption": node("TestTexts", texts=["2", 1]),
            },
            client_id=events.client_id,
        )
        error = events.wait_for("execution_error", timeout=10)
    assert "caption answer of PromptGen Captions is switched off" in error.data["exception_message"]
    assert entry.outputs["tags"]["texts"] == [expected[EXAMPLE]["GENERATE_TAGS"]["text"]]
    assert "caption" not in entry.outputs
    assert "[caption]" not in entry.texts("2")[0]


def test_no_answer_at_all_is_an_error(own: Host) -> None:
    off = {
        f"want_{name}": False
        for name in ("tags", "caption", "detailed", "more_detailed", "mixed", "analysis")
    }
    entry = own.run(
        {
            "1": node("LoadImage", image=EXAMPLE),
            "2": node("PromptGenCaptions", image=["1", 0], checkpoint="demo", **off),
        }
    )
    assert entry.error is not None
    assert "Switch on at least one" in entry.error["exception_message"]


def test_settings_reach_the_engine(own: Host, expected: Mapping[str, Any]) -> None:
    load = node("LoadImage", image=EXAMPLE)
    entry = own.run(
        {
            "1": load,
            "2": tagger(
                ["1", 0],
                prefix="my style",
                suffix="end",
                exclude_tags="*background",
                replace="pink circle:red disc",
                underscores="underscores",
            ),
            "3": tagger(["1", 0], "MORE_DETAILED_CAPTION", num_beams=1, max_new_tokens=5),
        }
    )
    assert entry.succeeded, entry.error
    tags = expected[EXAMPLE]["GENERATE_TAGS"]["tags"]
    assert "pink circle" in tags
    assert any(tag.endswith("background") for tag in tags)
    kept = [tag.replace("pink circle", "red disc") for tag in tags if not tag.endswith("background")]
    assert entry.texts("2") == [", ".join(["my style", *(tag.replace(" ", "_") for tag in kept), "end"])]
    whole = expected[EXAMPLE]["MORE_DETAILED_CAPTION"]["text"]
    assert len(entry.texts("3")[0]) < len(whole) / 3


def test_sampling_follows_the_seed(own: Host) -> None:
    def sampled(seed: int, files: str = EXAMPLE) -> list[str]:
        entry = own.run(
            {
                "1": node("TestPictures", files=files, form="list", mode="RGB"),
                "2": tagger(
                    ["1", 0], "MORE_DETAILED_CAPTION", do_sample=True, temperature=3.0, num_beams=1,
                    seed=seed, max_new_tokens=60,
                ),
            }
        )  # fmt: skip
        assert entry.succeeded, entry.error
        return entry.texts("2")

    first = sampled(1)
    assert sampled(2) != first
    assert sampled(1, f"same0.png\n{EXAMPLE}")[1] == first[0]  # whatever else is in the batch


def test_the_loaders_model_wins(own: Host, expected: Mapping[str, Any]) -> None:
    entry = own.run(
        {
            "0": node("PromptGenModelLoader", checkpoint="demo", precision="bf16", device="cpu"),
            "1": node("LoadImage", image=EXAMPLE),
            "2": tagger(["1", 0], checkpoint="not-there", model=["0", 0]),
            "3": node("TestLoadedModels", after=["2", 0]),
        }
    )
    assert entry.succeeded, entry.error
    loaded = json.loads(entry.outputs["3"]["loaded"][0])
    assert ["demo", "cpu", "bf16", 0] in loaded
    assert entry.texts("2")[0].startswith(expected[EXAMPLE]["GENERATE_TAGS"]["text"][:8])


def test_ten_nodes_hold_one_model_and_free_lets_it_go(own: Host) -> None:
    own.free(unload_models=True)
    prompt = {"1": node("LoadImage", image=EXAMPLE)}
    for index in range(10):
        prompt[f"load{index}"] = node(
            "PromptGenModelLoader", checkpoint="demo", precision="fp32", device="auto"
        )
        prompt[f"tag{index}"] = tagger(["1", 0], suffix=str(index), model=[f"load{index}", 0])
    prompt["end"] = node("TestLoadedModels", after=["tag9", 0])
    before = own.log().count("Loaded demo")
    entry = own.run(prompt)
    assert entry.succeeded, entry.error
    assert json.loads(entry.outputs["end"]["loaded"][0]) == [["demo", "cpu", "fp32", 0]]
    assert entry.outputs["end"]["held"] == ["_Weights"]
    assert own.log().count("Loaded demo") <= before + 1

    gone = own.log().count("Unloaded demo")
    own.free(unload_models=True)
    deadline = time.monotonic() + 20
    while own.log().count("Unloaded demo") == gone and time.monotonic() < deadline:
        time.sleep(0.1)
    assert own.log().count("Unloaded demo") > gone
    again = own.run(
        {
            "1": node("LoadImage", image=EXAMPLE),
            "2": tagger(["1", 0], suffix="once more"),
            "3": node("TestLoadedModels", after=["2", 0]),
        }
    )
    assert again.succeeded, again.error
    assert again.outputs["3"]["held"] == ["_Weights"]


def test_free_also_lets_go_of_what_is_no_longer_on_the_disk(own: Host) -> None:
    own.free(unload_models=True)
    folder = own.models_dir / "LLM" / "short-lived"
    shutil.copytree(ROOT / "models_cache" / "demo", folder)
    entry = own.run({"1": node("LoadImage", image=EXAMPLE), "2": tagger(["1", 0], checkpoint="short-lived")})
    assert entry.succeeded, entry.error
    shutil.rmtree(folder)
    own.free(unload_models=True)
    deadline = time.monotonic() + 20
    while "Unloaded short-lived" not in own.log() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "Unloaded short-lived" in own.log()


def test_a_checkpoint_that_is_not_there_is_accepted_and_fails_with_the_remedy(own: Host) -> None:
    load = node("LoadImage", image=EXAMPLE)
    for graph in (
        {"1": load, "2": tagger(["1", 0], checkpoint="Some-Checkpoint")},
        {"1": load, "2": node("PromptGenCaptions", image=["1", 0], checkpoint="Some-Checkpoint")},
        {
            "0": node("PromptGenModelLoader", checkpoint="Some-Checkpoint", precision="auto", device="auto"),
            "1": load,
            "2": tagger(["1", 0], model=["0", 0]),
        },
    ):
        entry = own.run(graph)  # queueing it would raise if it were refused
        assert entry.error is not None
        message = entry.error["exception_message"]
        assert "Some-Checkpoint" in message
        assert "Florence-2-base-PromptGen-v2.0" in message
        assert str(own.models_dir / "LLM") in message
    entry = own.run({"1": load, "2": tagger(["1", 0], checkpoint="Florence-2-large-PromptGen-v2.0")})
    assert entry.error is not None  # a known one, but the host of the tests is offline
    assert "MiaoshouAI/Florence-2-large-PromptGen-v2.0" in entry.error["exception_message"]


@pytest.mark.parametrize("name", ["/etc", "~", "../input", "someone/some-repository", "//server/share"])
def test_a_workflow_has_no_other_folder_read_and_nothing_strange_downloaded(own: Host, name: str) -> None:
    entry = own.run({"1": node("LoadImage", image=EXAMPLE), "2": tagger(["1", 0], checkpoint=name)})
    assert entry.error is not None
    message = entry.error["exception_message"]
    assert f"There is no model '{name}' here" in message
    assert str(Path.home()) not in message.replace(str(own.base), "").partition("can be added to")[0]


def test_a_hub_id_of_the_catalogue_is_its_name(own: Host) -> None:
    name = "MiaoshouAI/Florence-2-base-PromptGen-v1.5"
    entry = own.run({"1": node("LoadImage", image=EXAMPLE), "2": tagger(["1", 0], checkpoint=name)})
    assert entry.error is not None  # known, but the host of the tests is offline
    assert "HF_HUB_OFFLINE" in entry.error["exception_message"]


def test_a_device_that_is_not_there_says_so(own: Host) -> None:
    entry = own.run(
        {
            "0": node("PromptGenModelLoader", checkpoint="demo", precision="fp32", device="cuda:77"),
            "1": node("LoadImage", image=EXAMPLE),
            "2": tagger(["1", 0], model=["0", 0]),
        }
    )
    assert entry.error is not None
    assert "cuda:77" in entry.error["exception_message"]


@pytest.mark.parametrize(("form", "said"), [("batch", "batch is empty"), ("list", "list of images is empty")])
def test_an_empty_batch_says_so(own: Host, form: str, said: str) -> None:
    for kind in ("PromptGenTagger", "PromptGenCaptions"):
        extra = {"instruction": "CAPTION"} if kind == "PromptGenTagger" else {}
        entry = own.run(
            {
                "1": node("TestPictures", files="", form=form, mode="RGB"),
                "2": node(kind, image=["1", 0], checkpoint="demo", **extra),
            }
        )
        assert entry.error is not None
        assert said in entry.error["exception_message"]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"instruction": "PAINT_IT"}, "PAINT_IT"),
        ({"replace": "no colon"}, "no colon"),
        ({"underscores": "maybe"}, "underscores"),
    ],
)
def test_wrong_settings_say_so(own: Host, inputs: dict[str, Any], said: str) -> None:
    graph = {"1": node("LoadImage", image=EXAMPLE), "2": tagger(["1", 0], **inputs)}
    try:
        entry = own.run(graph)
    except HostError as refused:  # hosts that check menus refuse it when it is queued
        message = str(refused)
    else:
        message = (entry.error or {})["exception_message"]
    assert said in message


@pytest.mark.parametrize(
    ("kind", "name", "values", "said"),
    [
        ("PromptGenTagger", "image", [None], "image input got NoneType"),
        ("PromptGenTagger", "image", ["x"], "image input got str"),
        ("PromptGenTagger", "instruction", [], "'instruction' got nothing"),
        ("PromptGenTagger", "instruction", [5], "'instruction' got 5"),
        ("PromptGenTagger", "checkpoint", [7], "'checkpoint' got 7"),
        ("PromptGenTagger", "prefix", [5], "'prefix' got 5"),
        ("PromptGenTagger", "model", ["demo"], "PromptGen Model node"),
        ("PromptGenModelLoader", "checkpoint", [None], "'checkpoint' got nothing"),
        ("PromptGenSplitCaption", "caption", [None], "'caption' got nothing"),
        ("PromptGenAnalyzer", "analysis", [["a"]], "'analysis' got ['a']"),
        ("PromptGenEditTags", "tags", [True], "'tags' got True"),
        ("PromptGenFluxTextEncode", "caption", [None], "'caption' got nothing"),
        ("PromptGenVision", "threshold", ["high"], "'threshold' got 'high'; it takes a number"),
        ("PromptGenVision", "tile_size", [[32]], "'tile_size' got [32]; it takes a number"),
        ("PromptGenVision", "select", [2], "'select' got 2"),
        ("PromptGenVision", "region_mask", ["left"], "region mask is str, no mask"),
        ("PromptGenDocVQA", "question", [2], "'question' got 2"),
    ],
)
def test_a_wire_with_something_else_says_so(
    own: Host, kind: str, name: str, values: list[Any], said: str
) -> None:
    graph = {
        "1": node("LoadImage", image=EXAMPLE),
        "odd": node("TestValues", values=json.dumps(values)),
        "clip": node("TestClip", kind="flux"),
    }
    inputs: dict[str, Any] = {"PromptGenModelLoader": {"checkpoint": "demo"}}.get(kind, {})
    if kind == "PromptGenTagger":
        inputs = {"image": ["1", 0], "checkpoint": "demo", "instruction": "CAPTION"}
    if kind == "PromptGenVision":
        inputs = {"image": ["1", 0], "checkpoint": "demo", "task": "REGION_TO_OCR", "text_input": "",
                  "select": "", "threshold": 0.0}  # fmt: skip
    if kind == "PromptGenDocVQA":
        inputs = {"image": ["1", 0], "checkpoint": "demo"}
    if kind == "PromptGenFluxTextEncode":
        inputs = {"clip": ["clip", 0]}
    graph["2"] = node(kind, **{**inputs, name: ["odd", 0]})
    graph["end"] = node("TestLoadedModels", after=["2", 0])
    error = own.run(graph).error
    assert error is not None
    assert said in error["exception_message"]


def test_a_wire_with_nothing_on_it_is_not_connected(own: Host, expected: Mapping[str, Any]) -> None:
    nothing = {"0": node("TestValues", values="[null]"), "1": node("LoadImage", image=EXAMPLE)}
    entry = own.run(
        {
            **nothing,
            "2": tagger(["1", 0], "CAPTION", prefix=["0", 0], seed=["0", 0], model=["0", 0]),
            "3": node("PromptGenEditTags", tags="a, b", more_tags=["0", 0]),
            "4": node("TestValues", values="[]"),
            "5": node("PromptGenCaptions", image=["1", 0], checkpoint="demo", want_tags=["4", 0]),
        }
    )
    assert entry.succeeded, entry.error
    assert entry.texts("2") == [expected[EXAMPLE]["CAPTION"]["text"]]
    assert entry.texts("3") == ["a, b"]
    assert entry.texts("5")[0].startswith("[tags]\n")


MIXED = (
    "A woman in a red coat walks along a beach at sunset. Waves roll in behind her.\n\n"
    "1girl, solo, red coat, beach, sunset\n\n"
    "camera_angle: from side, art_style: photo, text: NA, clothing: red coat"
)


@pytest.mark.parametrize(
    ("caption", "analysis_goes", "without_tags", "t5xxl", "clip_l"),
    [
        (MIXED, "leave out", "the prose", "PROSE", "TAGS"),
        (MIXED, "add to T5-XXL", "the prose", "PROSE\n\nfrom side, photo, red coat", "TAGS"),
        (MIXED, "add to CLIP-L", "nothing", "PROSE", "TAGS, from side, photo, red coat"),
        ("A red barn stands in a field.", "leave out", "the prose", "SAME", "SAME"),
        ("A red barn stands in a field.", "leave out", "nothing", "SAME", ""),
        ("1girl, solo", "leave out", "nothing", "SAME", "SAME"),
        ("cat", "leave out", "the prose", "SAME", "SAME"),
        ("", "leave out", "the prose", "", ""),
    ],
)
def test_flux_encodes_as_core_does(
    own: Host, caption: str, analysis_goes: str, without_tags: str, t5xxl: str, clip_l: str
) -> None:
    parts = split_mixed(MIXED)
    texts = [
        wanted.replace("PROSE", parts.prose).replace("TAGS", parts.tags).replace("SAME", caption)
        for wanted in (t5xxl, clip_l)
    ]
    entry = own.run(
        {
            "clip": node("TestClip", kind="flux"),
            "ours": node(
                "PromptGenFluxTextEncode", clip=["clip", 0], caption=caption, guidance=2.5,
                analysis_goes=analysis_goes, without_tags=without_tags,
            ),
            "core": node(
                "CLIPTextEncodeFlux", clip=["clip", 0], clip_l=texts[1], t5xxl=texts[0], guidance=2.5
            ),
            "void": node("CLIPTextEncodeFlux", clip=["clip", 0], clip_l="", t5xxl="", guidance=2.5),
            "same": node("TestSameConditioning", a=["ours", 0], b=["core", 0]),
            "empty": node("TestSameConditioning", a=["ours", 1], b=["void", 0]),
            "t5": node("TestTexts", texts=["ours", 2]),
            "l": node("TestTexts", texts=["ours", 3]),
            "analysis": node("TestTexts", texts=["ours", 4]),
        }
    )  # fmt: skip
    assert text(entry, "t5") + text(entry, "l") == texts
    assert text(entry, "analysis") == [parts.analysis if caption == MIXED else ""]
    for place in ("same", "empty"):
        facts = json.loads(entry.outputs[place]["facts"][0])
        assert facts["same"], facts
        assert facts["guidance"] == 2.5
        assert facts["pooled"]
        assert facts["norm"] > 0


def test_flux_takes_the_taggers_list(own: Host, expected: Mapping[str, Any]) -> None:
    entry = own.run(
        {
            "1": node("TestPictures", files="same0.png\nsame1.png", form="batch", mode="RGB"),
            "2": tagger(["1", 0], "MIXED_CAPTION"),
            "clip": node("TestClip", kind="flux"),
            "ours": node("PromptGenFluxTextEncode", clip=["clip", 0], caption=["2", 0]),
            "l": node("TestTexts", texts=["ours", 3]),
            "t5": node("TestTexts", texts=["ours", 2]),
        }
    )
    results = [expected[f"same{index}.png"]["MIXED_CAPTION"] for index in range(2)]
    assert text(entry, "l") == [", ".join(result["tags"]) for result in results]
    assert text(entry, "t5") == [result["prose"] for result in results]


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("sd1", "SD 1.5"),
        ("sdxl", "SDXL"),
        ("sd3", "SD 3"),
        ("t5xxl", "T5-XXL alone"),
        ("none", "no CLIP"),
    ],
)
def test_a_wrong_clip_is_named(own: Host, kind: str, named: str) -> None:
    entry = own.run(
        {
            "clip": node("TestClip", kind=kind),
            "ours": node("PromptGenFluxTextEncode", clip=["clip", 0], caption=MIXED),
            "t5": node("TestTexts", texts=["ours", 2]),
        }
    )
    assert entry.error is not None
    message = entry.error["exception_message"]
    assert named in message
    assert "DualCLIPLoader" in message
    assert "flux" in message


@pytest.mark.parametrize(
    ("tags", "prose"),
    [
        ("1girl, blue_sky", "a black cat sits on a chair. it is asleep."),
        ("1girl, solo, blue_sky, tree", "photo of a woman at night"),
        (
            "1girl, solo, blue_sky",
            "a woman stands. art style: anime, camera angle: from below, lighting: soft.",
        ),
    ],
)
def test_of_a_caption_that_begins_with_tags_the_parts_may_be_told(own: Host, tags: str, prose: str) -> None:
    caption = f"{tags}, {prose}"
    entry = own.run(
        {
            "clip": node("TestClip", kind="flux"),
            "flux": node("PromptGenFluxTextEncode", clip=["clip", 0], caption=caption, order="tags first"),
            "split": node("PromptGenSplitCaption", caption=caption, order="tags first"),
            "t5": node("TestTexts", texts=["flux", 2]),
            "l": node("TestTexts", texts=["flux", 3]),
            "prose": node("TestTexts", texts=["split", 0]),
            "tags": node("TestTexts", texts=["split", 1]),
        }
    )
    assert entry.succeeded, entry.error
    assert [text(entry, name) for name in ("t5", "l", "prose", "tags")] == [[prose], [tags]] * 2
    found = split_mixed(caption)
    assert (found.prose, found.tags) != (prose, tags)  # or nobody would have to tell


def test_splitting_analysing_editing(own: Host) -> None:
    entry = own.run(
        {
            "split": node("PromptGenSplitCaption", caption=MIXED),
            **{f"part{index}": node("TestTexts", texts=["split", index]) for index in range(3)},
            "all": node("PromptGenAnalyzer", analysis=["split", 2]),
            "some": node("PromptGenAnalyzer", analysis=MIXED, all_fields=False, clothing=True, text=True),
            "json": node("TestTexts", texts=["some", 1]),
            "edit": node(
                "PromptGenEditTags", tags="1girl, red_coat, (smile:1.2), Red Coat", more_tags="beach, 1girl",
                prefix="style", exclude_tags="smi*", replace="red coat:blue coat", underscores="spaces",
            ),
            "edited": node("TestTexts", texts=["edit", 0]),
        }
    )  # fmt: skip
    parts = split_mixed(MIXED)
    assert [text(entry, f"part{index}") for index in range(3)] == [
        [parts.prose],
        [parts.tags],
        [parts.analysis],
    ]
    assert entry.texts("all") == ["from side, photo, red coat"]
    assert entry.texts("some") == ["red coat"]
    assert json.loads(text(entry, "json")[0]) == {"clothing": "red coat", "text": "NA"}
    assert text(entry, "edited") == ["style, 1girl, blue coat, (smile:1.2), beach"]
    assert all(part in entry.texts("split")[0] for part in (parts.prose, parts.tags, parts.analysis))


def test_the_subject_is_chosen(own: Host) -> None:
    analysis = "camera_angle: front, gender: female; male, clothing: dress; suit"
    entry = own.run(
        {
            "1": node("PromptGenAnalyzer", analysis=analysis, subject_index=1),
            "2": node("PromptGenAnalyzer", analysis=analysis, subject_index=7),
        }
    )
    assert entry.texts("1") == ["front, male, suit"]
    assert entry.texts("2") == [""]


def test_progress_moves_and_cancel_leaves_the_model_usable(own: Host, expected: Mapping[str, Any]) -> None:
    names = [f"same{index}.png" for index in range(5)]
    graph = {
        "1": node("TestPictures", files="\n".join(names * 30), form="list", mode="RGB"),
        "2": tagger(["1", 0], "MORE_DETAILED_CAPTION", suffix="cancelled"),
    }
    with own.events() as events:
        prompt_id = own.queue(graph, client_id=events.client_id)

        def far(event: Any) -> bool:
            return event.type == "progress" and event.data["value"] > 4000

        events.wait_for(far, timeout=60)
        asked = time.monotonic()
        own.interrupt()
        stopped = events.wait_for("execution_interrupted", timeout=30)
        values = [event.data["value"] for event in events.all("progress", prompt_id)]
    assert stopped.time - asked < 1.0
    assert own.wait(prompt_id).interrupted
    assert values == sorted(values)
    assert len(set(values)) > 8  # within pictures as well as from picture to picture
    assert any(value % 1000 for value in values)
    assert {4000} & set(values)
    entry = own.run({"1": node("LoadImage", image=EXAMPLE), "2": tagger(["1", 0], suffix="")})
    assert entry.texts("2") == [expected[EXAMPLE]["GENERATE_TAGS"]["text"]]


def test_the_menu_lists_catalogue_and_folders(own: Host, expected: Mapping[str, Any]) -> None:
    demo = ROOT / "models_cache" / "demo"
    for key, name in (("LLM", "my-finetune-1.5"), ("florence2", "second.one")):
        shutil.copytree(demo, own.models_dir / key / name)
    stranger = own.models_dir / "LLM" / "some-llm"
    stranger.mkdir()
    (stranger / "config.json").write_text('{"model_type": "qwen2"}')
    options = own.object_info("PromptGenTagger")["input"]["required"]["checkpoint"][1]["options"]
    assert options[0] == "Florence-2-base-PromptGen-v2.0"
    assert {"Florence-2-large-PromptGen-v2.0", "demo", "my-finetune-1.5", "second.one"} <= set(options)
    assert "some-llm" not in options
    assert len(options) == len(set(options))
    for name in ("my-finetune-1.5", "second.one"):
        entry = own.run({"1": node("LoadImage", image=EXAMPLE), "2": tagger(["1", 0], checkpoint=name)})
        assert entry.texts("2") == [expected[EXAMPLE]["GENERATE_TAGS"]["text"]]


def test_extra_model_paths_are_searched(
    comfyui_checkout: Checkout, tmp_path: Path, expected: Mapping[str, Any]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(ROOT / "models_cache" / "demo", elsewhere / "captioners" / "far-away")
    yaml = tmp_path / "paths.yaml"
    yaml.write_text(f"other:\n  base_path: {elsewhere}\n  LLM: captioners\n")
    base = tmp_path / "base"
    with start_host(comfyui_checkout, base, arguments=["--extra-model-paths-config", str(yaml)]) as running:
        image = Image.open(ROOT / "examples" / EXAMPLE)
        image.save(base / "input" / "a.png")
        entry = running.run(
            {"1": node("LoadImage", image="a.png"), "2": tagger(["1", 0], checkpoint="far-away")}
        )
        assert entry.texts("2") == [expected[EXAMPLE]["GENERATE_TAGS"]["text"]]


def test_a_checkpoint_is_downloaded_with_progress_and_can_be_cancelled(
    comfyui_checkout: Checkout, tmp_path: Path, expected: Mapping[str, Any]
) -> None:
    name = "Florence-2-base-PromptGen-v2.0"
    demo = ROOT / "models_cache" / "demo"
    with running_hub() as hub:
        hub.add(f"MiaoshouAI/{name}", {path.name: path.read_bytes() for path in demo.iterdir()})
        hub.hold["model.safetensors"] = 2**20
        environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        environment["NO_PROXY"] = "*"
        with (
            start_host(comfyui_checkout, tmp_path / "base", environment=environment) as running,
            running.events() as events,
        ):
            picture = running.upload(ROOT / "examples" / EXAMPLE)
            graph = {"1": node("LoadImage", image=picture), "2": tagger(["1", 0], checkpoint=name)}
            first = running.queue(graph, client_id=events.client_id)
            assert hub.held.wait(60)  # the network stalls in the middle of the weights
            asked = time.monotonic()
            running.interrupt()
            stopped = events.wait_for("execution_interrupted", timeout=30)
            assert stopped.time - asked < 1.0
            assert running.wait(first).interrupted
            hub.released.set()
            entry = running.run(graph, client_id=events.client_id)
            assert entry.texts("2") == [expected[EXAMPLE]["GENERATE_TAGS"]["text"]]
            assert (running.models_dir / "LLM" / name / "model.safetensors").is_file()
            progress = [event.data for event in events.all("progress")]
            total = sum(path.stat().st_size for path in demo.iterdir() if path.suffix != ".md")
            assert any(data["max"] == total and 0 < data["value"] <= total for data in progress)


def test_a_broken_catalogue_of_the_users_takes_nothing_else_away(
    comfyui_checkout: Checkout, tmp_path: Path
) -> None:
    broken = tmp_path / "catalogue.json"
    broken.write_text("[{", encoding="utf-8")
    with start_host(
        comfyui_checkout, tmp_path / "base", environment={"PROMPTGEN_CATALOGUE": str(broken)}
    ) as running:
        options = running.object_info("PromptGenTagger")["input"]["required"]["checkpoint"][1]["options"]
        assert "Florence-2-base-PromptGen-v2.0" in options
        picture = running.upload(ROOT / "examples" / EXAMPLE)
        entry = running.run({"1": node("LoadImage", image=picture), "2": tagger(["1", 0])})
        assert entry.error is not None
        assert str(broken) in entry.error["exception_message"]
        assert running.log().count("The checkpoint menus lack the catalogue") == 1
