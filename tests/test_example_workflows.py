"""The example workflows in a real browser on a real host: they open, run, and say what ``promptgen`` says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from .browser import Editor, open_editor
from .comfyui_host import Checkout, Entry, Host, start_host
from .helpers_dev import ROOT
from .paligemma_checkpoints import make_paligemma

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = ROOT / "example_workflows"
TAG, ALL, FLUX, EDIT, ANALYSIS, FOLDER_TAGS, FOLDER_RUN, CROP, READ, INPAINT, PALIGEMMA = NAMES = (
    "Tag one image",
    "Caption and tags at once",
    "Flux image to image with a mixed caption",
    "Edit tags",
    "Read an analysis",
    "Tag a folder",
    "Caption a folder",
    "Detect and crop",
    "Read text with regions",
    "Segment by phrase and inpaint",
    "PaliGemma to Flux",
)
# Where captions are not asked for, another checkpoint is better.
VISION = {CROP, READ, INPAINT}
COMPANION = Path(__file__).parent / "comfyui_companion"
FLUX_FILES = {"clip_l.safetensors", "t5xxl_fp16.safetensors", "flux1-dev.safetensors", "ae.safetensors"}
INPAINT_FILE = "512-inpainting-ema.safetensors"
HEADINGS = {
    "tags": "GENERATE_TAGS",
    "caption": "CAPTION",
    "detailed": "DETAILED_CAPTION",
    "more detailed": "MORE_DETAILED_CAPTION",
    "mixed": "MIXED_CAPTION",
    "analysis": "ANALYZE",
}

Answers = Callable[..., dict[str, dict[str, Any]]]


def read(name: str) -> dict[str, Any]:
    workflow: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return workflow


def node_of(workflow: dict[str, Any], kind: str) -> dict[str, Any]:
    (node,) = (node for node in workflow["nodes"] if node["type"] == kind)
    return dict(node)


def pictures_of(workflow: dict[str, Any]) -> list[str]:
    """The examples that it loads by name."""
    return [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "LoadImage"]


@pytest.fixture(scope="module")
def command_line() -> Answers:
    """Ask ``promptgen caption``: picture, instructions and further arguments; instruction -> record."""

    def ask(picture: str, *instructions: str, arguments: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
        command = [sys.executable, "-m", "promptgen.cli", "caption", str(ROOT / "examples" / picture)]
        done = subprocess.run(
            [*command, "--model", "demo", "--device", "cpu", "--format", "json", *arguments]
            + [part for name in instructions for part in ("--instruction", name)],
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        return {record["instruction"]: record for record in json.loads(done.stdout)}

    return ask


@pytest.fixture
def editor(browser: Browser, host: Host) -> Iterator[Editor]:
    for name in NAMES:
        for picture in pictures_of(read(name)):
            host.upload(ROOT / "examples" / picture)
    with open_editor(browser, host) as opened:
        yield opened


def open_example(editor: Editor, name: str) -> dict[str, Any]:
    """Open it from the host's own template browser's address; nothing is missing, and nothing is changed."""
    workflow = read(name)
    place = f"/api/workflow_templates/{editor.host.checkout.dev.PACK_NAME}/{name}"
    assert editor.js("place => fetch(place).then(answer => answer.json())", f"{place}.json") == workflow
    assert editor.js("place => fetch(place).then(answer => answer.ok)", f"{place}.jpg")
    editor.load(workflow)
    unknown = "app.graph.nodes.filter(n => n.has_errors || !LiteGraph.registered_node_types[n.type]).length"
    assert editor.js(unknown) == 0
    shown = {
        node["id"]: node for node in editor.js("JSON.parse(JSON.stringify(app.graph.serialize()))")["nodes"]
    }
    assert set(shown) == {node["id"] for node in workflow["nodes"]}
    for node in workflow["nodes"]:
        for key in ("type", "pos"):
            assert shown[node["id"]][key] == node[key], node["type"]
        values = node.get("widgets_values") or []  # core's nodes have some more on newer versions
        assert (shown[node["id"]].get("widgets_values") or [])[: len(values)] == values, node["type"]
        for slots in ("inputs", "outputs"):
            mine = [(slot["name"], slot["type"]) for slot in node[slots]]
            assert [(slot["name"], slot["type"]) for slot in shown[node["id"]][slots]] == mine, node["type"]
    links = editor.js("app.graph.nodes.flatMap(n => (n.inputs ?? []).filter(i => i.link != null)).length")
    assert links == len(workflow["links"])
    return workflow


def inputs_of(editor: Editor, kind: str) -> dict[str, Any]:
    """What Run would send for the one node of a type, by the inputs' names."""
    (node,) = (node for node in editor.prompt().values() if node["class_type"] == kind)
    return dict(node["inputs"])


