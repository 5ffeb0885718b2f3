"""Batch sizes: chosen from the memory that is free, and halved when it runs out."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from promptgen.benchmarks.random_checkpoint import make_config, random_network, write_checkpoint
from promptgen.captioning import Captioner, CaptionOptions, FeatureCache
from promptgen.captioning.batches import BackOff, OutOfMemoryError, fitting
from promptgen.florence2 import Florence2Model, GenerationOptions
from promptgen.models_cache import ModelManager, free_bytes, free_memory, is_out_of_memory
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .checkpoints import REFERENCE

CPU = torch.device("cpu")
SHORT = CaptionOptions(generation=GenerationOptions(num_beams=1, max_new_tokens=8))
PICTURES = [
    Image.fromarray(np.random.default_rng(n).integers(0, 256, (40, 40, 3), dtype=np.uint8)) for n in range(13)
]


class Small:
    """The reference checkpoint on a device whose memory ends above so many rows in the encoder."""

    def __init__(self) -> None:
        self.manager = ModelManager(idle_seconds=None)
        self.rows = 10**9
        self.batches: list[int] = []
        with self.manager.acquire(str(REFERENCE), device="cpu", dtype="fp32") as model:
            encoder = model.network.language_model.get_encoder()  # type: ignore[operator, union-attr]
            encoder.register_forward_pre_hook(self._on_encode, with_kwargs=True)

    def _on_encode(self, _: object, args: object, arguments: dict[str, Any]) -> None:
        rows = arguments["inputs_embeds"].shape[0]
        self.batches.append(rows)
        if rows > self.rows:
            torch.empty(2**50)  # a petabyte: torch's own error

    def captioner(self, batch_size: int | None = None) -> Captioner:
        return Captioner(
            str(REFERENCE), manager=self.manager, device="cpu", dtype="fp32", feature_cache=FeatureCache(),
            batch_size=batch_size,
        )  # fmt: skip


@pytest.fixture(scope="module")
def _shared_small() -> Iterator[Small]:
    small = Small()
    yield small
    small.manager.close()


@pytest.fixture
def small(_shared_small: Small) -> Small:
    _shared_small.rows = 10**9
    _shared_small.batches.clear()
    return _shared_small


def test_what_failed_is_done_again_in_halves_and_the_rest_of_the_run_goes_on_with_them(
    small: Small, caplog: pytest.LogCaptureFixture
) -> None:
    want = small.captioner().caption(PICTURES, "CAPTION", SHORT)
    small.batches.clear()
    small.rows = 2
    with caplog.at_level(logging.WARNING):
        got = small.captioner(8).caption(PICTURES, "CAPTION", SHORT)
    assert got == want
    assert small.batches == [8, 4, 2, 2, 2, 2, 2, 2, 1]
    warnings = [record.getMessage() for record in caplog.records]
    assert [warning.partition(".")[0] for warning in warnings] == [
        "cpu ran out of memory with 8 answers at a time; going on with 4",
        "cpu ran out of memory with 4 answers at a time; going on with 2",
    ]
    assert all("--batch-size" in warning and "allocate memory" in warning for warning in warnings)


def test_several_instructions_back_off_as_well(small: Small, caplog: pytest.LogCaptureFixture) -> None:
    names = ["CAPTION", "GENERATE_TAGS", "OD"]
    want = small.captioner().caption(PICTURES[:5], names, SHORT)
    small.batches.clear()
    small.rows = 2
    assert small.captioner(6).caption(PICTURES[:5], names, SHORT) == want
    assert small.batches[:4] == [6, 3, 1, 1]
    assert len(caplog.records) == 2


def test_a_device_too_small_for_one_answer_says_what_to_do(small: Small) -> None:
    small.rows = 0
    with pytest.raises(OutOfMemoryError, match=r"^cpu has not enough memory even for one .*smaller model"):
        small.captioner(4).caption(PICTURES[:3], "CAPTION", SHORT)
    assert small.batches == [3, 1, 1]
    assert small.manager.loaded()[0].in_use == 0
    assert issubclass(OutOfMemoryError, torch.cuda.OutOfMemoryError)  # by which hosts know it
    small.rows = 1
    assert small.captioner(4).caption(PICTURES[0], "CAPTION", SHORT)[0].ok


def test_four_instructions_on_one_picture_are_one_batch(small: Small) -> None:
    names = ["GENERATE_TAGS", "CAPTION", "DETAILED_CAPTION", "ANALYZE"]
    small.captioner().caption(PICTURES[:3], names, SHORT)
    assert small.batches == [8, 4]  # two pictures, then the last


def test_a_given_size_is_obeyed(small: Small) -> None:
    for size in (1, 3, 13, 99):
        small.batches.clear()
        small.captioner(size).caption(PICTURES, "CAPTION", SHORT)
        assert max(small.batches) == min(size, 13)


def test_what_a_failed_batch_held_is_free_before_the_next_is_tried() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work(items: Sequence[int]) -> Sequence[int]:
        gc.disable()
        assert all(tensor() is None for tensor in held)
        tensor = torch.zeros(1000)
        held.append(weakref.ref(tensor))
        if len(items) > 1:
            torch.empty(2**50)
        return items

    try:
        assert BackOff("things").run(work, range(5), 4, CPU) == [0, 1, 2, 3, 4]
    finally:
        gc.enable()
    assert len(held) == 7


def test_other_errors_are_not_tried_again() -> None:
    calls = []

    def work(items: Sequence[int]) -> Sequence[int]:
        calls.append(len(items))
        return torch.zeros(2, 3) @ torch.zeros(2, 3)  # type: ignore[return-value]

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        BackOff("things").run(work, range(4), 4, CPU)
    assert calls == [4]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("DefaultCPUAllocator: not enough memory"), False),
    ],
)
def test_how_running_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_torch_and_numpy_run_out_of_memory_in_words_that_are_known() -> None:
    for allocate in (lambda: torch.empty(2**50), lambda: np.empty(2**50)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        assert is_out_of_memory(caught.value)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux bounds a process's memory")
def test_a_process_with_little_memory_captions_in_smaller_batches(tmp_path: Path) -> None:
    """Nothing is feigned here: the system refuses memory."""
    script = tmp_path / "bounded.py"
    script.write_text(
        """
