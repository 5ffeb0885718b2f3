"""What messages advise to do works for every family of models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from promptgen.captioning.batches import BackOff, OutOfMemoryError
from promptgen.inference import check_quantization, resolve_dtype
from promptgen.models_cache import families

from .checkpoints import copy_reference
from .command_line import Promptgen
from .paligemma_checkpoints import make_paligemma, pictures

FAMILIES = ("florence2", "paligemma")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "p0.png"
    pictures(1)[0].save(path)
    return path


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    place = tmp_path / "mine"
    return copy_reference(place, weights=True) if request.param == "florence2" else make_paligemma(place)


def check(advice: str, device: str) -> None:
    """See that every family takes the dtypes that are advised, and the device the bits."""
    advice = advice.replace("where it is fp32", "")
    dtypes = re.findall(r"\b(auto|fp32|fp16|bf16|int8)\b", advice)
    assert dtypes
    for family in FAMILIES:
        for dtype in dtypes:
            resolve_dtype(dtype, device, family)
    bits = set(re.findall(r"\b[48]\b", advice.partition("quantization ")[2].partition(",")[0]))
    assert bits == ({"8"} if device == "mps" else {"8", "4"})


@pytest.mark.parametrize(
    "words", ["CUDA out of memory. Tried to allocate 8 GiB.\nMore", "MPS backend out of memory"]
)
def test_too_large_to_be_loaded(
    promptgen: Promptgen, folder: Path, picture: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> object:
        raise torch.cuda.OutOfMemoryError(words)

    for family in FAMILIES:
        monkeypatch.setitem(families.FAMILIES, family, load)
    ended = promptgen("caption", picture, "-i", "caption", "--model", folder, "--device", "cpu")
    assert ended.status == 1
    assert "error: out of memory on the device: " in ended.stderr
    assert words.partition("\n")[0] in ended.stderr
    check(ended.stderr, "cuda")


@pytest.mark.parametrize("device", ["cuda", "mps", "cpu"])
def test_too_large_for_one_picture(device: str) -> None:
    def work(_: object) -> list[None]:
        raise torch.cuda.OutOfMemoryError("out of memory")

    with pytest.raises(OutOfMemoryError) as caught:
        BackOff("pictures").run(work, ["one"], 1, torch.device(device))
    if device == "cpu":
        assert "quantization 8 or 4" in str(caught.value)
    else:
        check(str(caught.value), device)


def test_fast_and_fewer_bits(promptgen: Promptgen, folder: Path, picture: Path) -> None:
    flags = ("--quantization", 8, "--fast", "--device", "cpu")
    ended = promptgen("caption", picture, "-i", "caption", "--model", folder, *flags)
    assert ended.status != 0
    assert "two ways to the same end" in ended.stderr
    assert "none with int8, which only Florence-2 takes" in ended.stderr
    dtypes = re.findall(r"auto|fp32|fp16|bf16|int8", ended.stderr.partition("another dtype: ")[2])
    assert dtypes
    for dtype in dtypes:
        check_quantization("8", "cpu", dtype)
        for family in FAMILIES:
            resolve_dtype(dtype, "cpu", family)
