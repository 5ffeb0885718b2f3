"""What comes out of a run: every form killed at any line and started again, and read by its own consumer."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import random
import stat
import sys
import tarfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms
from promptgen.captioning.runs.journal import Journal, Known
from promptgen.captioning.runs.outputs import (
    Column,
    Existing,
    Form,
    Fsync,
    OutputError,
    OutputOptions,
    PictureError,
    SameStem,
    ShardLimits,
    Targets,
    make_outputs,
    refuse,
)
from promptgen.captioning.runs.outputs.disk import telling
from promptgen.captioning.runs.outputs.embedded import InPicture, read_embedded
from promptgen.captioning.runs.records import Item, Record
from promptgen.captioning.runs.writing import GroupWriter

posix = pytest.mark.skipif(os.name == "nt", reason="needs fork")

CAPTION = Column("CAPTION")
TAGS = Column("GENERATE_TAGS")
BOTH = (Column("GENERATE_TAGS", "tags"), Column("CAPTION", "txt"))


def picture(path: Path, **options: Any) -> Path:
    """A small picture, of a colour that follows from its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = random.Random(os.fsencode(path.name)).randbytes(3)
    Image.new("RGB", (6, 4), tuple(colour)).save(path, **options)
    return path


def item(path: Path, root: Path, version: int = 1) -> Item:
    relative = path.relative_to(root)
    return Item(relative.as_posix(), relative, path, str(version), lambda: open(path, "rb"))


def record(one: Item, text: str | None = None, **changes: Any) -> Record:
    """A caption and tags, told from those of other pictures and versions."""
    tags = [f"tag of {one.name}", f"v{one.fingerprint}"]
    caption = f"Picture {one.name}, v{one.fingerprint}." if text is None else text
    results = (
        {"instruction": "GENERATE_TAGS", "text": ", ".join(tags), "tags": tags},
        {"instruction": "CAPTION", "text": caption},
    )
    made = Record(one.name, one.relative, one.path, one.fingerprint, results, size=(6, 4), open=one.open)
    return replace(made, **changes)


class Session:
    """A run's writing end: the real journal, the real outputs, groups of three."""

    def __init__(self, folder: Path, options: OutputOptions) -> None:
        self.problems: list[tuple[str, str]] = []
        self.outputs = make_outputs(options, lambda name, reason: self.problems.append((name, reason)))
        self.journal = folder / ".promptgen-run.sqlite"
        self.settings = json.dumps([column.instruction for column in options.columns])

    def run(self, items: list[Item], caption: Callable[[Item], Record] = record) -> Session:
        """Write what is not done."""
        with Journal(self.journal, self.settings) as journal:
            writer = GroupWriter(journal, self.outputs)
            try:
                writer.start()
                todo = [work for one in items if (work := self._work(journal, one)) is not None]
                for at in range(0, len(todo), 3):
                    group = todo[at : at + 3]
                    writer.write([caption(one) if isinstance(one, Item) else one for one in group])
                writer.finish()
            finally:
                writer.close()
        return self

    def _work(self, journal: Journal, one: Item) -> Item | Record | None:
        standing = journal.standing(one)
        if standing.known is not Known.NOTHING:
            return None
        try:
            wanted = standing.outdated or any(output.wants(one) for output in self.outputs)
        except PictureError as error:
            return record(one, results=(), error=str(error))
        return one if wanted else None


def run(folder: Path, items: list[Item], *columns: Column, **options: Any) -> Session:
    """One run that is not killed."""
    caption = options.pop("caption", record)
    columns = columns or (TAGS, CAPTION)

    def asked(one: Item) -> Record:
        made = caption(one)
        wanted = [column.instruction for column in columns]
        return replace(made, results=tuple(r for r in made.results if r["instruction"] in wanted))

    options.setdefault("forms", (Form.SIDECAR,))
    return Session(folder, OutputOptions(columns, **options)).run(items, asked)


