"""The server's page in a real Chromium, in front of a real server with the demo model."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from .browser import open_browser, screenshot_folder
from .command_line import Promptgen
from .helpers_dev import ROOT
from .serving_host import serving_here

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, Route

    from .serving_host import ServerProcess

pytestmark = [pytest.mark.slow]
EXAMPLES = ROOT / "examples"
CIRCLE = EXAMPLES / "circle-heart-square.png"
TURNED = EXAMPLES / "triangle-heart-turned.jpg"  # by its EXIF orientation
RINGS = EXAMPLES / "one-ring.png"
WIDE = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}
TIMEOUT_MS = 30_000


class Visit:
    """The page, as somebody who visits it sees and uses it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(f"{error.message}\n{error.stack}"))
        page.on("request", self._on_request)

    def open(self) -> None:
        self.page.goto(self.url)
        self.page.locator("#known input").first.wait_for()

    def choose(self, *files: Path) -> None:
        self.page.set_input_files("#files", list(files))

    def tick(self, *instructions: str) -> None:
        """These and no others."""
        for row in self.page.locator("[name=instruction]").all():
            wanted = row.get_attribute("value") in instructions
            if row.is_checked() != wanted:
                row.set_checked(wanted)

    def unfold(self, summary: str) -> None:
        self.page.locator("summary", has_text=summary).click()

    def caption(self) -> None:
        """Press the button, and wait until the run is over."""
        self.button.click()
        self.wait_for_end()

    def wait_for_end(self) -> None:
        self.page.locator("#cancel").wait_for(state="hidden")

    def until(self, seen: Callable[[], bool], what: str) -> None:
        """What the browser tells of its requests comes after what the page shows, or before it."""
        end = time.monotonic() + TIMEOUT_MS / 1000
        while not seen():
            assert time.monotonic() < end, what
            self.page.wait_for_timeout(20)

    @property
    def button(self) -> Locator:
        return self.page.locator("#caption")

    @property
    def status(self) -> str:
        return self.page.locator("#status").inner_text()

    def card(self, name: str) -> Locator:
        return self.page.get_by_role("article", name=name, exact=True)

    def answer(self, name: str, instruction: str) -> Locator:
        return self.card(name).locator(f"[data-instruction={instruction}]")

    def texts(self, name: str, instruction: str) -> list[str]:
        return self.answer(name, instruction).locator(".text").all_inner_texts()

    def clipboard(self) -> str:
        text: str = self.page.evaluate("navigator.clipboard.readText()")
        return text

    def picture(self, name: str) -> None:
        self.page.screenshot(path=screenshot_folder() / f"{name}.png", full_page=True)

    def _on_console(self, message: ConsoleMessage) -> None:
        # A request that was refused shows there, whatever the page makes of it.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.elsewhere.append(request.url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@contextlib.contextmanager
def visiting(browser: Browser, url: str, *, before: str = "", **window: Any) -> Iterator[Visit]:
    """A visit with a clean state. Complaints of the browser, its policy's included, fail the test."""
    context = browser.new_context(**{"viewport": WIDE, **window})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(TIMEOUT_MS)
    context.add_init_script(before)
    visit = Visit(context.new_page(), url)
    try:
        yield visit
    finally:
        context.close()
    assert not visit.complaints, visit.complaints
    assert not visit.elsewhere, visit.elsewhere


@pytest.fixture
def visit(browser: Browser, demo_server: ServerProcess) -> Iterator[Visit]:
    with visiting(browser, demo_server.url) as visit:
        visit.open()
        yield visit


@pytest.fixture
def ask(promptgen: Promptgen) -> Callable[..., list[dict[str, Any]]]:
    """What the command line answers, one record per picture and instruction."""

    def ask(picture: Path, instructions: str, *flags: object) -> list[dict[str, Any]]:
        given = ["--model", "demo", "--instruction", instructions, "--format", "json", "--quiet"]
        ended = promptgen("caption", picture, *given, *flags)
        assert ended.status == 0, ended.stderr
        records: list[dict[str, Any]] = json.loads(ended.stdout)
        return records

    return ask