def shown_on(editor: Editor, workflow: dict[str, Any], kind: str) -> str:
    """The text that stands on a node, once it does."""
    number = node_of(workflow, kind)["id"]
    editor.page.wait_for_function(
        "id => app.graph.getNodeById(id).properties.promptgen_text !== undefined", arg=number
    )
    text = editor.js("id => app.graph.getNodeById(id).properties.promptgen_text", number)
    values = editor.panels.evaluate_all("areas => areas.map(area => area.value)")
    assert text in values
    return str(text)


def keep_picture(editor: Editor, name: str) -> None:
    editor.js(
        """() => {
            const places = app.graph.nodes.map(
                ({pos, size}) => [pos[0], pos[1], pos[0] + size[0], pos[1] + size[1]]);
            const [left, top, right, bottom] = [Math.min, Math.min, Math.max, Math.max]
                .map((choose, index) => choose(...places.map(place => place[index])));
            const ds = app.canvas.ds;
            ds.scale = Math.min(1, (innerWidth - 120) / (right - left), (innerHeight - 170) / (bottom - top));
            ds.offset = [80 / ds.scale - left, 130 / ds.scale - top];
            app.canvas.setDirty(true, true);
        }"""
    )
    editor.page.wait_for_timeout(300)  # the texts follow the canvas with the next frames
    editor.picture(f"example-{name.replace(' ', '-')}")


def test_each_has_a_picture_and_a_note_that_says_what_demo_is() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(NAMES)
    assert {path.name for path in FOLDER.iterdir()} == {
        f"{n}{end}" for n in NAMES for end in (".json", ".jpg")
    }
    for name in NAMES:
        workflow = read(name)
        note = node_of(workflow, "MarkdownNote")["widgets_values"][0]
        assert note.startswith(f"**{name}.**")
        assert "only knows drawn shapes" in note
        assert ("Florence-2-base-ft" if name in VISION else "Florence-2-base-PromptGen-v2.0") in note
        assert all((ROOT / "examples" / picture).is_file() for picture in pictures_of(workflow))
        assert "promptgen_text" not in json.dumps(workflow)
        with Image.open(FOLDER / f"{name}.jpg") as picture:
            assert picture.format == "JPEG"
            assert picture.width >= 600


def test_links_agree_with_the_slots_that_they_join() -> None:
    for name in NAMES:
        workflow = read(name)
        nodes = {node["id"]: node for node in workflow["nodes"]}
        for number, origin, out, target, into, kind in workflow["links"]:
            assert number in (nodes[origin]["outputs"][out]["links"] or ()), name
            assert nodes[target]["inputs"][into]["link"] == number, name
            types = nodes[origin]["outputs"][out]["type"], nodes[target]["inputs"][into]["type"]
            assert kind in types
            assert types[0] == types[1] or types[1] == "*"
        assert workflow["last_node_id"] == max(nodes)
        assert workflow["last_link_id"] == max((link[0] for link in workflow["links"]), default=0)


@pytest.mark.comfyui
def test_the_host_offers_them(host: Host) -> None:
    offered = host.get("/api/workflow_templates")[host.checkout.dev.PACK_NAME]
    assert set(offered) == set(NAMES)