def tree(folder: Path) -> dict[str, bytes]:
    """All files of a folder but the journal."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".promptgen-run" not in path.name]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def pictures(tmp_path: Path) -> list[Item]:
    root = tmp_path / "pictures"
    return [item(picture(root / name), root) for name in ("a.png", "b.png", "sub/c.png", "sub/d.e.png")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pictures"


# ---- killed at any line


CASES: dict[str, dict[str, Any]] = {
    "skip": {"columns": BOTH},
    "append": {"columns": BOTH, "existing": Existing.APPEND},
    "prepend": {"columns": BOTH, "existing": Existing.PREPEND},
    "overwrite": {"columns": BOTH, "existing": Existing.OVERWRITE, "fsync": Fsync.ALWAYS},
    "joined": {"columns": (TAGS, CAPTION), "existing": Existing.APPEND, "fsync": Fsync.NEVER},
    "jsonl": {"forms": (Form.JSONL,), "errors": Path("errors.jsonl")},
    "csv": {"forms": (Form.CSV,)},
    "imagefolder": {"forms": (Form.IMAGEFOLDER,)},
    "whole": {"forms": (Form.PARQUET, Form.KOHYA)},
    "webdataset": {"forms": (Form.WEBDATASET,), "shard_limits": ShardLimits(samples=2)},
    "shards": {"forms": (Form.WEBDATASET,), "shard_limits": ShardLimits(samples=4), "in_shards": True},
    "embed": {"forms": (), "embed": True, "existing": Existing.APPEND},
}


def scenario(folder: Path, case: dict[str, Any]) -> Iterator[tuple[Session, list[Item], Any]]:
    """Two runs: in the second, one picture has changed, one has become unreadable, and two are new."""
    root = folder / "pictures"
    names = [f"{name}.png" for name in "abcdefg"]
    options = {"columns": (TAGS, CAPTION), "output_dir": None, **case}
    in_shards = options.pop("in_shards", False)
    if options.get("forms"):
        options["output_dir"] = root
    if "errors" in options:
        options["errors"] = root / options["errors"]

    def caption(one: Item) -> Record:
        if one.name == "b.png" and one.fingerprint == "2":
            return record(one, results=(), error="is no picture any more")
        return record(one, path=None) if in_shards else record(one)

    changed = () if in_shards else ("a.png", "b.png")
    first = [item(root / name, root) for name in names[:-2]]
    second = [item(root / name, root, 2 if name in changed else 1) for name in names]
    for items in (first, second):
        yield Session(folder, OutputOptions(**options)), items, caption


def prepare(folder: Path) -> None:
    for name in "abcdefg":
        picture(folder / "pictures" / f"{name}.png")
    (folder / "pictures" / "a.txt").write_text("the user's words,\n", encoding="utf-8")
    (folder / "pictures" / "c.tags").write_text("the user's tag\n", encoding="utf-8")


def write_all(
    folder: Path, case: dict[str, Any], most: int | None = None, seen: list[tuple[str, int]] | None = None
) -> None:
    """Both runs; the process ends at once after ``most`` lines of ours, which are noted in ``seen``."""
    lines = 0

    def count(frame: Any, event: str, argument: object) -> Any:
        nonlocal lines
        path = frame.f_code.co_filename
        if f"runs{os.sep}" not in path:
            return None
        if event == "line":
            lines += 1
            if seen is not None:
                seen.append((path, frame.f_lineno))
            if lines == most:
                os._exit(9)
        return count

    if most is not None or seen is not None:
        sys.settrace(count)
    try:
        for session, items, caption in scenario(folder, case):
            done = folder / "pictures" / ".first-done"
            if not (done.exists() and len(items) < 7):
                session.run(items, caption)
                done.touch()
    finally:
        sys.settrace(None)


def kill_after(folder: Path, case: dict[str, Any], most: int) -> None:
    """Let a process do both runs, and kill it after ``most`` lines of ours, if it comes that far."""
    child = os.fork()
    if child == 0:
        try:
            write_all(folder, case, most)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - this process ends here
            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, 9)


@posix
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_killed_at_any_line_the_files_come_out_equal(tmp_path: Path, case: dict[str, Any]) -> None:
    dice = random.Random(str(case))
    # Each trial runs in one place, since full paths (kohya's) must be equal, and is moved away after it.
    place = tmp_path / "place"
    seen: list[tuple[str, int]] = []
    prepare(place)
    write_all(place, case, seen=seen)
    wanted = tree(place)
    place.rename(tmp_path / "whole")
    assert len(wanted) > 8, "the undisturbed runs wrote something"
    assert not [name for name in wanted if ".tmp" in name or ".promptgen" in name]
    for trial, told in enumerate(kill_points(seen, dice)):
        prepare(place)
        for lines in told:
            kill_after(place, case, lines)
        write_all(place, case)
        assert tree(place) == wanted, f"killed after {told} lines: {[seen[most - 1] for most in told[:1]]}"
        place.rename(tmp_path / f"trial {trial}")


def kill_points(seen: list[tuple[str, int]], dice: random.Random) -> Iterator[list[int]]:
    """After how many lines to kill, once or thrice: at each line where files or marks are about to change."""
    telling_calls = (
        "disk.", "save(", ".unlink(", ".truncate(", "write_all(", "_put_in_place(", "finish(",
        "replace(temporary", "temporary.replace(",
    )  # fmt: skip
    text = {path: Path(path).read_text(encoding="utf-8").splitlines() for path, _ in seen}
    passed: dict[tuple[str, int], list[int]] = {}
    for at, (path, number) in enumerate(seen, start=1):
        if any(call in text[path][number - 1] for call in telling_calls):
            passed.setdefault((path, number), []).append(at)
    for occurrences in passed.values():
        yield [dice.choice(occurrences)]
        yield [min(occurrences[-1] + dice.randint(1, 3), len(seen))]
    for _ in range(5):
        yield [dice.randint(1, len(seen) // 3) for _ in range(3)]


# ---- caption files


def test_a_caption_file_for_each_instruction(pictures: list[Item], root: Path) -> None:
    run(root, pictures, *BOTH)
    assert (root / "a.tags").read_bytes() == b"tag of a.png, v1\n"
    assert (root / "sub/d.e.txt").read_bytes() == b"Picture sub/d.e.png, v1.\n"
    assert len(tree(root)) == 3 * len(pictures)


def test_instructions_of_one_extension_share_a_file(pictures: list[Item], root: Path) -> None:
    run(root, pictures, TAGS, CAPTION, separator=" | ")
    assert (root / "a.txt").read_text() == "tag of a.png, v1 | Picture a.png, v1.\n"


def test_captions_mirrored_below_another_folder(pictures: list[Item], root: Path, tmp_path: Path) -> None:
    run(root, pictures, CAPTION, output_dir=tmp_path / "captions")
    assert set(tree(tmp_path / "captions")) == {"a.txt", "b.txt", "sub/c.txt", "sub/d.e.txt"}
    assert len(tree(root)) == len(pictures)


def test_text_is_utf8_with_one_line_end(pictures: list[Item], root: Path) -> None:
    run(root, pictures[:1], CAPTION, caption=lambda one: record(one, "héllo\r\n世界 😀 \n"))
    assert (root / "a.txt").read_bytes() == "héllo\n世界 😀\n".encode()


@pytest.mark.parametrize(
    ("existing", "text"),
    [
        ("skip", "old, words,\n"),
        ("overwrite", "new\n"),
        ("append", "old, words, new\n"),
        ("prepend", "new, old, words,\n"),
    ],
)
def test_existing_captions(pictures: list[Item], root: Path, existing: str, text: str) -> None:
    (root / "a.txt").write_text("old, words,\n")
    (root / "a.txt").chmod(0o640)
    session = run(
        root, pictures, CAPTION, existing=Existing(existing), caption=lambda one: record(one, "new")
    )
    assert (root / "a.txt").read_text() == text
    assert (root / "b.txt").read_text() == "new\n"
    assert not session.problems
    if os.name != "nt":
        assert stat.S_IMODE((root / "a.txt").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "content", [b"", b" \n\t\n", b"\xef\xbb\xbf", b"null\n", b"half a\0\0\0", b"caf\xe9", "ä".encode()[:1]]
)
@pytest.mark.parametrize("existing", [Existing.SKIP, Existing.APPEND, Existing.PREPEND])
def test_damaged_captions_are_told_and_redone_on_request(
    pictures: list[Item], root: Path, content: bytes, existing: Existing
) -> None:
    (root / "a.txt").write_bytes(content)
    session = run(root, pictures[:1], CAPTION, existing=existing)
    assert (root / "a.txt").read_bytes() == content
    [(name, reason)] = session.problems
    assert name == "a.png"
    assert "--redo-damaged" in reason
    run(root, [replace(pictures[0], fingerprint="2")], CAPTION, existing=existing, redo_damaged=True)
    assert (root / "a.txt").read_text() == "Picture a.png, v2.\n"


def test_a_half_written_caption_beside_is_told(pictures: list[Item], root: Path) -> None:
    (root / "a.txt.partial").write_text("half a cap")
    session = run(root, pictures, CAPTION)
    assert "half-written" in session.problems[0][1]
    assert not (root / "a.txt").exists()
    assert (root / "b.txt").exists()


@pytest.mark.parametrize("existing", list(Existing))
def test_a_changed_picture_replaces_its_own_caption_and_no_other(
    pictures: list[Item], root: Path, existing: Existing
) -> None:
    (root / "b.txt").write_text("words of the user\n")
    run(root, pictures, CAPTION, existing=existing)
    (root / "sub/c.txt").write_text("edited by the user\n")
    changed = [replace(one, fingerprint="2") for one in pictures]
    run(root, changed, CAPTION, existing=existing)
    assert (root / "a.txt").read_text() == "Picture a.png, v2.\n", "ours is replaced, also by append"
    of_user, edited = (root / "b.txt").read_text(), (root / "sub/c.txt").read_text()
    if existing is Existing.OVERWRITE:
        assert of_user == "Picture b.png, v2.\n"
    else:
        assert "words of the user" in of_user
        assert "edited by the user" in edited
        assert of_user.count("Picture") == (existing is not Existing.SKIP)


def test_after_a_failure_in_between_a_caption_is_still_ours(pictures: list[Item], root: Path) -> None:
    run(root, pictures[:1], CAPTION)
    broken = [replace(pictures[0], fingerprint="2")]
    run(root, broken, CAPTION, caption=lambda one: record(one, results=(), error="broken"))
    assert (root / "a.txt").read_text() == "Picture a.png, v1.\n"
    run(root, [replace(pictures[0], fingerprint="3")], CAPTION)
    assert (root / "a.txt").read_text() == "Picture a.png, v3.\n"


def test_a_link_to_a_caption_stays_a_link(pictures: list[Item], root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_text("old\n")
    try:
        (root / "a.txt").symlink_to(elsewhere)
    except OSError:
        pytest.skip("no symbolic links here")
    run(root, pictures[:1], CAPTION, existing=Existing.OVERWRITE)
    assert (root / "a.txt").is_symlink()
    assert elsewhere.read_text() == "Picture a.png, v1.\n"


def test_names_of_any_bytes(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    path = root / os.fsdecode(b"caf\xe9 \xff.png")
    try:
        picture(path)
    except (OSError, UnicodeError):
        pytest.skip("this file system wants UTF-8")
    one = item(path, root)
    forms = (Form.SIDECAR, Form.JSONL, Form.CSV, Form.PARQUET, Form.KOHYA, Form.WEBDATASET)
    out = tmp_path / "out"
    session = run(root, [one], CAPTION, forms=forms, output_dir=out, errors=out / "errors.jsonl")
    assert not session.problems
    assert (out / os.fsdecode(b"caf\xe9 \xff.txt")).exists()
    assert json.loads((out / "captions.jsonl").read_text())["image"] == one.name, "as Python names the file"
    assert list(json.loads((out / "metadata.json").read_text())) == [str(path)]
    session = run(out, [one], CAPTION, forms=(Form.IMAGEFOLDER,), output_dir=root)
    assert "no UTF-8" in session.problems[0][1]


def test_a_name_that_is_too_long_costs_one_caption(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    items = [item(picture(root / name), root) for name in ("a" * 251 + ".png", "b.png")]
    session = run(root, items, Column("CAPTION", "captions"))
    assert [name for name, _ in session.problems] == [items[0].name]
    assert (root / "b.captions").exists()


def test_a_folder_where_a_caption_belongs_costs_one_caption(pictures: list[Item], root: Path) -> None:
    (root / "a.txt").mkdir()
    session = run(root, pictures, CAPTION, existing=Existing.OVERWRITE, errors=root / "errors.jsonl")
    assert not session.problems
    [error] = [json.loads(line) for line in (root / "errors.jsonl").read_text().splitlines()]
    assert error["name"] == "a.png"
    assert "is a folder" in error["reason"]
    assert (root / "b.txt").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no such pipes")
def test_a_pipe_where_a_caption_belongs_is_not_waited_for(pictures: list[Item], root: Path) -> None:
    os.mkfifo(root / "a.txt")
    run(root, pictures, CAPTION, existing=Existing.OVERWRITE, errors=root / "errors.jsonl")
    [error] = [json.loads(line) for line in (root / "errors.jsonl").read_text().splitlines()]
    assert (error["name"], "no regular file" in error["reason"]) == ("a.png", True)
    assert (root / "b.txt").exists()


def test_a_caption_that_has_become_unreadable_costs_no_caption_of_another_form(
    pictures: list[Item], root: Path
) -> None:
    run(root, pictures, CAPTION, forms=(Form.JSONL,), output_dir=root)
    (root / "a.txt").mkdir()
    forms = {"forms": (Form.JSONL, Form.SIDECAR), "output_dir": root, "errors": root / "errors.jsonl"}

    def known(one: Item) -> Record:  # as the journal gives it to an output that lacks it
        return record(one, is_known=True)

    with Journal(root / ".promptgen-run.sqlite", json.dumps(["CAPTION"])) as journal:
        session = Session(root, OutputOptions((CAPTION,), **forms))
        writer = GroupWriter(journal, session.outputs)
        writer.start()
        writer.write([known(one) for one in pictures])
        writer.finish()
        writer.close()
    [(name, reason)] = session.problems
    assert (name, "is a folder" in reason) == ("a.png", True)
    assert names_in(root / "captions.jsonl", Form.JSONL, root) == {one.name for one in pictures}
    assert (root / "b.txt").exists()
    assert not (root / "errors.jsonl").exists()


def test_a_caption_that_becomes_unreadable_while_its_picture_is_captioned_is_an_error(
    pictures: list[Item], root: Path
) -> None:
    errors = root / "errors.jsonl"
    run(root, pictures, CAPTION, errors=errors)
    (root / "a.txt").unlink()
    (root / "a.txt").mkdir()
    session = run(root, [replace(one, fingerprint="2") for one in pictures], CAPTION, errors=errors)
    [(name, reason)] = session.problems
    assert name == "a.png"
    assert [json.loads(line)["reason"] for line in errors.read_text().splitlines()] == [reason]
    assert (root / "b.txt").read_text() == "Picture b.png, v2.\n"
    (root / "a.txt").rmdir()
    run(root, [replace(one, fingerprint="3") for one in pictures], CAPTION, errors=errors)
    assert (root / "a.txt").read_text() == "Picture a.png, v3.\n"
    assert not errors.exists()


def test_pictures_of_shards_need_a_folder(root: Path, tmp_path: Path) -> None:
    one = Item("s.tar#a.png", Path("s/a.png"), None, "1", io.BytesIO)
    with pytest.raises(OutputError, match="--output-dir"):
        run(tmp_path, [one], CAPTION)
    run(tmp_path, [one], CAPTION, output_dir=tmp_path / "out")
    assert (tmp_path / "out/s/a.txt").exists()
    astray = replace(one, relative=Path("../a.png"))
    with pytest.raises(OutputError, match="leads out"):
        run(tmp_path, [replace(astray, name="x")], CAPTION, output_dir=tmp_path / "out")
    assert not (tmp_path / "a.txt").exists()


@pytest.mark.parametrize("extension", ["jpg", "PNG", ".webp", "a/b", "..", "", "x.png", "tmp", "tar"])
def test_extensions_that_would_do_harm(extension: str) -> None:
    with pytest.raises(OutputError, match="extension"):
        OutputOptions((CAPTION,), extension=extension)


# ---- disks


@pytest.mark.parametrize(("policy", "least"), [("always", 8), ("group", 7), ("never", 0)])
def test_fsync_policy(
    pictures: list[Item], root: Path, policy: str, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), real(descriptor)))
    run(root, pictures, CAPTION, fsync=Fsync(policy))
    folders = 0 if os.name == "nt" else least
    own = len(synced) - (1 if os.name != "nt" else 0)  # the journal syncs its folder once
    assert own == (folders if os.name != "nt" else 4 * (policy != "never"))


@posix
def test_a_file_that_cannot_be_written_stops_the_run_and_leaves_the_old_one(
    pictures: list[Item], root: Path
) -> None:
    import resource
    import signal

    (root / "a.txt").write_text("old\n")
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        outputs = make_outputs(OutputOptions((CAPTION,), existing=Existing.OVERWRITE), print)
        prepared = outputs[0].prepare([record(pictures[0], "x" * 10_000)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            outputs[0].write(prepared)
        except OutputError as error:
            os._exit(42 if "all that is done is safe" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert (root / "a.txt").read_text() == "old\n"
    assert set(tree(root)) == {"a.txt", "a.png", "b.png", "sub/c.png", "sub/d.e.png"}


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "Make room"), (errno.EROFS, "read-only"), (errno.EACCES, "permissions")],
)
def test_errors_of_disks_say_what_to_do(number: int, words: str) -> None:
    with pytest.raises(OutputError, match=words), telling(Path("a.txt")):
        raise OSError(number, os.strerror(number))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_stops_the_run(pictures: list[Item], root: Path) -> None:
    root.chmod(0o555)
    try:
        outputs = make_outputs(OutputOptions((CAPTION,)), print)
        with pytest.raises(OutputError, match="permissions"):
            outputs[0].write([record(pictures[0])])
    finally:
        root.chmod(0o755)


# ---- pictures of one stem


def targets_of(options: OutputOptions, items: list[Item]) -> Targets:
    targets = Targets()
    [output] = make_outputs(options, print)
    for one in items:
        targets.add(one.name, output.targets(one))
    return targets


def test_pictures_of_one_stem_are_noticed(tmp_path: Path) -> None:
    names = [f"sub/{number}.{extension}" for number in range(12) for extension in ("jpg", "png")]
    items = [item(tmp_path / name, tmp_path) for name in ["lone.png", *names]]
    with targets_of(OutputOptions((CAPTION,)), items) as targets:
        assert [one.other for one in targets.collisions()] == sorted(name for name in names if "png" in name)
        assert targets.came_late("sub/3.png")
        assert not targets.came_late("sub/3.jpg")
        with pytest.raises(OutputError, match="12 pictures ask") as told:
            refuse(targets)
    message = str(told.value)
    assert "sub/0.jpg and sub/0.png" in message
    assert "and 2 more" in message
    assert "--same-stem full-name" in message


def test_full_names_never_collide(tmp_path: Path) -> None:
    items = [item(picture(tmp_path / name), tmp_path) for name in ("a.jpg", "a.png")]
    with targets_of(OutputOptions((CAPTION,), same_stem=SameStem.FULL_NAME), items) as targets:
        refuse(targets)
    run(tmp_path, items, CAPTION, same_stem=SameStem.FULL_NAME)
    assert (tmp_path / "a.jpg.txt").read_text() == "Picture a.jpg, v1.\n"
    assert (tmp_path / "a.png.txt").read_text() == "Picture a.png, v1.\n"


def test_names_that_differ_in_capitals_collide_where_the_file_system_says_so(tmp_path: Path) -> None:
    items = [item(tmp_path / name, tmp_path) for name in ("Cat.jpg", "cAT.png")]
    (tmp_path / "Probe").touch()
    ignores_case = (tmp_path / "pROBE").exists()
    with targets_of(OutputOptions((CAPTION,)), items) as targets:
        assert targets.count() == ignores_case


# ---- files for all pictures


def awkward(one: Item) -> Record:
    """Text that breaks careless writers."""
    return record(one, f'He said "no", {one.name};\nthen,\tleft\u2028. Ünïcödé 😀\r\n=1+1')


def test_json_lines_by_pandas(pictures: list[Item], root: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    out = tmp_path / "c.jsonl"
    run(tmp_path, pictures, forms=(Form.JSONL,), output=out, caption=awkward)
    frame = pandas.read_json(out, lines=True)
    assert list(frame.columns) == ["image", "width", "height", "GENERATE_TAGS", "CAPTION"]
    assert list(frame["CAPTION"]) == [awkward(one).results[1]["text"] for one in pictures]
    assert list(frame["width"]) == [6] * len(pictures)


def test_json_lines_with_details(pictures: list[Item], tmp_path: Path) -> None:
    run(tmp_path, pictures[:1], forms=(Form.JSONL,), output=tmp_path / "c.jsonl", details=True)
    row = json.loads((tmp_path / "c.jsonl").read_text())
    assert row["results"][0]["tags"] == ["tag of a.png", "v1"]


def test_csv_by_pandas_and_the_standard_library(pictures: list[Item], tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    out = tmp_path / "c.csv"
    run(tmp_path, pictures, *BOTH, forms=(Form.CSV,), output=out, caption=awkward)
    texts = [awkward(one).results[1]["text"] for one in pictures]
    with open(out, encoding="utf-8", newline="") as stream:
        assert [row["txt"] for row in csv.DictReader(stream)] == texts
    frame = pandas.read_csv(out)
    assert list(frame.columns) == ["image", "width", "height", "tags", "txt"]
    assert [text.replace("\r\n", "\n") for text in frame["txt"]] == [
        text.replace("\r\n", "\n") for text in texts
    ]
    assert b"\xef\xbb\xbf" not in out.read_bytes()


def test_parquet_by_pandas(pictures: list[Item], tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    out = tmp_path / "c.parquet"
    run(tmp_path, pictures, forms=(Form.PARQUET,), output=out, caption=awkward)
    frame = pandas.read_parquet(out)
    assert list(frame["CAPTION"]) == [awkward(one).results[1]["text"] for one in pictures]
    assert list(frame["image"]) == [one.name for one in pictures]


def test_image_folder_by_datasets(pictures: list[Item], root: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    run(tmp_path, pictures, CAPTION, forms=(Form.IMAGEFOLDER,), output_dir=root, caption=awkward)
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(root), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert set(loaded.column_names) == {"image", "text"}
    assert sorted(loaded["text"]) == sorted(awkward(one).results[1]["text"] for one in pictures)
    for row in loaded:
        at = [one for one in pictures if awkward(one).results[1]["text"] == row["text"]]
        assert row["image"].convert("RGB").tobytes() == Image.open(at[0].path).convert("RGB").tobytes()


def test_image_folders_hold_their_pictures(pictures: list[Item], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no file below"):
        run(tmp_path, pictures, CAPTION, forms=(Form.IMAGEFOLDER,), output=tmp_path / "other/metadata.jsonl")


def test_kohya_metadata_is_found_by_its_trainer(pictures: list[Item], tmp_path: Path) -> None:
    out = tmp_path / "metadata.json"
    run(tmp_path, pictures, forms=(Form.KOHYA,), output=out, caption=awkward)
    # As sd-scripts' FineTuningDataset does: json.load, keys that exist as files, strings under two names.
    with open(out, encoding="utf-8") as stream:
        metadata = json.load(stream)
    assert len(metadata) == len(pictures)
    for key, entry in metadata.items():
        assert Path(key).is_file()
        assert set(entry) == {"caption", "tags"}
        assert isinstance(entry["caption"] + ", " + entry["tags"], str)


def test_kohya_metadata_has_one_place_for_captions() -> None:
    with pytest.raises(OutputError, match="one place"):
        make_outputs(
            OutputOptions((CAPTION, Column("DETAILED_CAPTION")), forms=(Form.KOHYA,), output_dir=Path("x")),
            print,
        )


def test_shards_by_webdataset(pictures: list[Item], tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    out = tmp_path / "shards"
    run(tmp_path, pictures, CAPTION, forms=(Form.WEBDATASET,), output=out, caption=awkward,
        shard_limits=ShardLimits(samples=3))  # fmt: skip
    shards = sorted(str(path) for path in out.iterdir())
    assert [Path(shard).name for shard in shards] == ["captions-000000.tar", "captions-000001.tar"]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [sample["json"]["image"] for sample in samples] == [one.name for one in pictures]
    assert [sample["txt"] for sample in samples] == [awkward(one).results[1]["text"] for one in pictures]
    for sample, one in zip(samples, pictures, strict=True):
        assert sample["png"].tobytes() == Image.open(one.path).convert("RGB").tobytes()


def test_shards_with_several_instructions(pictures: list[Item], tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    run(tmp_path, pictures, forms=(Form.WEBDATASET,), output=tmp_path / "shards")
    [shard] = (tmp_path / "shards").iterdir()
    sample = next(iter(webdataset.WebDataset(str(shard), shardshuffle=False).decode()))
    assert sample["generate_tags.txt"] == "tag of a.png, v1"
    assert sample["caption.txt"] == "Picture a.png, v1."


def test_from_shards_to_shards(pictures: list[Item], tmp_path: Path) -> None:
    out = tmp_path / "shards"
    content = pictures[0].path.read_bytes()  # type: ignore[union-attr]
    one = Item("s.tar#a.png", Path("s/a.png"), None, "1", lambda: io.BytesIO(content))
    session = run(tmp_path, [one], CAPTION, forms=(Form.WEBDATASET,), output=out)
    assert not session.problems
    assert content in (out / "captions-000000.tar").read_bytes()
    assert [path.name for path in out.iterdir()] == ["captions-000000.tar"]


def in_shards(folder: Path) -> list[tuple[bytes, str]]:
    """The picture and the caption of each sample."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            content = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
        keys = sorted(name.partition(".")[0] for name in content if name.endswith(".json"))
        found += [(content[f"{key}.png"], content[f"{key}.txt"].decode()) for key in keys]
    return found


