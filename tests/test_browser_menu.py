"""Captioning from the right-click menu, in a real browser on a real host."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from .browser import Editor, workflow
from .comfyui_host import Entry, Host
from .helpers_dev import ROOT

if TYPE_CHECKING:
    pass

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]
LABEL = "Caption with PromptGen"
TAGGER, LOADER, BATCH, PREVIEW = 1, 11, 40, 41


@pytest.fixture
def picture(host: Host) -> str:
    return host.upload(ROOT / "examples" / "triangle-heart-turned.jpg")


@pytest.fixture
def expected(host: Host, picture: str) -> Callable[[str], str]:
    """What the Tagger says of the picture on the host itself."""

    def ask(instruction: str) -> str:
        image = {"class_type": "LoadImage", "inputs": {"image": picture}}
        defaults = {
            name: spec[1]["default"]
            for name, spec in host.object_info("PromptGenTagger")["input"]["required"].items()
            if len(spec) > 1 and "default" in spec[1]
        }
        inputs = {**defaults, "image": ["1", 0], "checkpoint": "demo", "instruction": instruction}
        entry = host.run({"1": image, "2": {"class_type": "PromptGenTagger", "inputs": inputs}})
        (text,) = entry.texts("2")
        return text

    return ask


def loader_only(picture: str) -> dict[str, Any]:
    whole = workflow([picture])
    (loader,) = [node for node in whole["nodes"] if node["type"] == "LoadImage"]
    loader["outputs"] = []
    return {**whole, "nodes": [loader], "links": []}


def many_frames(picture: str, count: int, last: str) -> dict[str, Any]:
    """The picture ``count`` times as one batch, shown by a node of type ``last``, id 41."""
    content = loader_only(picture)
    content["nodes"][0]["outputs"] = [{"name": "IMAGE", "type": "IMAGE", "links": [1]}]
    content["nodes"] += [
        {
            "id": BATCH,
            "type": "RepeatImageBatch",
            "pos": [420, 140],
            "size": [200, 80],
            "inputs": [{"name": "image", "type": "IMAGE", "link": 1}],
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [2]}],
            "widgets_values": [count],
        },
        {
            "id": PREVIEW,
            "type": last,
            "pos": [680, 140],
            "size": [300, 400],
            "inputs": [{"name": "images", "type": "IMAGE", "link": 2}],
        },
    ]
    content["links"] = [[1, LOADER, 0, BATCH, 0, "IMAGE"], [2, BATCH, 0, PREVIEW, 0, "IMAGE"]]
    return content


def choose_checkpoint(editor: Editor, name: str) -> None:
    editor.js("name => app.extensionManager.setting.set('PromptGen.MenuCheckpoint', name)", name)


def latest(host: Host) -> Entry:
    """The last history entry."""
    history = host.get("/history?max_items=1")
    return Entry(next(iter(history.values())))


def wait_for_status(editor: Editor, text: str) -> None:
    editor.dialog.get_by_role("status").filter(has_text=text).wait_for()


def test_the_entry_is_there_once_where_an_image_is_shown(editor: Editor, host: Host, picture: str) -> None:
    editor.load(workflow([picture]))
    entries = editor.menu(LOADER)
    assert [entry for entry in entries if LABEL in entry] == [LABEL]
    editor.page.locator(".litemenu-entry", has_text=LABEL).click()
    submenu = editor.page.locator(".litecontextmenu").last
    instructions = host.object_info("PromptGenTagger")["input"]["required"]["instruction"]
    assert submenu.locator(".litemenu-entry").all_inner_texts() == instructions[1]["options"]
    editor.picture("menu")
    editor.close_menu()
    assert LABEL not in editor.menu(TAGGER)


def test_it_is_there_for_a_node_that_previews(editor: Editor, picture: str) -> None:
    editor.load(many_frames(picture, 1, "PreviewImage"))
    assert LABEL not in editor.menu(PREVIEW)
    editor.close_menu()
    editor.run()
    editor.page.wait_for_function(f"app.graph.getNodeById({PREVIEW}).imgs?.length")
    assert editor.menu(PREVIEW).count(LABEL) == 1


def test_the_caption_is_in_the_window_and_on_the_clipboard(
    editor: Editor, picture: str, expected: Callable[[str], str]
) -> None:
    wanted = expected("MIXED_CAPTION")
    editor.load(workflow([picture], checkpoint="demo"))  # its Tagger says which checkpoint
    editor.caption(LOADER, "MIXED_CAPTION")
    wait_for_status(editor, "Copied to the clipboard.")
    assert editor.dialog.locator("textarea").input_value() == wanted
    assert editor.clipboard() == wanted
    editor.picture("caption-window")
    editor.js("navigator.clipboard.writeText('something else')")
    editor.dialog.get_by_role("button", name="Copy", exact=True).click()
    editor.page.get_by_text("Copied", exact=True).wait_for()
    assert editor.clipboard() == wanted
    editor.dialog.get_by_role("button", name="Close").click()
    editor.dialog.wait_for(state="detached")


def test_nodes_of_the_graph_do_not_take_it_for_their_own(editor: Editor, picture: str) -> None:
    editor.load(workflow([picture], instruction="GENERATE_TAGS"))
    before = editor.js("app.graph.serialize()")
    editor.caption(LOADER, "CAPTION")
    wait_for_status(editor, "Copied")
    assert editor.panels.count() == 0
    assert editor.js("app.graph.serialize()")["nodes"] == before["nodes"]
    assert editor.page.locator(".p-dialog").count() == 0


def test_results_of_the_open_workflow_stay_cached(editor: Editor, picture: str) -> None:
    editor.load(workflow([picture]))
    editor.run()
    editor.caption(LOADER, "CAPTION")
    wait_for_status(editor, "Copied")
    assert Entry(editor.run()).cached == {str(LOADER), str(TAGGER)}


def test_a_graph_that_the_host_refuses_does_not_matter(editor: Editor, picture: str) -> None:
    """One with a node that is not installed: the host refuses a prompt that has it."""
    content = workflow([picture])
    content["nodes"].append(
        {
            "id": 50,
            "type": "NotInstalledHere",
            "pos": [900, 600],
            "size": [200, 50],
            "inputs": [],
            "outputs": [],
        }
    )
    editor.load(content)
    editor.page.keyboard.press("Escape")  # the host's window about the missing node
    editor.page.locator(".p-dialog-mask").wait_for(state="detached")
    editor.caption(LOADER, "CAPTION")
    wait_for_status(editor, "Copied")


def test_the_checkpoint_can_be_changed_and_is_remembered(editor: Editor, picture: str) -> None:
    editor.load(loader_only(picture))
    choose_checkpoint(editor, "no-such-checkpoint")
    editor.caption(LOADER, "CAPTION")
    editor.dialog.get_by_role("alert").wait_for()
    editor.dialog.get_by_label("Checkpoint").select_option("demo")
    editor.dialog.get_by_role("button", name="Again").click()
    wait_for_status(editor, "Copied")
    editor.page.wait_for_function("app.extensionManager.setting.get('PromptGen.MenuCheckpoint') === 'demo'")
    editor.open()
    assert editor.js("app.extensionManager.setting.get('PromptGen.MenuCheckpoint')") == "demo"


def test_a_missing_checkpoint_gives_the_engines_message(editor: Editor, host: Host, picture: str) -> None:
    editor.load(loader_only(picture))
    choose_checkpoint(editor, "no-such-checkpoint")
    editor.caption(LOADER, "CAPTION")
    alert = editor.dialog.get_by_role("alert")
    alert.wait_for()
    error = latest(host).error
    assert error is not None
    assert "no-such-checkpoint" in error["exception_message"]
    assert alert.inner_text().split() == error["exception_message"].split()
    assert editor.dialog.get_by_role("button", name="Copy", exact=True).is_disabled()
    assert editor.dialog.get_by_label("Checkpoint").input_value() == "no-such-checkpoint"
    assert editor.page.locator(".p-dialog").count() == 0  # the host shows no second window
    editor.picture("caption-error")


def test_a_host_that_is_gone_is_named(editor: Editor, picture: str) -> None:
    editor.load(workflow([picture]))
    editor.page.context.set_offline(True)
    editor.caption(LOADER, "CAPTION")
    editor.dialog.get_by_role("alert").filter(has_text="ComfyUI does not answer").wait_for()
    editor.page.context.set_offline(False)
    editor.complaints.clear()  # the failed request itself stands on the console


def test_an_image_that_the_host_does_not_have_is_sent_to_it(
    editor: Editor, picture: str, expected: Callable[[str], str]
) -> None:
    """Such as a live preview of a sampler, which comes as a blob."""
    wanted = expected("CAPTION")
    editor.load(workflow([picture]))
    editor.js(
        """async id => {
            const node = app.graph.getNodeById(id), image = new Image();
            const url = new URL(node.imgs[0].src);
            url.searchParams.delete("preview");
            image.src = URL.createObjectURL(await (await fetch(url)).blob());
            await image.decode();
            // The page may load the node's own once more.
            for (let unchanged = 0; unchanged < 5; unchanged++) {
                if (node.imgs?.[0] !== image) {
                    node.imgs = [image];
                    unchanged = 0;
                }
                await new Promise((done) => setTimeout(done, 100));
            }
        }""",
        LOADER,
    )
    with editor.page.expect_request(re.compile("/upload/image")):
        editor.caption(LOADER, "CAPTION")
    wait_for_status(editor, "Copied")
    assert editor.dialog.locator("textarea").input_value() == wanted


def test_all_images_of_a_node_are_captioned(editor: Editor, picture: str) -> None:
    editor.load(many_frames(picture, 2, "PreviewImage"))
    choose_checkpoint(editor, "demo")
    editor.run()
    editor.page.wait_for_function(f"app.graph.getNodeById({PREVIEW}).imgs?.length === 2")
    editor.caption(PREVIEW, "CAPTION")
    wait_for_status(editor, "Copied")
    text = editor.dialog.locator("textarea").input_value()
    assert re.fullmatch(r"1 / 2\n(.+)\n\n2 / 2\n\1", text)


def wires(editor: Editor, node: int) -> list[int]:
    """The node and the output that feed a node's first input."""
    feeding: list[int] = editor.js(
        """id => {
            const node = app.graph.getNodeById(id), link = node.getInputLink(0);
            return link ? [link.origin_id, link.origin_slot] : [];
        }""",
        node,
    )
    return feeding