@pytest.mark.comfyui
@pytest.mark.slow
def test_tag_one_image(editor: Editor, command_line: Answers) -> None:
    workflow = open_example(editor, TAG)
    inputs = inputs_of(editor, "PromptGenTagger")
    assert inputs.pop("image") == [str(node_of(workflow, "LoadImage")["id"]), 0]
    assert inputs == {
        "checkpoint": "demo", "instruction": "GENERATE_TAGS", "num_beams": 3, "max_new_tokens": 1024,
        "do_sample": False, "temperature": 1, "top_k": 50, "top_p": 1, "seed": 0,
        "prefix": "", "suffix": "", "exclude_tags": "", "replace": "", "underscores": "keep",
    }  # fmt: skip
    entry = run(editor)
    expected = command_line("circle-heart-square.png", "GENERATE_TAGS")["GENERATE_TAGS"]["text"]
    assert texts(entry, workflow, "PromptGenTagger") == [expected]
    assert shown_on(editor, workflow, "PromptGenTagger") == expected
    keep_picture(editor, TAG)


@pytest.mark.comfyui
@pytest.mark.slow
def test_caption_and_tags_at_once(editor: Editor, command_line: Answers) -> None:
    workflow = open_example(editor, ALL)
    entry = run(editor)
    answers = command_line("triangle-heart-turned.jpg", *HEADINGS.values())
    whole = "\n\n".join(f"[{title}]\n{answers[name]['text']}" for title, name in HEADINGS.items())
    assert texts(entry, workflow, "PromptGenCaptions") == [whole]
    assert shown_on(editor, workflow, "PromptGenCaptions") == whole
    previews = {node["title"]: str(node["id"]) for node in workflow["nodes"] if node["type"] == "PreviewAny"}
    for title, number in previews.items():
        assert entry.texts(number) == [answers[HEADINGS[title.lower()]]["text"]]
    assert set(previews) == {"Tags", "Caption", "Analysis"}
    keep_picture(editor, ALL)


@pytest.mark.comfyui
@pytest.mark.slow
def test_edit_tags(editor: Editor, command_line: Answers) -> None:
    workflow = open_example(editor, EDIT)
    inputs = inputs_of(editor, "PromptGenEditTags")
    assert inputs["more_tags"] == "red cross, poster, flat_colors"
    settings = ("prefix", "exclude_tags", "replace", "underscores")
    arguments = [part for key in settings for part in (f"--{key.removesuffix('_tags')}", inputs[key])]
    entry = run(editor)
    plain = command_line("news.png", "GENERATE_TAGS")["GENERATE_TAGS"]["text"]
    edited = command_line("news.png", "GENERATE_TAGS", arguments=tuple(arguments))["GENERATE_TAGS"]["text"]
    assert texts(entry, workflow, "PromptGenTagger") == [plain]
    assert "red cross" in plain  # which more_tags says again
    assert texts(entry, workflow, "PromptGenEditTags") == [f"{edited}, poster, flat colors"]
    assert shown_on(editor, workflow, "PromptGenEditTags") == f"{edited}, poster, flat colors"
    keep_picture(editor, EDIT)


@pytest.mark.comfyui
@pytest.mark.slow
def test_read_an_analysis(editor: Editor, command_line: Answers) -> None:
    workflow = open_example(editor, ANALYSIS)
    on = [name for name, value in inputs_of(editor, "PromptGenAnalyzer").items() if value is True]
    assert on == ["art_style", "text", "background", "body"]
    entry = run(editor)
    answer = command_line("stop.png", "ANALYZE")["ANALYZE"]
    assert texts(entry, workflow, "PromptGenTagger") == [answer["text"]]
    subject = answer["analysis"]["subjects"][0]
    assert texts(entry, workflow, "PromptGenAnalyzer") == [", ".join(subject[name] for name in on)]
    chosen = json.loads(texts(entry, workflow, "PreviewAny")[0])
    assert chosen == {name: subject[name] for name in on}
    keep_picture(editor, ANALYSIS)


