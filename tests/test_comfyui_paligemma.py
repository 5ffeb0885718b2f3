"""PaliGemmas and quantised models in a real ComfyUI: what the command writes, on tiny random checkpoints."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from promptgen.captioning import PRESETS
from promptgen.captioning.instructions import PALIGEMMA, instructions_of

from .comfyui_host import Checkout, Entry, Host, HostError, start_host
from .command_line import Promptgen
from .paligemma_checkpoints import make_paligemma, pictures

pytestmark = pytest.mark.comfyui

COMPANION = Path(__file__).parent / "comfyui_companion"
WITH_COMPANION = ["--whitelist-custom-nodes", "promptgen-tagger", "companion"]
TINY, TINY_2, DETECTING = "tiny one", "tiny-2", "detecting"
LISTED = "mypali"  # in the catalogue of the user alone
ABSENT = "paligemma-longprompt-v1-safetensors"
LONG = {"max_position_embeddings": 2048}  # places for long answers
NAMES = ("one.png", "two.png", "three.png")
ASKED = {
    "CAPTION": {"language": "de"},
    "DESCRIBE": {},
    "OCR": {},
    "VQA": {"text_input": "where is the cat"},
    "PROMPT": {"text_input": "caption the red boat"},
}
"""Instructions, and what is given with them."""
WATERFALL = (
    "waterfall, no_humans, outdoors, scenery, tree, lake, rock, river, water, nature, plant, sky, grass, "
    "day, island, blue_sky, solo, mountain, forest, ",
    "a peaceful and natural landscape image of a waterfall with a pond nestled in the woods has been created "
    "using digital art techniques. the vibrant green foliage of the trees, lush pink flowers in full bloom, "
    "and the sparkling waters ofthe lagoon create a sense of harmony and tranquility that's hard to put into "
    "words.",
)
"""The answer on the model card of the long-prompt checkpoint: its tags, and where its prose begins."""


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def captioner(image: Sequence[Any], instruction: str = "LONG_PROMPT", **inputs: Any) -> dict[str, Any]:
    return node("PromptGenPaliGemma", image=image, instruction=instruction, **{"checkpoint": TINY, **inputs})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        TINY: make_paligemma(folder / TINY, text=LONG),
        TINY_2: make_paligemma(folder / TINY_2, generation=2, shards=True, text=LONG),
        DETECTING: make_paligemma(folder / DETECTING, locations=True),
    }


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of one size."""
    folder = tmp_path_factory.mktemp("album")
    for name, picture in zip(NAMES, pictures(len(NAMES)), strict=True):
        picture.resize((48, 40)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def own(
    comfyui_checkout: Checkout,
    checkpoints: Mapping[str, Path],
    album: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Host]:
    """A host with the checkpoints among its models, and the nodes of ``comfyui_companion``."""
    base = tmp_path_factory.mktemp(f"paligemma-{comfyui_checkout.version}")
    shutil.copytree(COMPANION, base / "custom_nodes" / "companion")
    shutil.copytree(album, base / "input")
    for name, folder in checkpoints.items():
        shutil.copytree(folder, base / "models" / "LLM" / name)
    catalogue = base / "models.json"
    catalogue.write_text(json.dumps({LISTED: {"folder": str(checkpoints[TINY])}}), encoding="utf-8")
    environment = {"PROMPTGEN_CATALOGUE": str(catalogue)}
    with start_host(comfyui_checkout, base, arguments=WITH_COMPANION, environment=environment) as running:
        yield running


@pytest.fixture
def command(promptgen: Promptgen, album: Path, checkpoints: Mapping[str, Path]) -> Any:
    """What ``promptgen caption`` answers about all pictures: one record for each."""

    def ask(*arguments: str, checkpoint: str = TINY) -> list[dict[str, Any]]:
        files = [str(album / name) for name in NAMES]
        asked = ("--model", str(checkpoints[checkpoint]), "--device", "cpu", "--format", "json", *arguments)
        done = promptgen("caption", *files, *asked)
        assert done.status == 0, done.stderr
        records: list[dict[str, Any]] = json.loads(done.stdout)
        return records

    return ask


def batch() -> dict[str, Any]:
    return node("TestPictures", files="\n".join(NAMES), form="batch", mode="RGB")


def outputs(own: Host, asking: dict[str, Any], **more: dict[str, Any]) -> tuple[Entry, list[list[str]]]:
    """The history entry, and what is on the node's outputs: captions, prose and tags."""
    shown = {f"out{index}": node("TestTexts", texts=["ask", index]) for index in range(3)}
    entry = own.run({"images": batch(), "ask": asking, **shown, **more})
    assert entry.succeeded, entry.error and entry.error["exception_message"]
    return entry, [entry.outputs[f"out{index}"]["texts"] for index in range(3)]


def error_of(own: Host, asking: dict[str, Any], **more: dict[str, Any]) -> str:
    """Why it failed: hosts that check menus refuse some of it when it is queued."""
    try:
        entry = own.run({"images": batch(), "ask": asking, **more})
    except HostError as refused:
        return str(refused)
    assert entry.error is not None
    return str(entry.error["exception_message"])


@pytest.mark.parametrize("checkpoint", [TINY, TINY_2])
def test_a_batch_gets_the_long_prompts_that_the_command_writes(
    own: Host, command: Any, checkpoint: str
) -> None:
    entry, (captions, prose, tags) = outputs(
        own, captioner(["images", 0], checkpoint=checkpoint, seed=7, min_words=2, retries=3)
    )
    records = command(
        "-i", "LONG_PROMPT", "--preset", "long-prompt", "--seed", "7", "--min-words", "2", "--retries", "3",
        checkpoint=checkpoint,
    )  # fmt: skip
    assert len(set(captions)) == len(NAMES)
    assert captions == [record["text"] for record in records]
    assert prose == [record["prose"] for record in records]
    assert tags == [", ".join(record["tags"]) for record in records]
    assert [text.split("\n\n")[-1] for text in entry.texts("ask")] == captions


@pytest.mark.parametrize("instruction", ASKED)
def test_instructions_get_the_most_likely_answer_of_the_command(
    own: Host, command: Any, instruction: str
) -> None:
    given = ASKED[instruction]
    _, (captions, prose, tags) = outputs(
        own, captioner(["images", 0], instruction, max_new_tokens=24, **given)
    )
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    records = command("-i", instruction, "--max-new-tokens", "24", "--num-beams", "1", *flags)
    assert captions == [record["text"] for record in records]
    assert prose == captions
    assert tags == [""] * len(NAMES)


def test_the_preset_says_whether_the_settings_count(own: Host, command: Any) -> None:
    settings = {"seed": 3, "max_new_tokens": 32, "retries": 0}
    plain = [record["text"] for record in command("-i", "LONG_PROMPT", "--max-new-tokens", "32")]
    greedy = [record["text"] for record in command("-i", "CAPTION", "--max-new-tokens", "32")]
    drawn = command(
        "-i", "CAPTION", "--preset", "long-prompt", "--seed", "3", "--max-new-tokens", "32", "--retries", "0"
    )
    asked = {
        "none": (captioner(["images", 0], preset="none", **settings), plain),
        "auto": (captioner(["images", 0], "CAPTION", preset="auto", **settings), greedy),
        "long-prompt": (
            captioner(["images", 0], "CAPTION", preset="long-prompt", **settings),
            [record["text"] for record in drawn],
        ),
    }
    for name, (asking, expected) in asked.items():
        _, (captions, *_) = outputs(own, asking)
        assert captions == expected, name
    assert greedy != asked["long-prompt"][1]


@pytest.mark.parametrize("quantization", ["8", "4"])
def test_fewer_bits_by_the_node_and_by_the_loader_are_one_model(
    own: Host, command: Any, quantization: str
) -> None:
    own.free(unload_models=True)
    common = {"preset": "none", "max_new_tokens": 24}
    loader = node(
        "PromptGenModelLoader", checkpoint=TINY, precision="auto", device="auto", quantization=quantization
    )
    entry, (captions, *_) = outputs(
        own,
        captioner(["images", 0], "CAPTION", quantization=quantization, **common),
        load=loader,
        again=captioner(["images", 0], "CAPTION", checkpoint="not-there", model=["load", 0], **common),
        held=node("TestLoadedModels", after=["again", 0]),
    )
    records = command("-i", "CAPTION", "--max-new-tokens", "24", "--quantization", quantization)
    assert captions == [record["text"] for record in records]
    assert entry.texts("again") == captions
    loaded = json.loads(entry.outputs["held"]["loaded"][0])
    assert [name for name, *_ in loaded].count(TINY) <= 2  # the whole one may be there as well
    assert f"{quantization} bits" in own.log()


def test_a_quantised_florence_2_at_the_tagger(own: Host, promptgen: Promptgen, album: Path) -> None:
    for quantization in ("8", "4"):
        entry = own.run(
            {
                "images": batch(),
                "load": node(
                    "PromptGenModelLoader", checkpoint="demo", precision="fp32", device="cpu",
                    quantization=quantization,
                ),
                "tag": node(
                    "PromptGenTagger", image=["images", 0], checkpoint="demo", instruction="CAPTION",
                    model=["load", 0],
                ),
            }
        )  # fmt: skip
        assert entry.succeeded, entry.error
        how = ("--dtype", "fp32", "--device", "cpu", "--quantization", quantization, "--format", "json")
        done = promptgen("caption", *(str(album / name) for name in NAMES), "--model", "demo",
                         "-i", "CAPTION", *how)  # fmt: skip
        assert entry.texts("tag") == [record["text"] for record in json.loads(done.stdout)]


@pytest.mark.parametrize(
    ("inputs", "flags"),
    [
        ({"num_beams": 1, "max_new_tokens": 24}, ["--num-beams", "1", "--max-new-tokens", "24"]),
        ({"preset": "long-prompt", "seed": 5}, ["--preset", "long-prompt", "--seed", "5"]),
    ],
    ids=["own settings", "preset"],
)
def test_a_folder_run_with_the_model_of_the_loader(
    own: Host, command: Any, album: Path, tmp_path: Path, inputs: dict[str, Any], flags: list[str]
) -> None:
    folder = shutil.copytree(album, tmp_path / "folder")
    entry = own.run(
        {
            "load": node("PromptGenModelLoader", checkpoint=TINY, quantization="8"),
            "run": node(
                "PromptGenCaptionFolder", folder=str(folder), checkpoint="demo", instruction="GENERATE_TAGS",
                instructions="CAPTION:txt", model=["load", 0], **inputs,
            ),
        }
    )  # fmt: skip
    assert entry.succeeded, entry.error
    records = command("-i", "CAPTION", "--quantization", "8", *flags)
    for name, record in zip(NAMES, records, strict=True):
        text = (folder / name).with_suffix(".txt").read_text(encoding="utf-8")
        assert text.strip() == record["text"].strip()


def test_an_answer_that_is_kept_though_it_falls_short_says_so(own: Host) -> None:
    asking = captioner(["images", 0], min_words=500, retries=2, max_new_tokens=12)
    entry, (captions, *_) = outputs(own, asking)
    for number, (told, caption) in enumerate(zip(entry.texts("ask"), captions, strict=True), start=1):
        note, _, rest = told.partition("\n\n")
        assert note.startswith("Kept after 3 tries: ")
        assert note.endswith(" of at least 500.")
        assert rest == caption
        assert f"image {number} of {len(NAMES)}: {note}" in own.log()
    entry, (captions, *_) = outputs(own, {**asking, "inputs": {**asking["inputs"], "do_sample": False}})
    assert all(told.startswith("Kept: ") for told in entry.texts("ask"))  # asked once


def test_a_language_stays_where_it_is_while_an_instruction_is_chosen_that_takes_none(own: Host) -> None:
    answers = [
        outputs(own, captioner(["images", 0], language=language, preset="none", max_new_tokens=12))[1]
        for language in ("en", "de")
    ]
    assert answers[0] == answers[1]


def test_flux_gets_prose_and_tags(own: Host) -> None:
    entry, (captions, prose, tags) = outputs(
        own,
        captioner(["images", 0], seed=7, retries=0),
        clip=node("TestClip", kind="flux"),
        flux=node("PromptGenFluxTextEncode", clip=["clip", 0], caption=["ask", 0], order="tags first"),
        t5=node("TestTexts", texts=["flux", 2]),
        l=node("TestTexts", texts=["flux", 3]),
    )
    parts = list(zip(prose, tags, strict=True))
    assert len(parts) == len(captions) == len(NAMES)
    assert entry.outputs["t5"]["texts"] == [sentences or words for sentences, words in parts]
    assert entry.outputs["l"]["texts"] == [words or sentences for sentences, words in parts]


def test_flux_gets_the_published_example(own: Host) -> None:
    tags, prose = WATERFALL
    entry = own.run(
        {
            "clip": node("TestClip", kind="flux"),
            "ours": node("PromptGenFluxTextEncode", clip=["clip", 0], caption=tags + prose, guidance=2.5),
            "core": node(
                "CLIPTextEncodeFlux", clip=["clip", 0], clip_l=tags.strip(", "), t5xxl=prose, guidance=2.5
            ),
            "same": node("TestSameConditioning", a=["ours", 0], b=["core", 0]),
            "t5": node("TestTexts", texts=["ours", 2]),
            "l": node("TestTexts", texts=["ours", 3]),
        }
    )
    assert entry.succeeded, entry.error
    assert entry.outputs["t5"]["texts"] == [prose]
    assert entry.outputs["l"]["texts"] == [tags.strip(", ")]
    assert json.loads(entry.outputs["same"]["facts"][0])["same"]


def test_what_it_detects_is_at_the_vision_node(own: Host, command: Any) -> None:
    task, phrase = "OPEN_VOCABULARY_DETECTION", "cat ; dog"
    entry, (captions, prose, tags) = outputs(
        own,
        captioner(["images", 0], task, checkpoint=DETECTING, text_input=phrase, max_new_tokens=48),
        load=node("PromptGenModelLoader", checkpoint=DETECTING),
        see=node(
            "PromptGenVision", image=["images", 0], checkpoint="demo", task=task, text_input=phrase,
            select="", threshold=0.0, num_beams=1, max_new_tokens=48, model=["load", 0],
        ),
        json=node("TestTexts", texts=["see", 4]),
    )  # fmt: skip
    flags = ("-i", task, "--text-input", phrase, "--max-new-tokens", "48", "--num-beams", "1")
    records = command(*flags, checkpoint=DETECTING)
    assert captions == [record["text"] for record in records]
    assert prose == tags == [""] * len(NAMES)
    seen = [json.loads(text)["regions"] for text in entry.outputs["json"]["texts"]]
    assert seen == [record["regions"] for record in records]


def test_nobody_says_what_an_entry_of_the_users_own_was_not_trained_on(own: Host) -> None:
    see = node(
        "PromptGenVision", image=["images", 0], checkpoint="demo", task="OPEN_VOCABULARY_DETECTION",
        text_input="cat", select="", threshold=0.0, num_beams=1, max_new_tokens=4, model=["load", 0],
    )  # fmt: skip
    load = node("PromptGenModelLoader", checkpoint=LISTED)
    entry, _ = outputs(own, captioner(["images", 0], preset="none", max_new_tokens=4), load=load, see=see)
    assert "was not trained on" not in "".join(entry.texts("see"))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"instruction": "GENERATE_TAGS"}, "LONG_PROMPT"),
        ({"instruction": "PAINT_IT"}, "PAINT_IT"),
        ({"instruction": "VQA"}, "Write into 'text_input'"),
        ({"instruction": "CAPTION", "language": "klingon"}, "'klingon'"),
        ({"preset": "short"}, "preset"),
        ({"quantization": "5"}, "quantization"),
        ({"remove_brackets": "((["}, "remove_brackets"),
        ({"checkpoint": "some-llava"}, "some-llava"),
    ],
)
def test_what_is_wrong_is_said(own: Host, inputs: dict[str, Any], said: str) -> None:
    assert said in error_of(own, captioner(["images", 0], **inputs))


