"""The report after a run: one page, whatever the captions and names, in memory that does not grow."""

from __future__ import annotations

import base64
import io
import random
import re
import sys
import tarfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from promptgen.captioning import Captioner, CaptionOptions, GenerationOptions, RetryOptions
from promptgen.captioning.runs.journal import Journal
from promptgen.captioning.runs.outputs import Column, OutputError, OutputOptions
from promptgen.captioning.runs.records import Record
from promptgen.captioning.runs.report import ReportOptions, check_report_place, write_report
from promptgen.captioning.runs.report_statistics import FrequentTags, Lengths, Sample
from promptgen.captioning.runs.run import RunOptions, RunReport, run_folder
from promptgen.captioning.runs.told_options import told_options
from promptgen.cli.run_end import tell_report

HOSTILE = (
    '</dd><script>alert(1)</script><img src="http://a.example/x" onerror=alert(1)>"\'&amp;\u202e\x00\x1b'
)
_VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """What a reader of HTML finds: that all tags are closed in order, the elements, and the texts by tag."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.source = path.read_bytes().decode("utf-8")  # strict
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str | None = None) -> list[str]:
        return [text for owner, text in self.texts if tag is None or owner == tag]

    def counts(self) -> dict[str, str]:
        """The counts of the run, as they stand at the top."""
        terms, values = self.text("dt"), self.text("dd")
        return dict(zip(terms, (value for value in values if value.strip()), strict=False))

    def thumbnails(self) -> list[Image.Image]:
        return [
            Image.open(io.BytesIO(base64.b64decode((image["src"] or "").partition("base64,")[2])))
            for image in self.all("img")
        ]


def record(name: str, text: str = "a cat", *, path: Path | None = None, **extra: Any) -> Record:
    answer = {"instruction": "CAPTION", "text": text, "raw": text, "truncated": False, **extra}
    return Record(name, Path(name), path, "1", (answer,), (64, 48))


def tagged(name: str, tags: Sequence[str], path: Path | None = None) -> Record:
    return record(name, ", ".join(tags), path=path, instruction="GENERATE_TAGS", tags=list(tags))


def failure(name: str, reason: str) -> Record:
    return Record(name, Path(name), None, "1", error=reason)


def ended(**changes: Any) -> RunReport:
    values: dict[str, Any] = dict.fromkeys(
        ["captioned", "rewritten", "failed", "done_before", "failed_before", "kept", "same_stem", "problems"],
        0,
    )
    values |= {"seconds": 10.0, "stopped": False, "too_many_errors": False}
    values |= {"journal": Path("journal"), "errors": Path("errors.jsonl")}
    return RunReport(**values | changes)


def written(
    path: Path,
    records: Sequence[Record] | Callable[[], Iterator[Record]],
    run: RunReport | None = None,
    **options: Any,
) -> Page:
    given = records if callable(records) else lambda: iter(records)
    write_report(path, given, run or ended(), {"images": "album"}, **options)
    return Page(path)


# The page -----------------------------------------------------------------------------------


def test_it_says_what_the_run_did(tmp_path: Path) -> None:
    run = ended(captioned=1250, failed=3, done_before=40, kept=2, seconds=100.0)
    page = written(tmp_path / "report.html", [record("a.jpg")], run)
    counts = page.counts()
    assert counts["captioned"] == "1,250"
    assert counts["failed"] == "3"
    assert counts["skipped"] == "42"
    assert counts["duration"] == "1 min 40 s"
    assert counts["images/s, start included"] == "12.50"
    assert page.all("html") == [{"lang": "en"}]
    assert "1,250" in "".join(page.text("title"))
    assert "album" in page.text("bdi")


def test_it_needs_no_other_file_and_no_script(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (30, 20), "red").save(picture)
    page = written(tmp_path / "report.html", [record("a.png", path=picture), tagged("b", ["cat"])])
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "a", "form"}
    sources = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in _LINKS
    ]
    assert len(sources) == 1
    assert (sources[0] or "").startswith("data:image/jpeg;base64,")
    assert not re.search(r"url\(|@import|https?:", page.source)
    policy = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv")]
    assert "default-src 'none'" in str(policy[0])


_LINKS = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}


def test_markup_in_captions_names_tags_and_errors_is_text(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (30, 20), "red").save(picture)
    name = f"{HOSTILE}.jpg"
    records = [
        record(name, HOSTILE, path=picture),
        tagged("b.jpg", [HOSTILE]),
        record("c.jpg", instruction=HOSTILE),
        failure(name, HOSTILE),
    ]
    page = written(tmp_path / "report.html", records)
    assert page.all("script") == []
    assert len(page.all("img")) == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    shown = HOSTILE.replace("\x00", "\\x00").replace("\x1b", "\\x1b")
    assert page.text("bdi").count(shown) >= 3  # a caption, a tag, a reason
    assert page.all("img")[0]["alt"] == f"Thumbnail of {shown}.jpg"
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", page.source)


def test_names_that_are_no_utf8_can_be_shown(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    page = written(
        tmp_path / "report.html", [record(name, "lone \ud800 half"), failure(name, f"{name}: bad")]
    )
    assert "caf\\udce9.jpg" in page.text("bdi")
    assert "lone \\ud800 half" in page.text("bdi")


def test_errors_are_counted_and_the_first_are_told(tmp_path: Path) -> None:
    records = [failure(f"{number}.jpg", f"reason {number}") for number in range(205)]
    page = written(tmp_path / "report.html", records)
    told = [text for text in page.text("bdi") if text.startswith("reason")]
    assert told == [f"reason {number}" for number in range(200)]
    text = "".join(page.text())
    assert "205 of the images" in text
    assert "errors.jsonl" in text
    assert "No image has a caption" in text


def test_answers_that_fail_their_conditions_are_named(tmp_path: Path) -> None:
    short = {"attempts": 11, "unmet": "12 words of at least 20"}
    records = [record("good.jpg"), record("second.jpg", attempts=2)]
    records += [record(f"{number}.jpg", HOSTILE, **short) for number in range(205)]
    page = written(tmp_path / "report.html", records, ended(captioned=207, unmet=205))
    assert page.counts()["answers kept that fail the conditions"] == "205"
    text = "".join(page.text())
    assert "205 answers in the journal were kept" in text
    assert "206 asked more than once" in text
    reasons = [told for told in page.text("bdi") if told == short["unmet"]]
    assert len(reasons) == 200, "the first are told"
    assert "Fails the conditions: 12 words of at least 20" in text, "in the sample"


def test_without_conditions_nothing_is_said_of_them(tmp_path: Path) -> None:
    text = "".join(written(tmp_path / "report.html", [record("a.jpg")]).text())
    assert "conditions" not in text
    assert "more than once" not in text


def test_a_run_without_pictures_has_a_page(tmp_path: Path) -> None:
    assert written(tmp_path / "report.html", []).counts()["captioned"] == "0"


# What is told beside it ---------------------------------------------------------------------


def test_what_was_left_as_it_is_has_no_line(tmp_path: Path) -> None:
    assert told_options(CaptionOptions()) == {}
    given = told_options(CaptionOptions(GenerationOptions(num_beams=2, max_new_tokens=40, do_sample=False)))
    assert given == {"beams": "2", "new tokens, at most": "40", "generation": "do_sample False"}


@pytest.mark.parametrize(
    ("limit", "told"),
    [(0, "not asked again"), (1, "asked again once at most"), (3, "asked again 3 times at most")],
)
def test_how_often_answers_are_asked_again(limit: int, told: str) -> None:
    options = CaptionOptions(retries=RetryOptions(limit, min_words=20))
    assert told_options(options) == {"conditions": f"at least 20 words; {told}"}


def end(capsys: pytest.CaptureFixture[str], run: RunReport, page: Path | None = None) -> str:
    tell_report(run, page, quiet=False)
    return capsys.readouterr().err


def test_the_end_of_a_run_says_where_answers_that_fail_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = ended(captioned=3, unmet=2)
    told = end(capsys, run)
    assert "Answers kept though they fail the conditions: 2.\n" in told
    assert "--report FILE.html" in told
    tables = replace(run, marked=(Path("album.csv"), Path("album.parquet")))
    told = end(capsys, tables)
    assert "--report" not in told
    assert "the column 'unmet' of album.csv, album.parquet" in told
    assert "Which answers" not in end(capsys, tables, tmp_path / "report.html")
    assert "Which answers" not in end(capsys, replace(tables, unmet=0))


# Pictures -----------------------------------------------------------------------------------


def test_thumbnails_are_small_and_upright_and_tell_nothing_else(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    image = Image.new("RGB", (1000, 500), "blue")
    image.paste((255, 0, 0), (0, 0, 500, 500))  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: red comes up
    exif[0x010E] = "a secret"
    image.save(picture, exif=exif)
    page = written(tmp_path / "report.html", [record("a.jpg", path=picture)])
    (seen,) = page.thumbnails()
    assert seen.size == (128, 256)
    assert (page.all("img")[0]["width"], page.all("img")[0]["height"]) == ("128", "256")
    top, bottom = seen.convert("RGB").getpixel((64, 20)), seen.convert("RGB").getpixel((64, 236))
    assert top[0] > 200 > bottom[0]
    assert bottom[2] > 200 > top[2]
    assert not dict(seen.getexif())


def test_a_picture_that_is_gone_leaves_its_caption(tmp_path: Path) -> None:
    page = written(
        tmp_path / "report.html", [record("a.jpg", "a dog", path=tmp_path / "a.jpg"), record("t.tar#b.jpg")]
    )
    assert page.all("img") == []
    assert "a dog" in page.text("bdi")
    text = "".join(page.text())
    assert "no such file" in text
    assert "not there any more" in text


def test_the_sample_is_the_same_each_time_and_of_all(tmp_path: Path) -> None:
    records = [record(f"{number:04}.jpg", f"caption {number}") for number in range(1000)]

    def chosen(seed: int) -> list[str]:
        page = written(tmp_path / "report.html", records, options=ReportOptions(seed=seed))
        return [text for text in page.text("bdi") if text.startswith("caption")]

    assert len(chosen(0)) == 24
    assert chosen(0) == chosen(0) == sorted(chosen(0), key=lambda text: int(text.split()[1]))
    assert chosen(0) != chosen(1)


def test_each_record_is_as_likely_as_any_other() -> None:
    seen: Counter[str] = Counter()
    names = [record(str(number)) for number in range(20)]
    for seed in range(2000):
        sample = Sample(5, seed)
        for one in names:
            sample.add(one)
        seen.update(one.name for one in sample.records)
    assert len(seen) == 20
    assert all(400 < count < 600 for count in seen.values())  # 500 expected, standard deviation 19


# Numbers ------------------------------------------------------------------------------------


def test_lengths_are_those_of_the_captions() -> None:
    lengths = Lengths()
    values = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35]
    for value in values:
        lengths.add(value)
    assert (lengths.quantile(0), lengths.quantile(0.5), lengths.quantile(1)) == (1, 4, 35)
    assert lengths.mean == sum(values) / len(values)
    steps, width = lengths.bins()
    assert width == 2
    assert sum(steps) == len(values)
    assert steps[:5] == [2, 2, 3, 1, 1]


def test_a_few_very_long_texts_do_not_hide_the_others() -> None:
    lengths = Lengths()
    for number in range(1000):
        lengths.add(50 + number % 10)
    lengths.add(10_000_000)
    steps, width = lengths.bins()
    assert len(steps) * width < 100
    assert sum(steps) == 1001
    assert len(steps) <= 30


def test_histograms_hold_every_answer(tmp_path: Path) -> None:
    records = [record(str(number), "word " * (number % 7 + 1)) for number in range(70)]
    page = written(tmp_path / "report.html", records)
    bars = [text for text in page.text("title") if "words: " in text]
    assert [int(text.rpartition(" ")[2]) for text in bars] == [10] * 7
    assert bars[0] == "1 words: 10"
    (plot,) = (svg for svg in page.all("svg") if svg.get("role") == "img")
    assert "from 1 to 7" in str(plot["aria-label"])


def test_frequent_tags_come_first(tmp_path: Path) -> None:
    records = [tagged(str(number), ["sky", "sky", *(["tree"] * (number % 4 == 0))]) for number in range(8)]
    page = written(tmp_path / "report.html", records)
    text = [text.strip() for text in page.text() if text.strip()]
    at = text.index("sky", text.index("Most frequent tags"))
    assert text[at : at + 6] == ["sky", "8", "100.0%", "tree", "2", "25.0%"]
    assert "2 different tags in 8 images." in text


def test_counts_of_too_many_tags_are_right_within_what_is_said() -> None:
    generator = random.Random(3)
    pictures = [[f"tag{int(generator.paretovariate(0.6))}" for _ in range(5)] for _ in range(20_000)]
    tags = FrequentTags(kept=500)
    true: Counter[str] = Counter()
    for picture in pictures:
        tags.add(picture)
        true.update(set(picture))
    assert not tags.is_exact
    assert len(tags) <= 1000
    found = tags.most(40)
    for tag, count, missed in found:
        assert count <= true[tag] <= count + missed
    assert [tag for tag, _, _ in found[:10]] == [tag for tag, _ in true.most_common(10)]


def test_inexact_counts_are_called_so(tmp_path: Path) -> None:
    records = [tagged(str(number), [f"{number}-{place}" for place in range(200)]) for number in range(310)]
    text = "".join(written(tmp_path / "report.html", records).text())
    assert "too many to count each" in text
    assert "at most more" in text


def test_memory_does_not_grow_with_the_number_of_records(tmp_path: Path) -> None:
    def records(count: int) -> Iterator[Record]:
        generator = random.Random(0)
        for number in range(count):
            if number % 10 == 0:
                yield failure(f"{number}.jpg", f"reason {number} " * 20)
            else:
                tags = [f"tag{generator.randrange(500)}" for _ in range(4)]
                yield tagged(f"{number}.jpg", tags)

    def peak(count: int) -> int:
        tracemalloc.start()
        written(tmp_path / f"{count}.html", lambda: records(count))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    # Of two, since the interpreter's one table of interned strings grows now and then, by many MB at once.
    few, many = (min(peak(count), peak(count)) for count in (2_000, 50_000))
    assert many < few + 2 * 2**20
    assert many < 16 * 2**20


# The file -----------------------------------------------------------------------------------


def test_a_report_replaces_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "report.html"
    check_report_place(place)
    written(place, [])
    check_report_place(place)
    written(place, [record("a.jpg", "a second time")])
    assert "a second time" in place.read_text(encoding="utf-8")
    assert list(place.parent.iterdir()) == [place]
    mine = tmp_path / "index.html"
    mine.write_text("<p>my page</p>")
    with pytest.raises(OutputError, match=r"index.html.*no report"):
        check_report_place(mine)
    with pytest.raises(OutputError, match=r"captions.html"):
        check_report_place(tmp_path / "captions.jsonl")


def test_a_failure_on_the_way_leaves_the_report_before(tmp_path: Path) -> None:
    place = tmp_path / "report.html"
    before = written(place, [record("a.jpg")]).source
    broken = replace(record("b.jpg"), size=("wide",))  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        written(place, [broken])
    assert place.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [place]


# Runs ---------------------------------------------------------------------------------------


def test_a_run_over_folders_and_shards_writes_one(tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    Image.new("RGB", (64, 64), "red").save(album / "a.png")
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "b.png")
    (album / "broken.png").write_bytes(b"no picture")
    with tarfile.open(album / "shard.tar", "w") as tar:
        tar.add(tmp_path / "b.png", "b.png")
    options = RunOptions(
        inputs=(str(album), str(album / "shard.tar")),
        output=OutputOptions(
            columns=(Column("GENERATE_TAGS"), Column("CAPTION", "caption")),
            output_dir=tmp_path / "out",
        ),
        captions=CaptionOptions(GenerationOptions(num_beams=1, max_new_tokens=8)),
        report=tmp_path / "report.html",
    )
    run = run_folder(options, Captioner("demo", device="cpu", dtype="fp32"))
    page = Page(tmp_path / "report.html")
    assert page.counts()["captioned"] == str(run.captioned) == "2"
    assert page.counts()["failed"] == "1"
    colours = {image.convert("RGB").getpixel((30, 30)).index(max(image.convert("RGB").getpixel((30, 30))))
               for image in page.thumbnails()}  # fmt: skip
    assert colours == {0, 2}  # red and blue, which is in the shard
    with Journal(run.journal, "") as journal:
        texts = [answer["text"] for one in journal.records() for answer in one.results]
    assert len(texts) == 4
    assert {text for text in texts if text} <= set(page.text("bdi"))
    assert "broken.png" in page.text("bdi")


def test_the_command_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from promptgen.cli import main

    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    quick = ["--model", "demo", "--device", "cpu", "--num-beams", "1", "--max-new-tokens", "8"]
    place = tmp_path / "out" / "report.html"

    def command(report: Path) -> tuple[int, str]:
        arguments = ["promptgen", "folder", str(tmp_path / "a.png"), "--report", str(report), *quick]
        monkeypatch.setattr(sys, "argv", arguments)
        try:
            main()
        except SystemExit as exit:
            return int(exit.code or 0), capfd.readouterr().err
        return 0, capfd.readouterr().err

    status, said = command(place)
    assert status == 0, said
    assert f"Report: {place}" in said
    assert Page(place).counts()["captioned"] == "1"
    status, said = command(tmp_path / "a.txt")
    assert status != 0
    assert "a.html" in said