Ask = Callable[..., list[dict[str, Any]]]


def drop(page: Page, *files: Path) -> None:
    """Drag files from outside the browser over the page, and let them go."""
    devtools = page.context.new_cdp_session(page)
    dragged = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    for step in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": step, "x": 700, "y": 400, "data": dragged})


def broken_picture(folder: Path) -> Path:
    file = folder / "broken.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"nonsense" * 20)
    return file


def test_dropped_pictures_get_the_answers_of_the_command_line(visit: Visit, ask: Ask) -> None:
    drop(visit.page, CIRCLE)
    assert visit.button.inner_text() == "Caption 1 picture"
    visit.tick("GENERATE_TAGS", "CAPTION", "MIXED_CAPTION", "ANALYZE")
    visit.caption()
    tags, caption, mixed, analysis = ask(CIRCLE, "GENERATE_TAGS,CAPTION,MIXED_CAPTION,ANALYZE")
    assert visit.texts(CIRCLE.name, "GENERATE_TAGS") == [tags["text"]]
    assert visit.texts(CIRCLE.name, "CAPTION") == [caption["text"]]
    assert visit.texts(CIRCLE.name, "MIXED_CAPTION") == [mixed["prose"], ", ".join(mixed["tags"])]
    rows = visit.answer(CIRCLE.name, "ANALYZE").locator("tr:has(td)").all()
    shown = [tuple(row.locator("th, td").all_inner_texts()) for row in rows]
    assert shown == [
        (field.replace("_", " "), value)
        for subject in analysis["analysis"]["subjects"]
        for field, value in subject.items()
    ]
    visit.picture("page")


def test_a_broken_picture_stops_no_other(visit: Visit, ask: Ask, tmp_path: Path) -> None:
    visit.choose(CIRCLE, broken_picture(tmp_path), RINGS)
    visit.caption()
    assert visit.status == "2 of 3 done, 1 failed."
    for picture in (CIRCLE, RINGS):
        (tags,) = ask(picture, "GENERATE_TAGS")
        assert visit.texts(picture.name, "GENERATE_TAGS") == [tags["text"]]
    said = visit.card("broken.png").locator(".state").inner_text()
    assert "cannot be decoded" in said
    assert visit.button.inner_text() == "Caption 1 picture", "the others have their answers"


def test_options_and_text_do_what_they_do_on_the_command_line(visit: Visit, ask: Ask) -> None:
    visit.choose(CIRCLE)
    visit.unfold("More")
    visit.tick("GENERATE_TAGS", "CAPTION_TO_PHRASE_GROUNDING")
    visit.page.get_by_label("Text", exact=True).fill("a green square")
    visit.unfold("Options")
    visit.page.get_by_label("Beams").fill("1")
    visit.page.get_by_label("Longest answer").fill("9")
    visit.page.get_by_label("Put before every answer").fill("drawing")
    visit.page.get_by_label("Tags to leave out").fill("pink circle")
    visit.page.get_by_label("Underscores in tags").select_option("long_hair")
    visit.caption()
    flags = ("--num-beams", 1, "--max-new-tokens", 9, "--prefix", "drawing", "--exclude", "pink circle")
    said = ("--underscores", "underscores", "--text-input", "a green square")
    tags, grounded = ask(CIRCLE, "GENERATE_TAGS,CAPTION_TO_PHRASE_GROUNDING", *flags, *said)
    assert tags["truncated"]
    assert visit.texts(CIRCLE.name, "GENERATE_TAGS") == [tags["text"]]
    assert "Cut off" in visit.answer(CIRCLE.name, "GENERATE_TAGS").inner_text()
    shown = visit.answer(CIRCLE.name, "CAPTION_TO_PHRASE_GROUNDING")
    assert [region["label"] for region in grounded["regions"]] == shown.locator(
        ".region-label"
    ).all_inner_texts()


