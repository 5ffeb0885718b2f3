"""The least time that a phase can take on a device: its operations over the measured rate of matrix products,
its bytes over the measured bandwidth, whichever is longer.

Operations are counted by torch's ``FlopCounterMode`` on a pass through the network's own modules, on the meta
device, where shapes are real and nothing is computed. Bytes are the fewest that must move: weights once per
pass (for decoding: per step), caches once per step, inputs and outputs once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from ..florence2 import Florence2Config
from ..florence2.network import Florence2Network
from .case import PICTURE_SIZE
from .clock import now

PHASES = ("preprocess", "vision", "encode", "decode")


@dataclass(frozen=True)
class Work:
    """What a phase must do."""

    flops: float  # a multiplication and an addition are two
    nbytes: float


@dataclass(frozen=True)
class Rates:
    """What a device can do, measured."""

    flops_per_second: float
    bytes_per_second: float

    def floor(self, work: Work) -> tuple[float, str]:
        """Seconds, and which of ``FLOPs`` and ``bytes`` they are due to."""
        by = {"FLOPs": work.flops / self.flops_per_second, "bytes": work.nbytes / self.bytes_per_second}
        bound = max(by, key=lambda name: by[name])
        return by[bound], bound


# What must be done ----------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """How much of everything: the numbers that work is proportional to."""

    config: Florence2Config
    pictures: int
    prompt_tokens: int
    new_tokens: int
    num_beams: int
    weight_bytes: int  # per number of the matrices
    state_bytes: int  # per number of everything else
    network: Florence2Network = field(init=False, repr=False)

    def __post_init__(self) -> None:
        with torch.device("meta"):
            object.__setattr__(self, "network", Florence2Network(self.config).eval())

    @property
    def states(self) -> int:
        """Encoder states per picture."""
        return self.config.num_image_tokens + self.prompt_tokens

    @property
    def cross_bytes(self) -> int:
        """Keys and values of one picture's encoder states, in all layers of the decoder."""
        text = self.config.text
        return 2 * text.decoder_layers * self.states * text.d_model * self.state_bytes


def work_of(load: Load) -> dict[str, Work]:
    """The work of each phase.

    ``encode`` is the encoder and the keys and values that the decoder's attention to it needs; ``decode`` is
    as many steps as there are new tokens.
    """
    with torch.device("meta"), torch.no_grad():
        return {
            "preprocess": _preprocess_work(load),
            "vision": _vision_work(load),
            "encode": _encode_work(load),
            "decode": _decode_work(load),
        }


def _preprocess_work(load: Load) -> Work:
    image = load.config.image
    read = PICTURE_SIZE[0] * PICTURE_SIZE[1] * 3
    return Work(0, load.pictures * (read + 3 * image.height * image.width * 4))


def _vision_work(load: Load) -> Work:
    network, image = load.network, load.config.image
    with _counting() as counter:
        network.encode_images(torch.empty(load.pictures, 3, image.height, image.width))
    weights = _numbers(network) - _numbers(network.language_model)
    states = load.pictures * (
        3 * image.height * image.width + load.config.num_image_tokens * load.config.text.d_model
    )
    return Work(counter.get_total_flops(), weights * load.weight_bytes + states * load.state_bytes)


def _encode_work(load: Load) -> Work:
    encoder = load.network.language_model.get_encoder()
    width = load.config.text.d_model
    with _counting() as counter:
        encoder(inputs_embeds=torch.empty(load.pictures, load.states, width))
    weights = _numbers(encoder, without=("embed_tokens",)) + _numbers(_decoder(load), only=_CROSS)
    return Work(
        counter.get_total_flops() + load.pictures * _cross_flops(load),
        weights * load.weight_bytes
        + load.pictures * (load.states * width * load.state_bytes + load.cross_bytes),
    )