@pytest.mark.comfyui
@pytest.mark.slow
def test_tag_a_folder(editor: Editor, tmp_path: Path) -> None:
    workflow = open_example(editor, FOLDER_TAGS)
    assert inputs_of(editor, "PromptGenLoadFolder")["folder"] == "."
    assert inputs_of(editor, "PromptGenSaveCaptions")["folder"] == "captions"
    pictures = ["circle-heart-square.png", "news.png", "stop.png", "triangle-heart-turned.jpg"]
    for name in [*pictures, "star-and-heart.jpg"]:
        shutil.copy(ROOT / "examples" / name, tmp_path)
    (tmp_path / "star-and-heart.jpg").rename(tmp_path / "zebra.jpg")  # the first of the second page
    number = node_of(workflow, "PromptGenLoadFolder")["id"]
    set_folder = "([id, path]) => { app.graph.getNodeById(id).widgets[0].value = path; }"
    editor.js(set_folder, [number, str(tmp_path)])
    entry = run(editor)
    (tmp_path / "zebra.jpg").unlink()
    command = [sys.executable, "-m", "promptgen.cli", "folder", str(tmp_path), "--model", "demo"]
    subprocess.run([*command, "--device", "cpu"], check=True, capture_output=True)
    expected = {file.name: file.read_text() for file in tmp_path.glob("*.txt")}
    assert set(expected) == {f"{Path(name).stem}.txt" for name in pictures}
    written = {file.name: file.read_text() for file in (editor.host.output_dir / "captions").iterdir()}
    assert written == expected
    assert texts(entry, workflow, "PromptGenTagger") == [written[name].strip() for name in sorted(written)]
    assert shown_on(editor, workflow, "PromptGenSaveCaptions").startswith("4 caption files written in ")
    assert inputs_of(editor, "PromptGenLoadFolder")["start"] == 4
    editor.js(set_folder, [number, "."])
    keep_picture(editor, FOLDER_TAGS)


@pytest.mark.comfyui
@pytest.mark.slow
def test_caption_a_folder(editor: Editor, command_line: Answers, tmp_path: Path) -> None:
    workflow = open_example(editor, FOLDER_RUN)
    inputs = inputs_of(editor, "PromptGenCaptionFolder")
    assert (inputs["folder"], inputs["output_folder"]) == (".", "captions")
    shutil.copy(ROOT / "examples" / "stop.png", tmp_path)
    number = node_of(workflow, "PromptGenCaptionFolder")["id"]
    fill = """([id, values]) => { for (const widget of app.graph.getNodeById(id).widgets) {
        if (widget.name in values) widget.value = values[widget.name];
    } }"""
    editor.js(fill, [number, {"folder": str(tmp_path), "output_folder": ""}])
    (told,) = texts(run(editor), workflow, "PromptGenCaptionFolder")
    assert told.startswith("Images: 1 captioned.")
    answers = command_line("stop.png", "GENERATE_TAGS", "CAPTION")
    assert (tmp_path / "stop.tags").read_text() == f"{answers['GENERATE_TAGS']['text']}\n"
    assert (tmp_path / "stop.txt").read_text() == f"{answers['CAPTION']['text']}\n"
    assert (tmp_path / "report.html").is_file()
    assert shown_on(editor, workflow, "PromptGenCaptionFolder") == told
    keep_picture(editor, FOLDER_RUN)


@pytest.mark.comfyui
@pytest.mark.slow
def test_detect_and_crop(editor: Editor, command_line: Answers) -> None:
    workflow = open_example(editor, CROP)
    inputs = inputs_of(editor, "PromptGenVision")
    assert {key: inputs[key] for key in ("checkpoint", "task", "crop_margin")} == {
        "checkpoint": "demo", "task": "OD", "crop_margin": 8,
    }  # fmt: skip
    entry = run(editor)
    record = command_line("circle-heart-square.png", "OD", arguments=("--scores",))["OD"]
    lines = [f"{place}: {one['label']} {one['score']:.2f}" for place, one in enumerate(record["regions"])]
    assert texts(entry, workflow, "PromptGenVision") == ["\n".join(lines)]
    assert shown_on(editor, workflow, "PromptGenVision") == "\n".join(lines)
    overlay, crops = previews(entry, workflow, editor.host)
    assert [picture.size for picture in overlay] == [(268, 274)]
    assert len(crops) == len(lines) == 3
    for picture, region in zip(crops, record["regions"], strict=True):
        left, top, right, bottom = region["box"]
        assert abs(picture.width - (right - left + 16)) <= 2
        assert abs(picture.height - (bottom - top + 16)) <= 2
    keep_picture(editor, CROP)


