"""The host's memory management with our models in it: who makes room for whom."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .comfyui_host import Checkout
from .helpers_dev import ROOT

pytestmark = pytest.mark.comfyui

CAPTION = "A pink circle, a yellow heart and a green square on a black background."


@pytest.fixture(scope="module")
def facts(comfyui_checkout: Checkout) -> Any:
    """``facts(scenario)``: what ``comfyui_memory_script.py`` saw."""

    def run(scenario: str) -> dict[str, Any]:
        script = Path(__file__).with_name("comfyui_memory_script.py")
        done = subprocess.run(
            [comfyui_checkout.interpreter(), str(script), str(comfyui_checkout.folder), str(ROOT), scenario],
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
            timeout=180,
        )
        line = next((line for line in done.stdout.splitlines() if line.startswith("FACTS ")), None)
        assert line, done.stdout[-2000:] + done.stderr[-4000:]
        seen: dict[str, Any] = json.loads(line.removeprefix("FACTS "))
        return seen

    return run


def test_a_large_model_and_ours_push_each_other_out(facts: Any) -> None:
    seen = facts("push")
    assert seen["first"] == seen["second"] == seen["third"] == CAPTION
    assert seen["after_caption"] == ["_Weights"]
    assert seen["after_flux"] == ["Big"]
    assert seen["still_in_main_memory"] == ["demo"]  # the next use need not read it again
    assert seen["ours_has"] > 7e6  # all of it
    assert seen["flux_keeps"] < seen["flux_had"] - 5e6
    assert seen["ours_keeps"] < seen["ours_has"]
    assert seen["both_fit"] == ["Big", "_Weights"]
    assert seen["tied"]
    assert not seen["inference"]


def test_again_and_again(facts: Any) -> None:
    seen = facts("many")
    assert seen["text"] == CAPTION
    assert seen["on_gpu"] == ["Big"]
    assert seen["models"] == 1


@pytest.mark.parametrize("scenario", ["normal", "lowvram", "novram"])
def test_with_little_memory(facts: Any, scenario: str) -> None:
    seen = facts(scenario)
    assert seen["texts"] == [CAPTION] * 3
    if scenario == "novram":
        assert seen["bytes_between"] in ([], [0])  # nothing stays behind that the host does not count
    else:
        assert seen["bytes_between"][0] > 1e6


def test_quantised_weights_are_counted_and_moved_like_others(facts: Any) -> None:
    seen = facts("quantised")
    assert seen["texts"] == [CAPTION] * 2
    assert seen["on_gpu"] == ["_Weights"]
    assert seen["after_flux"] == ["Big"]
    assert 0.8 * seen["nbytes"] < seen["ours_has"] <= 1.2 * seen["nbytes"]


def test_told_to_unload_it_is_gone_from_main_memory_too(facts: Any) -> None:
    seen = facts("free")
    assert seen["before"] == ["Big", "_Weights"]
    assert seen["after"] == []
    assert seen["loaded"] == []
    assert seen["gone"]
    assert seen["again"] == CAPTION
    assert seen["on_gpu_again"] == ["_Weights"]


def test_on_the_cpu_by_choice(facts: Any) -> None:
    seen = facts("cpu")
    assert seen == {"text": CAPTION, "on_gpu": [], "device": "cpu"}