def add_tagger(editor: Editor) -> dict[str, Any]:
    """Press the button; the node that is new then."""
    editor.dialog.get_by_role("button", name="Add PromptGen Tagger").click()
    wait_for_status(editor, "Added a PromptGen Tagger")
    nodes: list[dict[str, Any]] = editor.js("app.graph.serialize().nodes")
    return max(nodes, key=lambda node: int(node["id"]))


def test_add_wires_a_tagger_to_the_image(
    editor: Editor, picture: str, expected: Callable[[str], str]
) -> None:
    wanted = expected("MIXED_CAPTION")
    editor.load(loader_only(picture))
    choose_checkpoint(editor, "demo")
    editor.caption(LOADER, "MIXED_CAPTION")
    wait_for_status(editor, "Copied")
    tagger = add_tagger(editor)
    assert tagger["type"] == "PromptGenTagger"
    assert tagger["widgets_values"][:2] == ["demo", "MIXED_CAPTION"]
    assert wires(editor, tagger["id"]) == [LOADER, 0]
    assert tagger["pos"][0] > editor.serialized(LOADER)["pos"][0] + editor.serialized(LOADER)["size"][0]
    editor.picture("tagger-added")
    editor.dialog.get_by_role("button", name="Close").click()
    assert editor.run()["outputs"][str(tagger["id"])]["text"] == [wanted]


