"""Linear layers that are fast on a CPU.

torch's usual call reaches neither the memory's rate where there are few rows (a decoding step), nor on every
CPU the matrix rate where there are many. oneDNN's own layouts do: :class:`PackedLinear` gives the same answer
from rearranged weights, :class:`Int8Linear` nearly the same from a quarter of their bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..inference.processor import has_bfloat16, has_onednn

# Where oneDNN cannot be had, a product with so few rows is several times faster the other way round (measured
# with AVX2 and AVX-512: 3 rows by 51289 x 768 take 46 ms as rows @ W.T and 12 ms as (W @ rows.T).T).
_FEW_ROWS = 4
_LARGE_WEIGHT = 10_000  # output features above which that holds

_PACKED_ROWS = 4  # a hint for the layout; good from one row to thousands
_WEIGHT_RANGE = 127.0
_INPUT_RANGE = 126.0  # one less, so that a quotient rounded to bfloat16 still fits into 8 bits
_SMALLEST = 1e-12  # in the place of a largest number of 0
_INT8_MIDDLE = 128  # activations are unsigned, as the CPU's instructions want them: zero is 128
_MIDDLE_AND_HALF = torch.tensor(_INT8_MIDDLE + 0.5, device="cpu")


def apply(linear: nn.Module, states: Tensor) -> Tensor:
    """What a linear layer answers for ``states`` ``[..., I]``: ``[..., O]``."""
    if isinstance(linear, nn.Linear):
        return project(states, linear.weight, linear.bias)
    answer: Tensor = linear(states)
    return answer


def project(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``states`` ``[..., I]`` times ``weight`` ``[O, I]`` transposed, plus ``bias`` ``[O]``: ``[..., O]``."""
    rows = states.numel() // states.shape[-1]
    if states.device.type != "cpu" or rows > _FEW_ROWS or weight.shape[0] < _LARGE_WEIGHT:
        return functional.linear(states, weight, bias)
    product = torch.mm(weight, states.reshape(rows, -1).t()).t()
    return (product if bias is None else product + bias).reshape(*states.shape[:-1], -1)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this machine's torch brings oneDNN with layouts of its own for weights of ``dtype``."""
    if dtype == torch.bfloat16:
        return has_bfloat16()
    return dtype == torch.float32 and has_onednn()