@pytest.mark.comfyui
@pytest.mark.slow
def test_read_text_with_regions(editor: Editor, command_line: Answers) -> None:
    workflow = open_example(editor, READ)
    assert inputs_of(editor, "PromptGenVision")["checkpoint"] == "Florence-2-base-ft"
    choose_demo(editor, workflow)
    entry = run(editor)
    record = command_line("news.png", "OCR_WITH_REGION")["OCR_WITH_REGION"]
    text, told = (entry.texts(str(node["id"])) for node in workflow["nodes"] if node["type"] == "PreviewAny")
    assert text == [record["text"]]
    answer = json.loads(told[0])
    assert answer["regions"] == record["regions"]
    ((overlay,),) = previews(entry, workflow, editor.host)
    assert overlay.size == (answer["width"], answer["height"])
    keep_picture(editor, READ)


@pytest.mark.comfyui
@pytest.mark.slow
def test_inpainting_without_its_model_still_segments_and_names_what_is_missing(
    editor: Editor, command_line: Answers
) -> None:
    workflow = open_example(editor, INPAINT)
    dialog = editor.page.locator(".p-dialog", has_text="Missing Models")
    dialog.get_by_text(INPAINT_FILE).wait_for()
    editor.page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    inputs = inputs_of(editor, "PromptGenVision")
    task, phrase = "REFERRING_EXPRESSION_SEGMENTATION", "the heart"
    assert (inputs["checkpoint"], inputs["task"], inputs["text_input"]) == (
        "Florence-2-base-ft", task, phrase,
    )  # fmt: skip
    choose_demo(editor, workflow)
    with editor.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")) as posted:
        editor.page.keyboard.press("Control+Enter")
    answer = posted.value.json()
    errors = {error["class_type"]: error for error in answer["node_errors"].values()}
    assert set(errors) == {"CheckpointLoaderSimple"}
    assert INPAINT_FILE in json.dumps(errors)
    entry = editor.host.wait(answer["prompt_id"])
    assert entry.succeeded
    record = command_line("star-and-heart.jpg", task, arguments=("--text-input", phrase))[task]
    assert len(previews(entry, workflow, editor.host)) == 2
    labels = [region["label"] for region in record["regions"]]
    told = texts(entry, workflow, "PromptGenVision")[0].partition("\n\n")[2]
    assert told == ("\n".join(f"{n}: {label}".rstrip() for n, label in enumerate(labels)) or "nothing found")
    origins = {link[0]: link[1:3] for link in workflow["links"]}
    encode = {
        slot["name"]: origins.get(slot["link"]) for slot in node_of(workflow, "VAEEncodeForInpaint")["inputs"]
    }
    seeing = node_of(workflow, "PromptGenVision")
    assert encode["mask"] == [seeing["id"], 1]
    assert seeing["outputs"][1]["name"] == "mask"
    scaled = node_of(workflow, "ImageScale")
    assert encode["pixels"] == [scaled["id"], 0]
    assert not any(side % 8 for side in scaled["widgets_values"][1:3]), "else the encoder cuts edges off"
    put = {
        slot["name"]: origins.get(slot["link"])
        for slot in node_of(workflow, "ImageCompositeMasked")["inputs"]
    }
    assert put["destination"] == [scaled["id"], 0], "what is not masked stays as it was"
    assert put["source"] == [node_of(workflow, "VAEDecode")["id"], 0]
    assert put["mask"] == [seeing["id"], 1]
    keep_picture(editor, INPAINT)


