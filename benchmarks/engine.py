"""Load time, peak memory and pictures per second: this engine against transformers' own Florence-2 class.

    python -m promptgen.benchmarks.engine [--size base] [--device auto] [--dtype auto] [--images 8]

Makes a full-size checkpoint with random weights once (in ``benchmarks/out``), in the original format for us
and in the converted format for transformers, which cannot read the original one. Every measurement runs in a
process of its own, ours and theirs in turn, all on the same pictures, settings and number of new tokens.
Prints one table and writes the numbers as JSON beside the checkpoints.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "out"
INSTRUCTION = "<MORE_DETAILED_CAPTION>"  # what the processor of transformers takes and replaces by
PROMPT = "Describe with a paragraph what is shown in the image."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=("base", "large"), default="base")
    parser.add_argument("--stored", choices=("fp16", "fp32"), default="fp16", help="dtype of the files")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=4, help="for the batched row")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--num-beams", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=sorted(CHILDREN), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=OUT)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(CHILDREN[arguments.child](arguments)))
    else:
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Make the checkpoints, measure every row ``rounds`` times in turn, print the table."""
    from ..florence2 import resolve_device, resolve_dtype

    arguments.device = resolve_device(arguments.device)
    arguments.dtype = resolve_dtype(arguments.dtype, arguments.device)
    for form in ("original", "converted"):
        _make(arguments, form)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in CHILDREN}
    for _ in range(arguments.rounds):
        for name, results in rows.items():
            results.append(_measure(arguments, name))
    conditions = _conditions(arguments)
    print(conditions)
    print(_table(rows))
    numbers = arguments.folder / f"engine-{arguments.size}-{arguments.device.replace(':', '')}.json"
    summary = {"conditions": conditions, "rows": rows}
    numbers.write_text(json.dumps(summary, indent=1, default=str), encoding="utf-8")
    print(f"Numbers: {numbers}")


def _checkpoint(arguments: argparse.Namespace, form: str) -> Path:
    return arguments.folder / f"{arguments.size}-{arguments.stored}-{form}"


def _make(arguments: argparse.Namespace, form: str) -> None:
    folder = _checkpoint(arguments, form)
    if (folder / "tokenizer_config.json").exists():
        return
    command = [sys.executable, "-m", "promptgen.benchmarks.random_checkpoint", arguments.size, str(folder)]
    subprocess.run([*command, "--dtype", arguments.stored, "--format", form], check=True, stdout=sys.stderr)


