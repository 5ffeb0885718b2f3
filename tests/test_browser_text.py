"""The text that stands on a node, in a real browser on a real host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .browser import Editor, open_editor, workflow
from .comfyui_host import Host
from .helpers_dev import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]
EXAMPLES = ROOT / "examples"
TAGGER, LOADER = 1, 11


@pytest.fixture
def pictures(host: Host) -> list[str]:
    """Three pictures in the host's input folder."""
    names = ("triangle-heart-turned.jpg", "stop.png", "one-ring.png")
    return [host.upload(EXAMPLES / name) for name in names]


def shown(editor: Editor) -> str:
    """The one text that stands on a node, once it does."""
    editor.panels.wait_for()  # fails if there are several
    editor.page.wait_for_function("document.querySelector('.promptgen-panel textarea').value")
    return editor.panels.input_value()


def texts_of(entry: dict[str, Any]) -> list[str]:
    texts: list[str] = entry["outputs"][str(TAGGER)]["text"]
    return texts


def test_the_text_stands_on_the_node_and_is_the_hosts(editor: Editor, pictures: list[str]) -> None:
    editor.load(workflow(pictures[:1], instruction="MIXED_CAPTION"))
    assert editor.panels.count() == 0
    entry = editor.run()
    assert [shown(editor)] == texts_of(entry)
    assert "triangle" in shown(editor)
    assert not editor.panels.is_editable()
    editor.picture("text-on-node")


def test_a_second_run_replaces_the_text(editor: Editor, pictures: list[str]) -> None:
    editor.load(workflow(pictures[:1]))
    editor.run()
    first = shown(editor)
    editor.js("app.graph.getNodeById(1).widgets.find(w => w.name === 'instruction').value = 'CAPTION'")
    entry = editor.run()
    editor.page.wait_for_function(
        "first => document.querySelector('.promptgen-panel textarea').value !== first", arg=first
    )
    assert [shown(editor)] == texts_of(entry)


def test_frames_of_a_batch_have_headings(editor: Editor, pictures: list[str]) -> None:
    editor.load(workflow(pictures))
    entry = editor.run()
    texts = texts_of(entry)
    assert len(set(texts)) == 3
    assert shown(editor) == "\n\n".join(f"{number} / 3\n{text}" for number, text in enumerate(texts, 1))
    editor.picture("text-of-a-batch")


def test_the_text_survives_a_reload_and_so_does_the_size(editor: Editor, pictures: list[str]) -> None:
    editor.load(workflow(pictures[:1]))
    editor.run()
    before = shown(editor)
    size = editor.serialized(TAGGER)["size"]
    editor.open()
    assert shown(editor) == before
    assert editor.serialized(TAGGER)["size"] == pytest.approx(size, abs=1)
    editor.picture("text-after-reload")


def test_the_text_is_in_the_workflow_file(editor: Editor, pictures: list[str]) -> None:
    editor.load(workflow(pictures[:1]))
    editor.run()
    before = shown(editor)
    saved = editor.js("app.graph.serialize()")
    editor.load(workflow(pictures[:1]))
    editor.panels.wait_for(state="detached")
    editor.load(saved)
    assert shown(editor) == before


def test_widget_values_and_prompt_are_as_without_the_text(editor: Editor, pictures: list[str]) -> None:
    editor.load(workflow(pictures[:1]))
    values, prompt = editor.serialized(TAGGER)["widgets_values"], editor.prompt()
    entry = editor.run()
    shown(editor)
    assert editor.serialized(TAGGER)["widgets_values"] == values
    assert editor.prompt() == prompt
    assert set(entry["prompt"][2]) == {str(TAGGER), str(LOADER)}
    assert set(entry["prompt"][2][str(TAGGER)]["inputs"]) == set(prompt[str(TAGGER)]["inputs"])


