"""Load Image Folder and Save Captions in a real ComfyUI, on real folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from promptgen.captioning import open_image
from promptgen.captioning.runs.sources import find_items
from promptgen.captioning.runs.sources.ordered import Order, OrderedNames
from promptgen.training.demo.scenes import draw_scene

from .browser import Editor
from .comfyui_host import Entry, Host, HostError
from .helpers_dev import ROOT

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
needs_bytes = pytest.mark.skipif(sys.platform != "linux", reason="needs file names in any bytes")

OUTPUTS = ("images", "masks", "filenames", "captions", "folder", "count")


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def load(folder: str | Path, *show: str, **inputs: Any) -> dict[str, Any]:
    """A prompt that loads a folder, as node 1, and shows outputs of it, as nodes of their names."""
    prompt = {"1": node("PromptGenLoadFolder", folder=str(folder), **inputs)}
    for name in show or ("filenames",):
        prompt[name] = node("PreviewAny", source=["1", OUTPUTS.index(name)])
    return prompt


def save(captions: Any, filenames: Any, **inputs: Any) -> dict[str, Any]:
    return node("PromptGenSaveCaptions", captions=captions, filenames=filenames, **inputs)


def succeeded(entry: Entry) -> Entry:
    assert entry.succeeded, entry.error
    return entry


def error_of(host: Host, prompt: Mapping[str, Any]) -> str:
    entry = host.run(prompt)
    assert entry.error is not None
    return str(entry.error["exception_message"])


def draw(path: Path, number: int = 0, size: tuple[int, int] = (32, 24)) -> Path:
    """A picture whose colour is its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number % 256, 0, 0)).save(path)
    return path