def test_the_preset_does_what_it_does_on_the_command_line(visit: Visit, ask: Ask) -> None:
    visit.choose(CIRCLE)
    visit.tick("GENERATE_TAGS")
    visit.unfold("Options")
    visit.page.get_by_label("Long prompts").check()
    visit.page.get_by_label("Longest answer").fill("9")
    visit.page.get_by_label("Seed").fill("3")
    assert not visit.page.get_by_label("Language").is_visible(), "Florence-2 has one alone"
    visit.caption()
    flags = ("--preset", "long-prompt", "--max-new-tokens", 9, "--seed", 3)
    (tags,) = ask(CIRCLE, "GENERATE_TAGS", *flags)
    assert tags["attempts"] == 11
    assert visit.texts(CIRCLE.name, "GENERATE_TAGS") == [tags["text"]]
    assert tags["unmet"] in visit.answer(CIRCLE.name, "GENERATE_TAGS").inner_text()


def test_a_text_and_a_region_can_be_asked_about_at_once(visit: Visit, ask: Ask) -> None:
    visit.choose(CIRCLE)
    visit.unfold("More")
    visit.tick("DOCVQA", "REGION_TO_DESCRIPTION")
    visit.button.click()
    assert visit.status == "1 picture added", "nothing is sent while the text is missing"
    visit.page.get_by_label("Text", exact=True).fill("How many?")
    visit.page.get_by_label("Region", exact=True).fill("0, 0, 0.5, 0.5")
    visit.caption()
    assert visit.status == "1 of 1 done."
    (answer,) = ask(CIRCLE, "DOCVQA", "--text-input", "How many?")
    assert visit.texts(CIRCLE.name, "DOCVQA") == [answer["text"]]
    (described,) = ask(CIRCLE, "REGION_TO_DESCRIPTION", "--text-input", "0, 0, 0.5, 0.5")
    shown = visit.answer(CIRCLE.name, "REGION_TO_DESCRIPTION").locator(".region-label")
    assert shown.all_inner_texts() == [described["text"]]


@pytest.mark.parametrize("picture", [CIRCLE, TURNED], ids=lambda path: path.stem)
def test_boxes_lie_where_the_objects_are(visit: Visit, ask: Ask, picture: Path) -> None:
    visit.choose(picture)
    visit.tick("OD")
    visit.caption()
    (found,) = ask(picture, "OD")
    image = visit.card(picture.name).locator("img").bounding_box()
    assert image is not None
    assert image["width"] / image["height"] == pytest.approx(found["width"] / found["height"], rel=0.02)
    scale = image["width"] / found["width"]
    drawn = visit.card(picture.name).locator("polygon.line").all()
    assert len(drawn) == len(found["regions"]) >= 2
    for shape, region in zip(drawn, found["regions"], strict=True):
        box = shape.bounding_box()
        assert box is not None
        left, top, right, bottom = (scale * edge for edge in region["box"])
        drawn_at = [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]
        expected = [image["x"] + left, image["y"] + top, image["x"] + right, image["y"] + bottom]
        assert drawn_at == pytest.approx(expected, abs=1.5), "the line is two wide"
    labels = [region["label"] for region in found["regions"]]
    assert visit.card(picture.name).locator(".drawn-label").all_inner_texts() == labels
    assert visit.answer(picture.name, "OD").locator(".region-label").all_inner_texts() == labels
    visit.page.get_by_label("Show on the picture").uncheck()
    assert not drawn[0].is_visible()


def test_corners_and_outlines_are_drawn_as_they_are(visit: Visit) -> None:
    """Which the demo model knows nothing of: so the answer is made up."""
    quad, polygon = [10, 20, 100, 30, 98, 60, 8, 50], [150, 150, 200, 160, 170, 220]
    regions = [
        {"label": "STOP", "box": [8, 20, 100, 60], "quad": quad},
        {"label": "", "box": [150, 150, 200, 220], "polygons": [polygon, [1, 1, 9, 1, 9, 9]], "score": 0.5},
    ]
    result = {"instruction": "OCR_WITH_REGION", "text": "STOP", "raw": "", "truncated": False}
    image = {"image": CIRCLE.name, "width": 268, "height": 274, "results": [{**result, "regions": regions}]}
    visit.page.route("**/v1/captions", lambda route: route.fulfill(json={"model": "demo", "images": [image]}))
    visit.choose(CIRCLE)
    visit.caption()
    lines = visit.card(CIRCLE.name).locator("polygon.line")
    drawn = [[float(n) for n in (line.get_attribute("points") or "").split()] for line in lines.all()]
    assert drawn == [quad, polygon, [1, 1, 9, 1, 9, 9]]
    assert visit.card(CIRCLE.name).locator(".drawn-label").all_inner_texts() == ["STOP"]
    listed = visit.card(CIRCLE.name).locator(".regions li")
    assert "150, 150, 200, 220 (50 %)" in listed.nth(1).inner_text()
    listed.nth(1).hover()
    assert lines.nth(2).get_attribute("class") == "line pointed"


