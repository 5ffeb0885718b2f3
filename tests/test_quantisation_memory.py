"""How much memory it takes to load a checkpoint in 4 bits: never more than that and one file of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from promptgen.benchmarks.random_checkpoint import make_config, write_shards

from .checkpoints import REFERENCE

# 520 million parameters of which 470 are to be quantised: 2.1 GB of float32.
VISION = {"dim_embed": (32, 64, 128, 256), "num_heads": (1, 2, 4, 8), "depths": (1, 1, 2, 1)}
TEXT = {"d_model": 1024, "layers": 16, "heads": 16, "ffn": 4096}
SHARD = 500 * 10**6

MEASURE = """
import json, sys
from promptgen.models_cache import ModelManager

def status(key):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key)) * 1024

folder, warm, quantization = sys.argv[1:]
manager = ModelManager(idle_seconds=None)
kind = {"device": "cpu", "dtype": "fp32", "quantization": quantization}
with manager.acquire(warm, **kind):  # what the libraries allocate at first use is not the model's
    pass
manager.unload()
open("/proc/self/clear_refs", "w").write("5")  # reset the high-water mark
before = status("VmRSS")
with manager.acquire(folder, **kind) as model:
    peak = status("VmHWM") - before
    nbytes = model.nbytes
    del model
manager.unload()
print(json.dumps({"peak": peak, "nbytes": nbytes, "after": status("VmRSS") - before}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc to see the peak of memory")
@pytest.mark.parametrize(("kind", "quantization"), [("safetensors", "4"), ("bin", "4"), ("safetensors", "8")])
def test_a_sharded_checkpoint_needs_its_quantised_size_and_one_shard_at_most(
    tmp_path: Path, kind: str, quantization: str
) -> None:
    config = make_config(VISION, TEXT, image_size=96)
    folder = write_shards(tmp_path / "big", config, SHARD, kind=kind)
    shards = [path.stat().st_size for path in folder.glob(f"*.{kind}")]
    child = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), str(REFERENCE), quantization],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    for path in folder.iterdir():
        path.unlink()  # gigabytes, which pytest would keep
    assert child.returncode == 0, child.stderr
    seen = json.loads(child.stdout)
    assert len(shards) >= 4
    assert sum(shards) > 2 * 10**9
    assert seen["nbytes"] < sum(shards) / 2
    assert seen["peak"] < seen["nbytes"] + max(shards), seen
    assert seen["after"] < 0.1 * seen["nbytes"], seen
    print(f"{kind} {quantization}", seen, "shard", max(shards))
