"""One row of the benchmark of quantised weights, measured in the process that this is called in."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .case import picture_files
from .clock import PeakMemory, now

if TYPE_CHECKING:
    from ..models_cache import LoadedModel

_PROMPT = "caption en"
_WARM_UP_TOKENS = 3


@dataclass(frozen=True)
class QuantisationCase:
    """A checkpoint, how it is loaded, and what is asked of it."""

    checkpoint: str  # a folder
    quantization: str
    device: str
    dtype: str
    batch_sizes: list[int]
    batches: int  # that are timed, of each size
    new_tokens: int

    def __post_init__(self) -> None:
        for name in ("batches", "new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it takes 1 or more.")


def measure(text: str) -> str:
    """The numbers of a :class:`QuantisationCase`, both as JSON."""
    return json.dumps(_measure(QuantisationCase(**json.loads(text))))


def _measure(case: QuantisationCase) -> dict[str, Any]:
    from ..models_cache import DirectPlacement
    from ..models_cache.families import family_of, load_family

    folder = Path(case.checkpoint)
    device, dtype = DirectPlacement().resolve(case.device, case.dtype, family_of(folder))
    _warm_up(device, case.quantization)
    memory, started = PeakMemory(device), now(device)
    model = load_family(folder, device, dtype, case.quantization)
    row: dict[str, Any] = {"dtype": dtype, "weights MB": model.nbytes / 1e6}
    row["load s"] = now(device) - started
    row["loading MB"] = _megabytes(memory)
    for size in case.batch_sizes:
        memory.restart()
        row |= {f"{name}, batch {size}": value for name, value in _answer(model, case, size, device).items()}
        row[f"answering MB, batch {size}"] = _megabytes(memory)
    return row


def _warm_up(device: str, quantization: str) -> None:
    """What libraries take at first use is not a model's."""
    from ..models_cache import ModelManager

    manager = ModelManager(idle_seconds=None)
    with manager.acquire("demo", device=device, quantization=quantization):
        pass
    manager.close()


def _answer(model: LoadedModel, case: QuantisationCase, size: int, device: str) -> dict[str, Any]:
    """Seconds and tokens of batches of so many pictures."""
    from PIL import Image

    from ..inference import GenerationOptions

    pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in picture_files(size)]

    def batch(new_tokens: int) -> int:
        options = GenerationOptions(num_beams=1, max_new_tokens=new_tokens)
        features = model.encode_images(model.preprocess(pictures))
        answers = model.generate(features, [_PROMPT] * size, options)
        return sum(len(answer.token_ids) for answer in answers)

    batch(min(_WARM_UP_TOKENS, case.new_tokens))
    started, tokens = now(device), 0
    for _ in range(case.batches):
        tokens += batch(case.new_tokens)
    seconds = now(device) - started
    return {"s/caption": seconds / (case.batches * size), "tokens/s": tokens / seconds}


def _megabytes(memory: PeakMemory) -> float | str:
    nbytes = memory.nbytes()
    return "?" if nbytes is None else nbytes / 1e6