def test_a_pasted_picture(visit: Visit) -> None:
    visit.page.evaluate(
        """async data => {
            const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
            const picture = new Blob([bytes], {type: "image/png"});
            await navigator.clipboard.write([new ClipboardItem({"image/png": picture})]);
        }""",
        base64.b64encode(CIRCLE.read_bytes()).decode(),
    )
    visit.page.keyboard.press("Control+V")
    visit.caption()
    assert "yellow heart" in visit.page.locator(".text").inner_text()


def test_what_is_no_picture_is_refused_with_what_to_do(visit: Visit, tmp_path: Path) -> None:
    notes, folder = tmp_path / "notes.txt", tmp_path / "holiday"
    notes.write_text("Remember the milk.")
    folder.mkdir()
    drop(visit.page, notes, folder, CIRCLE)
    refused = visit.page.locator("#refused")
    refused.get_by_text("notes.txt is not a picture.").wait_for()
    assert "holiday is a folder: choose the pictures in it, or use promptgen folder." in refused.inner_text()
    assert visit.button.inner_text() == "Caption 1 picture"


def test_copy_buttons(visit: Visit, ask: Ask) -> None:
    visit.choose(CIRCLE)
    visit.tick("MIXED_CAPTION", "OD")
    visit.caption()
    mixed, found = ask(CIRCLE, "MIXED_CAPTION,OD")
    for name, text in (
        ("Copy Mixed caption", mixed["text"]),
        ("Copy Prose", mixed["prose"]),
        ("Copy Tags", ", ".join(mixed["tags"])),
        ("Copy Object detection", found["text"]),
    ):
        button = visit.page.get_by_role("button", name=name, exact=True)
        button.click()
        button.get_by_text("Copied").wait_for()
        assert visit.clipboard() == text
    visit.page.get_by_role("button", name="Copy JSON").click()
    visit.page.get_by_text("Copied").first.wait_for()
    assert json.loads(visit.clipboard()) == found["regions"]


def test_copying_on_a_page_that_came_over_plain_http(browser: Browser, demo_server: ServerProcess) -> None:
    no_clipboard = "Object.defineProperty(Navigator.prototype, 'clipboard', {get: () => undefined})"
    with visiting(browser, demo_server.url, before=no_clipboard) as visit:
        visit.open()
        visit.choose(CIRCLE)
        visit.caption()
        button = visit.page.get_by_role("button", name="Copy Generate tags")
        button.click()
        button.get_by_text("Copied").wait_for()
        visit.unfold("Options")
        field = visit.page.get_by_label("Put before every answer")
        field.focus()
        visit.page.keyboard.press("Control+V")
        assert field.input_value() == visit.texts(CIRCLE.name, "GENERATE_TAGS")[0]


def test_a_run_is_cancelled_and_begun_again_with_the_keyboard(visit: Visit) -> None:
    held: list[Route] = []
    dropped: list[Request] = []
    visit.page.on("requestfailed", lambda request: dropped.append(request))
    visit.page.route("**/v1/captions", lambda route: held.append(route))
    visit.choose(CIRCLE, TURNED, RINGS)
    visit.button.focus()
    visit.page.keyboard.press("Enter")
    visit.card(RINGS.name).get_by_text("Waiting.").wait_for()
    visit.until(lambda: len(held) == 2, "two are asked at a time")
    assert visit.card(CIRCLE.name).get_by_text("Captioning…").is_visible()
    assert visit.page.locator("#cancel:focus").is_visible()
    visit.page.keyboard.press("Enter")
    visit.wait_for_end()
    assert visit.status == "0 of 3 done, 3 not captioned."
    visit.until(lambda: len(dropped) == 2, "what was asked is dropped")
    assert len(held) == 2, "nothing more was asked"
    visit.page.unroute("**/v1/captions")
    assert visit.page.locator("#caption:focus").inner_text() == "Caption 3 pictures"
    visit.page.keyboard.press("Enter")
    visit.wait_for_end()
    assert visit.status == "3 of 3 done."