def _decode_work(load: Load) -> Work:
    text, steps = load.config.text, load.new_tokens
    total, cross = _decoder_flops(load)
    head = load.network.language_model.lm_head.weight.numel()
    weights = head + _numbers(_decoder(load), without=(*_CROSS, "embed_tokens", "embed_positions"))
    seen = load.num_beams * 2 * text.decoder_layers * text.d_model * load.state_bytes  # per token and picture
    caches = load.cross_bytes * steps + seen * steps * (steps + 1) / 2
    return Work(
        load.pictures * load.num_beams * (total - cross),
        steps * weights * load.weight_bytes + load.pictures * caches,
    )


_CROSS = ("encoder_attn.k_proj", "encoder_attn.v_proj")  # once per picture, whatever is decoded


def _cross_flops(load: Load) -> int:
    return _decoder_flops(load)[1]


def _decoder_flops(load: Load) -> tuple[int, int]:
    """Of all steps of one beam, the head included; and how many of them are for ``_CROSS``."""
    steps, width = load.new_tokens, load.config.text.d_model
    with _counting() as counter:
        hidden = _decoder(load)(
            input_ids=torch.zeros(1, steps, dtype=torch.int64),
            attention_mask=torch.zeros(1, 1, steps, steps),
            encoder_hidden_states=torch.empty(1, load.states, width),
            use_cache=False,
        ).last_hidden_state
        load.network.language_model.lm_head(hidden)
    by_module = counter.get_flop_counts()
    cross = sum(sum(counts.values()) for name, counts in by_module.items() if name.endswith(_CROSS))
    return counter.get_total_flops(), cross


def _decoder(load: Load) -> nn.Module:
    decoder: nn.Module = load.network.language_model.model.decoder
    return decoder


@contextmanager
def _counting() -> Iterator[FlopCounterMode]:
    with FlopCounterMode(display=False) as counter:
        yield counter


def _numbers(module: nn.Module, *, without: tuple[str, ...] = (), only: tuple[str, ...] = ("",)) -> int:
    """How many numbers the parameters have whose names contain one of ``only`` and none of ``without``."""
    return sum(
        parameter.numel()
        for name, parameter in module.named_parameters()
        if any(part in name for part in only) and not any(part in name for part in without)
    )


# What the device can do -----------------------------------------------------------------


def measure_rates(device: str, dtype: torch.dtype, *, int8: bool = False) -> Rates:
    """The best of several large matrix products and memory passes.

    Args:
        int8: also try products of int8 numbers, and take the faster.
    """
    flops = _matrix_rate(device, dtype)
    if int8:
        flops = max(flops, _int8_rate(device))
    return Rates(flops, _bandwidth(device))


def _matrix_rate(device: str, dtype: torch.dtype) -> float:
    size = _matrix_size(device)
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    seconds = _best_seconds(lambda: left @ right, device)
    if device == "cpu":  # where torch may take another library for the same product as a convolution
        kernel, pixels = left[:, :, None, None], right[None, :, :, None]
        kernel, pixels = (part.contiguous(memory_format=torch.channels_last) for part in (kernel, pixels))
        seconds = min(seconds, _best_seconds(lambda: functional.conv2d(pixels, kernel), device))
    return 2 * size**3 / seconds


def _int8_rate(device: str) -> float:
    size = _matrix_size(device)
    left, right = (torch.randint(-128, 128, (size, size), device=device).to(torch.int8) for _ in range(2))
    return 2 * size**3 / _best_seconds(lambda: torch._int_mm(left, right), device)


def _matrix_size(device: str) -> int:
    return 2048 if device == "cpu" else 8192


def _bandwidth(device: str) -> float:
    """Bytes read and written per second, by a copy or by a sum, whichever moves more."""
    numbers = 2**27 if device == "cpu" else 2**28  # 0.5 and 1 GiB: no cache holds them
    source = torch.rand(numbers, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / _best_seconds(lambda: target.copy_(source), device)
    summed = source.nbytes / _best_seconds(source.sum, device)
    return max(copied, summed)


def _best_seconds(work: Callable[[], Tensor], device: str, repeats: int = 5) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        start = now(device)
        work()
        seconds.append(now(device) - start)
    return min(seconds)
