"""A real Chromium with ComfyUI's page in it, driven as a user does: clicks, keys, and what can then be seen.

:func:`open_browser` starts one; ``Editor`` is a page with a workflow. Only what no user can do by hand, such
as reading node sizes, goes through the page's ``app``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .comfyui_host import Host
from .helpers_dev import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route

PACK_NAME = "promptgen-tagger"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WINDOW = {"width": 1440, "height": 900}
TIMEOUT_MS = 30_000
"""For everything waited for: the demo model takes a second or two, the page up to ten on a busy machine."""

# A new user's page opens with a tour; these keep it to the workflow.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "99.0.0",
    "Comfy.Release.Version": "99.0.0",
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Minimap.Visible": False,  # it would lie over nodes
}


def find_chromium() -> str:
    """The browser: ``$PROMPTGEN_CHROMIUM``, else the first on the path. Skips the test if there is none."""
    named = os.environ.get("PROMPTGEN_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(f"no {' or '.join(BROWSERS)} on the path, and $PROMPTGEN_CHROMIUM is not set")
    return found


def screenshot_folder() -> Path:
    """Where pictures of the page are kept: ``$PROMPTGEN_SCREENSHOTS``, else ``.artifacts/screenshots``."""
    folder = Path(os.environ.get("PROMPTGEN_SCREENSHOTS") or ROOT / ".artifacts" / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """A headless Chromium; gone when the block ends."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the dev extra")
    executable = find_chromium()
    arguments = ["--disable-gpu", "--no-first-run", "--disable-component-update"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium's sandbox refuses the root user, whom containers run as
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=arguments, headless=True)
        try:
            yield browser
        finally:
            browser.close()


class Editor:
    """A page with ComfyUI's workflow editor, ready for use."""

    def __init__(self, page: Page, host: Host) -> None:
        self.page = page
        self.host = host
        self.complaints: list[str] = []
        """errors that the page reported and that name one of our files or extensions"""

    def open(self) -> None:
        """Load the page (again) and wait until its workflow can be edited."""
        self.page.goto(self.host.url, wait_until="domcontentloaded")
        self.page.wait_for_function(
            """() => window.app?.graph && window.app.extensionManager
                && window.LiteGraph?.registered_node_types?.PromptGenTagger
                && document.querySelector("canvas#graph-canvas")
                && !document.querySelector(".p-blockui-mask")"""
        )

    def js(self, code: str, argument: Any = None) -> Any:
        """What a JavaScript expression or function gives in the page."""
        return self.page.evaluate(code, argument)

    def load(self, workflow: dict[str, Any]) -> None:
        """Open a workflow as a saved file is opened; images that it loads are shown when this returns."""
        self.js("workflow => app.loadGraphData(workflow)", workflow)
        self.page.wait_for_function(
            """() => app.graph.nodes.filter(node => node.type === "LoadImage")
                .every(node => node.imgs?.length)"""
        )

    def run(self, timeout_s: float = 120) -> dict[str, Any]:
        """Press the key for Run; the history entry when the host is done with it."""
        with self.page.expect_response(lambda answer: answer.url.endswith("/api/prompt")) as posted:
            self.page.keyboard.press("Control+Enter")
        content = posted.value.json()
        assert posted.value.ok, content
        return self.host.wait(content["prompt_id"], timeout_s)

    def serialized(self, node: int) -> dict[str, Any]:
        """A node as it is written to a workflow file."""
        content: dict[str, Any] = self.js("id => app.graph.getNodeById(id).serialize()", node)
        return content

    def prompt(self) -> dict[str, Any]:
        """The workflow as Run would send it."""
        content: dict[str, Any] = self.js("async () => (await app.graphToPrompt()).output")
        return content

    @property
    def panels(self) -> Locator:
        """The texts that stand on nodes and can be seen."""
        return self.page.locator(".promptgen-panel textarea:visible")

    @property
    def dialog(self) -> Locator:
        return self.page.locator(".promptgen-dialog")

    def node_title(self, node: int) -> tuple[float, float]:
        """Where on the page to click on a node's title."""
        x, y = self.js(
            """id => {
                const node = app.graph.getNodeById(id), box = app.canvas.canvas.getBoundingClientRect();
                const [x, y] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + 60, node.pos[1] - 12]);
                return [box.left + x, box.top + y];
            }""",
            node,
        )
        return x, y

    def click_node(self, node: int) -> None:
        self.page.mouse.click(*self.node_title(node))

    def menu(self, node: int) -> list[str]:
        """Right-click on a node; the entries of the menu that opens."""
        self.page.mouse.click(*self.node_title(node), button="right")
        self.page.locator(".litecontextmenu").wait_for()
        return self.page.locator(".litecontextmenu .litemenu-entry").all_inner_texts()

    def close_menu(self) -> None:
        self.page.mouse.click(640, 780)
        self.page.locator(".litecontextmenu").wait_for(state="detached")

    def caption(self, node: int, instruction: str) -> None:
        """Choose an instruction below "Caption with PromptGen" in a node's menu; the dialog is open then."""
        self.menu(node)
        self.page.locator(".litemenu-entry", has_text="Caption with PromptGen").click()
        self.page.get_by_text(instruction, exact=True).click()
        self.dialog.wait_for()

    def clipboard(self) -> str:
        text: str = self.js("navigator.clipboard.readText()")
        return text

    def picture(self, name: str) -> None:
        """Keep a picture of the window, under the version of the host."""
        self.page.screenshot(path=screenshot_folder() / f"{name}-{self.host.version}.png")

    def _notice(self, text: str) -> None:
        if re.search(rf"/extensions/{PACK_NAME}/|'PromptGen\.", text):
            self.complaints.append(text)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._notice(f"{message.text} ({message.location.get('url', '')})")