def test_a_busy_server_is_asked_again_when_it_says(visit: Visit) -> None:
    refused: list[float] = []

    def refuse_first(route: Route) -> None:
        if refused:
            route.continue_()
            return
        refused.append(time.monotonic())
        body = {"detail": "The queue is full.", "error": "The queue is full.", "code": "queue_full"}
        route.fulfill(status=429, headers={"Retry-After": "2"}, json=body)

    visit.page.route("**/v1/captions", refuse_first)
    visit.choose(CIRCLE)
    visit.button.click()
    visit.card(CIRCLE.name).get_by_text("Trying again in 2 s.").wait_for()
    visit.wait_for_end()
    assert time.monotonic() - refused[0] >= 2
    assert visit.status == "1 of 1 done."


def test_a_server_that_is_gone_and_comes_back(visit: Visit) -> None:
    visit.choose(CIRCLE, RINGS)
    visit.caption()
    written = visit.texts(CIRCLE.name, "GENERATE_TAGS")
    visit.tick("CAPTION")
    visit.page.route("**/v1/**", lambda route: route.abort("connectionrefused"))
    visit.caption()
    problem = visit.page.get_by_role("alert").filter(has_text="does not answer")
    assert "Is promptgen serve still running?" in problem.inner_text()
    assert visit.status == "0 of 2 done, 2 not captioned."
    assert visit.texts(CIRCLE.name, "GENERATE_TAGS") == written, "what was there still is"
    visit.page.unroute("**/v1/**")
    problem.get_by_role("button", name="Try again").click()
    problem.wait_for(state="hidden")
    visit.caption()
    assert visit.status == "2 of 2 done."
    assert visit.answer(CIRCLE.name, "CAPTION").is_visible()
    assert not visit.answer(CIRCLE.name, "GENERATE_TAGS").is_visible()


def test_a_proxy_whose_server_is_gone(visit: Visit) -> None:
    visit.page.route("**/v1/captions", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
    visit.choose(CIRCLE, RINGS)
    visit.caption()
    said = visit.page.locator("#problem-text").inner_text()
    assert said == "Something before the server answered with status 502. Is promptgen serve running?"
    assert visit.status == "0 of 2 done, 2 not captioned."


def test_a_proxy_that_has_the_page_below_a_path(browser: Browser, demo_server: ServerProcess) -> None:
    def strip(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace("/captions-of-ours/", "/")))

    with visiting(browser, f"{demo_server.url}/captions-of-ours/") as visit:
        visit.page.route("**/captions-of-ours/**", strip)
        visit.open()
        visit.choose(CIRCLE)
        visit.caption()
        assert visit.status == "1 of 1 done."


def test_a_region_beyond_one_picture_stops_no_other(visit: Visit, tmp_path: Path) -> None:
    from PIL import Image

    small = tmp_path / "small.png"
    Image.new("RGB", (40, 40)).save(small)
    visit.choose(small, CIRCLE)
    visit.unfold("More")
    visit.tick("REGION_TO_OCR")
    visit.page.get_by_label("Region", exact=True).fill("100, 100, 200, 200")
    visit.caption()
    assert visit.status == "1 of 2 done, 1 failed."
    said = visit.card(small.name).inner_text()
    assert "100, 100, 200, 200" in said
    assert "image 1" not in said


def test_what_the_server_does_not_take_is_said_once(visit: Visit) -> None:
    visit.choose(CIRCLE, RINGS)
    visit.unfold("More")
    visit.tick("REGION_TO_OCR")
    visit.page.get_by_label("Region", exact=True).fill("left half")
    visit.caption()
    assert "region" in visit.page.locator("#problem").inner_text().lower()
    assert visit.status == "0 of 2 done, 2 not captioned."


