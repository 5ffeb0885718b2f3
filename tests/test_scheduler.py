"""The scheduler of the server: many requests at once get what each gets alone, and none pays for another."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import random
import sys
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from promptgen.captioning import (
    Captioner,
    CaptionOptions,
    GenerationOptions,
    RetryOptions,
    TagOptions,
    TileOptions,
    VisionOptions,
)
from promptgen.captioning.pictures import Picture
from promptgen.models_cache import LoadedModel, ModelManager
from promptgen.serving.asks import Ask
from promptgen.serving.errors import (
    BadRequestError,
    BodyTooLargeError,
    DeadlineError,
    DrainingError,
    EngineFailedError,
    ModelNotServedError,
    QueueFullError,
    ServingError,
)
from promptgen.serving.models import ServedModel, ServedModels
from promptgen.serving.requests import Request
from promptgen.serving.scheduler import Scheduler
from promptgen.serving.settings import Limits, ServerSettings
from promptgen.serving.watch import Watch

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.*"))
PICTURES = [path.read_bytes() for path in EXAMPLES if path.suffix in (".png", ".jpg", ".webp")]
LONG = CaptionOptions(generation=GenerationOptions(min_new_tokens=900, max_new_tokens=1000))


class Seen(Watch):
    """Notes what a scheduler tells."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []  # pictures, answers
        self.outcomes: list[str] = []

    def accepted(self, pictures: int) -> None:
        pass

    def batch(self, model: str, pictures: int, answers: int, seconds: float) -> None:
        self.batches.append((pictures, answers))

    def answered(self, model: str, instructions: Sequence[str], waited: float, seconds: float) -> None:
        pass

    def ended(self, model: str | None, outcome: str) -> None:
        self.outcomes.append(outcome)


@pytest.fixture(scope="module")
def manager() -> Iterator[ModelManager]:
    manager = ModelManager()
    yield manager
    manager.close()


def demo(manager: ModelManager | None = None, **settings: Any) -> Captioner:
    return Captioner("demo", device="cpu", dtype="fp32", manager=manager, **settings)


def served(manager: ModelManager, *captioners: Captioner) -> ServedModels:
    return ServedModels(ServedModel.of(captioner) for captioner in captioners or [demo(manager)])


def run(
    manager: ModelManager,
    work: Any,
    limits: Limits | None = None,
    models: ServedModels | None = None,
    watch: Seen | None = None,
) -> Any:
    """What ``work``, given a scheduler, comes to."""

    async def main() -> Any:
        scheduler = Scheduler(models or served(manager), limits or Limits(), manager, watch)
        scheduler.start()
        try:
            return await work(scheduler)
        finally:
            await asyncio.wait_for(scheduler.finish(), 60)
            assert scheduler.waiting == 0

    return asyncio.run(main())


def ask(*instructions: str, options: CaptionOptions | None = None, **rest: Any) -> Ask:
    return Ask(rest.pop("model", None), instructions or ("CAPTION",), options or CaptionOptions(), **rest)


@contextmanager
def held_up(manager: ModelManager) -> Iterator[None]:
    """The engine cannot begin a batch: somebody else computes with the model."""
    with manager.acquire("demo", device="cpu", dtype="fp32") as model, model._turn:  # type: ignore[attr-defined]
        yield


def test_requests_of_all_kinds_at_once_get_what_each_gets_alone(manager: ModelManager) -> None:
    plain = CaptionOptions()
    kinds = [
        (("CAPTION",), plain),
        (("GENERATE_TAGS", "MIXED_CAPTION", "OD"), plain),
        (("OD",), CaptionOptions(vision=VisionOptions(scores=True, top_k=1))),
        (("REGION_TO_CATEGORY",), CaptionOptions(text_input="0.1,0.1,0.5,0.5; 0.5,0.5,0.9,0.9")),
        (("GENERATE_TAGS",), CaptionOptions(tags=TagOptions(prefix="drawing", underscores="underscores"))),
        (("CAPTION", "ANALYZE"), CaptionOptions(generation=GenerationOptions(num_beams=1))),
        (("CAPTION",), CaptionOptions(generation=GenerationOptions(do_sample=True, num_beams=1, seed=3))),
        (("CAPTION",), CaptionOptions(background="blue")),
    ]
    requests = [(kind, [PICTURES[number % len(PICTURES)]]) for kind in kinds for number in range(2)]
    requests += [((("CAPTION", "OCR"), plain), PICTURES)]
    random.Random(7).shuffle(requests)

    async def work(scheduler: Scheduler) -> Any:
        asked = [
            scheduler.answer(ask(*instructions, options=options), images)
            for (instructions, options), images in requests
        ]
        return await asyncio.gather(*asked)

    for ((instructions, options), images), got in zip(requests, run(manager, work), strict=True):
        alone = demo(manager).caption(images, instructions, options)
        assert [rounded(one) for one in got] == [rounded(one) for one in alone]
        assert [one.size for one in got] == [one.size for one in alone]


