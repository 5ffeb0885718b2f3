"""The Captioner's worker threads: what is read when, in which order, and that they end whatever happens."""

from __future__ import annotations

import _thread
import io
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from promptgen.captioning import Captioner, CaptionOptions, FeatureCache, ImageResult
from promptgen.captioning.read_ahead import ReadAhead
from promptgen.florence2 import GenerationOptions
from promptgen.models_cache import ModelManager

from .checkpoints import REFERENCE, copy_reference, edit_json

SHORT = CaptionOptions(generation=GenerationOptions(num_beams=1, max_new_tokens=8))


@pytest.fixture(scope="module")
def manager() -> Iterator[ModelManager]:
    manager = ModelManager(idle_seconds=None)
    yield manager
    manager.close()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert readers() == []


def captioner(manager: ModelManager, batch_size: int = 2, model: Path = REFERENCE) -> Captioner:
    return Captioner(
        str(model), manager=manager, device="cpu", feature_cache=FeatureCache(), batch_size=batch_size
    )


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("promptgen-read")]


def noise(number: int, side: int = 40) -> Image.Image:
    """A different picture for every number."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side + number % 3, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class Watched(io.BytesIO):
    """An image file that tells when it is read, and by which thread."""

    def __init__(self, number: int, on_read: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        noise(number).save(self, "PNG")
        self.seek(0)
        self.read_by = ""
        self._on_read = on_read

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.read_by:
            self.read_by = threading.current_thread().name
            self._on_read()
        return super().read(size)


def test_the_order_is_that_of_the_pictures_however_long_each_takes(manager: ModelManager) -> None:
    delays = [0.3, 0.0, 0.1, 0.0, 0.2, 0.0, 0.0]
    threads = []

    def wait(delay: float) -> None:
        threads.append(len(readers()))
        time.sleep(delay)

    files = [Watched(number, lambda delay=delay: wait(delay)) for number, delay in enumerate(delays)]
    together = captioner(manager, 4).caption(files, "CAPTION", SHORT)
    alone = [captioner(manager).caption(noise(number), "CAPTION", SHORT)[0] for number in range(len(delays))]
    assert [result.image for result in together] == [f"image {number}" for number in range(1, 8)]
    assert [result.results for result in together] == [result.results for result in alone]
    assert len({result.results for result in alone}) > 1
    assert set(threads) == {1}  # a CPU has no cores to spare for more


def test_the_next_batch_is_read_while_the_device_works(manager: ModelManager) -> None:
    was_read = threading.Event()
    files = [Watched(0), Watched(1), Watched(2), Watched(3, was_read.set), Watched(4), Watched(5)]
    seen = []

    def on_step(step: int) -> None:
        if not seen:  # within the vision tower, with the first picture
            seen.append(was_read.wait(30))
            assert not files[4].read_by  # a batch ahead, not more

    stream = captioner(manager).stream(files, "CAPTION", SHORT, on_step)
    assert next(stream).ok
    assert seen == [True]
    assert all(result.ok for result in stream)
    assert all(file.read_by.startswith("promptgen-read") for file in files)


def test_the_first_results_do_not_wait_for_an_iterator(manager: ModelManager) -> None:
    asked = []

    def slow() -> Iterator[Image.Image]:
        for number in range(100):
            asked.append(number)
            yield noise(number)

    stream = captioner(manager, 3).stream(slow(), "CAPTION", SHORT)
    assert asked == []
    next(stream)
    assert len(asked) == 3
    for _ in range(2):  # of the same batch
        next(stream)
    assert len(asked) == 3
    next(stream)
    assert len(asked) == 9  # this batch and the next
    stream.close()  # type: ignore[attr-defined]
    assert len(asked) == 9


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("kind", ["itself", "in a list", "from an iterator"])
def test_one_picture_alone_starts_no_thread(manager: ModelManager, batch_size: int, kind: str) -> None:
    known: list[int] = []
    file = Watched(0, lambda: known.append(len(readers())))
    source = {"itself": file, "in a list": [file], "from an iterator": iter([file])}[kind]
    captioner(manager, batch_size).caption(source, ["CAPTION", "OD"], SHORT)
    assert file.read_by == threading.current_thread().name
    assert known == [0]


def test_an_iterator_that_fails_costs_no_picture_that_it_gave(manager: ModelManager) -> None:
    def failing() -> Iterator[Image.Image]:
        for number in range(5):
            yield noise(number)
        raise OSError("the camera was unplugged")

    results: list[ImageResult] = []
    with pytest.raises(OSError, match="the camera was unplugged"):
        results.extend(captioner(manager, 4).stream(failing(), "CAPTION", SHORT))
    # extend keeps what came before the error
    assert [result.ok for result in results] == [True] * 5
    assert readers() == []


def test_an_iterator_that_fails_at_once(manager: ModelManager) -> None:
    def failing() -> Iterator[Image.Image]:
        raise OSError("no camera")
        yield noise(0)

    with pytest.raises(OSError, match="no camera"):
        captioner(manager).caption(failing(), "CAPTION", SHORT)
    assert captioner(manager).caption([], "CAPTION", SHORT) == []
    assert captioner(manager).caption(iter(()), "CAPTION", SHORT) == []


def test_who_stops_early_ends_the_threads(manager: ModelManager) -> None:
    slow = [Watched(number, lambda: time.sleep(0.1)) for number in range(12)]
    stream = captioner(manager, 4).stream(slow, "CAPTION", SHORT)
    assert next(stream).ok
    assert readers()
    stream.close()  # type: ignore[attr-defined]
    assert readers() == []
    assert not any(file.read_by for file in slow[8:])

    dropped = captioner(manager, 4).stream([noise(number) for number in range(12)], "CAPTION", SHORT)
    assert next(dropped).ok
    del dropped
    assert readers() == []
    captioner(manager).stream([noise(1), noise(2)], "CAPTION", SHORT)  # never begun


def test_cancelling_from_a_callback_ends_the_threads(manager: ModelManager) -> None:
    class CancelledError(Exception):
        pass

    def on_step(step: int) -> None:
        if step == 3:
            raise CancelledError

    with pytest.raises(CancelledError):
        captioner(manager).caption([noise(number) for number in range(9)], "CAPTION", SHORT, on_step)
    assert readers() == []


def test_ctrl_c_while_a_picture_is_read_ends_the_threads(manager: ModelManager) -> None:
    def interrupt() -> None:
        _thread.interrupt_main()
        time.sleep(0.3)

    files = [Watched(0), Watched(1), Watched(2), Watched(3, interrupt), *map(Watched, range(4, 9))]
    results: list[ImageResult] = []
    with pytest.raises(KeyboardInterrupt):
        results.extend(captioner(manager).stream(iter(files), "CAPTION", SHORT))
    assert readers() == []
    assert manager.loaded()[0].in_use == 0
    assert captioner(manager).caption(noise(1), "CAPTION", SHORT)[0].ok


def test_one_object_many_times_is_read_by_one_thread_at_a_time(tmp_path: Path) -> None:
    noise(1, 300).save(tmp_path / "picture.png")
    at_it: list[int] = []
    most = []

    def read(image: Image.Image) -> tuple[int, int]:
        at_it.append(id(image))
        most.append(at_it.count(id(image)))
        time.sleep(0.05)
        image.load()  # from its file, which has one position
        at_it.remove(id(image))
        return image.size

    with (
        Image.open(tmp_path / "picture.png") as one,
        Image.open(tmp_path / "picture.png") as other,
        closing(ReadAhead((str(n), image) for n, image in enumerate([one, one, other] * 4))) as ahead,
    ):
        results = ahead.take(6, 6, read, threads=4) + ahead.take(6, 6, read, threads=4)
    assert results == [(str(number), (301, 300)) for number in range(12)]
    assert max(most) == 1


def test_tensors_of_a_caller_in_inference_mode(manager: ModelManager) -> None:
    """As ComfyUI's nodes run; that mode does not hold in other threads."""
    with torch.inference_mode():
        frames = list(torch.rand(5, 40, 40, 3) * 1.0)
        results = captioner(manager).caption(frames, "CAPTION", SHORT)
    assert all(result.ok for result in results)


