"""The triton backend under Triton's interpreter, on CPU tensors, against a loop in float64.

Triton decides when it is imported whether kernels are interpreted, so these run in a process of their own:
`TRITON_INTERPRET=1 pytest tests/kernels/test_triton_interpreted.py`, which test_triton.py does.
"""

from __future__ import annotations

import os

import pytest
import torch
from neighbours import beside

from atomlora.kernels import sum_delta, sum_delta_gated, sum_delta_many

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")


# The pools, slots and the loop in float64 of the other backends' tests
cases, gated = beside(__file__, "test_sum_delta"), beside(__file__, "test_sum_delta_gated")


@pytest.mark.parametrize(
    ("count", "k", "rank", "popularity", "dtype"),
    [
        (0, 3, 4, "uniform", torch.bfloat16),
        (1, 1, 1, "distinct", torch.float32),
        (1, 16, 16, "uniform", torch.bfloat16),
        (7, 2, 4, "uniform", torch.bfloat16),
        (7, 8, 4, "skewed", torch.int8),
        (3, 2, 64, "distinct", torch.float32),
        (133, 8, 4, "identical", torch.bfloat16),
        (133, 2, 7, "identical", torch.int8),
        (33, 1, 4, "zipf", torch.float32),
    ],
)
def test_interpreted_matches_the_loop(count: int, k: int, rank: int, popularity: str, dtype: torch.dtype) -> None:
    pool = cases.make_pool(rank, 37, 53, dtype, mixed=rank == 16)
    x = torch.randn((count, 37), generator=torch.Generator().manual_seed(1))
    weights = torch.rand((count, k), generator=torch.Generator().manual_seed(2))
    cases.assert_matches(x, pool, cases.make_slots(count, k, popularity), weights, "triton")


def test_interpreted_in_bfloat16() -> None:
    pool = cases.make_pool(4, 37, 53, torch.bfloat16)
    x = torch.randn((5, 37), generator=torch.Generator().manual_seed(1)).bfloat16()
    cases.assert_matches(x, pool, cases.make_slots(5, 3, "uniform"), torch.rand(5, 3), "triton")


def test_interpreted_tiles_whose_rows_differ_a_little() -> None:
    """Row tiles of one composition multiply together; one other slot or weight in a tile must be seen."""
    pool = cases.make_pool(4, 37, 53, torch.float32)
    slots = torch.tensor([[2, -1, 5]], dtype=torch.int32).repeat(70, 1)
    weights = torch.rand((70, 3), generator=torch.Generator().manual_seed(2))
    slots[33, 2], weights[40], weights[41, 0], weights[50] = 7, 0.0, -3.0, 1e20
    x = torch.randn((70, 37), generator=torch.Generator().manual_seed(3))
    cases.assert_matches(x, pool, slots, weights, "triton")
    out = torch.full((70, 53), -0.0)
    sum_delta(x, pool, slots, weights, out=out, backend="triton")
    assert (out[40].view(torch.int32) == torch.tensor(-0.0).view(torch.int32)).all()


def test_interpreted_keeps_what_it_must() -> None:
    """Bits of rows without adapters, NaN of slots that no one mounts, chosen rows, strides."""
    pool = cases.make_pool(4, 37, 21, torch.float32)
    pool.A[0], pool.Bt[0], pool.scaling[0] = float("nan"), float("nan"), float("inf")
    x, out = torch.randn(9, 74)[:, ::2], torch.randn(9, 42)[:, ::2]
    assert not x.is_contiguous()
    rows = torch.tensor([7, 0, 3])
    slots = torch.tensor([[4, -1], [-1, -1], [0, 4]], dtype=torch.int32)
    weights = torch.tensor([[0.5, 1.0], [1.0, 1.0], [0.0, 0.0]])
    before = out.clone()
    sum_delta(x, pool, slots, weights, out=out, rows=rows, backend="triton")
    others = [0, 1, 2, 3, 4, 5, 6, 8]
    assert torch.equal(out[others], before[others])
    expected = before[7:8].clone()
    sum_delta(x[7:8], pool, slots[:1], weights[:1], out=expected, backend="reference")
    torch.testing.assert_close(out[7:8], expected, rtol=1e-5, atol=1e-4)


def test_interpreted_targets_that_share_their_input() -> None:
    pools = [cases.make_pool(4, 37, width, torch.bfloat16, seed=width) for width in (53, 53, 20)]
    x, slots, weights = torch.randn(3, 37), cases.make_slots(3, 2, "uniform"), torch.rand(3, 2)
    for some in (pools[:1], pools[:2], pools):
        outs = [torch.zeros(3, pool.Bt.shape[2]) for pool in some]
        sum_delta_many(x, some, slots, weights, outs=outs, backend="triton")
        for pool, out in zip(some, outs, strict=True):
            expected = sum_delta(x, pool, slots, weights, out=torch.zeros_like(out), backend="reference")
            torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("activation", gated.ACTIVATIONS)
@pytest.mark.parametrize(
    ("count", "k", "rank", "popularity", "dtype"),
    [
        (0, 3, 4, "uniform", torch.bfloat16),
        (5, 0, 4, "uniform", torch.bfloat16),
        (1, 1, 1, "distinct", torch.float32),
        (1, 16, 16, "uniform", torch.bfloat16),
        (7, 8, 4, "skewed", torch.int8),
        (3, 2, 64, "distinct", torch.float32),
        (133, 2, 7, "identical", torch.int8),
        (33, 1, 4, "zipf", torch.float32),
    ],
)
def test_interpreted_gated_matches_the_formula(
    count: int, k: int, rank: int, popularity: str, dtype: torch.dtype, activation: str
) -> None:
    pools = gated.make_pools(rank, 37, 53, dtype, mixed=rank == 16)
    x = torch.randn((count, 37), generator=torch.Generator().manual_seed(1))
    weights = torch.rand((count, k), generator=torch.Generator().manual_seed(2))
    gated.assert_formula(x, pools, cases.make_slots(count, k, popularity), weights, activation, "triton")


def test_interpreted_gated_in_bfloat16_and_in_strides() -> None:
    pools = gated.make_pools(4, 37, 53, torch.bfloat16)
    x = torch.randn((5, 37), generator=torch.Generator().manual_seed(1)).bfloat16()
    slots, weights = cases.make_slots(5, 3, "uniform"), torch.rand(5, 3)
    gated.assert_formula(x, pools, slots, weights, "silu", "triton")
    slots[slots == 18] = -1
    x, gate, up = torch.randn(37, 5).T, torch.randn(5, 106)[:, ::2], torch.randn(53, 5).T
    wanted, _ = gated.formula(x, pools, slots, weights, gate, up, "silu")
    for pool in pools:  # what no one mounts is not read
        pool.A[18], pool.Bt[18], pool.scaling[18] = float("nan"), float("nan"), float("inf")
    sum_delta_gated(x, pools, slots, weights, gate=gate, up=up, backend="triton")
    torch.testing.assert_close(gate.double(), torch.from_numpy(wanted), rtol=1e-4, atol=1e-4)


def test_the_same_bits_each_time() -> None:
    from atomlora.kernels import triton_gpu, tuning

    pool = cases.make_pool(4, 200, 53, torch.float32)
    x, slots, weights = torch.randn(2, 200), cases.make_slots(2, 8, "distinct"), torch.rand(2, 8)
    first, second = (
        sum_delta(x, pool, slots, weights, out=torch.zeros(2, 53), backend="triton").view(torch.int32) for _ in "12"
    )
    assert torch.equal(first, second)
    assert tuning.interpreted(triton_gpu.Call(x, [pool], slots, weights, [x], None).shape).split > 1