def test_a_paligemma_at_the_tagger_captions_and_does_nothing_that_it_cannot(own: Host, command: Any) -> None:
    load = node("PromptGenModelLoader", checkpoint=TINY)

    def tagger(instruction: str) -> dict[str, Any]:
        return node(
            "PromptGenTagger", image=["images", 0], checkpoint="demo", instruction=instruction,
            num_beams=1, max_new_tokens=24, model=["load", 0],
        )  # fmt: skip

    entry = own.run({"images": batch(), "load": load, "tag": tagger("CAPTION")})
    assert entry.succeeded, entry.error
    records = command("-i", "CAPTION", "--max-new-tokens", "24", "--num-beams", "1")
    assert entry.texts("tag") == [record["text"] for record in records]
    message = error_of(own, tagger("GENERATE_TAGS"), load=load)
    assert "GENERATE_TAGS is for Florence-2" in message
    assert "LONG_PROMPT" in message


def test_a_florence_2_at_the_node_says_what_it_is_not(own: Host) -> None:
    load = node("PromptGenModelLoader", checkpoint="demo")
    message = error_of(own, captioner(["images", 0], model=["load", 0]), load=load)
    assert "LONG_PROMPT is for PaliGemma" in message
    assert "MIXED_CAPTION" in message


def test_bits_and_precisions_that_do_not_go_together_say_what_would(own: Host) -> None:
    for inputs, said in (
        ({"checkpoint": "demo", "precision": "int8", "quantization": "8"}, "int8"),
        ({"checkpoint": TINY, "precision": "fp16"}, "bf16"),
        # which is not there, and not downloaded for that
        ({"checkpoint": ABSENT, "precision": "fp16"}, "cannot be loaded as fp16"),
        ({"checkpoint": "Florence-2-large", "precision": "int8", "quantization": "8"}, "int8"),
    ):
        load = node("PromptGenModelLoader", **inputs)
        tag = node(
            "PromptGenTagger", image=["images", 0], checkpoint="demo", instruction="CAPTION",
            model=["load", 0],
        )  # fmt: skip
        assert said in error_of(own, tag, load=load)