def rounded(image: Any) -> Any:
    """All answers, with scores to four places: the last ones depend on what else is in the batch."""
    text = json.dumps([result.to_dict() for result in image.results])
    return json.loads(text, parse_float=lambda number: round(float(number), 4))


def test_what_waits_together_is_answered_together_and_in_the_order_of_arrival(manager: ModelManager) -> None:
    seen, order = Seen(), []

    async def work(scheduler: Scheduler) -> None:
        async def one(number: int) -> None:
            # the third is generated otherwise, and goes when it is its turn
            beams = GenerationOptions(num_beams=2) if number == 2 else GenerationOptions()
            options = CaptionOptions(generation=beams)
            await scheduler.answer(ask("CAPTION", options=options), [PICTURES[number % 4]])
            order.append(number)

        with held_up(manager):
            requests = [asyncio.create_task(one(0))]
            await asyncio.sleep(1)  # it is taken alone
            requests += [asyncio.create_task(one(number)) for number in range(1, 12)]
            await asyncio.sleep(1)
        await asyncio.gather(*requests)

    run(manager, work, watch=seen)
    assert seen.batches == [(1, 1), (8, 8), (1, 1), (2, 2)]
    assert order[0] == 0
    assert sorted(order[1:9]) == [1, 3, 4, 5, 6, 7, 8, 9]
    assert order[9] == 2


def test_what_is_about_as_long_is_answered_together_but_what_waits_longest_goes_first(
    manager: ModelManager,
) -> None:
    seen, order = Seen(), []

    async def work(scheduler: Scheduler) -> None:
        async def one(number: int, instruction: str) -> None:
            await scheduler.answer(ask(instruction), [PICTURES[number % 4]])
            order.append(instruction)

        for instruction in ("CAPTION", "MIXED_CAPTION"):  # how long its answers are is learnt
            await one(0, instruction)
        with held_up(manager):
            requests = [asyncio.create_task(one(0, "CAPTION"))]
            await asyncio.sleep(0.5)  # it is taken alone
            for number in range(16):
                instruction = "CAPTION" if number % 2 else "MIXED_CAPTION"
                requests.append(asyncio.create_task(one(number, instruction)))
                await asyncio.sleep(0.05)
        await asyncio.gather(*requests)

    run(manager, work, watch=seen)
    assert seen.batches[3:] == [(8, 8), (8, 8)]
    assert order[3:] == ["MIXED_CAPTION"] * 8 + ["CAPTION"] * 8


def test_a_short_answer_does_not_wait_for_a_long_one(manager: ModelManager) -> None:
    """Both are in one batch; the long one goes on for seconds."""

    async def work(scheduler: Scheduler) -> tuple[float, float]:
        began = time.monotonic()

        async def seconds(picture: bytes, instruction: str) -> float:
            options = CaptionOptions(generation=GenerationOptions(num_beams=1, no_repeat_ngram_size=0))
            await scheduler.answer(ask(instruction, options=options), [picture])
            return time.monotonic() - began

        with held_up(manager):
            first = asyncio.create_task(seconds(PICTURES[0], "CAPTION"))
            await asyncio.sleep(0.5)
            both = [asyncio.create_task(seconds(PICTURES[0], name)) for name in ("OCR", "MIXED_CAPTION")]
            await asyncio.sleep(0.5)
        await first
        short, long = await asyncio.gather(*both)
        return short, long

    seen = Seen()
    short, long = run(manager, work, watch=seen)
    assert seen.batches[-1] == (2, 2)
    assert short < long