def written(folder: Path, extension: str = "txt") -> dict[str, str]:
    """The caption files in a folder, and what they hold."""
    files = sorted(folder.rglob(f"*.{extension}"))
    return {file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8") for file in files}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Pictures of all kinds, in two folders, some with captions."""
    folder = tmp_path / "mixed"
    for number, name in enumerate(["image10.png", "image2.png", "sub/deep.webp", ".hidden.png"]):
        draw(folder / name, number, (20 + number, 30))
    turned = Image.new("RGB", (40, 16), "navy")
    turned.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    clear = Image.new("RGBA", (24, 18), (200, 30, 60, 255))
    clear.paste((10, 20, 30, 90), (4, 4, 12, 12))
    clear.save(folder / "clear.png")
    (folder / "image2.txt").write_bytes("\ufeffzwei, 二\r\n".encode())
    (folder / "sub" / "deep.webp.txt").write_text("deep one\n", encoding="utf-8")
    (folder / "image10.txt").write_bytes(b"half\0")
    (folder / "notes.txt").write_text("not of an image")
    return folder


# Loading ----------------------------------------------------------------------------------


@pytest.mark.comfyui
def test_a_folder_is_loaded_with_names_and_captions(host: Host, mixed: Path) -> None:
    entry = succeeded(host.run(load(mixed, "filenames", "captions", "folder", "count")))
    assert entry.texts("filenames") == [
        "clear.png",
        "image2.png",
        "image10.png",
        "turned.jpg",
        "sub/deep.webp",
    ]
    assert entry.texts("captions") == ["", "zwei, 二", "", "", "deep one"]
    assert entry.texts("folder") == [str(mixed)]
    assert entry.texts("count") == ["5"]
    (shown,) = entry.texts("1")
    assert shown.startswith(f"5 images from {mixed}")
    assert "image10.txt holds NUL bytes" in shown


@pytest.mark.comfyui
def test_images_are_those_of_the_engine_and_masks_those_of_core(host: Host, mixed: Path) -> None:
    clear = host.upload(mixed / "clear.png")
    prompt = load(mixed, pattern="{clear,turned}*") | {
        "image": node("SaveImage", images=["1", 0], filename_prefix="loaded"),
        "as image": node("MaskToImage", mask=["1", 1]),
        "mask": node("SaveImage", images=["as image", 0], filename_prefix="mask"),
        "core": node("LoadImage", image=clear),
        "core image": node("MaskToImage", mask=["core", 1]),
        "core mask": node("SaveImage", images=["core image", 0], filename_prefix="core"),
    }
    entry = succeeded(host.run(prompt))

    def pixels(key: str) -> list[np.ndarray]:
        files = [host.output_dir / one["subfolder"] / one["filename"] for one in entry.outputs[key]["images"]]
        return [np.asarray(Image.open(file).convert("RGB")) for file in files]

    assert entry.texts("filenames") == ["clear.png", "turned.jpg"]
    for got, name in zip(pixels("image"), ["clear.png", "turned.jpg"], strict=True):
        assert np.array_equal(got, np.asarray(open_image(mixed / name)))
    assert pixels("image")[1].shape == (40, 16, 3)  # upright
    (core,), (mask, none) = pixels("core mask"), pixels("mask")
    assert np.array_equal(mask, core)
    assert mask.max() == 255 - 90
    assert none.shape == (40, 16, 3)
    assert none.max() == 0


@pytest.mark.comfyui
def test_a_broken_image_is_left_out_and_named(host: Host, mixed: Path) -> None:
    whole = (mixed / "clear.png").read_bytes()
    (mixed / "cut.png").write_bytes(whole[: len(whole) // 2])
    (mixed / "empty.png").write_bytes(b"")
    (mixed / "text.jpg").write_text("not an image at all")
    entry = succeeded(host.run(load(mixed, "filenames", "count", "captions")))
    assert entry.texts("filenames") == [
        "clear.png",
        "image2.png",
        "image10.png",
        "turned.jpg",
        "sub/deep.webp",
    ]
    assert len(entry.texts("captions")) == 5
    assert entry.texts("count") == ["8"]
    (shown,) = entry.texts("1")
    assert shown.startswith("5 of 8 images")
    for name in ("cut.png", "empty.png", "text.jpg"):
        assert f"\n{name}: " in shown
        assert f"Load Image Folder: {name}: " in host.log()


@pytest.mark.comfyui
def test_only_broken_images_are_an_error_that_names_them(host: Host, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.jpg").write_bytes(b"no")
    message = error_of(host, load(tmp_path))
    assert "None of the images can be read" in message
    assert "a.png: the file is empty" in message
    assert "b.jpg: a text file" in message
    for number in range(30):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    message = error_of(host, load(tmp_path))
    assert "and 12 more" in message
    assert message.count(".png: the file is empty") == 20
    assert "Load Image Folder: a.png: the file is empty" in host.log()


@pytest.mark.comfyui
def test_pages_follow_each_other_and_end(host: Host, tmp_path: Path) -> None:
    for number in range(7):
        draw(tmp_path / f"{number + 5}.png", number)
    pages = [
        succeeded(host.run(load(tmp_path, start=start, limit=3))).texts("filenames") for start in (0, 3, 6)
    ]
    assert pages == [["5.png", "6.png", "7.png"], ["8.png", "9.png", "10.png"], ["11.png"]]
    assert "'start' is 9, and the folder" in error_of(host, load(tmp_path, start=9, limit=3))
    newest = succeeded(host.run(load(tmp_path, sort="name, last first", limit=2, pattern="?.png")))
    assert newest.texts("filenames") == ["9.png", "8.png"]


@pytest.mark.comfyui
def test_a_folder_of_the_input_folder_is_named_alone(host: Host) -> None:
    draw(host.input_dir / "my pictures" / "below" / "one.png")
    assert succeeded(host.run(load("my pictures"))).texts("filenames") == ["below/one.png"]
    message = error_of(host, load("my pictures", recursive=False))
    assert "no picture in" in message
    assert "folders below" in message


@pytest.mark.comfyui
@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("", "No folder is named"),
        ("nowhere to be found", "There is no folder"),
        ("/nowhere/at all", "There is no folder"),
        (str(ROOT / "README.md"), "is a file"),
    ],
)
def test_a_folder_that_is_none_is_said_to_be_so(host: Host, folder: str, said: str) -> None:
    assert said in error_of(host, load(folder))


@pytest.mark.comfyui
def test_more_than_a_share_of_the_memory_is_refused_before_it_is_taken(host: Host, tmp_path: Path) -> None:
    first = draw(tmp_path / "0.png", 0, (64, 64))
    Image.new("1", (12000, 12000)).save(tmp_path / "1.png")  # a few kilobytes on the disk
    each = 12000 * 12000 * 16
    enough = psutil.virtual_memory().total // 2 // each + 1
    for number in range(2, enough + 1):
        os.link(tmp_path / "1.png", tmp_path / f"{number}.png")
    message = error_of(host, load(tmp_path))
    assert "GB of memory that are free they may take 50%" in message
    assert f"of the {enough + 1} images" in message
    assert "Set 'limit' to " in message
    assert "Caption Image Folder" in message
    assert succeeded(host.run(load(tmp_path, limit=1))).texts("filenames") == [first.name]


@pytest.mark.comfyui
def test_it_runs_again_only_when_it_would_give_something_else(host: Host, tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    prompt = load(tmp_path, "captions", limit=2)
    unread = load(tmp_path, extension="none", limit=2)

    def runs(graph: Mapping[str, Any]) -> bool:
        return "1" not in succeeded(host.run(graph)).cached

    assert [runs(prompt), runs(prompt)] == [True, False]
    assert [runs(unread), runs(unread)] == [True, False]
    (tmp_path / "a.txt").write_text("a caption")
    assert not runs(unread)
    assert runs(prompt)
    draw(tmp_path / "b.png")
    assert runs(prompt)
    draw(tmp_path / "b.png", size=(50, 50))
    assert runs(prompt)
    assert not runs(prompt)
    draw(tmp_path / "c.png")  # not of the page, but count tells of it
    assert runs(prompt)
    assert runs(unread)


@pytest.mark.comfyui
def test_cancelling_ends_it_within_a_moment(host: Host, tmp_path: Path) -> None:
    first = draw(tmp_path / "0.png", size=(64, 64))
    for number in range(1, 3000):
        os.link(first, tmp_path / f"{number}.png")
    with host.events() as events:
        queued = host.queue(load(tmp_path), client_id=events.client_id)
        events.wait_for("progress")
        host.interrupt()
        entry = host.wait(queued)
        steps = [event.data["value"] for event in events.all("progress")]
    assert entry.interrupted
    assert max(steps) < 3000


@needs_bytes
@pytest.mark.comfyui
def test_names_of_any_bytes_lead_back_to_their_images(host: Host, tmp_path: Path) -> None:
    draw(tmp_path / "plain.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    entry = host.run(load(tmp_path) | {"2": save("x", ["1", 2], folder=["1", 4])})
    assert succeeded(entry).texts("2")[0].startswith("1 caption file written")
    assert (tmp_path / os.fsdecode(b"caf\xe9.txt")).read_text() == "x\n"


@pytest.mark.parametrize("order", list(Order))
def test_orders(tmp_path: Path, order: Order) -> None:
    """Each against Python's own sorting."""
    for number, (name, size, age) in enumerate(
        [("b2", 9, 30), ("b10", 40, 10), ("a", 20, 50), ("sub/c", 30, 20), ("sub/B", 10, 40)]
    ):
        path = draw(tmp_path / f"{name}.png", number, (size, size))
        path.write_bytes(path.read_bytes() + bytes(size * 10))
        os.utime(path, ns=(0, 10**18 - age * 10**9))
    with OrderedNames(order) as found:
        for item in find_items([str(tmp_path)], fingerprints=order.needs_fingerprints, on_problem=print):
            found.add(item)
        names = list(found.page(0, 0))
        assert [*found.page(0, 2), *found.page(2, 2), *found.page(4, 2)] == names
    natural = ["a.png", "b2.png", "b10.png", "sub/B.png", "sub/c.png"]

    def state(name: str) -> os.stat_result:
        return (tmp_path / name).stat()

    assert (
        names
        == {
            Order.NAME: natural,
            Order.NAME_BACKWARDS: natural[::-1],
            Order.CHARACTERS: sorted(natural),
            Order.OLDEST: sorted(natural, key=lambda name: state(name).st_mtime),
            Order.NEWEST: sorted(natural, key=lambda name: -state(name).st_mtime),
            Order.SMALLEST: sorted(natural, key=lambda name: state(name).st_size),
            Order.LARGEST: sorted(natural, key=lambda name: -state(name).st_size),
        }[order]
    )
    assert found.count == 5


# Saving -----------------------------------------------------------------------------------


@pytest.mark.comfyui
def test_load_tag_save_gives_the_files_of_the_command_line(host: Host, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "node", tmp_path / "command line"
    (ours / "sub").mkdir(parents=True)
    for number, name in enumerate(["one.png", "two.jpg", "sub/three.png"]):
        draw_scene(7300 + number, size=(96 + 32 * number, 128))[0].save(ours / name)
    shutil.copytree(ours, theirs)
    entry = succeeded(
        host.run(
            load(ours)
            | {
                "2": node("PromptGenTagger", image=["1", 0], checkpoint="demo", instruction="GENERATE_TAGS"),
                "3": save(["2", 0], ["1", 2], folder=["1", 4]),
                "captions": node("PreviewAny", source=["3", 0]),
                "paths": node("PreviewAny", source=["3", 1]),
            }
        )
    )
    command = [
        sys.executable,
        "-m",
        "promptgen.cli",
        "folder",
        str(theirs),
        "--model",
        "demo",
        "--device",
        "cpu",
    ]
    subprocess.run(command, check=True, capture_output=True)
    files = {path.relative_to(ours): path.read_bytes() for path in ours.rglob("*.txt")}
    assert len(files) == 3
    assert files == {path.relative_to(theirs): path.read_bytes() for path in theirs.rglob("*.txt")}
    assert entry.texts("captions") == entry.texts("2")
    names = ["one.txt", "two.txt", "sub/three.txt"]
    assert [Path(path) for path in entry.texts("paths")] == [ours / name for name in names]
    assert entry.texts("3")[0].startswith("3 caption files written in ")
    assert not [path for path in ours.rglob("*") if path.name.startswith(".")]


@pytest.mark.comfyui
@pytest.mark.parametrize(
    ("mode", "there", "after"),
    [
        ("skip", "old\n", "old\n"),
        ("overwrite", "old\n", "new\n"),
        ("append", "old,\n", "old | new\n"),
        ("prepend", "old\n", "new | old\n"),
    ],
)
def test_what_becomes_of_captions_that_are_there(
    host: Host, tmp_path: Path, mode: str, there: str, after: str
) -> None:
    there = there.replace(",", " |")
    for name in "ab":
        draw(tmp_path / f"{name}.png")
    (tmp_path / "a.caption").write_text(there, encoding="utf-8")
    settings = {"folder": ["1", 4], "mode": mode, "separator": " | ", "extension": "caption"}
    prompt = load(tmp_path, extension="none") | {"2": save("new", ["1", 2], **settings)}
    succeeded(host.run(prompt))
    assert written(tmp_path, "caption") == {"a.caption": after, "b.caption": "new\n"}
    draw(tmp_path / "c.png")  # it runs again, and the text is not put there twice
    (shown,) = succeeded(host.run(prompt)).texts("2")
    assert written(tmp_path, "caption") == {"a.caption": after, "b.caption": "new\n", "c.caption": "new\n"}
    assert shown.startswith("1 caption file written in ")
    assert "2 caption files kept as they were:" in shown


@pytest.mark.comfyui
def test_a_separator_may_be_a_line_break(host: Host, tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("old\n", encoding="utf-8")
    settings = {"folder": ["1", 4], "mode": "append", "separator": "\\n"}
    succeeded(host.run(load(tmp_path, extension="none") | {"2": save("new", ["1", 2], **settings)}))
    assert written(tmp_path) == {"a.txt": "old\nnew\n"}


@pytest.mark.comfyui
def test_damaged_captions_are_reported_and_empty_texts_not_written(host: Host, tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("null")
    prompt = load(tmp_path, extension="none") | {"2": save("new", ["1", 2], folder=["1", 4])}
    (shown,) = succeeded(host.run(prompt)).texts("2")
    assert "a.png: a.txt holds 'null' instead of a caption; mode overwrite replaces it" in shown
    assert written(tmp_path) == {"a.txt": "null"}
    prompt["2"]["inputs"]["mode"] = "overwrite"
    succeeded(host.run(prompt))
    assert written(tmp_path) == {"a.txt": "new\n"}
    prompt["2"]["inputs"]["captions"] = " \n"
    assert "a.png: the caption is empty" in succeeded(host.run(prompt)).texts("2")[0]
    assert written(tmp_path) == {"a.txt": "new\n"}


@pytest.mark.comfyui
def test_a_folder_where_a_caption_belongs_is_reported_and_stops_no_other(host: Host, tmp_path: Path) -> None:
    for name in "ab":
        draw(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").mkdir()
    prompt = load(tmp_path) | {"2": save("new", ["1", 2], folder=["1", 4], mode="overwrite")}
    entry = succeeded(host.run(prompt))
    assert "the caption of a.png: a.txt is a folder" in entry.texts("1")[0]
    assert "a.png: a.txt is a folder; it is left as it is" in entry.texts("2")[0]
    assert (tmp_path / "a.txt").is_dir()
    assert (tmp_path / "b.txt").read_text(encoding="utf-8") == "new\n"


@pytest.mark.comfyui
def test_another_number_of_captions_is_an_error_with_both_numbers(host: Host, tmp_path: Path) -> None:
    for name in "abc":
        draw(tmp_path / "three" / f"{name}.png")
    draw(tmp_path / "two" / "a.png")
    draw(tmp_path / "two" / "b.png")
    prompt = load(tmp_path / "three") | {
        "2": node("PromptGenLoadFolder", folder=str(tmp_path / "two")),
        "3": save(["2", 2], ["1", 2], folder=["1", 4]),
    }
    assert "There are 2 captions and 3 file names" in error_of(host, prompt)
    assert written(tmp_path) == {}


@pytest.mark.comfyui
def test_one_text_goes_to_every_image_of_a_folder_of_their_own(host: Host, tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.jpg"):
        draw(tmp_path / "pictures" / name)
    prompt = load(tmp_path / "pictures") | {
        "2": save("für alle", ["1", 2], folder=str(tmp_path / "new" / "er"))
    }
    succeeded(host.run(prompt))
    assert written(tmp_path / "new" / "er") == {"a.txt": "für alle\n", "sub/b.txt": "für alle\n"}
    assert written(tmp_path / "pictures") == {}
    succeeded(host.run({"2": save("one", "photo 1.5", folder="of mine", extension="tags")}))
    assert written(host.output_dir / "of mine", "tags") == {"photo 1.5.tags": "one\n"}


@pytest.mark.comfyui
@pytest.mark.parametrize("rule", ["error", "full-name", "first"])
def test_images_with_the_same_stem(host: Host, tmp_path: Path, rule: str) -> None:
    for name in ("a.jpg", "a.png", "b.png"):
        draw(tmp_path / name)
    prompt = load(tmp_path) | {"2": save("x", ["1", 2], folder=["1", 4], same_stem=rule)}
    if rule == "error":
        assert "a.jpg and a.png: a.txt" in error_of(host, prompt)
        assert written(tmp_path) == {}
    elif rule == "full-name":
        succeeded(host.run(prompt))
        assert set(written(tmp_path)) == {"a.jpg.txt", "a.png.txt", "b.png.txt"}
    else:
        assert "a.png: its caption file is that of a.jpg" in succeeded(host.run(prompt)).texts("2")[0]
        assert set(written(tmp_path)) == {"a.txt", "b.txt"}


@pytest.mark.comfyui
@pytest.mark.parametrize("rule", ["error", "full-name", "first"])
def test_images_with_the_same_stem_on_two_pages(host: Host, tmp_path: Path, rule: str) -> None:
    for name in ("a.jpg", "a.png", "b.png"):
        draw(tmp_path / name)
    told = []
    for page in range(3):
        text = {"2": save(f"page {page}", ["1", 2], folder=["1", 4], mode="overwrite", same_stem=rule)}
        prompt = load(tmp_path, start=page, limit=1) | text
        if rule == "error" and page < 2:
            assert "a.jpg and a.png: a.txt" in error_of(host, prompt)
        else:
            told += succeeded(host.run(prompt)).texts("2")
    if rule == "full-name":
        names = {"a.jpg.txt": "page 0\n", "a.png.txt": "page 1\n", "b.png.txt": "page 2\n"}
        assert written(tmp_path) == names
    elif rule == "first":
        assert written(tmp_path) == {"a.txt": "page 0\n", "b.txt": "page 2\n"}
        assert "a.png: its caption file is that of a.jpg" in told[1]
    else:
        assert written(tmp_path) == {"b.txt": "page 2\n"}


@pytest.mark.comfyui
def test_a_name_without_its_extension_is_that_of_the_image_beside(host: Host, tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    succeeded(host.run({"2": save("x", "a", folder=str(tmp_path))}))
    assert written(tmp_path) == {"a.txt": "x\n"}


@pytest.mark.comfyui
def test_absolute_names_need_no_folder(host: Host, tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png")
    succeeded(host.run({"2": save("x", str(picture))}))
    assert written(tmp_path) == {"a.txt": "x\n"}
    assert "There is no image" in error_of(host, {"2": save("x", str(tmp_path / "not there.png"))})
    assert "There is no saying in which folder" in error_of(host, {"2": save("x", "a.png")})


@pytest.mark.comfyui
@pytest.mark.parametrize("name", ["../out.png", "sub/../../out.png", "..", "", "/", "link/out.png"])
def test_no_name_leads_out_of_the_folder(host: Host, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    if sys.platform != "win32":
        (tmp_path / "folder" / "link").symlink_to(tmp_path / "elsewhere")
    assert error_of(host, {"2": save("x", name, folder=str(tmp_path / "folder"))})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@needs_links
@pytest.mark.comfyui
def test_images_that_a_link_in_the_folder_leads_to_get_their_captions(host: Host, tmp_path: Path) -> None:
    draw(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "elsewhere")
    succeeded(host.run(load(tmp_path / "folder") | {"2": save("x", ["1", 2], folder=["1", 4])}))
    assert written(tmp_path / "elsewhere") == {"a.txt": "x\n"}


@pytest.mark.comfyui
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("extension", "py"),
        ("extension", "../txt"),
        ("extension", ""),
        ("mode", "delete"),
        ("same_stem", "any"),
    ],
)
def test_what_the_menus_do_not_have_writes_nothing(host: Host, tmp_path: Path, name: str, value: str) -> None:
    """Newer hosts compare with the menu, older ones leave that to the node."""
    prompt = {"2": save("x", "a.png", folder=str(tmp_path), **{name: value})}
    try:
        said = error_of(host, prompt)
    except HostError as refused:
        said = str(refused)
    assert name in said
    assert value in said
    assert list(tmp_path.iterdir()) == []


# In the browser ---------------------------------------------------------------------------


def workflow(folder: Path) -> dict[str, Any]:
    """Load two images at a time and save one text for all, as the page saves it."""
    slots = [("images", "IMAGE"), ("masks", "MASK"), ("filenames", "STRING"), ("captions", "STRING")]
    slots += [("folder", "STRING"), ("count", "INT")]
    links = {"filenames": [1], "folder": [2]}
    return {
        "version": 0.4, "last_node_id": 2, "last_link_id": 2, "groups": [], "config": {}, "extra": {},
        "nodes": [
            {
                "id": 1, "type": "PromptGenLoadFolder", "pos": [60, 90], "size": [360, 400], "flags": {},
                "order": 0, "mode": 0, "properties": {}, "inputs": [],
                "outputs": [{"name": name, "type": kind, "links": links.get(name)} for name, kind in slots],
                "widgets_values": [str(folder), "", True, "name", 0, "increment", 2, "txt"],
            },
            {
                "id": 2, "type": "PromptGenSaveCaptions", "pos": [520, 90], "size": [400, 480], "flags": {},
                "order": 1, "mode": 0, "properties": {},
                "inputs": [
                    {"name": "filenames", "type": "STRING", "link": 1},
                    {"name": "folder", "type": "STRING", "link": 2, "widget": {"name": "folder"}},
                ],
                "outputs": [],
                "widgets_values": ["a text for all", "", "skip", ", ", "txt", "error"],
            },
        ],
        "links": [[1, 1, 2, 2, 0, "STRING"], [2, 1, 4, 2, 1, "STRING"]],
    }  # fmt: skip


@pytest.mark.comfyui
@pytest.mark.slow
def test_each_run_goes_on_with_the_next_page(editor: Editor, tmp_path: Path) -> None:
    for number in range(5):
        draw_scene(7400 + number, size=(64, 64))[0].save(tmp_path / f"picture {number}.png")
    editor.js("app.graph.add(window.fresh = LiteGraph.createNode('PromptGenLoadFolder'))")
    values = editor.js("Object.fromEntries(fresh.widgets.map(widget => [widget.name, widget.value]))")
    assert values["control_after_generate"] == "fixed"
    editor.load(workflow(tmp_path))
    starts = []
    for _ in range(3):
        assert editor.run()["status"]["status_str"] == "success"
        starts.append(editor.js("app.graph.getNodeById(1).widgets.find(w => w.name === 'start').value"))
    assert starts == [2, 4, 6]
    assert written(tmp_path) == {f"picture {number}.txt": "a text for all\n" for number in range(5)}
    editor.page.wait_for_function(
        "app.graph.getNodeById(2).properties.promptgen_text?.startsWith('1 caption')"
    )
    editor.picture("folder-nodes")
    assert editor.complaints == []


def old_tagger(folder: str, images: int | None = None) -> dict[str, Any]:
    outputs = ["images", "filenames", "captions", "folder_path", "batch_size"]
    links = {"images": [5], "filenames": [6], "captions": [7]}
    return {
        "id": 4,
        "type": "Miaoshouai_Tagger",
        "pos": [500, 100],
        "inputs": [{"name": "images", "type": "IMAGE", "link": images}],
        "outputs": [{"name": name, "type": "*", "links": links.get(name)} for name in outputs],
        "widgets_values": ["promptgen_base_v2.0", folder, "mixed", 1024, 4, "never", "", "", ""],
    }


@pytest.mark.comfyui
@pytest.mark.slow
def test_an_old_tagger_with_a_folder_gets_a_node_that_loads_it(editor: Editor) -> None:
    place = f"/extensions/{editor.host.checkout.dev.PACK_NAME}/js/oldFolders.js"
    code = """async ([place, workflow, installed]) => {
        const { addFolderNodes } = await import(place);
        addFolderNodes(workflow, () => installed);
        return workflow;
    }"""

    def opened(tagger: dict[str, Any], installed: bool = False) -> dict[str, Any]:
        links = [[5, 4, 0, 8, 0, "IMAGE"], [6, 4, 1, 9, 0, "STRING"], [7, 4, 2, 9, 1, "STRING"]]
        subgraph = {
            "nodes": [old_tagger("/in/a/subgraph")],
            "state": {"lastNodeId": 6, "lastLinkId": 6},
            "links": [
                {"id": 6, "origin_id": 4, "origin_slot": 4, "target_id": 5, "target_slot": 0, "type": "INT"}
            ],
        }
        workflow = {"last_node_id": 9, "last_link_id": 7, "nodes": [tagger], "links": links}
        result: dict[str, Any] = editor.js(
            code, [place, {**workflow, "definitions": {"subgraphs": [subgraph]}}, installed]
        )
        return result

    new = opened(old_tagger("/data/x"))
    tagger, loader = new["nodes"]
    assert (loader["type"], loader["id"]) == ("PromptGenLoadFolder", 10)
    values = dict(zip(("folder", "pattern", "recursive"), loader["widgets_values"], strict=False))
    assert values == {"folder": "/data/x", "pattern": "", "recursive": False}
    assert loader["widgets_values"][-1] == "none"  # else what is saved beside the images loads them again
    assert new["links"] == [
        [5, 10, 0, 8, 0, "IMAGE"],
        [6, 10, 2, 9, 0, "STRING"],
        [7, 4, 2, 9, 1, "STRING"],  # captions stay the tagger's
        [8, 10, 0, 4, 0, "IMAGE"],
    ]
    assert tagger["inputs"][0]["link"] == 8
    slots = editor.host.object_info("PromptGenLoadFolder")
    assert [slot["name"] for slot in loader["outputs"]] == slots["output_name"]
    assert [slot["type"] for slot in loader["outputs"]] == slots["output"]
    inner = new["definitions"]["subgraphs"][0]
    assert [node["id"] for node in inner["nodes"]] == [4, 7]
    assert [(link["id"], link["origin_id"], link["origin_slot"]) for link in inner["links"]] == [
        (6, 7, 5),
        (7, 7, 0),
    ]
    for untouched in (
        old_tagger("/data/x", images=3),
        old_tagger("Path to your image folder"),
        old_tagger(""),
    ):
        assert len(opened(untouched)["nodes"]) == 1
    assert len(opened(old_tagger("/data/x"), installed=True)["nodes"]) == 1


@pytest.mark.comfyui
@pytest.mark.slow
def test_saved_numbers_that_are_too_large_for_ours(editor: Editor) -> None:
    place = f"/extensions/{editor.host.checkout.dev.PACK_NAME}/js/oldWidgets.js"
    code = """async ([place, workflow, installed]) => {
        const { reorderOldWidgets } = await import(place);
        reorderOldWidgets(workflow, () => installed);
        return workflow.nodes.map((node) => node.widgets_values);
    }"""
    run = ["", "ocr", True, False, 4096, 64, True, "0", 5000, "fixed"]
    tagger = ["promptgen_base_v2.0", "/x", "mixed", 2048, 17, "never", "", "", ""]
    saved = {
        "nodes": [
            {"type": "Florence2Run", "widgets_values": run},
            {"type": "Miaoshouai_Tagger", "widgets_values": tagger},
        ]
    }
    new = editor.js(code, [place, saved, False])
    assert new[0] == [*run[:4], 1024, 16, *run[6:]]
    assert new[1] == [*tagger[:3], 1024, 16, *tagger[5:]]
    assert editor.js(code, [place, saved, True]) == [run, tagger]