def test_without_bitsandbytes_the_message_says_how_to_get_it(
    comfyui_checkout: Checkout, checkpoints: Mapping[str, Path], album: Path, tmp_path: Path
) -> None:
    base, absent = tmp_path / "base", tmp_path / "absent"
    shutil.copytree(album, base / "input")
    shutil.copytree(checkpoints[TINY], base / "models" / "LLM" / TINY)
    absent.mkdir()
    (absent / "bitsandbytes.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'bitsandbytes'\", name='bitsandbytes')\n"
    )
    with start_host(comfyui_checkout, base, environment={"PYTHONPATH": str(absent)}) as running:
        load = node("LoadImage", image=NAMES[0])

        def ask(quantization: str, checkpoint: str = TINY) -> Entry:
            asking = captioner(
                ["1", 0], preset="none", max_new_tokens=8, quantization=quantization, checkpoint=checkpoint
            )
            return running.run({"1": load, "2": asking})

        for checkpoint in (TINY, ABSENT):  # the latter is not downloaded for that
            error = ask("4", checkpoint).error
            assert error is not None
            assert "bitsandbytes" in error["exception_message"]
            assert "pip install" in error["exception_message"]
        entry = ask("8")
        assert entry.succeeded, entry.error


def test_progress_moves_and_cancel_stops_between_tokens_and_tries(own: Host) -> None:
    asking = captioner(["images", 0], min_words=1000, retries=100, seed=99, no_repeat_ngram_size=0)
    with own.events() as events:
        prompt_id = own.queue({"images": batch(), "ask": asking}, client_id=events.client_id)
        events.wait_for("progress", timeout=60)
        time.sleep(0.5)  # some tries later
        asked = time.monotonic()
        own.interrupt()
        stopped = events.wait_for("execution_interrupted", timeout=30)
        values = [event.data["value"] for event in events.all("progress", prompt_id)]
    assert stopped.time - asked < 1.0
    assert own.wait(prompt_id).interrupted
    assert values == sorted(values)
    _, (captions, *_) = outputs(own, captioner(["images", 0], retries=0))
    assert len(captions) == len(NAMES)  # the model is usable