import logging, resource, sys
from pathlib import Path
import numpy as np
from PIL import Image
from promptgen.captioning import Captioner, CaptionOptions, GenerationOptions

logging.basicConfig(level=logging.WARNING, format="%(message)s")
answer = dict(num_beams=8, no_repeat_ngram_size=0)
pictures = [
    Image.fromarray(np.random.default_rng(n).integers(0, 256, (40, 40, 3), dtype=np.uint8)) for n in range(64)
]
captioner = Captioner(sys.argv[1], device="cpu", dtype="fp32", batch_size=64)
short = CaptionOptions(generation=GenerationOptions(max_new_tokens=2, **answer))
captioner.caption(pictures, "CAPTION", short)  # what any run needs
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[2]) * 2**20,) * 2)
long = CaptionOptions(generation=GenerationOptions(max_new_tokens=24, min_new_tokens=24, **answer))
results = captioner.caption(pictures, "CAPTION", long)
print(sum(result.ok for result in results))
""",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(script), str(REFERENCE), "40"],
        # Tensors are mapped one by one, so that what is freed counts no longer: the bound is on addresses, of
        # which a heap with one small thing at its end gives none back.
        env={
            "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "PATH": "",
        },
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "64\n"
    assert "cpu ran out of memory with 64 answers at a time; going on with 32." in done.stderr


# Choosing -------------------------------------------------------------------------------------


def test_sizes_fit_the_free_memory() -> None:
    free = free_bytes(CPU)
    assert free is not None
    assert 0 < free <= psutil.virtual_memory().total
    assert fitting(CPU, free // 7, 64) == 2  # half of it is for others: room for three, in powers of two
    assert fitting(CPU, 1, 64) == 64
    assert fitting(CPU, 1, 24) == 16
    assert fitting(CPU, 2**60, 64) == 1
    assert fitting(torch.device("meta"), 2**60, 8) == 8  # does not tell


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (
        ("max", "50000000\n"),
        ("current", "30000000\n"),
        ("stat", "anon 1\ninactive_file 7000000\n"),
    ):
        (tmp_path / name).write_text(text, encoding="ascii")
    groups = (tuple(str(tmp_path / name) for name in ("max", "current", "stat")),)
    monkeypatch.setattr(free_memory, "_CONTROL_GROUPS", groups)
    assert free_bytes(CPU) == 27_000_000
    (tmp_path / "max").write_text("max\n", encoding="ascii")
    assert (free_bytes(CPU) or 0) > 50_000_000


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that a computation makes, at their peak."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.live = self.peak = 0
        tensors = [*network.parameters(), *network.buffers()]
        self._known = {tensor.untyped_storage()._cdata: 0 for tensor in tensors}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._known:
            self._known[storage._cdata] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, key: int) -> None:
        self.live -= self._known.pop(key)


def test_the_estimates_are_what_a_pass_takes(tmp_path: Path) -> None:
    config = make_config(
        {"dim_embed": (64, 128, 256, 512), "num_heads": (2, 4, 8, 16), "depths": (1, 1, 1, 1)},
        {"d_model": 256, "layers": 3, "heads": 4, "ffn": 1024},
        image_size=384,
    )
    folder = write_checkpoint(tmp_path, random_network(config), dtype="fp32")
    model = Florence2Model.load(folder, device="cpu", dtype="fp32")
    pixel_values = model.preprocess(PICTURES[:2])
    options = GenerationOptions(num_beams=3, max_new_tokens=128, min_new_tokens=128)
    model.generate(model.encode_images(pixel_values), ["Once"] * 2, GenerationOptions(max_new_tokens=2))
    with LiveBytes(model.network) as measured:
        features = model.encode_images(pixel_values)
    assert 0.7 < measured.peak / model.encoding_bytes(2) <= 1
    with LiveBytes(model.network) as measured:
        model.generate(features, ["What does the image describe?"] * 2, options)
    assert 0.5 < measured.peak / model.generating_bytes(2, options) <= 1.1


def test_the_model_counts_with_its_own_settings() -> None:
    with ModelManager(idle_seconds=None).acquire(str(REFERENCE), device="cpu", dtype="fp32") as model:
        one = model.generating_bytes(1, GenerationOptions(num_beams=1, max_new_tokens=64))
        assert model.generating_bytes(5, GenerationOptions(num_beams=1, max_new_tokens=64)) == 5 * one
        assert model.generating_bytes(1) > 3 * one  # three beams, and as long as may be
        assert model.encoding_bytes(4) == 4 * model.encoding_bytes(1)
        with pytest.raises(ValueError, match="max_new_tokens is 1025"):
            model.generating_bytes(1, GenerationOptions(max_new_tokens=1025))