@pytest.mark.comfyui
@pytest.mark.slow
def test_flux_without_its_models_still_captions_and_names_what_is_missing(
    editor: Editor, command_line: Answers
) -> None:
    workflow = open_example(editor, FLUX)
    dialog = editor.page.locator(".p-dialog", has_text="Missing Models")
    dialog.wait_for()
    for name in FLUX_FILES:
        dialog.get_by_text(name).wait_for()
    editor.page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    with editor.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")) as posted:
        editor.page.keyboard.press("Control+Enter")
    answer = posted.value.json()
    errors = {error["class_type"]: error for error in answer["node_errors"].values()}
    assert set(errors) == {"DualCLIPLoader", "UNETLoader", "VAELoader"}
    assert all(name in json.dumps(errors) for name in FLUX_FILES)
    entry = editor.host.wait(answer["prompt_id"])
    assert entry.succeeded
    mixed = command_line("star-and-heart.jpg", "MIXED_CAPTION")["MIXED_CAPTION"]
    assert texts(entry, workflow, "PromptGenTagger") == [mixed["text"]]
    parts = f"[prose]\n{mixed['prose']}\n\n[tags]\n{', '.join(mixed['tags'])}"
    assert texts(entry, workflow, "PromptGenSplitCaption") == [parts]
    assert shown_on(editor, workflow, "PromptGenSplitCaption") == parts
    keep_picture(editor, FLUX)


@pytest.mark.comfyui
@pytest.mark.slow
def test_flux_encodes_with_text_encoders_in_place_of_the_missing_ones(
    browser: Browser, comfyui_checkout: Checkout, command_line: Answers, tmp_path: Path
) -> None:
    """Real ones, but tiny and random: what goes into them is what counts here."""
    shutil.copytree(COMPANION, tmp_path / "custom_nodes" / "companion")
    shutil.copytree(ROOT / "examples", tmp_path / "input")
    packs = ["--whitelist-custom-nodes", comfyui_checkout.dev.PACK_NAME, "companion"]
    workflow = read(FLUX)
    with start_host(comfyui_checkout, tmp_path, arguments=packs) as own, open_editor(browser, own) as editor:
        editor.load(workflow)
        prompt = editor.prompt()
        encoder = str(node_of(workflow, "PromptGenFluxTextEncode")["id"])
        clip = prompt[encoder]["inputs"]["clip"][0]
        kept = {key: prompt[key] for key in (encoder, *upstream(prompt, encoder))}
        kept[clip] = {"class_type": "TestClip", "inputs": {"kind": "flux"}}
        for name, output in (("t5xxl", 2), ("clip_l", 3)):
            kept[name] = {"class_type": "TestTexts", "inputs": {"texts": [encoder, output]}}
        entry = own.run(kept)
        assert entry.succeeded, entry.error
    mixed = command_line("star-and-heart.jpg", "MIXED_CAPTION")["MIXED_CAPTION"]
    assert entry.outputs["t5xxl"]["texts"] == [mixed["prose"]]
    assert entry.outputs["clip_l"]["texts"] == [", ".join(mixed["tags"])]
    positive, negative = (node_of(workflow, "KSampler")["inputs"][index]["link"] for index in (1, 2))
    origins = {link[0]: link[1:3] for link in workflow["links"]}
    assert [origins[positive], origins[negative]] == [[int(encoder), 0], [int(encoder), 1]]