def test_menus_offer_what_their_nodes_can_use(own: Host) -> None:
    def menu(kind: str) -> set[str]:
        info = own.object_info(kind)["input"]
        return set(info["required"]["checkpoint"][1]["options"])

    published = "paligemma-longprompt-v1-safetensors"
    assert {published, TINY, TINY_2, LISTED} <= menu("PromptGenPaliGemma")
    assert not {"demo", "Florence-2-base-PromptGen-v2.0"} & menu("PromptGenPaliGemma")
    for kind in ("PromptGenTagger", "PromptGenCaptions", "PromptGenVision", "PromptGenCaptionFolder"):
        assert "demo" in menu(kind)
        assert not {published, TINY, TINY_2, LISTED} & menu(kind)
    assert {published, TINY, TINY_2, "demo"} <= menu("PromptGenModelLoader")
    instructions = own.object_info("PromptGenPaliGemma")["input"]["required"]["instruction"][1]["options"]
    assert sorted(instructions) == sorted(instructions_of(PALIGEMMA))


def test_a_new_node_has_the_settings_of_the_preset(own: Host) -> None:
    inputs = own.object_info("PromptGenPaliGemma")["input"]["optional"]
    values = {name: options["default"] for name, (_, options) in inputs.items() if "default" in options}
    preset = PRESETS["long-prompt"]
    generation = {name: values[name] for name in preset.generation.given()}
    assert generation == preset.generation.given()
    for name in ("complete_sentences", "remove_characters", "remove_brackets", "max_word_length",
                 "drop_underscored"):  # fmt: skip
        assert values[name] == getattr(preset.cleaning, name)
    assert values["retries"] == preset.retries.limit
    assert values["min_words"] == preset.retries.min_words
    assert values["retry_words"] == ", ".join(preset.retries.retry_words)
    assert (values["preset"], values["quantization"], values["language"]) == ("auto", "none", "en")


def test_old_workflows_of_the_loader_find_their_values_where_they_were(own: Host) -> None:
    info = own.object_info("PromptGenModelLoader")["input"]
    widgets = [
        name
        for name, (kind, *_) in {**info["required"], **info["optional"]}.items()
        if kind != "PROMPTGEN_LORA"
    ]
    assert widgets == ["checkpoint", "precision", "device", "quantization"]