def test_the_key_is_asked_for_and_kept_in_the_tab(browser: Browser) -> None:
    from promptgen.serving.settings import ServerSettings

    settings = ServerSettings(api_keys=("open sesame",))
    with serving_here(settings) as server, visiting(browser, server.url) as visit:
        page = visit.page
        page.goto(server.url)
        field = page.get_by_label("API key")
        field.fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_text("The server does not accept this key.").wait_for()
        field.fill("open sesame")
        page.get_by_role("button", name="Use this key").click()
        field.wait_for(state="hidden")
        visit.choose(CIRCLE)
        visit.caption()
        assert visit.status == "1 of 1 done."
        kept = page.evaluate("[{...sessionStorage}, {...localStorage}, document.cookie]")
        assert kept == [{"promptgen.api-key": "open sesame"}, {}, ""]
        visit.open()
        assert not field.is_visible()


def test_several_models_are_chosen_from(browser: Browser, tmp_path: Path) -> None:
    """What each was trained on comes first; of one that is only a folder that is not known."""
    folder = tmp_path / "two"
    shutil.copytree(ROOT / "models_cache" / "demo", folder)
    with serving_here(models=("demo", str(folder))) as server, visiting(browser, server.url) as visit:
        visit.open()
        chooser = visit.page.get_by_label("Model", exact=True)
        names = chooser.locator("option").all_inner_texts()
        assert len(names) == 2
        trained = visit.page.locator("#known input")
        known = [box.get_attribute("value") for box in trained.all()]
        assert "GENERATE_TAGS" in known
        assert "DOCVQA" not in known
        visit.choose(CIRCLE)
        visit.tick("OD")
        chooser.select_option(names[1])
        assert trained.count() > len(known)
        assert visit.page.locator("#known [value=OD]").is_checked(), "what was chosen stays so"
        with visit.page.expect_response("**/v1/captions") as asked:
            visit.caption()
        assert asked.value.json()["model"] == names[1]
        chooser.select_option(names[0])
        assert visit.button.inner_text() == "Caption 1 picture", "that one has not been asked"


def test_a_phone(browser: Browser, demo_server: ServerProcess) -> None:
    with visiting(browser, demo_server.url, viewport=PHONE, is_mobile=True, has_touch=True) as visit:
        visit.open()
        visit.choose(CIRCLE)
        visit.tick("MIXED_CAPTION", "OD")
        visit.unfold("More")
        visit.unfold("Options")
        visit.button.tap()
        visit.wait_for_end()
        widths = visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1] == PHONE["width"], "nothing to scroll to the side for"
        visit.picture("page-phone")


def test_every_field_has_a_name_and_the_title_leads_to_the_headings(visit: Visit) -> None:
    visit.choose(CIRCLE)
    visit.caption()
    nameless = visit.page.evaluate(
        """() => [...document.querySelectorAll("input, select, button, progress")]
            .filter(one => !one.labels?.length && !one.getAttribute("aria-label") && !one.textContent.trim())
            .map(one => one.outerHTML)"""
    )
    assert nameless == []
    levels = [
        int(heading.evaluate("one => one.tagName[1]")) for heading in visit.page.get_by_role("heading").all()
    ]
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    assert visit.page.get_by_role("status").inner_text() == "1 of 1 done."


def test_files_of_the_page(demo_server: ServerProcess) -> None:
    with httpx.Client(base_url=demo_server.url) as client:
        page = client.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["cache-control"] == "no-cache"
        again = client.get("/", headers={"If-None-Match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.head("/").headers["content-length"] == str(len(page.content))
        for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
            file = client.get(f"/page/{name}")
            assert file.headers["content-type"] == f"{kind}; charset=utf-8"
            assert file.headers["content-security-policy"] == page.headers["content-security-policy"]
        for name in ("no.js", "../page.py", "..%2fpage.py", ""):
            assert client.get(f"/page/{name}").status_code == 404
        assert client.post("/").status_code == 405