@pytest.mark.comfyui
@pytest.mark.slow
def test_paligemma_writes_for_both_encoders_of_flux(
    browser: Browser, comfyui_checkout: Checkout, tmp_path: Path
) -> None:
    """A tiny random checkpoint in the place of the published one, and such text encoders: what goes into them
    is what counts here."""
    workflow = read(PALIGEMMA)
    checkpoint = "paligemma-longprompt-v1-safetensors"
    model = make_paligemma(tmp_path / "models" / "LLM" / checkpoint, text={"max_position_embeddings": 2048})
    shutil.copytree(COMPANION, tmp_path / "custom_nodes" / "companion")
    shutil.copytree(ROOT / "examples", tmp_path / "input")
    packs = ["--whitelist-custom-nodes", comfyui_checkout.dev.PACK_NAME, "companion"]
    with start_host(comfyui_checkout, tmp_path, arguments=packs) as own, open_editor(browser, own) as editor:
        open_example(editor, PALIGEMMA)
        editor.page.locator(".p-dialog", has_text="Missing Models").wait_for()
        editor.page.keyboard.press("Escape")
        inputs = inputs_of(editor, "PromptGenPaliGemma")
        assert {key: inputs[key] for key in ("checkpoint", "instruction", "preset", "quantization")} == {
            "checkpoint": checkpoint, "instruction": "LONG_PROMPT", "preset": "auto", "quantization": "none",
        }  # fmt: skip
        assert [inputs[key] for key in ("temperature", "seed", "retries", "remove_brackets")] == [
            0.7, 0, 10, "()[]{}",
        ]  # fmt: skip
        with editor.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")) as posted:
            editor.page.keyboard.press("Control+Enter")
        entry = own.wait(posted.value.json()["prompt_id"])  # all that does not need Flux's files
        assert entry.succeeded, entry.error
        (shown,) = texts(entry, workflow, "PromptGenPaliGemma")
        assert shown_on(editor, workflow, "PromptGenPaliGemma") == shown
        keep_picture(editor, PALIGEMMA)

        prompt = editor.prompt()
        encoder = str(node_of(workflow, "PromptGenFluxTextEncode")["id"])
        clip = prompt[encoder]["inputs"]["clip"][0]
        kept = {key: prompt[key] for key in (encoder, *upstream(prompt, encoder))}
        kept[clip] = {"class_type": "TestClip", "inputs": {"kind": "flux"}}
        for name, output in (("t5xxl", 2), ("clip_l", 3)):
            kept[name] = {"class_type": "TestTexts", "inputs": {"texts": [encoder, output]}}
        entry = own.run(kept)
        assert entry.succeeded, entry.error
    command = [
        sys.executable,
        "-m",
        "promptgen.cli",
        "caption",
        str(ROOT / "examples" / "star-and-heart.jpg"),
    ]
    how = ["-i", "LONG_PROMPT", "--preset", "long-prompt", "--seed", "0", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--model", str(model), *how, "--format", "json"],
        capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    (record,) = json.loads(done.stdout)
    assert shown.endswith(record["text"])
    prose, tags = record["prose"], ", ".join(record["tags"])
    assert entry.outputs["t5xxl"]["texts"] == [prose or tags]
    assert entry.outputs["clip_l"]["texts"] == [tags or prose]


def upstream(prompt: dict[str, Any], key: str) -> set[str]:
    """The nodes that a node of a prompt needs."""
    sources = {value[0] for value in prompt[key]["inputs"].values() if isinstance(value, list)}
    return sources.union(*(upstream(prompt, source) for source in sources))


def choose_demo(editor: Editor, workflow: dict[str, Any]) -> None:
    """The only model at hand, in place of one that would be downloaded."""
    number = node_of(workflow, "PromptGenVision")["id"]
    editor.js(
        """id => {
            const widgets = app.graph.getNodeById(id).widgets;
            widgets.find(widget => widget.name === "checkpoint").value = "demo";
        }""",
        number,
    )


def previews(entry: Entry, workflow: dict[str, Any], host: Host) -> list[list[Image.Image]]:
    """What each node that shows pictures was given, in the order of the workflow."""
    nodes = [node for node in workflow["nodes"] if node["type"] in ("PreviewImage", "MaskPreview")]
    files = [entry.outputs[str(node["id"])]["images"] for node in nodes]
    return [
        [Image.open(host.temp_dir / file["subfolder"] / file["filename"]) for file in some] for some in files
    ]


def run(editor: Editor) -> Entry:
    entry = Entry(editor.run())
    assert entry.succeeded, entry.error
    return entry


def texts(entry: Entry, workflow: dict[str, Any], kind: str) -> list[str]:
    return entry.texts(str(node_of(workflow, kind)["id"]))