def test_a_checkpoint_that_is_replaced_meanwhile_gets_pictures_of_its_own_size(
    manager: ModelManager, tmp_path: Path
) -> None:
    folder = copy_reference(tmp_path / "changing", weights=True)
    stream = captioner(manager, 2, folder).stream([noise(number) for number in range(6)], "CAPTION", SHORT)
    before = [next(stream), next(stream)]
    smaller = copy_reference(tmp_path / "smaller", weights=True)
    edit_json(smaller / "preprocessor_config.json", lambda raw: raw.update(size={"height": 64, "width": 96}))
    shutil.copy(smaller / "preprocessor_config.json", folder)
    after = list(stream)
    want = captioner(manager, 2, smaller).caption([noise(number) for number in range(6)], "CAPTION", SHORT)
    assert all(result.ok for result in before)
    assert [result.results for result in after] == [result.results for result in want[2:]]


def test_reading_errors_come_in_their_turn() -> None:
    """Errors of single pictures are results; anything else is a defect and is raised where it belongs."""

    def read(number: int) -> int:
        if number == 2:
            raise ZeroDivisionError
        return number

    ahead: ReadAhead[int, int] = ReadAhead((str(number), number) for number in range(5))
    assert ahead.take(2, 2, read) == [("0", 0), ("1", 1)]
    with pytest.raises(ZeroDivisionError):
        ahead.take(2, 2, read)
    assert ahead.take(2, 2, read) == [("4", 4)]
    assert not ahead.more()
    ahead.close()
