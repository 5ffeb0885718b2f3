"""What the page makes of the translations, and of saved nodes of other packs, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from .browser import Editor, open_editor, workflow
from .comfyui_host import Host
from .helpers_dev import ROOT
from .test_replacements import ANALYZER, FLUX, TAGGER, WIDGETS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]

LABELS = """() => Object.fromEntries(
    Object.keys(LiteGraph.registered_node_types).filter((name) => /^PromptGen/.test(name)).map((type) => {
        const node = LiteGraph.createNode(type);
        const inputs = {};
        for (const input of node.inputs) inputs[input.name] = input.localized_name;
        for (const widget of node.widgets ?? []) {
            if (widget.name in inputs) inputs[widget.name] = widget.label;
        }
        return [type, {
            display_name: node.constructor.title,
            inputs,
            outputs: node.outputs.map((output) => output.localized_name),
        }];
    }))"""


@pytest.mark.parametrize("language", ["zh", "ja", "en"])
def test_nodes_speak_the_language_of_the_page(browser: Browser, host: Host, language: str) -> None:
    host.post("/settings", {"Comfy.Locale": language})
    try:
        with open_editor(browser, host) as editor:
            labels = editor.js(LABELS)
            editor.load(one_node("PromptGenTagger", []))
            editor.picture(f"tagger-{language}")
    finally:
        host.post("/settings", {"Comfy.Locale": "en"})
    nodes = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert labels == {
        name: {
            "display_name": node["display_name"],
            "inputs": {key: slot["name"] for key, slot in node["inputs"].items()},
            "outputs": [slot["name"] for slot in node["outputs"].values()],
        }
        for name, node in nodes.items()
    }


def hover(editor: Editor, node: int, widget: str) -> str:
    """The tooltip that a widget shows."""
    x, y = editor.js(
        """([id, name]) => {
            const node = app.graph.getNodeById(id), widget = node.widgets.find((one) => one.name === name);
            const [x, y] = app.canvas.ds.convertOffsetToCanvas(
                [node.pos[0] + 80, node.pos[1] + widget.last_y + 10]);
            const box = app.canvas.canvas.getBoundingClientRect();
            return [box.left + x, box.top + y];
        }""",
        [node, widget],
    )
    editor.page.mouse.move(x - 3, y)
    editor.page.mouse.move(x, y)
    text: str = editor.page.locator(".node-tooltip").inner_text()
    return text


def test_tooltips_and_the_menu_are_translated(browser: Browser, host: Host) -> None:
    nodes = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    menu = json.loads((ROOT / "locales" / "zh" / "main.json").read_text(encoding="utf-8"))["contextMenu"]
    picture = host.upload(ROOT / "examples" / "stop.png")
    host.post("/settings", {"Comfy.Locale": "zh"})
    try:
        with open_editor(browser, host) as editor:
            editor.load(one_node("PromptGenEditTags", []))
            editor.page.wait_for_function("app.graph.getNodeById(1).widgets.every((one) => one.last_y)")
            # Its backslashes are the one thing that a template could take for its own.
            wanted = nodes["PromptGenEditTags"]["inputs"]["parentheses"]["tooltip"]
            assert hover(editor, 1, "parentheses") == wanted
            assert r"\(" in wanted
            editor.load(workflow([picture]))
            assert menu["Caption with PromptGen"] in editor.menu(11)
    finally:
        host.post("/settings", {"Comfy.Locale": "en"})


# Nodes of other packs ---------------------------------------------------------------------


def one_node(kind: str, values: list[Any]) -> dict[str, Any]:
    node = {"id": 1, "type": kind, "pos": [300, 120], "size": [320, 420], "flags": {}, "order": 0, "mode": 0}
    node |= {"inputs": [], "outputs": [], "properties": {}}
    if values:
        node["widgets_values"] = values
    return {
        "last_node_id": 1, "last_link_id": 0, "nodes": [node], "links": [], "groups": [], "config": {},
        "extra": {}, "version": 0.4,
    }  # fmt: skip


def saved_orders(kind: str) -> dict[str, list[Any]]:
    """The lists that the same settings were saved as; the first is the one that a replacement reads."""
    values = dict(zip(WIDGETS[kind], range(1, 100), strict=False))  # within what ours take
    if kind != TAGGER:
        return {"links not saved": [*values.values()], "links saved": ["", *values.values()]}
    *start, random_prompt, prefix, suffix, replace = {**values, "random_prompt": "always"}.values()
    end = [prefix, suffix, replace]
    return {
        "links not saved": [*start, random_prompt, *end],
        "links saved": [*start, random_prompt, "", None, *end],
        "with a seed": [*start, 7, "randomize", *end],
        "with a seed, links saved": [*start, 7, "fixed", "", "", *end],
    }


@pytest.fixture(scope="module")
def editor(browser: Browser, host: Host) -> Iterator[Editor]:
    with open_editor(browser, host) as opened:
        yield opened


@pytest.fixture
def replacing(editor: Editor) -> Editor:
    """The page of a host that replaces nodes has this setting."""
    editor.js(
        """() => app.ui.settings.settingsLookup?.["Comfy.NodeReplacement.Enabled"] ?? app.registerExtension({
            name: "Test.NodeReplacement",
            settings: [{id: "Comfy.NodeReplacement.Enabled", name: "x", type: "boolean", defaultValue: true}],
        })"""
    )
    return editor


def opened(editor: Editor, kind: str, values: list[Any]) -> list[Any]:
    """The values that the page has for a node which it does not know."""
    editor.load(one_node(kind, values))
    content: list[Any] = editor.js(
        """() => {
            const node = app.graph.getNodeById(1);
            return (node.last_serialization ?? node.serialize()).widgets_values;
        }"""
    )
    editor.page.keyboard.press("Escape")  # the list of missing nodes
    return content


@pytest.mark.parametrize("kind", [TAGGER, FLUX, ANALYZER])
def test_saved_values_stay_as_they_are_where_nothing_is_replaced(editor: Editor, kind: str) -> None:
    if editor.js("() => !!app.extensionManager?.setting?.get?.('Comfy.NodeReplacement.Enabled')"):
        pytest.skip("this host replaces nodes")
    for values in saved_orders(kind).values():
        assert opened(editor, kind, values) == values


@pytest.mark.parametrize("kind", [TAGGER, FLUX, ANALYZER])
def test_saved_values_are_brought_into_the_order_of_the_replacement(replacing: Editor, kind: str) -> None:
    wanted, *others = saved_orders(kind).values()
    assert len(wanted) == len(WIDGETS[kind])
    for values in (wanted, *others):
        assert opened(replacing, kind, values) == wanted
    unknown = ["something", "else", *range(30)]
    assert opened(replacing, kind, unknown) == unknown
