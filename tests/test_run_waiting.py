"""How much of a run its model waited for pictures."""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from promptgen.captioning import Captioner, CaptionOptions, FeatureCache, GenerationOptions
from promptgen.captioning.runs.outputs import Column, OutputOptions
from promptgen.captioning.runs.records import Item
from promptgen.captioning.runs.run import RunOptions, run_folder
from promptgen.captioning.runs.workers import InProcess, Waiting

OPTIONS = CaptionOptions(GenerationOptions(num_beams=1, max_new_tokens=4))


def picture(number: int, seconds: float = 0.0) -> io.BytesIO:
    """A picture of its own, from a disk that needs so long for it."""
    time.sleep(seconds)
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (number * 20, 0, 0)).save(stream, "PNG")
    stream.seek(0)
    return stream


def item(number: int, seconds: float = 0.0) -> Item:
    name = f"{number}.png"
    return Item(name, Path(name), None, "1", functools.partial(picture, number, seconds))


def wait_of(items: Iterator[Item | None]) -> float | None:
    waiting = Waiting()
    captioner = Captioner("demo", device="cpu", dtype="fp32", batch_size=2, feature_cache=FeatureCache(0))
    workers = InProcess(captioner, ["CAPTION"], OPTIONS, waiting)
    records = [record for record in workers.answer(items, lambda: False) if record is not None]
    assert all(record.error is None for record in records)
    return waiting.share


def test_a_slow_disk_is_waited_for_and_a_slow_reader_of_results_is_not() -> None:
    share = wait_of(item(number, 0.3) for number in range(4))
    assert share is not None
    assert share > 0.5

    waiting = Waiting()
    captioner = Captioner("demo", device="cpu", dtype="fp32", batch_size=1, feature_cache=FeatureCache(0))
    for _ in InProcess(captioner, ["CAPTION"], OPTIONS, waiting).answer(map(item, range(4)), lambda: False):
        time.sleep(0.3)
    assert waiting.share is not None
    assert waiting.share < 0.3


def test_a_slow_search_is_waited_for() -> None:
    def found() -> Iterator[Item | None]:
        for number in range(4):
            for _ in range(4):
                time.sleep(0.1)
                yield None
            yield item(number)

    share = wait_of(found())
    assert share is not None
    assert share > 0.5


def test_where_nothing_was_captioned_nothing_is_said() -> None:
    assert wait_of(iter(())) is None


def test_the_run_reports_it(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(picture(number).getvalue())
    page = tmp_path / "report.html"
    options = RunOptions((str(tmp_path),), OutputOptions((Column("CAPTION"),)), captions=OPTIONS, report=page)
    cache = FeatureCache()
    captioner = Captioner("demo", device="cpu", dtype="fp32", feature_cache=cache)
    first, second = run_folder(options, captioner), run_folder(options, captioner)
    assert first.waited == pytest.approx(0.5, abs=0.5)
    assert "waited for images" not in page.read_text(encoding="utf-8")  # of the second run
    assert second.waited is None
    assert len(cache) == 0  # pictures of a run come once, and would drive out those that people work on
