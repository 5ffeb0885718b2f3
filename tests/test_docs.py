"""The help pages say what there is: every node, every input, every output, and pictures that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from .browser import open_editor
from .comfyui_host import Host
from .helpers_dev import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DOCS = ROOT / "web" / "docs"
NODES = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
KILOBYTE = 1000
LINK = re.compile(r"\]\(<?([^)>\s]+(?: [^)>]+)?)>?\)|(?:src|href)=\"([^\"]+)\"")


def pages() -> list[Path]:
    own = ("README.md", "CHANGELOG.md", "clients/README.md", "deploy/README.md")
    return [*(ROOT / name for name in own), *sorted(DOCS.rglob("*.md"))]


def test_every_node_has_a_page_and_every_page_a_node() -> None:
    assert {path.stem for path in DOCS.glob("*.md")} == set(NODES)


@pytest.mark.parametrize("node", NODES)
def test_a_page_shows_its_node_and_names_all_that_it_has(node: str) -> None:
    text = (DOCS / f"{node}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {NODES[node]['display_name']}\n")
    assert f"(images/{node}.webp)" in text
    names = {slot["name"] for slot in [*NODES[node]["inputs"].values(), *NODES[node]["outputs"].values()]}
    if node == "PromptGenAnalyzer":  # 23 switches of one kind: the first and the last
        names = (names - set(NODES[node]["inputs"])) | {"camera_angle", "action", "subject_index"}
    missing = {name for name in names if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)}
    assert not missing - {"control after generate"}


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_page_links_to_exists(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in ("".join(found) for found in LINK.findall(text)):
        if not re.match(r"https?://|#", target):
            assert (page.parent / target.replace("%20", " ")).is_file(), target


def test_pictures_of_the_documentation_are_pictures_and_small() -> None:
    pictures = [*DOCS.rglob("*.webp"), *(ROOT / "example_workflows").glob("*.jpg")]
    assert len(pictures) >= len(NODES)
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) >= 200, path
        assert path.stat().st_size <= 150 * KILOBYTE, path


@pytest.mark.comfyui
@pytest.mark.parametrize("node", NODES)
def test_the_host_serves_a_page_and_its_picture(host: Host, node: str) -> None:
    for name in (f"{node}.md", f"images/{node}.webp"):
        served = host.get(f"/extensions/{host.checkout.dev.PACK_NAME}/docs/{name}")
        assert served == (DOCS / name).read_bytes()


@pytest.mark.comfyui
@pytest.mark.slow
@pytest.mark.parametrize("node", ["PromptGenTagger", "PromptGenFluxTextEncode"])
def test_the_front_end_shows_a_page_and_its_picture(browser: Browser, host: Host, node: str) -> None:
    """As it is opened from the buttons over a node that is selected."""
    with open_editor(browser, host) as editor:
        editor.js(
            """type => {
                app.graph.clear();
                const node = LiteGraph.createNode(type);
                node.pos = [300, 250];
                app.graph.add(node);
            }""",
            node,
        )
        editor.click_node(editor.js("app.graph.nodes[0].id"))
        editor.page.get_by_test_id("info-button").click()
        shown = editor.page.locator(".node-help-content")
        shown.get_by_role("heading", name=NODES[node]["display_name"], exact=True).wait_for()
        picture = shown.locator(f"img[src$='/docs/images/{node}.webp']")
        editor.page.wait_for_function("picture => picture.naturalWidth > 0", arg=picture.element_handle())
        assert shown.locator("li").count() >= len(NODES[node]["inputs"])
        editor.picture(f"help-{node}")
        # It first asks for a page in the user's language, and says so in the console if there is none.
        editor.complaints[:] = [line for line in editor.complaints if f"/docs/{node}/en.md" not in line]