def test_what_is_asked_again_lets_those_go_first_who_wait(manager: ModelManager) -> None:
    drawn = GenerationOptions(do_sample=True, num_beams=1, seed=3)
    endless = CaptionOptions(generation=drawn, retries=RetryOptions(12, 1000))
    seen, order = Seen(), []

    async def work(scheduler: Scheduler) -> Any:
        async def one(name: str, options: CaptionOptions, images: list[bytes]) -> Any:
            answer = await scheduler.answer(ask("CAPTION", options=options), images)
            order.append(name)
            return answer

        with held_up(manager):
            requests = [asyncio.create_task(one("endless", endless, PICTURES[:1]))]
            await asyncio.sleep(1)  # its batch is taken
            for beams in (1, 2, 3):  # each needs a batch of its own
                options = CaptionOptions(generation=GenerationOptions(num_beams=beams))
                requests.append(asyncio.create_task(one(f"{beams} beams", options, PICTURES[2:3])))
            await asyncio.sleep(1)
        return (await asyncio.gather(*requests))[0]

    again = run(manager, work, watch=seen)
    assert order == ["1 beams", "2 beams", "3 beams", "endless"]
    assert seen.batches == [(1, 1)] * 5, "and then it is not disturbed"
    expected = demo(manager).caption(PICTURES[:1], "CAPTION", endless)
    assert [rounded(one) for one in again] == [rounded(one) for one in expected]
    assert {one.results[0].attempts for one in again} == {13}


def test_work_that_nobody_waits_for_is_dropped_also_in_the_running_batch(manager: ModelManager) -> None:
    seen = Seen()

    async def work(scheduler: Scheduler) -> float:
        request = asyncio.create_task(scheduler.answer(ask("CAPTION", options=LONG), [PICTURES[0]]))
        await asyncio.sleep(0.5)  # it is being decoded
        began = time.monotonic()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert scheduler.waiting == 0
        await scheduler.answer(ask(), [PICTURES[1]])
        return time.monotonic() - began

    alone = run(
        manager, lambda scheduler: timed(scheduler.answer(ask("CAPTION", options=LONG), [PICTURES[0]]))
    )
    assert run(manager, work, watch=seen) < alone / 2
    assert seen.outcomes == ["dropped", "answered"]


async def timed(work: Coroutine[Any, Any, Any]) -> float:
    began = time.monotonic()
    await work
    return time.monotonic() - began


def test_one_who_leaves_costs_the_others_of_the_batch_nothing(manager: ModelManager) -> None:
    async def work(scheduler: Scheduler) -> Any:
        with held_up(manager):
            requests = [asyncio.create_task(scheduler.answer(ask(), [picture])) for picture in PICTURES]
            await asyncio.sleep(1)
            requests[1].cancel()
        return await asyncio.gather(*requests, return_exceptions=True)

    got = run(manager, work)
    assert isinstance(got.pop(1), asyncio.CancelledError)
    alone = demo(manager).caption([*PICTURES[:1], *PICTURES[2:]], "CAPTION")
    assert [one.results for (one,) in got] == [one.results for one in alone]


def test_a_deadline_ends_the_waiting_and_the_work(manager: ModelManager) -> None:
    seen = Seen()

    async def work(scheduler: Scheduler) -> None:
        with pytest.raises(DeadlineError, match=r"within 0\.3 seconds"):
            await scheduler.answer(ask("CAPTION", options=LONG, seconds=0.3), [PICTURES[0]])
        assert scheduler.waiting == 0

    run(manager, work, watch=seen)
    assert seen.outcomes == ["deadline"]
    run(manager, work, Limits(seconds=0.3))  # that of the server is the most


def test_a_full_queue_refuses_with_a_time_to_come_back(manager: ModelManager) -> None:
    async def work(scheduler: Scheduler) -> None:
        with held_up(manager):
            accepted = [asyncio.create_task(scheduler.answer(ask(), [PICTURES[0]])) for _ in range(3)]
            await asyncio.sleep(0.3)
            with pytest.raises(QueueFullError, match="3 images are waiting already, and 4 may") as refused:
                await scheduler.answer(ask(), PICTURES[:2])
            assert 1 <= (refused.value.retry_after or 0) <= 60
            accepted.append(asyncio.create_task(scheduler.answer(ask(), [PICTURES[0]])))
            await asyncio.sleep(0.3)
        assert all(await asyncio.gather(*accepted))

    run(manager, work, Limits(queued=4))
    # what is larger than the whole queue is answered when nothing else waits
    assert len(run(manager, lambda scheduler: scheduler.answer(ask(), PICTURES[:3]), Limits(queued=2))) == 3