def _measure(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    options = [
        f"--{key.replace('_', '-')}={value}"
        for key, value in vars(arguments).items()
        if key not in {"child", "rounds"}
    ]
    command = [sys.executable, "-m", "promptgen.benchmarks.engine", f"--child={name}", *options]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(child.stdout.splitlines()[-1])


def _pictures(count: int) -> list[Any]:
    """Pictures of noise that has been blurred, 1024 x 768, the same in every process."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (count, 24, 32, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize((1024, 768), Image.Resampling.BICUBIC) for pixels in small]


def _ours(arguments: argparse.Namespace, batch_size: int) -> dict[str, Any]:
    from ..florence2 import Florence2Model, GenerationOptions
    from ..florence2 import model as _imported_before_the_clock_starts  # noqa: F401

    options = GenerationOptions(
        num_beams=arguments.num_beams,
        max_new_tokens=arguments.new_tokens,
        min_new_tokens=arguments.new_tokens,
    )

    def load() -> Florence2Model:
        folder = _checkpoint(arguments, "original")
        return Florence2Model.load(folder, device=arguments.device, dtype=arguments.dtype)

    def caption(model: Florence2Model, pictures: list[Any]) -> list[list[int]]:
        answers: list[list[int]] = []
        for start in range(0, len(pictures), batch_size):
            part = pictures[start : start + batch_size]
            features = model.encode_images(model.preprocess(part))
            answers += [list(a.token_ids) for a in model.generate(features, [PROMPT] * len(part), options)]
        return answers

    return _clock(arguments, load, caption, lambda model: model.nbytes)


def _theirs(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch
    from transformers import AutoProcessor, Florence2ForConditionalGeneration

    from ..florence2 import DTYPES

    folder = _checkpoint(arguments, "converted")
    dtype = getattr(torch, DTYPES[arguments.dtype])

    def load() -> Any:
        model = Florence2ForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        model = model.to(arguments.device).eval()
        return model, AutoProcessor.from_pretrained(folder)

    def caption(loaded: Any, pictures: list[Any]) -> list[list[int]]:
        model, processor = loaded
        answers = []
        for picture in pictures:
            inputs = processor(text=INSTRUCTION, images=picture, return_tensors="pt").to(model.device, dtype)
            with torch.inference_mode():
                ids = model.generate(
                    **inputs, num_beams=arguments.num_beams, do_sample=False, no_repeat_ngram_size=3,
                    forced_bos_token_id=0, forced_eos_token_id=2,
                    max_new_tokens=arguments.new_tokens, min_new_tokens=arguments.new_tokens,
                )  # fmt: skip
            answers.append(ids[0].tolist())
        return answers

    def nbytes(loaded: Any) -> int:
        return sum(p.nbytes for p in {id(p): p for p in loaded[0].parameters()}.values())

    return _clock(arguments, load, caption, nbytes)


CHILDREN: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "transformers, one by one": _theirs,
    "ours, one by one": lambda arguments: _ours(arguments, 1),
    "ours, batched": lambda arguments: _ours(arguments, arguments.batch_size),
}


def _clock(
    arguments: argparse.Namespace,
    load: Callable[[], Any],
    caption: Callable[[Any, list[Any]], list[list[int]]],
    nbytes: Callable[[Any], int],
) -> dict[str, Any]:
    """Seconds to load, peak memory over the weights, pictures per second after one to warm up."""
    import torch

    pictures = _pictures(arguments.images + 1)
    torch.zeros(8, 8, device=arguments.device) @ torch.zeros(8, 8, device=arguments.device)
    before = _reset_peak(arguments.device)
    start = time.perf_counter()
    model = load()
    _synchronize(arguments.device)
    load_seconds = time.perf_counter() - start
    load_peak = _peak(arguments.device) - before
    caption(model, pictures[:1])
    _synchronize(arguments.device)
    start = time.perf_counter()
    answers = caption(model, pictures[1:])
    _synchronize(arguments.device)
    seconds = time.perf_counter() - start
    return {
        "load_seconds": load_seconds,
        "load_peak_ratio": load_peak / nbytes(model),
        "weights_bytes": nbytes(model),
        "peak_bytes": _peak(arguments.device) - before,
        "images_per_second": len(answers) / seconds,
        "new_tokens": [len(answer) - 1 for answer in answers],
        "answers": answers,
    }


def _synchronize(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _reset_peak(device: str) -> int:
    """Count the peak anew, of the GPU or of this process (Linux). Returns the bytes in use now."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak(device: str) -> int:
    import torch

    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _conditions(arguments: argparse.Namespace) -> str:
    import torch
    import transformers

    cuda = arguments.device.startswith("cuda")
    where = torch.cuda.get_device_name(arguments.device) if cuda else f"{torch.get_num_threads()} CPU threads"
    return (
        f"{arguments.size}, random weights, {arguments.stored} files, {arguments.dtype} on {where}; "
        f"{arguments.images} pictures, {arguments.num_beams} beams, {arguments.new_tokens} new tokens, "
        f"median of {arguments.rounds}; torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}"
    )


def _table(rows: dict[str, list[dict[str, Any]]]) -> str:
    def median(name: str, key: str) -> float:
        return statistics.median(result[key] for result in rows[name])

    baseline = next(iter(rows))
    lines = [
        "| | load s | load peak / weights | peak MB | images/s | ratio | same answers |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, results in rows.items():
        pairs = list(zip(results[0]["answers"], rows[baseline][0]["answers"], strict=True))
        same = sum(ours == theirs for ours, theirs in pairs)
        lines.append(
            f"| {name} | {median(name, 'load_seconds'):.2f} | {median(name, 'load_peak_ratio'):.2f} "
            f"| {median(name, 'peak_bytes') / 2**20:.0f} | {median(name, 'images_per_second'):.3f} "
            f"| {median(name, 'images_per_second') / median(baseline, 'images_per_second'):.2f} "
            f"| {same} of {len(pairs)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