def test_the_node_grows_once_and_then_keeps_the_users_size(editor: Editor, pictures: list[str]) -> None:
    editor.load(workflow(pictures[:1]))
    before = editor.serialized(TAGGER)["size"]
    editor.run()
    shown(editor)
    grown = editor.serialized(TAGGER)["size"]
    assert before[1] + 70 <= grown[1] <= before[1] + 300
    editor.js("app.graph.getNodeById(1).setSize([420, 700])")
    editor.js("app.graph.getNodeById(1).widgets.find(w => w.name === 'instruction').value = 'MIXED_CAPTION'")
    editor.run()
    editor.page.wait_for_function(
        "document.querySelector('.promptgen-panel textarea').value.includes('\\n\\n')"
    )
    assert editor.serialized(TAGGER)["size"] == [420, 700]
    # The text fills the node that was made larger.
    assert editor.js("document.querySelector('.promptgen-panel').offsetHeight") > 200


def test_the_text_goes_with_the_node(editor: Editor, pictures: list[str]) -> None:
    editor.load(workflow(pictures[:1]))
    editor.run()
    shown(editor)
    editor.click_node(TAGGER)
    editor.page.keyboard.press("Delete")
    editor.page.wait_for_function("!app.graph.getNodeById(1)")
    editor.page.wait_for_function("!document.querySelector('.promptgen-panel')")


def test_undo_brings_the_node_back_with_its_text(editor: Editor, pictures: list[str]) -> None:
    editor.load(workflow(pictures[:1]))
    editor.run()
    before = shown(editor)
    editor.click_node(TAGGER)
    editor.page.keyboard.press("Delete")
    editor.page.wait_for_function("!document.querySelector('.promptgen-panel')")
    editor.page.keyboard.press("Control+z")
    assert shown(editor) == before


def test_a_copy_of_the_node_has_no_text_until_it_ran(editor: Editor, pictures: list[str]) -> None:
    editor.load(workflow(pictures[:1]))
    editor.run()
    shown(editor)
    editor.click_node(TAGGER)
    editor.page.keyboard.press("Control+c")
    editor.page.keyboard.press("Control+v")
    editor.page.wait_for_function("app.graph.nodes.filter(n => n.type === 'PromptGenTagger').length === 2")
    kept = editor.js("app.graph.nodes.filter(n => n.properties.promptgen_text).map(n => n.id)")
    assert kept == [TAGGER]
    assert editor.panels.count() == 1


def test_copy_puts_the_text_on_the_clipboard(editor: Editor, pictures: list[str]) -> None:
    editor.load(workflow(pictures[:1]))
    editor.run()
    before = shown(editor)
    editor.js("navigator.clipboard.writeText('something else')")
    editor.page.locator(".promptgen-panel .promptgen-copy").click()
    editor.page.get_by_text("Copied", exact=True).wait_for()
    assert editor.clipboard() == before


def test_copy_works_without_the_clipboard_api(browser: Browser, host: Host, pictures: list[str]) -> None:
    """A page that comes over http from another computer has none."""
    with open_editor(browser, host, before="delete Navigator.prototype.clipboard") as editor:
        assert editor.js("navigator.clipboard === undefined")
        editor.load(workflow(pictures[:1]))
        editor.run()
        before = shown(editor)
        editor.page.locator(".promptgen-panel .promptgen-copy").click()
        editor.page.get_by_text("Copied", exact=True).wait_for()
        editor.js("document.body.append(Object.assign(document.createElement('textarea'), {id: 'paste'}))")
        editor.js("document.getElementById('paste').focus()")
        editor.page.keyboard.press("Control+v")
        assert editor.page.locator("#paste").input_value() == before


def test_a_node_inside_a_subgraph_shows_its_text_there(editor: Editor, pictures: list[str]) -> None:
    editor.load(workflow(pictures[:1]))
    editor.js("() => void app.graph.convertToSubgraph(new Set([app.graph.getNodeById(1)]))")
    entry = editor.run()
    ((inner, output),) = [(node, out) for node, out in entry["outputs"].items() if out.get("text")]
    assert ":" in inner
    assert editor.panels.count() == 0  # it is not in the graph that is open
    editor.js("app.canvas.setGraph([...(app.rootGraph ?? app.graph).subgraphs.values()][0])")
    assert [shown(editor)] == output["text"]