def test_pictures_that_cannot_be_read_cost_only_themselves(manager: ModelManager) -> None:
    from PIL import Image

    bomb = io.BytesIO()
    Image.new("1", (30_000, 3_000)).save(bomb, "PNG")
    images = [b"no picture", PICTURES[0][:200], PICTURES[1], bomb.getvalue(), b""]
    got = run(manager, lambda scheduler: scheduler.answer(ask(), images), Limits(pixels=50_000_000))
    assert [one.ok for one in got] == [False, False, True, False, False]
    assert [one.image for one in got] == [f"image {number}" for number in range(1, 6)]
    assert got[0].error == "a text file, not an image"
    assert "cut off" in got[1].error
    assert got[3].error.startswith("30000 × 3000 pixels are too many")
    assert got[4].error == "the file is empty"


@pytest.mark.parametrize(
    ("asked", "images", "error", "words"),
    [
        (ask(model="nobody"), 1, ModelNotServedError, "not served here; there is demo"),
        (ask("TAGZ"), 1, BadRequestError, "unknown instruction"),
        (ask("CAPTION", "OD", options=CaptionOptions(text_input="x")), 1, BadRequestError, "has no use"),
        (ask("REGION_TO_OCR"), 1, BadRequestError, "needs a region"),
        (ask("REGION_TO_OCR", options=CaptionOptions(text_input="9,9,9999,9999")), 1, BadRequestError,
         "image 1: "),
        (ask(options=CaptionOptions(vision=VisionOptions(scores=True))), 1, BadRequestError, "no regions"),
        (ask(options=CaptionOptions(background="#nothing")), 1, BadRequestError, "no colour"),
        (ask(options=CaptionOptions(generation=GenerationOptions(num_beams=17))), 1, BadRequestError,
         "num_beams is 17; this server allows 16"),
        (ask(options=CaptionOptions(text_input="x" * 20_001)), 1, BadRequestError, "20001"),
        (ask("REGION_TO_OCR", options=CaptionOptions(text_input="0,0,0.5,0.5;" * 300)), 1, BadRequestError,
         "300 answers"),
        (ask("CAPTION_TO_PHRASE_GROUNDING", options=CaptionOptions(text_input="a heart " * 2000)), 1,
         BadRequestError, "The prompt has"),
        (ask(seconds=0), 1, BadRequestError, "above 0"),
        (ask(), 0, BadRequestError, "no image"),
        (ask(), 65, BodyTooLargeError, "64 is the most"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_in_words(
    manager: ModelManager, asked: Ask, images: int, error: type[Exception], words: str
) -> None:
    async def work(scheduler: Scheduler) -> None:
        with pytest.raises(error, match=words):
            await scheduler.answer(asked, PICTURES[:1] * images)
        assert (await scheduler.answer(ask(), PICTURES[:1]))[0].ok

    run(manager, work)


def test_a_region_beyond_one_of_several_pictures_costs_only_that_picture(manager: ModelManager) -> None:
    from PIL import Image

    small, large = (io.BytesIO() for _ in range(2))
    Image.new("RGB", (40, 40)).save(small, "PNG")
    Image.new("RGB", (400, 400)).save(large, "PNG")
    images = [small.getvalue(), large.getvalue()]
    region = ask("REGION_TO_CATEGORY", options=CaptionOptions(text_input="100,100,200,200"))
    got = run(manager, lambda scheduler: scheduler.answer(region, images))
    assert [one.ok for one in got] == [False, True]
    assert "100,100,200,200" in got[0].error
    alone = demo(manager).caption(images, "REGION_TO_CATEGORY", region.options)
    assert alone[0].error == got[0].error


def test_one_that_the_model_refuses_costs_the_others_of_its_batch_nothing(manager: ModelManager) -> None:
    too_long = CaptionOptions(text_input="a heart " * 2000)  # which is seen when the batch is under way

    async def work(scheduler: Scheduler) -> Any:
        with held_up(manager):
            asked = [ask(), ask("CAPTION_TO_PHRASE_GROUNDING", options=too_long), ask()]
            requests = [asyncio.create_task(scheduler.answer(one, [PICTURES[0]])) for one in asked]
            await asyncio.sleep(1)
        return await asyncio.gather(*requests, return_exceptions=True)

    first, refused, last = run(manager, work)
    assert isinstance(refused, BadRequestError)
    assert first[0].ok
    assert last[0].ok


def test_several_models_by_name_under_one_budget(manager: ModelManager, tmp_path: Path) -> None:
    import shutil

    import promptgen.models_cache

    other = tmp_path / "other"
    shutil.copytree(Path(promptgen.models_cache.__file__).parent / "demo", other)
    small = ModelManager(budget_bytes=8_000_000)  # holds one of them
    models = served(small, demo(small), Captioner(str(other), device="cpu", dtype="fp32", manager=small))

    async def work(scheduler: Scheduler) -> None:
        names = ["demo", str(other), "DEMO", None, "OTHER"]
        got = await asyncio.gather(*[scheduler.answer(ask(model=name), [PICTURES[0]]) for name in names])
        assert len({one.results[0].text for (one,) in got}) == 1
        assert len(small.loaded()) == 1

    run(small, work, models=models)
    small.close()


def test_models_that_are_called_alike_are_refused(manager: ModelManager) -> None:
    with pytest.raises(ValueError, match="name each once"):
        served(manager, demo(manager), demo(manager))
    with pytest.raises(ValueError, match="at least one"):
        ServedModels([])


def test_a_model_that_cannot_be_loaded_fails_its_requests_and_no_others(
    manager: ModelManager, tmp_path: Path
) -> None:
    import shutil

    import promptgen.models_cache

    broken = tmp_path / "broken"
    shutil.copytree(Path(promptgen.models_cache.__file__).parent / "demo", broken)
    models = served(
        manager, demo(manager), Captioner(str(broken), device="cpu", dtype="fp32", manager=manager)
    )

    async def work(scheduler: Scheduler) -> None:
        weights = broken / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:100_000])
        for _ in range(2):
            with pytest.raises(EngineFailedError, match=r"broken"):
                await scheduler.answer(ask(model=str(broken)), [PICTURES[0]])
        assert (await scheduler.answer(ask(), [PICTURES[0]]))[0].ok
        weights.write_bytes(whole)  # mended while the server runs
        assert (await scheduler.answer(ask(model=str(broken)), [PICTURES[0]]))[0].ok

    run(manager, work, models=models)


def test_an_idle_model_is_let_go_and_loaded_again(tmp_path: Path) -> None:
    manager = ModelManager(idle_seconds=0.3)

    async def work(scheduler: Scheduler) -> None:
        for _ in range(2):
            assert (await scheduler.answer(ask(), [PICTURES[0]]))[0].ok
            assert manager.loaded()
            for _ in range(100):
                if not manager.loaded():
                    break
                await asyncio.sleep(0.1)
            assert not manager.loaded()

    run(manager, work)
    manager.close()


def test_the_end_answers_what_was_accepted_and_accepts_nothing_new(manager: ModelManager) -> None:
    async def work(scheduler: Scheduler) -> Any:
        with held_up(manager):
            accepted = [asyncio.create_task(scheduler.answer(ask(), [picture])) for picture in PICTURES]
            await asyncio.sleep(0.5)
            scheduler.drain()
            assert scheduler.draining
            with pytest.raises(DrainingError) as refused:
                await scheduler.answer(ask(), [PICTURES[0]])
            assert refused.value.retry_after
        await scheduler.finish()
        assert not scheduler.healthy
        return await asyncio.gather(*accepted)

    assert all(one.ok for (one,) in run(manager, work))


def test_settings_have_the_digest_of_a_local_run(manager: ModelManager) -> None:
    from promptgen.captioning.runs.settings import settings_digest

    options = CaptionOptions(tags=TagOptions(prefix="x"))

    async def work(scheduler: Scheduler) -> tuple[str, str]:
        return (
            scheduler.digest(ask("tags", "<caption>", options=options)),
            scheduler.digest(ask("tags", options=replace(options, tags=TagOptions()))),
        )

    digest, other = run(manager, work)
    assert digest == settings_digest(demo(manager), ["GENERATE_TAGS", "CAPTION"], options)
    assert digest != other


def test_many_requests_from_the_start_load_the_model_once() -> None:
    loads: list[Path] = []
    lock = threading.Lock()

    def load(folder: Path, device: str, dtype: str, quantization: str) -> LoadedModel:
        from promptgen.models_cache.families import load_family

        with lock:
            loads.append(folder)
        return load_family(folder, device, dtype, quantization)

    manager = ModelManager(loader=load)

    async def work(scheduler: Scheduler) -> Any:
        return await asyncio.gather(*[scheduler.answer(ask(), [PICTURES[0]]) for _ in range(20)])

    assert len(run(manager, work)) == 20
    assert len(loads) == 1
    manager.close()


def in_memory(kind: type) -> int:
    return sum(type(one) is kind for one in gc.get_objects())


@contextmanager
def without_collector() -> Iterator[None]:
    """A server lives for days, and full rounds of the garbage collector are rare."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_requests_that_fail_leave_nothing_behind(manager: ModelManager) -> None:
    import httpx
    from promptgen.serving.app import create_app

    picture, text = (base64.b64encode(data).decode() for data in (PICTURES[0], b"no picture"))
    failing: list[tuple[str, dict[str, Any]]] = [
        ("/v1/captions", {"image": text, "instructions": "CAPTION"}),
        ("/v1/captions", {"image": picture, "instructions": "REGION_TO_OCR",
                          "options": {"text_input": "9,9,9999,9999"}}),
        ("/v1/captions", {"image": picture, "instructions": "CAPTION_TO_PHRASE_GROUNDING",
                          "options": {"text_input": "a heart " * 2000}}),
        ("/process_image", {"image": text, "prompt": "CAPTION"}),
    ]  # fmt: skip

    async def work(scheduler: Scheduler) -> None:
        app = create_app(ServerSettings(), scheduler)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1"
        ) as client:
            for path, body in failing:
                with without_collector():
                    for _ in range(2):
                        response = await client.post(path, json=body)
                        assert 400 <= response.status_code < 500
                    await asyncio.sleep(0.2)  # the engine leaves its batch
                    assert in_memory(Request) == 0, path
                    assert in_memory(Picture) == 0, path

    run(manager, work)


def test_pictures_of_those_who_went_are_let_go_while_a_batch_takes_its_time(manager: ModelManager) -> None:
    async def work(scheduler: Scheduler) -> None:
        with held_up(manager), without_collector():
            first = asyncio.create_task(scheduler.answer(ask(), [PICTURES[0]]))
            await asyncio.sleep(0.5)
            for _ in range(10):
                request = asyncio.create_task(scheduler.answer(ask(), [PICTURES[0]]))
                await asyncio.sleep(0.2)  # it is read
                request.cancel()
            await asyncio.sleep(0.2)
            assert scheduler.waiting == 1
            assert in_memory(Picture) <= 2  # the first one's, and that of the last who went
        await first

    run(manager, work)


def test_files_of_those_who_went_are_let_go_before_it_is_their_turn_to_be_read(manager: ModelManager) -> None:
    image = PICTURES[0] + b" "

    async def work(scheduler: Scheduler) -> None:
        turn = threading.Event()
        for _ in range(8):
            scheduler._readers.submit(turn.wait)
        before = sys.getrefcount(image)
        request = asyncio.create_task(scheduler.answer(ask(), [image]))
        await asyncio.sleep(0.1)
        request.cancel()
        await asyncio.wait([request])
        del request
        gc.collect()
        assert sys.getrefcount(image) == before
        turn.set()

    run(manager, work)


def test_no_more_is_read_than_there_is_memory_for(manager: ModelManager) -> None:
    """Each picture becomes 17, as large as the checkpoint's."""
    from PIL import Image

    file = io.BytesIO()
    Image.effect_noise((256, 256), 50).save(file, "PNG")
    options = CaptionOptions(
        GenerationOptions(num_beams=1, max_new_tokens=3),
        vision=VisionOptions(tile=TileOptions(size=64, overlap=0.0)),
    )
    tiled = ask("OD", options=options)

    async def work(scheduler: Scheduler) -> Any:
        with held_up(manager):
            requests = [asyncio.create_task(scheduler.answer(tiled, [file.getvalue()] * 3)) for _ in range(4)]
            await asyncio.sleep(1.5)
            gc.collect()
            assert 1 <= in_memory(Picture) <= 4  # one above the limit for each reader, and the engine's
            gone = [asyncio.create_task(scheduler.answer(tiled, [file.getvalue()] * 3)) for _ in range(4)]
            await asyncio.sleep(0.2)
            for request in gone:
                request.cancel()
        return await asyncio.gather(*requests)

    got = run(manager, work, Limits(read_bytes=1))
    assert all(one.ok for answered in got for one in answered)


class Panic(BaseException):
    """As libraries in Rust raise it."""


def test_a_panic_ends_one_request_and_no_thread(manager: ModelManager) -> None:
    class PanickingReader(Captioner):
        def image_processor(self) -> Any:
            raise Panic

    class PanickingWatch(Seen):
        def answered(self, model: str, instructions: Sequence[str], waited: float, seconds: float) -> None:
            raise Panic

    def load(folder: Path, device: str, dtype: str, quantization: str) -> LoadedModel:
        from promptgen.models_cache.families import load_family

        model = load_family(folder, device, dtype, quantization)
        generate = model.generate

        def generate_or_panic(features: Any, prompts: Sequence[str], *rest: Any) -> Any:
            if any("bomb" in prompt for prompt in prompts):
                raise Panic
            return generate(features, prompts, *rest)

        model.generate = generate_or_panic  # type: ignore[method-assign]
        return model

    panicking = ModelManager(loader=load)
    bomb = ask("CAPTION_TO_PHRASE_GROUNDING", options=CaptionOptions(text_input="a bomb"))

    async def in_the_model(scheduler: Scheduler) -> Any:
        both = [scheduler.answer(one, [PICTURES[0]]) for one in (bomb, ask(), bomb)]
        return await asyncio.gather(*both, return_exceptions=True)

    first, answered, last = run(panicking, in_the_model)
    assert isinstance(first, EngineFailedError)
    assert isinstance(last, EngineFailedError)
    assert answered[0].ok
    panicking.close()

    async def while_reading(scheduler: Scheduler) -> None:
        for _ in range(4):  # more than there are readers
            with pytest.raises(ServingError, match="image 1 could not be read"):
                await scheduler.answer(ask(), [PICTURES[0]])

    reader = PanickingReader("demo", device="cpu", dtype="fp32", manager=manager)
    seen = Seen()
    run(manager, while_reading, models=served(manager, reader), watch=seen)
    assert seen.outcomes == ["server_error"] * 4

    async def while_told(scheduler: Scheduler) -> None:
        for _ in range(2):
            assert (await scheduler.answer(ask(), [PICTURES[0]]))[0].ok
        assert scheduler.healthy

    run(manager, while_told, watch=PanickingWatch())


def test_batches_grow_again_some_time_after_memory_ran_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from promptgen.serving import engine

    room = 2

    def load(folder: Path, device: str, dtype: str, quantization: str) -> LoadedModel:
        from promptgen.models_cache.families import load_family

        model = load_family(folder, device, dtype, quantization)
        generate = model.generate

        def generate_if_it_fits(features: Any, prompts: Sequence[str], *rest: Any) -> Any:
            if len(prompts) > room:
                raise torch.cuda.OutOfMemoryError("out of memory")
            return generate(features, prompts, *rest)

        model.generate = generate_if_it_fits  # type: ignore[method-assign]
        return model

    manager, seen = ModelManager(loader=load), Seen()

    async def work(scheduler: Scheduler) -> None:
        nonlocal room

        async def four_at_once() -> None:
            with held_up(manager):
                requests = [asyncio.create_task(scheduler.answer(ask(), [PICTURES[0]]))]
                await asyncio.sleep(0.5)  # it is taken alone
                requests += [asyncio.create_task(scheduler.answer(ask(), PICTURES[:2])) for _ in range(2)]
                await asyncio.sleep(0.5)
            assert all(one.ok for results in await asyncio.gather(*requests) for one in results)
            await asyncio.sleep(0.3)  # answers leave before the batch is noted

        await four_at_once()
        await four_at_once()
        assert seen.batches == [(1, 1), (4, 4), (1, 1), (2, 2), (2, 2)]
        room = 8
        monkeypatch.setattr(engine, "_MEMORY_LASTS", 0.0)
        await four_at_once()
        assert seen.batches[5:] == [(1, 1), (4, 4)]

    run(manager, work, watch=seen, models=served(manager))
    manager.close()