def test_add_at_a_preview_wires_to_what_feeds_it(editor: Editor, picture: str) -> None:
    editor.load(many_frames(picture, 1, "PreviewImage"))
    choose_checkpoint(editor, "demo")
    editor.run()
    editor.page.wait_for_function(f"app.graph.getNodeById({PREVIEW}).imgs?.length")
    editor.caption(PREVIEW, "CAPTION")
    wait_for_status(editor, "Copied")
    tagger = add_tagger(editor)
    assert wires(editor, tagger["id"]) == [BATCH, 0]


def test_add_without_an_image_to_wire_says_so(editor: Editor, picture: str) -> None:
    editor.load(many_frames(picture, 1, "PreviewImage"))
    choose_checkpoint(editor, "demo")
    editor.run()
    editor.page.wait_for_function(f"app.graph.getNodeById({PREVIEW}).imgs?.length")
    editor.js(f"() => void app.graph.getNodeById({PREVIEW}).disconnectInput(0)")
    editor.caption(PREVIEW, "CAPTION")
    wait_for_status(editor, "Copied")
    tagger = add_tagger(editor)
    assert wires(editor, tagger["id"]) == []
    assert "connect one" in editor.dialog.get_by_role("status").inner_text()


def test_it_says_that_it_waits_and_can_be_cancelled(editor: Editor, host: Host, picture: str) -> None:
    content = workflow([picture], instruction="MIXED_CAPTION_PLUS")
    editor.load(content)
    long_job = host.queue(long_prompt(picture, 400))
    editor.caption(LOADER, "CAPTION")
    wait_for_status(editor, "Waiting in the queue behind 1")
    editor.picture("caption-waiting")
    editor.dialog.get_by_role("button", name="Cancel").click()
    editor.dialog.wait_for(state="detached")
    queue = host.get("/queue")
    assert [item[1] for item in queue["queue_running"]] == [long_job]
    assert queue["queue_pending"] == []
    host.interrupt()
    assert host.wait(long_job).interrupted