@contextlib.contextmanager
def open_editor(browser: Browser, host: Host, *, before: str = "") -> Iterator[Editor]:
    """The page of a host in a window with a clean state. Nothing else on the network can be reached from it.

    ``before`` is JavaScript that runs in the page before anything of it does.

    At the end, an error or a warning on the page that stems from this pack's files fails the test.
    """
    host.post("/settings", {**SETTINGS, "PromptGen.MenuCheckpoint": "automatic"})
    context = browser.new_context(viewport=WINDOW)  # type: ignore[arg-type]
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(TIMEOUT_MS)
    context.add_init_script(before)
    page = context.new_page()
    editor = Editor(page, host)

    def only_the_host(route: Route) -> None:
        if route.request.url.startswith((host.url, "data:", "blob:")):
            route.continue_()
        else:
            route.abort()

    page.route("**/*", only_the_host)
    page.on("console", editor._on_console)
    page.on("pageerror", lambda error: editor._notice(f"{error.message}\n{error.stack}"))
    page.on("dialog", lambda dialog: dialog.accept())  # "leave the page? changes may be lost"
    try:
        editor.open()
        yield editor
    finally:
        context.close()
    assert not editor.complaints, editor.complaints


def workflow(
    pictures: list[str],
    *,
    instruction: str = "GENERATE_TAGS",
    checkpoint: str = "demo",
) -> dict[str, Any]:
    """A workflow file: pictures of the input folder, joined to one batch, into a Tagger, whose id is 1.

    The pictures are loaded by the nodes 11, 12, ...
    """
    nodes: list[dict[str, Any]] = []
    links: list[list[Any]] = []

    def link(origin: int, target: int, slot: int) -> int:
        links.append([len(links) + 1, origin, 0, target, slot, "IMAGE"])
        return len(links)

    def image_input(name: str, number: int) -> dict[str, Any]:
        return {"name": name, "type": "IMAGE", "link": number}

    for index, picture in enumerate(pictures):
        place = [100 + 40 * index, 140 + 60 * index]
        nodes.append(
            {"id": 11 + index, "type": "LoadImage", "pos": place, "widgets_values": [picture, "image"]}
        )
    last = 11
    for index in range(1, len(pictures)):
        joined = 20 + index
        inputs = [
            image_input("image1", link(last, joined, 0)),
            image_input("image2", link(11 + index, joined, 1)),
        ]
        nodes.append({"id": joined, "type": "ImageBatch", "pos": [420, 140 + 60 * index], "inputs": inputs})
        last = joined
    values = [checkpoint, instruction, 3, 1024, False, 1.0, 50, 1.0, 0, "fixed", "", "", "", "", "keep"]
    nodes.append(
        {
            "id": 1,
            "type": "PromptGenTagger",
            "pos": [640, 140],
            "size": [300, 414],
            "inputs": [image_input("image", link(last, 1, 0))],
            "widgets_values": values,
        }
    )
    for node in nodes:
        node.setdefault("inputs", [])
        node.setdefault("size", [270, 320] if node["type"] == "LoadImage" else [140, 50])
        going = [number for number, origin, *_ in links if origin == node["id"]]
        node["outputs"] = [{"name": "IMAGE", "type": "IMAGE", "links": going}] if going else []
        node |= {"flags": {}, "order": 0, "mode": 0, "properties": {}}
    return {
        "last_node_id": 30,
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }
