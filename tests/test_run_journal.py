"""The journal of a run: kept through a kill, locked against others, read back as it was written."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from promptgen.captioning.runs.journal import Journal, JournalError, Known, journal_files
from promptgen.captioning.runs.records import Item, Record

posix = pytest.mark.skipif(os.name == "nt", reason="SIGKILL as POSIX has it")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / ".promptgen-run.sqlite"


def record(name: str, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "relative": Path(name), "path": Path("/pictures") / name, "fingerprint": "1",
        "results": ({"instruction": "CAPTION", "text": f"of {name}"},), "size": (4, 3),
    }  # fmt: skip
    return Record(name=name, **fields | changes)


def item(name: str, fingerprint: str = "1") -> Item:
    return Item(name, Path(name), None, fingerprint, lambda: io.BytesIO())


def write(journal: Journal, *records: Record) -> None:
    journal.begin(records)
    journal.finish({record.name: record.fingerprint for record in records}, {})


def names(records: Any) -> list[str]:
    return [record.name for record in records]


# What is kept -------------------------------------------------------------------------------


def test_records_come_back_as_they_were(path: Path) -> None:
    odd = [
        record("a.png"),
        record("unknown size", path=None, size=None),
        record("bad.png", results=(), size=None, error="bad.png: damaged \udce9"),
        record(os.fsdecode(b"caf\xe9 \xf0\x9f\xa6\x8a.png")),
        record("two", results=({"instruction": "A", "text": "é\n\0"}, {"instruction": "B", "tags": ["x"]})),
    ]
    with Journal(path, "settings") as journal:
        write(journal, *odd)
    with Journal(path, "settings") as journal:
        kept = list(journal.records())
        (failed,) = journal.errors()
        assert failed.error == "bad.png: damaged \\udce9"
        assert kept == [odd[0], odd[1], failed, odd[3], odd[4]]
        assert journal.answered(item("a.png")) == odd[0]
        assert journal.answered(item("a.png", "2")) is None
        assert journal.answered(item("bad.png")) is None
        assert journal.counts() == (4, 1)


def test_more_records_than_are_read_at_a_time_keep_their_order(path: Path) -> None:
    with Journal(path, "settings") as journal:
        write(journal, *[record(f"{number:05}") for number in reversed(range(1234))])
        read = names(journal.records())
    assert read == [f"{number:05}" for number in reversed(range(1234))]


def test_records_may_be_read_while_others_are_written(path: Path) -> None:
    with Journal(path, "settings") as journal:
        write(journal, *[record(str(number)) for number in range(600)])
        reading = journal.records()
        assert next(reading).name == "0"
        write(journal, record("later"))
        assert names(reading) == [*(str(number) for number in range(1, 600)), "later"]


def test_a_picture_is_done_only_as_it_is_and_under_the_settings(path: Path) -> None:
    with Journal(path, "settings") as journal:
        write(journal, record("a"), record("bad", error="damaged", results=()))
        journal.begin([record("begun")])
        assert journal.standing(item("a")).known is Known.DONE
        assert journal.is_done(item("a"))
        assert journal.standing(item("bad")).known is Known.FAILED
        for name, fingerprint in (("begun", "1"), ("unknown", "1"), ("a", "2"), ("bad", "2")):
            assert journal.standing(item(name, fingerprint)).known is Known.NOTHING
        assert journal.standing(item("a", "2")).outdated
        assert not journal.standing(item("unknown")).outdated
    with Journal(path, "other settings") as journal:
        assert not journal.is_done(item("a"))
        assert journal.standing(item("a")).outdated


def test_a_record_takes_the_place_of_an_earlier_one(path: Path) -> None:
    with Journal(path, "settings") as journal:
        write(journal, record("a"), record("b", error="damaged", results=()))
        write(journal, record("b"), record("a", fingerprint="2"))
        assert names(journal.records()) == ["b", "a"]
        assert names(journal.errors()) == []
        assert journal.is_done(item("a", "2"))
        assert journal.counts() == (2, 0)


def test_what_is_begun_and_not_finished_comes_back_once(path: Path) -> None:
    with Journal(path, "settings") as journal:
        write(journal, record("a"))
        journal.begin([record("b", plans={"txt": {"before": "é"}}), record("c")])
    with Journal(path, "settings") as journal:
        assert names(journal.unfinished()) == ["b", "c"]
        assert next(journal.unfinished()).plans == {"txt": {"before": "é"}}
        journal.finish({"b": "2", "c": "1"}, {"jsonl": {"size": 7}})
        assert names(journal.unfinished()) == []
        assert journal.is_done(item("b", "2"))
        assert journal.marks() == {"jsonl": {"size": 7}}


def test_what_was_begun_under_other_settings_is_not_written_again(path: Path) -> None:
    with Journal(path, "old") as journal:
        write(journal, record("a"))
        journal.begin([record("b")])
    with Journal(path, "new") as journal:
        assert names(journal.unfinished()) == []
        assert journal.standing(item("b")).outdated
        assert names(journal.records()) == ["a"]


def test_the_plans_of_before_are_known_when_a_picture_is_captioned_again(path: Path) -> None:
    with Journal(path, "settings") as journal:
        write(journal, record("a", plans={"txt": "after"}))
        journal.begin([record("b", plans={"txt": "half"})])
        known = journal.with_previous_plans([record("a"), record("b"), record("c")])
    assert [(one.plans, one.previous_plans) for one in known] == [
        ({}, {"txt": "after"}), ({}, {"txt": "half"}), ({}, {}),
    ]  # fmt: skip


def test_restart_forgets_everything(path: Path) -> None:
    with Journal(path, "settings") as journal:
        write(journal, record("a"))
        journal.finish({}, {"jsonl": {"size": 7}})
    with Journal(path, "settings", restart=True) as journal:
        assert journal.counts() == (0, 0)
        assert journal.marks() == {}
        write(journal, record("b"))
    with Journal(path, "settings") as journal:
        assert names(journal.records()) == ["b"]


def test_a_closed_journal_is_one_file(path: Path) -> None:
    with Journal(path, "settings") as journal:
        write(journal, record("a"))
    assert list(path.parent.iterdir()) == [path]


# Kills, locks, damage ----------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from promptgen.captioning.runs.journal import Journal
from promptgen.captioning.runs.records import Record

journal = Journal(Path(sys.argv[1]), "settings")
print("open", flush=True)
for number in range(10**9):
    records = [Record(f"{number} {i}", Path("x"), None, "1", ({"text": "x" * 300},)) for i in range(8)]
    journal.begin(records)
    print("begun", number, flush=True)
    journal.finish({record.name: "1" for record in records}, {"out": {"group": number}})
    print("finished", number, flush=True)
"""


def child(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")


@posix
@pytest.mark.parametrize("lines", [2, 3, 30, 31, 200])
def test_what_was_said_to_be_kept_is_there_after_a_kill(path: Path, lines: int) -> None:
    process = child(path)
    assert process.stdout is not None
    for _ in range(lines):
        said = process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    said += process.stdout.read()
    process.wait()
    last = [line.split() for line in said.splitlines() if len(line.split()) == 2][-1]
    with Journal(path, "settings") as journal:  # the lock died with its process
        finished = journal.counts()[0]
        begun = len(names(journal.unfinished()))
        assert finished % 8 == 0
        assert begun in (0, 8)
        assert journal.marks() == ({"out": {"group": finished // 8 - 1}} if finished else {})
        assert finished + begun >= 8 * (int(last[1]) + 1)
        assert finished >= 8 * (int(last[1]) + (last[0] == "finished"))


@posix
def test_a_second_run_is_told_that_there_is_one(path: Path) -> None:
    process = child(path)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        for restart in (False, True):
            with pytest.raises(JournalError, match="in use by another run") as told:
                Journal(path, "settings", restart=restart)
            assert str(path) in str(told.value)
    finally:
        process.kill()
        process.wait()
    Journal(path, "settings").close()


def test_a_second_run_in_one_process_is_told_too(path: Path) -> None:
    with Journal(path, "settings"), pytest.raises(JournalError, match="in use by another run"):
        Journal(path, "settings")


def test_a_file_that_is_no_journal_is_never_overwritten(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"some file of the user's, certainly no database" * 100)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"no journal.*--restart"):
        Journal(path, "settings")
    assert path.read_bytes() == before
    with Journal(path, "settings", restart=True) as journal:
        write(journal, record("a"))
        assert names(journal.records()) == ["a"]
    assert path.with_name(f"{path.name}.unreadable").read_bytes() == before


def test_a_database_of_another_program_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE things (x)")
    other.close()
    with pytest.raises(JournalError, match="another program"):
        Journal(path, "settings")


def test_a_journal_of_another_version_is_refused(path: Path) -> None:
    Journal(path, "settings").close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(JournalError, match="another version"):
        Journal(path, "settings")


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid"), reason="folders as POSIX has them")
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=r"file.*--journal"):
        Journal(tmp_path / "file" / "journal.sqlite", "settings")


@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="needs a small file system")
def test_a_full_disk_loses_nothing_that_was_kept(path: Path) -> None:
    with Journal(path, "settings") as journal:
        write(journal, record("a"))
        journal._connection.execute("PRAGMA max_page_count = 12")  # as far as SQLite can tell, a full disk
        with pytest.raises(JournalError, match=r"disk of the journal .* is full"):
            write(journal, *[record(f"{number}", error="x" * 9000) for number in range(20)])
        journal._connection.execute("PRAGMA max_page_count = 100000")
        write(journal, record("b"))
        assert names(journal.records()) == ["a", "b"]
        assert names(journal.unfinished()) == []
    assert [file for file in journal_files(path) if file.exists()] == [path]
