"""Products of bfloat16 on a CPU that does not multiply it in hardware."""

from __future__ import annotations

import pytest
import torch
from promptgen.inference import wide_products as wide_products_module
from promptgen.inference.processor import has_bfloat16
from promptgen.inference.wide_products import wide_products
from torch.nn import functional

CPU = torch.device("cpu")
WEIGHT, BIAS = torch.randn(96, 512, generator=torch.Generator().manual_seed(0)).bfloat16(), torch.ones(96)


def rounded_once(states: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    exact = functional.linear(states.float(), WEIGHT.float(), None if bias is None else bias.float())
    return exact.bfloat16()


@pytest.mark.skipif(has_bfloat16(), reason="this CPU multiplies bfloat16")
@pytest.mark.parametrize("shape", [(64, 512), (3, 40, 512)])
@pytest.mark.parametrize("bias", [None, BIAS.bfloat16()], ids=["no bias", "bias"])
def test_many_rows_are_multiplied_as_float32(shape: tuple[int, ...], bias: torch.Tensor | None) -> None:
    states = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    with wide_products(torch.bfloat16, CPU):
        found = functional.linear(states, WEIGHT, bias)
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, rounded_once(states, bias))


@pytest.mark.skipif(has_bfloat16(), reason="this CPU multiplies bfloat16")
def test_a_very_large_matrix_is_made_wider_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_products_module, "_AT_A_TIME", 10 * 512)  # 96 rows: nine times ten, and six
    states = torch.randn(3, 40, 512, generator=torch.Generator().manual_seed(1)).bfloat16()
    for bias in (None, BIAS.bfloat16()):
        with wide_products(torch.bfloat16, CPU):
            found = functional.linear(states, WEIGHT, bias)
        torch.testing.assert_close(found, rounded_once(states, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_gains_nothing_stays_as_it_is(dtype: torch.dtype) -> None:
    one = torch.randn(1, 512, generator=torch.Generator().manual_seed(2)).to(dtype)
    many = one.float().expand(100, -1).contiguous()
    before = functional.linear(one, WEIGHT.to(dtype)), functional.linear(many, WEIGHT.float())
    with wide_products(dtype, CPU):
        assert torch.equal(functional.linear(one, WEIGHT.to(dtype)), before[0])
        assert torch.equal(functional.linear(many, WEIGHT.float()), before[1])
        assert functional.linear(input=many, weight=WEIGHT.float(), bias=BIAS).dtype is torch.float32