def test_a_running_caption_can_be_cancelled(editor: Editor, host: Host, picture: str) -> None:
    editor.load(many_frames(picture, 48, "PreviewImage"))
    choose_checkpoint(editor, "demo")
    editor.run()
    editor.page.wait_for_function(f"app.graph.getNodeById({PREVIEW}).imgs?.length === 48")
    editor.caption(PREVIEW, "MIXED_CAPTION_PLUS")
    wait_for_status(editor, "Captioning…")
    editor.dialog.get_by_role("button", name="Cancel").click()
    editor.dialog.wait_for(state="detached")
    assert latest(host).interrupted


def test_removed_from_the_queue_elsewhere_is_said(editor: Editor, host: Host, picture: str) -> None:
    editor.load(workflow([picture]))
    long_job = host.queue(long_prompt(picture, 400))
    editor.caption(LOADER, "CAPTION")
    wait_for_status(editor, "Waiting in the queue behind 1")
    host.post("/queue", {"clear": True})
    editor.dialog.get_by_role("alert").filter(has_text="removed from the queue").wait_for()
    host.interrupt()
    host.wait(long_job)


def long_prompt(picture: str, frames: int) -> dict[str, Any]:
    """Work for the host for a minute or so, unless it is interrupted."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": picture}},
        "2": {"class_type": "RepeatImageBatch", "inputs": {"image": ["1", 0], "amount": frames}},
        "3": {
            "class_type": "PromptGenTagger",
            "inputs": {
                **{"image": ["2", 0], "checkpoint": "demo", "instruction": "MIXED_CAPTION_PLUS"},
                **{"num_beams": 5, "max_new_tokens": 1024, "do_sample": False, "temperature": 1.0},
                **{"top_k": 50, "top_p": 1.0, "seed": 0, "prefix": "", "suffix": "", "exclude_tags": ""},
                **{"replace": "", "underscores": "keep"},
            },
        },
    }


def test_the_checkpoint_is_in_the_settings(editor: Editor) -> None:
    editor.page.keyboard.press("Control+,")
    editor.page.get_by_placeholder(re.compile("Search Settings", re.IGNORECASE)).fill("right-click menu")
    editor.page.get_by_text("PromptGen: checkpoint for the right-click menu").wait_for()
    field = editor.page.locator(".form-input .p-select").first
    assert field.inner_text().strip() == "Automatic"
    field.click()
    editor.page.get_by_role("option", name="demo", exact=True).wait_for()
    editor.picture("setting")
    editor.page.get_by_role("option", name="demo", exact=True).click()
    editor.page.wait_for_function("app.extensionManager.setting.get('PromptGen.MenuCheckpoint') === 'demo'")