class CpuLinear(nn.Module):
    """A linear layer with weights in a form that only a CPU reads."""

    bias: Tensor | None
    packed: Tensor  # no parameter: a module's `.to` could not move it

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_parameter("bias", linear.bias)

    @property
    def nbytes(self) -> int:
        """Bytes of what is held beside parameters and buffers."""
        return self.packed.numel() * self.packed.element_size()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class PackedLinear(CpuLinear):
    """``nn.Linear`` with its weight in oneDNN's layout: the same sums, in another order.

    Args:
        gelu: answer that function (exact, by the error function) of what the layer answers.
    """

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        super().__init__(linear)
        self.gelu = gelu
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _PACKED_ROWS)

    def forward(self, states: Tensor) -> Tensor:
        """``[..., I]`` to ``[..., O]``."""
        function, algorithm = ("gelu", "none") if self.gelu else ("none", "")
        answer: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self.packed, self.bias, function, [], algorithm
        )
        return answer

    def unpacked(self) -> nn.Linear:
        """The ordinary layer again, without the function behind it."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.packed.to_dense(), requires_grad=False)
        linear.register_parameter("bias", self._parameters["bias"])
        return linear.eval()


class Int8Linear(CpuLinear):
    """``nn.Linear`` with weights of 8 bits and a scale per output, and inputs of 8 bits and a scale per row.

    A row's answer depends on that row alone, so a batch answers what its members do.

    Source: dynamic quantisation per token, as in LLM.int8() (Dettmers et al. 2022, 2.1, "row-wise"), through
    PyTorch's oneDNN products (``torch.ops.onednn``).
    """

    scale: Tensor  # of the weight's rows, [O]
    zero: Tensor  # [O], all 0

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=-1, keepdim=True).clamp_min_(_SMALLEST).div_(_WEIGHT_RANGE)
        rounded = (weight / scale).round_().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, [_PACKED_ROWS, self.in_features])
        # no buffers: they stay as they are when the network's dtype changes
        self.scale = scale.flatten()
        self.zero = torch.zeros(self.out_features, dtype=torch.int64, device="cpu")

    def forward(self, states: Tensor) -> Tensor:
        """``[..., I]`` to ``[..., O]``, in the same dtype."""
        if not states.numel():
            return states.new_zeros(*states.shape[:-1], self.out_features)
        rows = states.reshape(-1, self.in_features)
        scale = rows.abs().amax(dim=-1, keepdim=True).clamp_min_(_SMALLEST).mul_(1 / _INPUT_RANGE)  # [R, 1]
        if rows.dtype == torch.float32:  # fewer steps, for which bfloat16 has too few digits
            inputs = torch.addcdiv(_MIDDLE_AND_HALF, rows, scale).to(torch.uint8)  # which cuts off
        else:
            inputs = _shifted(rows / scale)
        answer = self._multiply(inputs, 1.0, None, states.dtype)
        answer = answer.mul_(scale) if self.bias is None else torch.addcmul(self.bias, answer, scale)
        return answer.reshape(*states.shape[:-1], self.out_features)

    def _multiply(
        self, inputs: Tensor, scale: float, bias: Tensor | None, dtype: torch.dtype, gelu: bool = False
    ) -> Tensor:
        """``inputs`` ``[R, I]``, uint8 with 128 for zero, to ``[R, O]``."""
        function, algorithm = ("gelu", "none") if gelu else ("none", "")
        answer: Tensor = torch.ops.onednn.qlinear_pointwise(
            inputs, scale, _INT8_MIDDLE, self.packed, self.scale, self.zero, bias,
            1.0, 0, dtype, function, [], algorithm,
        )  # fmt: skip
        return answer


class EvenInt8Linear(Int8Linear):
    """:class:`Int8Linear` with one scale for all that it is given: for what a layer norm has just evened out.

    Its sums come out of the product whole, so that bias and function cost no further pass over them. A
    picture's answer would depend on what else is in the batch: give it one picture at a time.

    Args:
        gelu: answer that function (exact, by the error function) of what the layer answers.
    """

    def __init__(self, linear: nn.Linear, gelu: bool = False) -> None:
        super().__init__(linear)
        self.gelu = gelu
        self.full_bias = None if linear.bias is None else linear.bias.detach().float()

    def forward(self, states: Tensor) -> Tensor:
        """``[..., I]`` to ``[..., O]``, in the same dtype."""
        if not states.numel():
            return states.new_zeros(*states.shape[:-1], self.out_features)
        rows = states.reshape(-1, self.in_features)
        least, most = torch.aminmax(rows)
        scale = max(-float(least), float(most), _SMALLEST) / _INPUT_RANGE
        inputs = _shifted(rows * (1.0 / scale))
        answer = self._multiply(inputs, scale, self.full_bias, states.dtype, self.gelu)
        return answer.reshape(*states.shape[:-1], self.out_features)


def _shifted(quotients: Tensor) -> Tensor:
    """Numbers from -127 to 127, rounded (in place) and with 128 added, as uint8."""
    return quotients.round_().to(torch.int8).view(torch.uint8).bitwise_xor_(_INT8_MIDDLE)


def few_queries_attention(
    queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    """Attention of a few queries over bfloat16 keys and values, on a CPU: there almost twice as fast as
    ``scaled_dot_product_attention``, but with scores of 8 digits.

    Args:
        queries: ``[P, H, K, D]``, of any dtype.
        keys: ``[P, H, S, D]`` bfloat16
        values: ``[P, H, S, D]`` bfloat16
        attn_mask: added to the scores; to be broadcast to ``[P, H, K, S]``.

    Returns:
        ``[P, H, K, D]`` in the dtype of ``queries``.
    """
    scaled = (queries * queries.shape[-1] ** -0.5).to(keys.dtype)
    scores = torch.matmul(scaled, keys.transpose(2, 3)).float()
    if attn_mask is not None:
        scores = scores + attn_mask
    return torch.matmul(scores.softmax(dim=-1).to(values.dtype), values).to(queries.dtype)