def test_the_text_reaches_a_workflow_that_is_in_another_tab(
    editor: Editor, host: Host, pictures: list[str]
) -> None:
    editor.load(workflow(pictures[:1]))
    tabs = editor.page.locator(".workflow-tabs .workflow-label:visible")
    with editor.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")) as posted:
        editor.page.keyboard.press("Control+Enter")
        tabs.first.click()
        editor.page.wait_for_function("!app.graph.nodes.some(node => node.type === 'PromptGenTagger')")
    entry = host.wait(posted.value.json()["prompt_id"])
    assert editor.panels.count() == 0
    tabs.last.click()
    assert [shown(editor)] == texts_of(entry)


def test_the_text_stands_on_nodes_that_vue_draws(editor: Editor, host: Host, pictures: list[str]) -> None:
    if host.checkout.numbers < (0, 4):
        pytest.skip("this front end draws no DOM widgets on such nodes")
    setting = "on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
    editor.js(setting, True)
    try:
        editor.open()
        editor.load(workflow(pictures[:1], instruction="MIXED_CAPTION"))
        editor.page.locator(".lg-node").first.wait_for()
        values = editor.serialized(TAGGER)["widgets_values"]
        entry = editor.run()
        assert [shown(editor)] == texts_of(entry)
        assert editor.serialized(TAGGER)["widgets_values"] == values
        editor.picture("text-on-vue-node")
        editor.open()
        assert [shown(editor)] == texts_of(entry)
    finally:
        editor.js(setting, False)


def test_the_wheel_over_a_text_that_fits_zooms_the_canvas(editor: Editor, pictures: list[str]) -> None:
    editor.load(workflow(pictures[:1]))
    editor.run()
    shown(editor)
    before = editor.js("app.canvas.ds.scale")
    editor.panels.hover()
    editor.page.mouse.wheel(0, 240)
    editor.page.wait_for_function("before => app.canvas.ds.scale < before", arg=before)


def test_the_text_is_readable_in_the_light_theme(editor: Editor, pictures: list[str]) -> None:
    editor.js("app.extensionManager.setting.set('Comfy.ColorPalette', 'light')")
    editor.load(workflow(pictures[:1]))
    editor.run()
    shown(editor)
    ink, paper = editor.js(
        """() => [getComputedStyle(document.querySelector('.promptgen-panel textarea')).color,
                  getComputedStyle(document.querySelector('.promptgen-panel')).backgroundColor]"""
    )
    editor.picture("text-on-node-light")
    editor.js("app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
    assert abs(brightness(ink) - brightness(paper)) > 100, (ink, paper)


def brightness(colour: str) -> float:
    """Of a computed style's "rgb(r, g, b)", 0 to 255."""
    channels = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    return sum(channels) / 3


def test_a_new_tagger_keeps_its_seed_and_a_saved_one_its_choice(editor: Editor, pictures: list[str]) -> None:
    """Another seed would make another node of it, and unchanged pictures would be captioned again."""
    control = "n => n.widgets.find(w => w.name === 'seed').linkedWidgets[0].value"
    for kind in ("PromptGenTagger", "PromptGenRemoteTagger"):
        editor.js(f"app.graph.add(window.fresh = LiteGraph.createNode('{kind}'))")
        assert editor.js(f"({control})(window.fresh)") == "fixed"
    saved = workflow(pictures[:1])
    values = next(node for node in saved["nodes"] if node["id"] == TAGGER)["widgets_values"]
    values[values.index("fixed")] = "increment"
    editor.load(saved)
    assert editor.js(f"({control})(app.graph.getNodeById({TAGGER}))") == "increment"
    editor.run()
    assert editor.js(f"app.graph.getNodeById({TAGGER}).widgets.find(w => w.name === 'seed').value") == 1
