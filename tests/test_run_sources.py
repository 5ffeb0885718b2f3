"""From folders, patterns, lists, tables and shards to items, each picture once, in constant memory."""

from __future__ import annotations

import csv
import errno
import glob
import io
import itertools
import json
import os
import random
import shutil
import stat
import sys
import tarfile
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from promptgen.captioning import open_image
from promptgen.captioning.runs.records import Item
from promptgen.captioning.runs.sources import SourceError, find_items, parquet_tables, patient
from promptgen.captioning.runs.sources.digests import DigestSet
from promptgen.captioning.runs.sources.names import natural_key, relative_path
from promptgen.captioning.runs.sources.patterns import expand_braces

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
needs_bytes = pytest.mark.skipif(sys.platform != "linux", reason="needs file names in any bytes")
needs_rights = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="needs folders that this user cannot read"
)


def picture(number: int = 0) -> bytes:
    """A small PNG whose colour is its number."""
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (number % 256, number // 256, 0)).save(stream, "PNG")
    return stream.getvalue()


def number_in(item: Item) -> int:
    """The number of the picture that an item opens."""
    with item.open() as file:
        red, green, _ = open_image(file).getpixel((0, 0))  # type: ignore[misc]
    return int(red + 256 * green)


def make(folder: Path, *names: str) -> Path:
    """Pictures of these names, numbered from 0."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return folder


class Problems(list[tuple[str, str]]):
    """What was reported."""

    def __call__(self, name: str, reason: str) -> None:
        self.append((name, reason))


def find(*inputs: str | Path, **options: Any) -> list[Item]:
    """All items; nothing may be reported unless the test has its own ``on_problem``."""
    problems = Problems()
    items = list(find_items([str(one) for one in inputs], **{"on_problem": problems, **options}))
    assert problems == []
    return items


def names(items: Sequence[Item]) -> list[str]:
    assert len({item.name for item in items}) == len(items)
    return [item.name for item in items]


# Folders


def test_a_folder_gives_its_pictures_by_extension_in_natural_order(tmp_path: Path) -> None:
    make(tmp_path, "b10.png", "b2.PNG", "a.webp", "B1.jpg", "sub/c.png", "sub/deep/d.png", "s10/e.png")
    for other in ("a.txt", "b2.json", "captions.jsonl", ".promptgen-run.sqlite", "no-extension", "x.pdf"):
        (tmp_path / other).write_bytes(b"x")
    items = find(tmp_path)
    assert names(items) == [
        "a.webp", "B1.jpg", "b2.PNG", "b10.png", "s10/e.png", "sub/c.png", "sub/deep/d.png",
    ]  # fmt: skip
    assert [item.relative.as_posix() for item in items] == names(items)
    assert [item.path for item in items] == [tmp_path / name for name in names(items)]
    assert number_in(items[3]) == 0


def test_folders_below_can_be_left_out(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "sub/b.png")
    assert names(find(tmp_path, recursive=False)) == ["a.png"]


def test_hidden_files_and_what_systems_make_are_left_out(tmp_path: Path) -> None:
    make(tmp_path, "a.png", ".b.png", "._a.png", ".git/c.png", "@eaDir/a.png/T.png", "__MACOSX/a.png")
    assert names(find(tmp_path)) == ["a.png"]
    assert names(find(tmp_path / ".git")) == ["c.png"]  # unless they are named


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg", "B.JPG", "sub/c.jpg", "sub/deep/d.jpg"]),
        ("*.{png,webp}", ["e.webp", "sub/f.png"]),
        ("sub/*.jpg", ["sub/c.jpg"]),
        ("**/deep/*", ["sub/deep/d.jpg"]),
        ("[ab].*", ["a.jpg", "B.JPG"]),
        ("?.jpg", ["a.jpg", "B.JPG", "sub/c.jpg", "sub/deep/d.jpg"]),
    ],
)
def test_a_pattern_chooses_in_a_folder(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    make(tmp_path, "a.jpg", "B.JPG", "e.webp", "sub/c.jpg", "sub/deep/d.jpg", "sub/f.png")
    assert names(find(tmp_path, pattern=pattern)) == expected


def test_a_changed_picture_has_another_fingerprint(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png")
    before = {item.name: item.fingerprint for item in find(tmp_path)}
    assert {item.name: item.fingerprint for item in find(tmp_path)} == before
    (tmp_path / "a.png").write_bytes(picture(7) + b"longer")
    os.utime(tmp_path / "b.png", ns=(1, 2))
    after = {item.name: item.fingerprint for item in find(tmp_path)}
    assert after["a.png"] != before["a.png"]
    assert after["b.png"] != before["b.png"]


@needs_bytes
def test_names_in_any_bytes(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path)
    for name in (b"caf\xe9.png", "日本.png".encode(), b"line\nbreak.png", b"back\\slash.png", b"#%{}[*].png"):
        with open(raw + b"/" + name, "wb") as file:
            file.write(picture(3))
    items = find(tmp_path)
    there = {os.fsencode(path.name) for path in tmp_path.iterdir()}
    assert {os.fsencode(item.name) for item in items} == there
    assert {os.fsencode(item.relative) for item in items} == there
    assert {number_in(item) for item in items} == {3}


@needs_links
def test_links_that_lead_round_end(tmp_path: Path) -> None:
    make(tmp_path, "data/a.png", "data/sub/b.png", "other/c.png")
    data = tmp_path / "data"
    (data / "self").symlink_to(data)
    (data / "sub" / "up").symlink_to("..")
    (data / "above").symlink_to(tmp_path)
    (data / "ring1").symlink_to("ring2")
    (data / "ring2").symlink_to("ring1")
    assert names(find(data)) == ["a.png", "sub/b.png"]


@needs_links
def test_each_real_folder_is_read_once(tmp_path: Path) -> None:
    make(tmp_path, "data/sub/b.png", "other/c.png", "other/in/d.png")
    data = tmp_path / "data"
    (data / "again").symlink_to("sub")
    (data / "first").symlink_to(tmp_path / "other" / "in")
    (data / "second").symlink_to(tmp_path / "other")
    (data / "third").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(data)
    assert names(find(data)) == ["first/d.png", "second/c.png", "sub/b.png"]


@needs_links
def test_links_to_files_are_pictures_of_their_own(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "blobs/x.png")
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "c.png").symlink_to("blobs/x.png")
    assert names(find(tmp_path)) == ["a.png", "b.png", "c.png", "blobs/x.png"]


@needs_links
def test_a_dangling_link_says_so_when_it_is_opened(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to("nowhere.png")
    _, dangling = find(tmp_path)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=r"b\.png"):
            dangling.open()
    make(tmp_path, "nowhere.png")
    mended = next(item for item in find(tmp_path) if item.name == "b.png")
    assert mended.fingerprint != dangling.fingerprint


@needs_links
def test_pipes_in_a_folder_are_not_opened(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert names(find(tmp_path)) == ["a.png"]
    (item,) = find(tmp_path / "b.png")
    with pytest.raises(OSError, match="a pipe"):
        item.open()


@needs_rights
def test_a_folder_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "secret/b.png", "z/c.png")
    secret = tmp_path / "secret"
    secret.chmod(0)
    problems = Problems()
    try:
        items = list(find_items([str(tmp_path)], on_problem=problems))
    finally:
        secret.chmod(stat.S_IRWXU)
    assert names(items) == ["a.png", "z/c.png"]
    ((name, reason),) = problems
    assert name == str(secret)
    assert "ermission" in reason


@pytest.mark.skipif(sys.platform != "linux", reason="needs paths that are too long for the system")
def test_a_folder_whose_path_is_too_long_is_reported(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "z/c.png")
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):  # 4096 bytes are the limit
        os.mkdir("m" * 250, dir_fd=folder)
        folder, above = os.open("m" * 250, os.O_RDONLY, dir_fd=folder), folder
        os.close(above)
    os.close(folder)
    problems = Problems()
    items = list(find_items([str(tmp_path)], on_problem=problems))
    shutil.rmtree(tmp_path / ("m" * 250))
    assert names(items) == ["a.png", "z/c.png"]
    ((name, reason),) = problems
    assert len(name) > 4000
    assert "the folder cannot be read" in reason


def test_folders_that_change_while_they_are_read(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png", "c.png", "gone/d.png", "kept/e.png")
    found = find_items([str(tmp_path)], on_problem=Problems())
    assert next(found).name == "a.png"
    (tmp_path / "b.png").unlink()
    (tmp_path / "gone" / "d.png").unlink()
    (tmp_path / "gone").rmdir()
    make(tmp_path, "kept/f.png")
    assert [item.name for item in found] == ["c.png", "kept/e.png", "kept/f.png"]


def test_a_picture_that_goes_before_it_is_read_is_an_error_of_its_own(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    (item,) = find(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError):
        item.open()


# Several inputs


def test_names_of_several_folders_begin_where_they_part(tmp_path: Path) -> None:
    make(tmp_path, "x/photos/1.png", "y/photos/1.png")
    assert names(find(tmp_path / "x/photos", tmp_path / "y/photos")) == ["x/photos/1.png", "y/photos/1.png"]


@pytest.mark.parametrize(
    "inputs",
    [
        ("photos", "photos"),
        ("photos", "photos/sub"),
        ("photos/sub", "photos"),
        ("photos/sub", "photos/*.png", "photos"),
        ("photos/a.png", "photos", "photos/sub/../a.png"),
        ("photos/**/*.png", "photos/a.png", "photos/sub"),
        ("list.txt", "photos", "@list.txt"),
        ("photos", "table.jsonl", "photos/*"),
        ("link", "photos"),
    ],
)
@needs_links
def test_one_file_through_two_inputs_comes_once(
    tmp_path: Path, inputs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "photos/a.png", "photos/sub/b.png")
    (tmp_path / "list.txt").write_text("photos/a.png\nphotos/a.png\nlink/sub/b.png\n", encoding="utf-8")
    (tmp_path / "table.jsonl").write_text('{"image": "photos/sub/b.png"}\n', encoding="utf-8")
    (tmp_path / "link").symlink_to("photos")
    monkeypatch.chdir(tmp_path)
    items = list(find_items(list(inputs), on_problem=Problems()))
    assert sorted(number_in(item) for item in items) == [0, 1]
    names(items)


def test_inputs_that_do_not_exist_are_named_at_once(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    missing = [str(tmp_path / "nowhere"), str(tmp_path / "no.tar")]
    with pytest.raises(SourceError, match=r"nowhere.*no\.tar"):
        find_items([str(tmp_path), *missing], on_problem=Problems())


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    make(tmp_path, "sub/a.png")
    (tmp_path / "notes.md").write_text("x", encoding="utf-8")
    with pytest.raises(SourceError, match=r"no picture in .*\.jpg, \.png.*folders below"):
        find(tmp_path, recursive=False)
    with pytest.raises(SourceError, match=r"name matches '\*\.webp'"):
        find(tmp_path, pattern="*.webp")
    with pytest.raises(SourceError, match="no input"):
        find()


def test_a_folder_of_shards_says_how_to_read_them(tmp_path: Path) -> None:
    tar(tmp_path / "s-000.tar", {"a.png": picture()})
    with pytest.raises(SourceError, match=r"s-000\.tar: .*\*\.tar"):
        find(tmp_path)


def test_one_empty_input_among_others_is_reported(tmp_path: Path) -> None:
    make(tmp_path, "full/a.png")
    (tmp_path / "empty").mkdir()
    problems = Problems()
    full, empty = str(tmp_path / "full"), str(tmp_path / "empty")
    assert len(list(find_items([empty, full], on_problem=problems))) == 1
    assert [name for name, _ in problems] == [empty]


def test_a_file_that_is_named_is_taken_whatever_its_extension(tmp_path: Path) -> None:
    (tmp_path / "picture.bin").write_bytes(picture(9))
    (item,) = find(tmp_path / "picture.bin")
    assert item.name == "picture.bin"
    assert number_in(item) == 9


def test_what_a_shell_makes_of_a_star_does_not_take_captions_for_lists(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.JPG")
    (tmp_path / "a.txt").write_text("1girl, solo", encoding="utf-8")
    (tmp_path / "b.txt").write_text("nowhere.png", encoding="utf-8")
    (tmp_path / "errors.jsonl").write_text('{"name": "c.png", "reason": "damaged"}\n', encoding="utf-8")
    problems = Problems()
    items = list(find_items(sorted(map(str, tmp_path.iterdir())), on_problem=problems))
    assert names(items) == ["a.png", "b.JPG"]
    assert [Path(name).name for name, _ in problems] == ["a.txt", "b.txt", "errors.jsonl"]
    assert "@" in problems[0][1]


# Patterns


def test_patterns_find_pictures_and_folders_as_a_shell_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "d1/a.png", "d1/x.jpg", "d2/b.png", "d10/c.png", "top.png", ".hid/e.png")
    (tmp_path / "d1" / "a.txt").write_text("caption", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert names(find("d*/*.png")) == ["d1/a.png", "d2/b.png", "d10/c.png"]
    assert names(find("d1/*")) == ["a.png", "x.jpg"]
    assert names(find("*")) == ["top.png", "d1/a.png", "d1/x.jpg", "d2/b.png", "d10/c.png"]
    assert names(find("**")) == ["top.png", "d1/a.png", "d1/x.jpg", "d2/b.png", "d10/c.png"]
    assert names(find("**/*.png")) == ["top.png", "d1/a.png", "d2/b.png", "d10/c.png"]
    assert names(find("{d2,d1}/?.png")) == ["d2/b.png", "d1/a.png"]
    assert names(find(".*/*.png")) == [".hid/e.png"]
    assert names(find("./d1/../d2/*.png")) == ["b.png"]
    with pytest.raises(SourceError, match="no picture in"):
        find("d*/*.gif")


def test_a_name_that_exists_is_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a[1].png", "a1.png", "{x,y}/b.png")
    monkeypatch.chdir(tmp_path)
    assert names(find("a[1].png")) == ["a[1].png"]
    assert names(find("{x,y}")) == ["b.png"]


_PARTS = ["a", "b", "ab", "a1"]
_SEGMENTS = ["*", "a*", "?", "[ab]", "**", "a", "ab", "*b", ".*"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(segments=st.lists(st.sampled_from(_SEGMENTS), min_size=1, max_size=4))
def test_patterns_match_what_pythons_do(tmp_path: Path, segments: list[str]) -> None:
    root = tmp_path / "tree"
    if not root.exists():
        for depth in range(4):
            for parts in itertools.product([*_PARTS, ".h"][:: 1 + (depth > 1)], repeat=depth):
                folder = root.joinpath(*parts)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "a.png").write_bytes(b"x")
                (folder / ".a.png").write_bytes(b"x")
    pattern = "/".join([str(root), "*", *segments, "a*.png"])
    expected = set(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob does not know hidden files
    problems = Problems()
    try:
        found = {str(item.path) for item in find_items([pattern], on_problem=problems)}
    except SourceError:
        found = set()
    assert found == expected


@needs_links
def test_a_deep_pattern_does_not_follow_links_round(tmp_path: Path) -> None:
    make(tmp_path, "a/b.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert names(find(tmp_path / "**/*.png")) == ["a/b.png"]
    assert names(find(tmp_path / "a/loop/a/*.png")) == ["b.png"]


def test_braces() -> None:
    assert list(expand_braces("s-{0008..0011}.tar")) == [
        "s-0008.tar",
        "s-0009.tar",
        "s-0010.tar",
        "s-0011.tar",
    ]
    assert list(expand_braces("{9..11}")) == ["9", "10", "11"]
    assert list(expand_braces("{a,b}{1..2}")) == ["a1", "a2", "b1", "b2"]
    assert list(expand_braces("{alone}")) == ["{alone}"]


# Lists


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\0"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_paths(tmp_path: Path, ending: str, encoding: str) -> None:
    if ending == "\0" and encoding == "utf-16":
        pytest.skip("find -print0 writes no UTF-16")
    make(tmp_path, "in/ä 1.png", "in/b.png", "out/c.png")
    lines = ["ä 1.png", "", "b.png", str(tmp_path / "out" / "c.png"), "../in/b.png"]
    (tmp_path / "in" / "list.txt").write_bytes(ending.join(lines).encode(encoding))
    items = find(tmp_path / "in" / "list.txt")
    assert names(items) == ["ä 1.png", "b.png", (tmp_path / "out" / "c.png").as_posix()]
    assert [number_in(item) for item in items] == [0, 1, 2]
    assert not any(item.relative.is_absolute() for item in items)


@needs_bytes
def test_a_list_holds_names_in_any_bytes(tmp_path: Path) -> None:
    name = b"caf\xe9.png"
    with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
        file.write(picture(5))
    (tmp_path / "list.lst").write_bytes(name + b"\n")
    (item,) = find(tmp_path / "list.lst")
    assert os.fsencode(item.name) == name
    assert number_in(item) == 5


def test_a_list_elsewhere_begins_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "here/photos/a.png", "lists/b.png")
    (tmp_path / "lists" / "from-find").write_text("photos/a.png\n", encoding="utf-8")
    (tmp_path / "lists" / "own.txt").write_text("b.png\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "here")
    assert names(find("@../lists/from-find")) == ["photos/a.png"]
    assert names(find("../lists/own.txt")) == ["b.png"]
    (tmp_path / "lists" / "from-find").write_text("photos/gone.png\nphotos/a.png\n", encoding="utf-8")
    gone, there = find("@../lists/from-find")
    assert (gone.name, there.name) == ("photos/gone.png", "photos/a.png")
    assert number_in(there) == 0


def test_what_a_list_names_and_is_not_there_fails_when_it_is_opened(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / "l.txt").write_text("gone.png\na.png\nfolder\nhttps://example.org/x.png\n", encoding="utf-8")
    gone, there, folder, address = find(tmp_path / "l.txt")
    assert number_in(there) == 0
    with pytest.raises(FileNotFoundError):
        gone.open()
    with pytest.raises(OSError, match="a folder"):
        folder.open()
    with pytest.raises(FileNotFoundError):
        address.open()


def test_an_empty_list_and_a_folder_as_list_are_errors(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("\n\n", encoding="utf-8")
    with pytest.raises(SourceError, match="names no files"):
        find(tmp_path / "l.txt")
    with pytest.raises(SourceError, match="a list is a file"):
        find(f"@{tmp_path}")


def test_captions_never_lie_outside_the_output_folder() -> None:
    for name in ("/etc/x.png", "../../x.png", "a/../../x.png", "//host/x.png", "./x.png"):
        path = relative_path(name)
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert path.name == "x.png"


# Tables


def test_json_lines_name_pictures(tmp_path: Path) -> None:
    make(tmp_path, "p/a.png", "p/b.png")
    rows: list[Any] = [
        {"image": "p/a.png", "text": "…"}, {"image": {"path": "p/b.png"}}, {"text": "none"}, {"image": None},
    ]  # fmt: skip
    lines = [json.dumps(row) for row in rows] + ["{broken", "", "[1]"]
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    problems = Problems()
    items = list(find_items([str(tmp_path / "t.jsonl")], on_problem=problems))
    assert names(items) == ["p/a.png", "p/b.png"]
    assert [name for name, _ in problems] == ["t.jsonl#2", "t.jsonl#3", "t.jsonl#4", "t.jsonl#5"]


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".csv", ";"), (".tsv", "\t")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_tables_name_pictures(tmp_path: Path, suffix: str, delimiter: str, encoding: str) -> None:
    make(tmp_path, "a, b.png", "ü.png")
    with open(tmp_path / f"t{suffix}", "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["n", "file_name"], [1, "a, b.png"], [2, "ü.png"], [3, ""]])
    problems = Problems()
    items = list(find_items([str(tmp_path / f"t{suffix}")], column="file_name", on_problem=problems))
    assert names(items) == ["a, b.png", "ü.png"]
    assert [name for name, _ in problems] == [f"t{suffix}#2"]


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet"])
def test_a_missing_column_is_told_with_those_that_are_there(tmp_path: Path, name: str) -> None:
    table = tmp_path / name
    if name == "t.parquet":
        parquet(table, {"file_name": ["a.png"], "text": ["x"]})
    elif name == "t.csv":
        table.write_text("file_name,text\na.png,x\n", encoding="utf-8")
    else:
        table.write_text('{"file_name": "a.png", "text": "x"}\n', encoding="utf-8")
    with pytest.raises(SourceError, match=r"no column 'image'.*'file_name', 'text'"):
        find_items([str(table)], on_problem=Problems())


def parquet(path: Path, columns: dict[str, Any], rows_in_a_group: int = 10, schema: Any = None) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    writer.write_table(pyarrow.table(columns, schema=schema), path, row_group_size=rows_in_a_group)


def test_parquet_tables_of_paths(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png")
    parquet(tmp_path / "t.parquet", {"image": ["a.png", None, "b.png"]})
    problems = Problems()
    items = list(find_items([str(tmp_path / "t.parquet")], on_problem=problems))
    assert names(items) == ["a.png", "b.png"]
    assert [name for name, _ in problems] == ["t.parquet#1"]


def test_parquet_tables_of_bytes_as_hugging_face_writes_them(tmp_path: Path) -> None:
    make(tmp_path, "beside.png")
    cells: list[Any] = [{"bytes": picture(n), "path": "image.png"} for n in range(1, 60)]
    cells[3] = {"bytes": picture(4), "path": None}
    cells[5] = {"bytes": None, "path": "beside.png"}
    cells[6] = None
    parquet(tmp_path / "train.parquet", {"image": cells})
    problems = Problems()
    items = list(find_items([str(tmp_path / "train.parquet")], on_problem=problems))
    assert len(items) == 58
    assert [name for name, _ in problems] == ["train.parquet#6"]
    assert items[0].name == "train.parquet#0"
    assert items[0].relative == Path("train/0.png")
    assert items[3].relative == Path("train/3")
    assert items[5].name == "beside.png"
    assert len({item.fingerprint for item in items}) == 58
    names(items)
    expected = [*range(1, 6), 0, *range(8, 60)]
    assert [number_in(item) for item in items] == expected
    assert [number_in(item) for item in reversed(items)] == expected[::-1]
    shuffled = list(zip(items, expected, strict=True))
    random.Random(1).shuffle(shuffled)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(number_in, [item for item, _ in shuffled])) == [n for _, n in shuffled]


def test_rows_of_bytes_keep_their_fingerprint_when_the_table_grows(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    parquet(table, {"image": [picture(n) for n in range(20)]})
    before = [(item.name, item.fingerprint) for item in find(table)]
    parquet(table, {"image": [picture(n) for n in range(25)]}, rows_in_a_group=7)
    assert [(item.name, item.fingerprint) for item in find(table)][:20] == before


def test_parquet_read_ahead_and_behind_at_once_is_read_through_once_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [f"picture {number}".encode() for number in range(400)]
    parquet(tmp_path / "t.parquet", {"image": cells}, rows_in_a_group=400)
    items = list(find_items([str(tmp_path / "t.parquet")], on_problem=Problems()))
    begun: list[int] = []
    real = parquet_tables._Rows._read

    def counted(rows: Any, group: int) -> Any:
        begun.append(group)
        return real(rows, group)

    monkeypatch.setattr(parquet_tables._Rows, "_read", counted)
    for number in range(150, 400):
        assert items[number].open().read() == cells[number]
        assert items[number - 150].open().read() == cells[number - 150]
    assert begun == [0, 0]


def test_parquet_that_is_none_and_columns_of_another_type(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    table.write_bytes(b"PAR1 not really")
    with pytest.raises(SourceError, match=r"t\.parquet: it cannot be read as Parquet"):
        find(table)
    parquet(table, {"image": [1, 2]})
    with pytest.raises(SourceError, match="'image' is int64"):
        find(table)


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(SourceError, match=r"promptgen-tagger\[folder\]"):
        find(tmp_path / "t.parquet")


# Shards


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("name", "mode"), [("s.tar", "w"), ("s.tar.gz", "w:gz"), ("s.TGZ", "w:gz"), ("s.tar.xz", "w:xz")]
)
def test_shards_give_their_pictures(tmp_path: Path, name: str, mode: str) -> None:
    members = {f"{n:04}.{end}": picture(n) for n in range(40) for end in ("png", "json", "txt")}
    members["deep/" + "long" * 40 + ".png"] = picture(40)
    members |= {"._0000.png": b"x", "__MACOSX/0000.png": b"x"}
    items = find(tar(tmp_path / name, members, mode))
    assert [item.path for item in items] == [None] * 41
    assert items[7].name == f"{name}#0007.png"
    assert items[7].relative == Path("s/0007.png")
    assert names(items)
    random.Random(1).shuffle(items)
    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(number_in, items)) == list(range(41))


def test_brace_patterns_and_stars_name_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(12):
        tar(tmp_path / f"d/shard-{n:04}.tar", {"a.png": picture(n)})
    monkeypatch.chdir(tmp_path)
    assert [number_in(item) for item in find("d/shard-{0000..0011}.tar")] == list(range(12))
    assert [number_in(item) for item in find("d/*.tar", "d/shard-0003.tar")] == list(range(12))
    with pytest.raises(SourceError, match=r"shard-0012.tar'$"):
        find("d/shard-{0000..0012}.tar")
    with pytest.raises(SourceError, match="no file matches"):
        find("d/*.tgz")


def test_a_member_keeps_its_fingerprint_in_a_new_shard(tmp_path: Path) -> None:
    one = find(tar(tmp_path / "s.tar", {"a.png": picture(1), "b.png": picture(2)}))
    two = find(tar(tmp_path / "s.tar", {"new.png": picture(9), "a.png": picture(1), "b.png": picture(3)}))
    assert one[0].fingerprint == two[1].fingerprint
    assert one[1].fingerprint != two[2].fingerprint


def test_members_do_not_leave_the_output_folder_nor_come_twice(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("../../evil.png", "/abs.png", "a.png", "a.png"):
            info = tarfile.TarInfo(name)
            info.size = len(picture())
            archive.addfile(info, io.BytesIO(picture()))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    problems = Problems()
    items = list(find_items([str(path)], on_problem=problems))
    assert [item.relative for item in items] == [Path("s/evil.png"), Path("s/abs.png"), Path("s/a.png")]
    assert [name for name, _ in problems] == ["s.tar#a.png", "s.tar#link.png"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_damaged_shards_give_what_comes_before_and_are_reported(tmp_path: Path, mode: str) -> None:
    name = "s.tar" if mode == "w" else "s.tar.gz"
    noise = random.Random(1)
    members = {f"{n}.png": picture(n) + noise.randbytes(5000) for n in range(10)}
    path = tar(tmp_path / name, members, mode)
    good = tar(tmp_path / "good.tar", {"z.png": picture(99)})
    whole = path.read_bytes()
    for cut in (len(whole) * 2 // 3, 5632 * 5 if mode == "w" else len(whole) // 2):
        path.write_bytes(whole[:cut])
        problems = Problems()
        items = list(find_items([str(path), str(good)], on_problem=problems))
        assert [name for name, _ in problems] == [name]
        assert 2 < len(items) < 10
        assert [number_in(item) for item in items] == [*range(len(items) - 1), 99]
    if mode == "w":
        path.write_bytes(whole[: 5632 * 4] + b"\xff" * 512 + whole[5632 * 4 + 512 :])
        problems = Problems()
        assert len(list(find_items([str(path)], on_problem=problems))) == 4
        assert [name for name, _ in problems] == [name]
    path.write_bytes(b"no tar at all" * 100)
    problems = Problems()
    assert len(list(find_items([str(path), str(good)], on_problem=problems))) == 1
    assert problems[0][0] == name


# Parts of a run


def test_parts_of_a_run_divide_it_and_new_pictures_move_none(tmp_path: Path) -> None:
    make(tmp_path, *(f"{n}.png" for n in range(90)))
    parts = [set(names(find(tmp_path, shard=(index, 3)))) for index in range(3)]
    assert sum(map(len, parts)) == 90
    assert set.union(*parts) == set(names(find(tmp_path)))
    assert min(map(len, parts)) > 15
    make(tmp_path, *(f"{n}-new.png" for n in range(0, 90, 7)))
    for index, before in enumerate(parts):
        assert before < set(names(find(tmp_path, shard=(index, 3))))
    with pytest.raises(ValueError, match="they are 0 to 2"):
        find(tmp_path, shard=(3, 3))


def test_a_part_without_pictures_is_no_error(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    assert sum(len(find(tmp_path, shard=(index, 5))) for index in range(5)) == 1


def test_counting_reads_no_contents_and_finds_the_same(tmp_path: Path) -> None:
    tar(tmp_path / "s.tar", {f"{n}.png": picture(n) for n in range(5)})
    parquet(tmp_path / "t.parquet", {"image": [picture(n) for n in range(30)]})
    make(tmp_path, "f/a.png")
    inputs = (tmp_path / "f", tmp_path / "s.tar", tmp_path / "t.parquet")
    counted = find(*inputs, fingerprints=False)
    assert names(counted) == names(find(*inputs))
    assert [item.fingerprint for item in counted] == [""] * 36


# Reads that fail for a while


class Share:
    """The far side of a network share: fails as told, then serves the file."""

    def __init__(self, failures: list[OSError]) -> None:
        self.failures = failures
        self.pauses: list[float] = []

    def file(self, path: str) -> io.FileIO:
        share = self

        class File(io.FileIO):
            lost: OSError | None = None  # for good: what is there can be had by opening it again

            def readinto(self, buffer: Any) -> int | None:
                if self.tell() > 0 and share.failures:
                    self.lost = share.failures.pop(0)
                if self.lost is not None:
                    raise self.lost
                return super().readinto(buffer)

        return File(path)


@pytest.fixture
def share(monkeypatch: pytest.MonkeyPatch) -> Share:
    share = Share([])
    monkeypatch.setattr(patient, "FileIO", share.file)
    monkeypatch.setattr(patient, "sleep", share.pauses.append)
    return share


@pytest.mark.parametrize("reason", ["EIO", "ESTALE", "ETIMEDOUT", "ECONNRESET"])
def test_a_read_that_fails_for_a_while_is_tried_again(tmp_path: Path, share: Share, reason: str) -> None:
    data = random.Random(2).randbytes(300_000)
    (tmp_path / "a.png").write_bytes(data)
    tar(tmp_path / "s.tar", {"b.png": data})
    for item in find(tmp_path / "a.png", tmp_path / "s.tar"):
        share.failures += [OSError(getattr(errno, reason), "lost") for _ in range(2)]
        share.pauses.clear()
        with item.open() as file:
            assert file.read() == data
        assert share.pauses == sorted(share.pauses)
        assert len(share.pauses) == 2
    share.failures += [OSError(getattr(errno, reason), "lost") for _ in range(3)]
    with item.open() as file, pytest.raises(OSError, match="lost"):
        file.read()


def test_what_does_not_pass_is_not_tried_again(tmp_path: Path, share: Share) -> None:
    make(tmp_path, "a.png")
    (tmp_path / "a.png").write_bytes(bytes(300_000))
    (item,) = find(tmp_path)
    share.failures.append(PermissionError(errno.EACCES, "not yours"))
    with item.open() as file, pytest.raises(PermissionError):
        file.read()
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError):
        item.open()
    assert share.pauses == []


def test_opened_parts_of_files_behave_as_files(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(1000)
    (item,) = find(tar(tmp_path / "s.tar", {"a.png": data}))
    with item.open() as file:
        whole = io.BytesIO(data)
        for position, whence, size in [
            (0, 0, 10),
            (5, 1, 7),
            (-4, 2, 100),
            (2000, 0, 5),
            (3, 0, -1),
            (0, 2, 1),
        ]:
            assert file.seek(position, whence) == whole.seek(position, whence)
            assert file.read(size) == whole.read(size)
            assert file.tell() == whole.tell()
        assert file.name == "s.tar#a.png"
        with pytest.raises(ValueError, match="before the beginning"):
            file.seek(-2000, 2)


def test_errors_name_the_member(tmp_path: Path) -> None:
    (item,) = find(tar(tmp_path / "s.tar", {"a.png": b"no picture"}))
    from promptgen.captioning import ImageError

    with pytest.raises(ImageError, match=r"s\.tar#a\.png"), item.open() as file:
        open_image(file)


# Sizes


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    """Peak memory over four times as many pictures, in folders of a fixed size, and in lists and shards."""

    def peak_of(make_input: Callable[[int], Path]) -> list[int]:
        peaks = []
        for count in (500, 2000):
            path = make_input(count)
            for _ in find_items([str(path)], on_problem=Problems()):  # imports, caches
                break
            tracemalloc.start()
            for _ in find_items([str(path)], on_problem=Problems()):
                pass
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        return peaks

    def folder(count: int) -> Path:
        root = tmp_path / f"folder{count}"
        for n in range(count):
            path = root / str(n // 100) / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return root

    def shard(count: int) -> Path:
        return tar(tmp_path / f"{count}.tar", {f"{n}.png": b"x" for n in range(count)})

    for make_input in (folder, shard):
        few, many = peak_of(make_input)
        assert many < few + 60_000, make_input


@given(st.lists(st.integers(1, 2**64 - 1)))
def test_a_digest_set_is_a_set(digests: list[int]) -> None:
    held = DigestSet()
    seen: set[int] = set()
    for digest in [*digests, *digests]:
        assert held.add(digest) == (digest not in seen)
        seen.add(digest)
    assert len(held) == len(seen)


def test_a_large_digest_set_grows() -> None:
    held = DigestSet()
    assert all(held.add(n) for n in range(1, 5000))
    assert not any(held.add(n) for n in range(1, 5000))


def test_natural_order() -> None:
    texts = ["a", "A1", "a09", "a9", "a10", "a10b", "b"]
    for order in itertools.permutations(texts[:5]):
        assert sorted([*order, *texts[5:]], key=natural_key) == texts