def test_a_picture_that_is_gone_stays_in_shards_that_are_written_anew(
    pictures: list[Item], tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    run(tmp_path, pictures, CAPTION, forms=(Form.WEBDATASET,), output=out)
    content = [one.path.read_bytes() for one in pictures]  # type: ignore[union-attr]
    pictures[1].path.unlink()  # type: ignore[union-attr]
    changed = [replace(pictures[0], fingerprint="2"), *pictures[1:]]
    session = run(tmp_path, changed, CAPTION, forms=(Form.WEBDATASET,), output=out)
    assert not session.problems
    versions = [(one, "2" if one is changed[0] else "1") for one in changed]
    wanted = {(content[at], f"Picture {one.name}, v{v}.") for at, (one, v) in enumerate(versions)}
    samples = in_shards(out)
    assert (len(samples), set(samples)) == (4, wanted)


def test_shards_stay_when_a_picture_is_gone_that_never_came_into_them(
    pictures: list[Item], tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    at_hand = pictures[1].path.read_bytes()  # type: ignore[union-attr]
    pictures[1].path.unlink()  # type: ignore[union-attr]
    session = run(tmp_path, pictures, CAPTION, forms=(Form.WEBDATASET,), output=out)
    assert [name for name, _ in session.problems] == [pictures[1].name]
    before = in_shards(out)
    assert at_hand not in dict(before)
    changed = [replace(pictures[0], fingerprint="2"), *pictures[1:]]
    session = run(tmp_path, changed, CAPTION, forms=(Form.WEBDATASET,), output=out)
    assert "outdated" in session.problems[-1][1]
    assert in_shards(out)[: len(before)] == before


def test_pictures_of_shards_are_in_new_shards_once_when_all_are_captioned_again(
    pictures: list[Item], tmp_path: Path
) -> None:
    content = {one.name: one.path.read_bytes() for one in pictures}  # type: ignore[union-attr]

    def packed(version: str) -> list[Item]:
        return [
            Item(f"s.tar#{name}", Path("s") / name, None, version, lambda data=data: io.BytesIO(data))
            for name, data in content.items()
        ]

    out, limits = tmp_path / "shards", ShardLimits(samples=3)
    how: dict[str, Any] = {"forms": (Form.WEBDATASET,), "output": out, "shard_limits": limits}
    for version in ("1", "2"):  # as under other settings
        session = run(tmp_path, packed(version), CAPTION, **how)
        assert not session.problems
        wanted = [(data, f"Picture s.tar#{name}, v{version}.") for name, data in content.items()]
        assert in_shards(out) == wanted
    assert sorted(path.name for path in out.iterdir()) == ["captions-000000.tar", "captions-000001.tar"]


def names_in(path: Path, form: Form, folder: Path) -> set[str]:
    """The pictures that a file tells of; each once."""
    if form is Form.PARQUET:
        pyarrow = pytest.importorskip("pyarrow.parquet")
        names = pyarrow.read_table(path)["image"].to_pylist()
    elif form is Form.KOHYA:
        names = [
            Path(key).relative_to(folder / "pictures").as_posix() for key in json.loads(path.read_text())
        ]
    elif form is Form.CSV:
        names = [row["image"] for row in csv.DictReader(path.read_text().splitlines())]
    else:
        names = [json.loads(line)["image"] for line in path.read_text().splitlines()]
    assert len(set(names)) == len(names)
    return set(names)


@pytest.mark.parametrize("form", [Form.JSONL, Form.CSV, Form.PARQUET, Form.KOHYA])
def test_a_file_of_somebody_else_is_in_the_way(pictures: list[Item], tmp_path: Path, form: Form) -> None:
    out = tmp_path / "out.file"
    out.write_text("precious\n")
    with pytest.raises(OutputError, match="is there already"):
        run(tmp_path, pictures, forms=(form,), output=out)
    assert out.read_text() == "precious\n"
    run(tmp_path, pictures, forms=(form,), output=out, existing=Existing.OVERWRITE)
    assert b"precious" not in out.read_bytes()
    assert names_in(out, form, tmp_path) == {one.name for one in pictures}


@pytest.mark.parametrize("form", [Form.JSONL, Form.CSV, Form.PARQUET, Form.KOHYA])
def test_a_file_that_somebody_has_edited_is_in_the_way(
    pictures: list[Item], tmp_path: Path, form: Form
) -> None:
    out = tmp_path / "out.file"
    run(tmp_path, pictures[:2], forms=(form,), output=out)
    edited = out.read_bytes() + b"edited\n"
    out.write_bytes(edited)
    with pytest.raises(OutputError, match="was changed by somebody"):
        run(tmp_path, pictures, forms=(form,), output=out)
    assert out.read_bytes() == edited
    run(tmp_path, pictures, forms=(form,), output=out, existing=Existing.OVERWRITE)
    assert names_in(out, form, tmp_path) == {one.name for one in pictures}, "from the journal"


def test_a_file_that_has_come_where_nothing_was_written_is_somebody_elses(
    pictures: list[Item], tmp_path: Path
) -> None:
    out = tmp_path / "c.jsonl"
    run(
        tmp_path,
        pictures,
        forms=(Form.JSONL,),
        output=out,
        caption=lambda one: record(one, results=(), error="x"),
    )
    assert not out.exists()
    out.write_text("precious")
    with pytest.raises(OutputError, match="is there already"):
        run(tmp_path, [replace(one, fingerprint="2") for one in pictures], forms=(Form.JSONL,), output=out)
    assert out.read_text() == "precious"


def test_lines_behind_those_of_somebody_else(pictures: list[Item], tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    out.write_text('{"of": "the user"}')  # without a line end
    run(tmp_path, pictures[:2], CAPTION, forms=(Form.JSONL,), output=out, existing=Existing.APPEND)
    changed = [replace(pictures[0], fingerprint="2"), *pictures[1:]]
    run(tmp_path, changed, CAPTION, forms=(Form.JSONL,), output=out, existing=Existing.APPEND)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0] == {"of": "the user"}
    assert sorted(row["CAPTION"] for row in rows[1:]) == sorted(
        record(one).results[1]["text"] for one in changed
    )


def test_columns_of_somebody_else(pictures: list[Item], tmp_path: Path) -> None:
    out = tmp_path / "c.csv"
    out.write_text("a,b\n1,2\n")
    with pytest.raises(OutputError, match="do not fit"):
        run(tmp_path, pictures, forms=(Form.CSV,), output=out, existing=Existing.APPEND)
    assert out.read_text() == "a,b\n1,2\n"


def test_other_instructions_do_not_mix_with_those_of_a_file(pictures: list[Item], tmp_path: Path) -> None:
    out = tmp_path / "c.csv"
    run(tmp_path, pictures, CAPTION, forms=(Form.CSV,), output=out)
    with pytest.raises(OutputError, match="other columns"):
        run(tmp_path, pictures, TAGS, forms=(Form.CSV,), output=out)
    out = tmp_path / "c.jsonl"
    run(tmp_path / "2", pictures, CAPTION, forms=(Form.JSONL,), output=out)
    run(tmp_path / "2", pictures, TAGS, forms=(Form.JSONL,), output=out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["GENERATE_TAGS"] for row in rows] == [record(one).results[0]["text"] for one in pictures]


def test_other_conditions_do_not_mix_with_those_of_a_file(pictures: list[Item], tmp_path: Path) -> None:
    out = tmp_path / "c.csv"
    run(tmp_path, pictures, CAPTION, forms=(Form.CSV,), output=out)
    marked = "image, width, height, CAPTION, unmet"
    with pytest.raises(OutputError) as raised:
        run(tmp_path, pictures, CAPTION, forms=(Form.CSV,), output=out, marks=True)
    assert "(image, width, height, CAPTION) of an earlier run" in str(raised.value)
    assert "other instructions or conditions" in str(raised.value)
    assert f"now: {marked}. " in str(raised.value)
    assert "--existing overwrite" in str(raised.value)
    again = {"forms": (Form.CSV,), "output": out, "existing": Existing.OVERWRITE}
    run(tmp_path, pictures, CAPTION, marks=True, **again)
    assert out.read_text().splitlines()[0] == marked.replace(" ", "")
    with pytest.raises(OutputError, match="CAPTION, unmet\\) of an earlier run"):
        run(tmp_path, pictures, CAPTION, forms=(Form.CSV,), output=out)


def test_a_file_that_was_taken_away_comes_back_whole(pictures: list[Item], tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(tmp_path, pictures[:3], forms=(Form.JSONL,), output=out)
    out.unlink()
    run(tmp_path, pictures, forms=(Form.JSONL,), output=out)
    assert len(out.read_text().splitlines()) == len(pictures)


def test_errors_are_told_once_and_go_when_mended(pictures: list[Item], tmp_path: Path) -> None:
    errors = tmp_path / "errors.jsonl"

    def caption(one: Item) -> Record:
        broken = one.name == "a.png" and one.fingerprint != "3"
        return record(one, results=(), error=f"broken v{one.fingerprint}") if broken else record(one)

    for version, reasons in (("1", ["broken v1"]), ("2", ["broken v2"]), ("3", None)):
        items = [replace(pictures[0], fingerprint=version), *pictures[1:]]
        run(tmp_path, items, CAPTION, errors=errors, caption=caption)
        if reasons is None:
            assert not errors.exists()
        else:
            rows = [json.loads(line) for line in errors.read_text().splitlines()]
            assert [row["reason"] for row in rows] == reasons
            assert rows[0]["name"] == "a.png"
            assert rows[0]["path"] == str(pictures[0].path)


def test_errors_of_a_forgotten_run_are_no_obstacle_but_files_of_others_are(
    pictures: list[Item], tmp_path: Path
) -> None:
    errors = tmp_path / "errors.jsonl"
    errors.write_text('{"name": "x", "path": null, "reason": "old"}\n')

    def broken(one: Item) -> Record:
        return record(one, results=(), error="broken")

    run(tmp_path, pictures, CAPTION, errors=errors, caption=broken)
    assert "old" not in errors.read_text()
    errors.write_text("notes of the user\n")
    with pytest.raises(OutputError, match="is there already"):
        run(tmp_path / "2", pictures, CAPTION, errors=errors)


def test_parts_have_files_of_their_own(pictures: list[Item], tmp_path: Path) -> None:
    run(tmp_path, pictures, CAPTION, forms=(Form.JSONL,), output=tmp_path / "c.jsonl", part=(2, 3))
    assert (tmp_path / "c-2-of-3.jsonl").exists()


# ---- within pictures


def samples(folder: Path) -> dict[str, Path]:
    """One picture of each kind that can hold words, with metadata that must stay."""
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    noise = [Image.effect_noise((40, 30), 60 + index).convert("RGB") for index in range(3)]
    kept: dict[str, Any] = {
        "exif": exif,
        "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    }
    many: dict[str, Any] = {"save_all": True, "append_images": noise[1:]}
    files: dict[str, dict[str, Any]] = {
        "a.jpg": {**kept, "quality": 80}, "progressive.jpg": {**kept, "progressive": True},
        "a.png": kept, "animated.png": many, "a.webp": kept, "lossless.webp": {**kept, "lossless": True},
        "animated.webp": many, "a.tif": kept, "pages.tif": many,
    }  # fmt: skip
    folder.mkdir(parents=True)
    for name, options in files.items():
        noise[0].save(folder / name, **options)
    return {name: folder / name for name in files}


def seen(path: Path) -> list[bytes]:
    with Image.open(path) as image:
        frames = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(image.tobytes())
        return frames


def test_words_go_into_pictures_and_nothing_else_changes(tmp_path: Path) -> None:
    exiv2 = pytest.importorskip("exiv2")
    root = tmp_path / "pictures"
    files = samples(root)
    before = {name: seen(path) for name, path in files.items()}
    items = [item(path, root) for path in files.values()]
    text = 'Zwölf "Boxkämpfer",\n世界 <&> 😀'
    session = run(tmp_path, items, forms=(), embed=True, caption=lambda one: record(one, text))
    assert not session.problems
    for name, path in files.items():
        assert seen(path) == before[name], name
        found = read_embedded(path.read_bytes())
        assert found == InPicture(text, (f"tag of {name}", "v1")), name
        image = exiv2.ImageFactory.open(path.read_bytes())
        image.readMetadata()
        assert image.exifData()["Exif.Image.ImageDescription"].toString() == text
        if not name.endswith("webp"):
            assert image.iptcData()["Iptc.Application2.Caption"].toString() == text
        if name in ("a.jpg", "a.png", "a.webp"):
            with Image.open(path) as opened:
                assert opened.getexif()[0x0112] == 6
                assert len(opened.info["icc_profile"]) > 100
    assert set(tree(root)) == set(files), "no temporary files"


@pytest.mark.parametrize("existing", list(Existing))
def test_words_that_are_in_a_picture_already(tmp_path: Path, existing: Existing) -> None:
    pytest.importorskip("exiv2")
    exif = Image.Exif()
    exif[0x010E] = b"caf\xe9 noir"  # not UTF-8, as old cameras and programs write it
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    one = item(path, tmp_path)
    run(
        tmp_path / "out",
        [one],
        forms=(),
        embed=True,
        existing=existing,
        caption=lambda one: record(one, "new"),
    )
    wanted = {
        Existing.SKIP: "café noir", Existing.OVERWRITE: "new",
        Existing.APPEND: "café noir, new", Existing.PREPEND: "new, café noir",
    }[existing]  # fmt: skip
    found = read_embedded(path.read_bytes())
    assert found == InPicture(wanted, ("tag of a.jpg", "v1"))
    again = [replace(one, fingerprint="2")]
    run(
        tmp_path / "out",
        again,
        forms=(),
        embed=True,
        existing=existing,
        caption=lambda one: record(one, "newer"),
    )
    assert read_embedded(path.read_bytes()) == InPicture(
        wanted.replace("new", "newer"), ("tag of a.jpg", "v2")
    ), "our own words are replaced, not added to"


def test_pictures_that_cannot_hold_words_are_told(tmp_path: Path) -> None:
    pytest.importorskip("exiv2")
    items = [item(picture(tmp_path / name), tmp_path) for name in ("a.gif", "a.bmp", "a.jpg")]
    session = run(tmp_path / "out", items, forms=(), embed=True)
    assert [name for name, _ in session.problems] == ["a.gif", "a.bmp"]
    assert all("cannot hold" in reason for _, reason in session.problems)
    assert read_embedded((tmp_path / "a.jpg").read_bytes()).description


# ---- what is asked for


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"columns": ()}, "name an instruction"),
        ({"forms": ()}, "nowhere"),
        ({"forms": (Form.JSONL,)}, "--output"),
        ({"output": Path("x")}, "--output-dir"),
        ({"forms": (Form.JSONL, Form.CSV), "output": Path("x")}, "--output-dir"),
        ({"forms": (Form.JSONL, Form.JSONL), "output_dir": Path("x")}, "once"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OutputError, match=words):
        OutputOptions(**{"columns": (CAPTION,), **options})


def test_columns_of_one_name() -> None:
    columns = (Column("CAPTION", "text"), Column("DETAILED_CAPTION", "text"))
    with pytest.raises(OutputError, match="two columns"):
        make_outputs(OutputOptions(columns, forms=(Form.CSV,), output=Path("x.csv")), print)
