"""Every backend against a plain loop in float64, over shapes, popularities, dtypes and awkward inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atomlora.errors import BackendError
from atomlora.kernels import FactorPool, available_backends, sum_delta
from atomlora.kernels.reference import delta

BACKENDS = ("reference", "numba")
STORAGE = (torch.float32, torch.bfloat16, torch.int8)
# Largest error allowed, relative to the largest possible sum of the row (the same sum over absolute values).
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14, torch.float16: 1e-3, torch.bfloat16: 8e-3}
POPULARITIES = ("distinct", "uniform", "zipf", "identical", "skewed")
SLOTS = 19


def make_pool(rank: int, d_in: int, d_out: int, dtype: torch.dtype, seed: int = 0, mixed: bool = False) -> FactorPool:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn((SLOTS, rank, d_in), generator=generator)
    Bt = torch.randn((SLOTS, rank, d_out), generator=generator)
    if mixed:  # adapters of smaller ranks, padded with zeros as AdapterPool does
        for slot in range(SLOTS):
            A[slot, 1 + slot % rank :] = 0
            Bt[slot, 1 + slot % rank :] = 0
    scaling = torch.rand(SLOTS, generator=generator) + 0.5
    if dtype == torch.int8:
        A, Bt = ((127 * factor / factor.abs().amax()).round() for factor in (A, Bt))
        scaling = scaling[:, None] * torch.rand((SLOTS, rank), generator=generator) / 1000
    return FactorPool(A.to(dtype), Bt.to(dtype), scaling)


def make_slots(count: int, k: int, popularity: str, seed: int = 0) -> torch.Tensor:
    """Slots (count, k) int32; where chosen at random, some are empty."""
    random = np.random.default_rng(seed)
    if popularity == "distinct":
        slots = np.arange(count * k) % SLOTS
    elif popularity == "identical":
        slots = np.full(count * k, 3)
    elif popularity == "uniform":
        slots = random.integers(-4, SLOTS, count * k).clip(-1)
    elif popularity == "zipf":
        slots = (random.zipf(1.5, count * k) - 2).clip(-1, SLOTS - 1)
    else:  # skewed: one adapter in most places
        slots = np.where(random.random(count * k) < 0.8, 7, random.integers(-1, SLOTS, count * k))
    return torch.from_numpy(slots.reshape(count, k).astype(np.int32))


def loop(
    x: torch.Tensor, pool: FactorPool, slots: torch.Tensor, weights: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """The definition, one adapter at a time in float64: the sum, and the same sum over absolute values."""
    A, Bt, scaling = (tensor.detach().double().numpy() for tensor in pool)
    inputs, gates = x.detach().double().numpy(), weights.detach().double().numpy()
    total = np.zeros((x.shape[0], Bt.shape[2]))
    bound = np.zeros_like(total)
    for t in range(x.shape[0]):
        for j in range(slots.shape[1]):
            slot = int(slots[t, j])
            if slot >= 0:
                gain = gates[t, j] * scaling[slot]  # one number, or one for each rank row
                total[t] += Bt[slot].T @ (gain * (A[slot] @ inputs[t]))
                bound[t] += abs(Bt[slot]).T @ (abs(gain) * (abs(A[slot]) @ abs(inputs[t])))
    return total, bound


def assert_matches(x: torch.Tensor, pool: FactorPool, slots: torch.Tensor, weights: torch.Tensor, backend: str) -> None:
    before = torch.randn((x.shape[0], pool.Bt.shape[2]), generator=torch.Generator().manual_seed(9)).to(x.dtype)
    out = before.clone()
    returned = sum_delta(x, pool, slots, weights, out=out, backend=backend)
    assert returned is out
    total, bound = loop(x, pool, slots, weights)
    start = before.double().numpy()
    error = np.abs(out.double().numpy() - (start + total))
    assert (error <= TOLERANCE[x.dtype] * (bound + np.abs(start))).all()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_both_backends_are_here() -> None:
    assert set(available_backends()) >= set(BACKENDS)


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
@pytest.mark.parametrize("k", [1, 2, 8, 16])
@pytest.mark.parametrize("count", [0, 1, 7, 33, 133])
def test_rows_and_adapters_per_row(backend: str, count: int, k: int, dtype: torch.dtype) -> None:
    pool = make_pool(4, 37, 53, dtype)
    x = torch.randn((count, 37), generator=torch.Generator().manual_seed(1))
    weights = torch.rand((count, k), generator=torch.Generator().manual_seed(2))
    assert_matches(x, pool, make_slots(count, k, "uniform"), weights, backend)


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
@pytest.mark.parametrize(("d_in", "d_out"), [(1, 1), (5, 37), (37, 5), (576, 1536), (1536, 576)])
@pytest.mark.parametrize(("rank", "mixed"), [(1, False), (4, False), (7, False), (8, False), (16, True)])
def test_ranks_and_widths(backend: str, rank: int, mixed: bool, d_in: int, d_out: int, dtype: torch.dtype) -> None:
    pool = make_pool(rank, d_in, d_out, dtype, mixed=mixed)
    x = torch.randn((3, d_in), generator=torch.Generator().manual_seed(3))
    weights = torch.rand((3, 5), generator=torch.Generator().manual_seed(4))
    assert_matches(x, pool, make_slots(3, 5, "uniform", seed=5), weights, backend)


@pytest.mark.parametrize("popularity", POPULARITIES)
def test_popularity(backend: str, popularity: str) -> None:
    pool = make_pool(4, 64, 96, torch.bfloat16)
    x = torch.randn((33, 64), generator=torch.Generator().manual_seed(6))
    weights = torch.rand((33, 8), generator=torch.Generator().manual_seed(7))
    assert_matches(x, pool, make_slots(33, 8, popularity), weights, backend)


@pytest.mark.parametrize("weight", [0.0, -1.5, 1e-20, 1e20])
def test_weights_of_any_size(backend: str, weight: float) -> None:
    pool = make_pool(4, 37, 21, torch.float32)
    x = torch.randn((7, 37), generator=torch.Generator().manual_seed(8))
    weights = torch.rand((7, 4), generator=torch.Generator().manual_seed(9))
    weights[:, 1] = weight
    assert_matches(x, pool, make_slots(7, 4, "distinct"), weights, backend)


@pytest.mark.parametrize("size", ["row", "many rows"])
def test_large_work_over_two_threads(size: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        count, width = (1, 2100) if size == "row" else (33, 600)
        pool = make_pool(16, width, width + 3, torch.bfloat16)
        x = torch.randn((count, width), generator=torch.Generator().manual_seed(1))
        weights = torch.rand((count, 16), generator=torch.Generator().manual_seed(2))
        assert count * 16 * 16 * (2 * width + 3) >= 1 << 20
        assert_matches(x, pool, make_slots(count, 16, "uniform"), weights, "numba")
    finally:
        torch.set_num_threads(threads)


def test_no_slots_at_all_keeps_every_bit(backend: str) -> None:
    pool = make_pool(4, 37, 21, torch.float32)
    x = torch.randn(7, 37)
    out = torch.randn(7, 21)
    out[0, 0], out[0, 1] = -0.0, float("nan")
    for slots in (torch.zeros((7, 0), dtype=torch.int32), torch.full((7, 3), -1, dtype=torch.int32)):
        weights = torch.ones(slots.shape)
        result = sum_delta(x, pool, slots, weights, out=out.clone(), backend=backend)
        assert torch.equal(result.view(torch.int32), out.view(torch.int32))


def test_only_rows_with_adapters_change(backend: str) -> None:
    pool = make_pool(4, 37, 21, torch.float32)
    x, out = torch.randn(5, 37), torch.randn(5, 21)
    slots = torch.full((5, 3), -1, dtype=torch.int32)
    slots[2, 1] = 4
    weights = torch.ones(5, 3)
    slots[3, 0], weights[3, 0] = 4, 0.0
    result = sum_delta(x, pool, slots, weights, out=out.clone(), backend=backend)
    others = [0, 1, 3, 4]
    assert torch.equal(result[others], out[others])
    assert not torch.equal(result[2], out[2])


def test_an_empty_slot_reads_nothing_of_the_pool(backend: str) -> None:
    pool = make_pool(4, 37, 21, torch.float32)
    clean = make_pool(4, 37, 21, torch.float32)
    pool.A[0], pool.Bt[0], pool.scaling[0] = float("nan"), float("nan"), float("inf")
    x, slots = torch.randn(2, 37), torch.tensor([[-1, 5], [5, -1]], dtype=torch.int32)
    results = [
        sum_delta(x, some, slots, torch.ones(2, 2), out=torch.zeros(2, 21), backend=backend) for some in (pool, clean)
    ]
    assert torch.equal(*results)


def test_duplicates_add_up(backend: str) -> None:
    pool = make_pool(4, 37, 21, torch.float32)
    x = torch.randn(1, 37)
    twice = sum_delta(
        x,
        pool,
        torch.tensor([[2, 2]], dtype=torch.int32),
        torch.tensor([[0.25, 0.5]]),
        out=torch.zeros(1, 21),
        backend=backend,
    )
    once = sum_delta(
        x,
        pool,
        torch.tensor([[2]], dtype=torch.int32),
        torch.tensor([[0.75]]),
        out=torch.zeros(1, 21),
        backend=backend,
    )
    torch.testing.assert_close(twice, once, rtol=1e-5, atol=1e-5)


def test_infinity_and_nan_stay_visible(backend: str) -> None:
    pool = make_pool(4, 37, 21, torch.float32)
    slots = torch.tensor([[1], [1]], dtype=torch.int32)
    x = torch.ones(2, 37)
    x[0, 3] = float("nan")
    result = sum_delta(x, pool, slots, torch.ones(2, 1), out=torch.zeros(2, 21), backend=backend)
    assert result[0].isnan().all()
    assert result[1].isfinite().all()


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
def test_slots_that_lie_apart(backend: str, dtype: torch.dtype) -> None:
    """Factors as AdapterPool keeps them: views into one record per slot."""
    whole = make_pool(4, 37, 21, dtype)
    gap = torch.full((SLOTS, 4 * 58 + 9), 1, dtype=dtype)
    A, Bt = gap[:, : 4 * 37].view(SLOTS, 4, 37), gap[:, 4 * 37 : 4 * 58].view(SLOTS, 4, 21)
    A.copy_(whole.A)
    Bt.copy_(whole.Bt)
    scaling = torch.stack([whole.scaling, whole.scaling], dim=1)[:, 0]
    assert not A.is_contiguous()
    x = torch.randn((7, 37), generator=torch.Generator().manual_seed(6))
    weights = torch.rand((7, 3), generator=torch.Generator().manual_seed(7))
    assert_matches(x, FactorPool(A, Bt, scaling), make_slots(7, 3, "uniform"), weights, backend)


@pytest.mark.parametrize("layout", ["last column", "transposed", "strided"])
def test_tensors_that_are_not_contiguous(backend: str, layout: str) -> None:
    pool = make_pool(4, 37, 21, torch.bfloat16)
    slots, weights = make_slots(6, 3, "uniform"), torch.rand(3, 6).T
    if layout == "last column":
        x, out = torch.randn(6, 5, 37)[:, -1], torch.zeros(6, 5, 21)[:, -1]
    elif layout == "transposed":
        x, out = torch.randn(37, 6).T, torch.zeros(21, 6).T
    else:
        x, out = torch.randn(12, 74)[::2, ::2], torch.zeros(12, 42)[::2, ::2]
    wide = torch.stack([slots, slots], dim=-1)[..., 0]
    assert not x.is_contiguous()
    assert not wide.is_contiguous()
    sum_delta(x, pool, wide, weights, out=out, backend=backend)
    total, bound = loop(x, pool, slots, weights)
    assert (np.abs(out.double().numpy() - total) <= TOLERANCE[torch.float32] * bound).all()


def test_chosen_rows(backend: str) -> None:
    pool = make_pool(4, 37, 21, torch.float32)
    x, out = torch.randn(9, 37), torch.randn(9, 21)
    rows = torch.tensor([7, 0, 3])
    slots, weights = make_slots(3, 4, "uniform"), torch.rand(3, 4)
    expected = out.clone()
    expected[rows] = sum_delta(x[rows], pool, slots, weights, out=out[rows], backend="reference")
    result = sum_delta(x, pool, slots, weights, out=out, rows=rows, backend=backend)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-4)
    others = [1, 2, 4, 5, 6, 8]
    assert torch.equal(result[others], expected[others])
    one = sum_delta(x, pool, slots[:1], weights[:1], out=expected.clone(), rows=torch.tensor([8]), backend=backend)
    assert torch.equal(one[:8], expected[:8])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_reference_in_other_dtypes(dtype: torch.dtype) -> None:
    pool = make_pool(4, 37, 21, torch.float32)
    x = torch.randn((7, 37), generator=torch.Generator().manual_seed(1)).to(dtype)
    assert_matches(x, pool, make_slots(7, 4, "uniform"), torch.rand(7, 4), "auto")


def test_shapes_and_indices_that_do_not_fit(backend: str) -> None:
    pool = make_pool(4, 37, 21, torch.float32)
    x, out = torch.zeros(2, 37), torch.zeros(2, 21)
    slots, weights = torch.zeros((2, 3), dtype=torch.int32), torch.zeros(2, 3)
    for wrong in (
        {"x": x[:, :36]},
        {"out": out[:1]},
        {"slots": slots[:1], "weights": weights[:1]},
        {"weights": weights[:, :2]},
        {"x": x[None]},
        {"rows": torch.tensor([0])},
        {"pool": pool._replace(Bt=pool.Bt[:, :2].contiguous())},
    ):
        call = {
            "x": x,
            "pool": pool,
            "slots": slots,
            "weights": weights,
            "out": out,
            "backend": backend,
            **wrong,
        }
        with pytest.raises(ValueError, match="shapes do not fit"):
            sum_delta(**call)
    with pytest.raises(IndexError, match="slots"):
        sum_delta(x, pool, slots + SLOTS, weights + 1, out=out, backend=backend)
    for rows in ([0, 2], [-1, 0]):
        with pytest.raises(IndexError, match="rows"):
            sum_delta(x, pool, slots, weights, out=out, rows=torch.tensor(rows), backend=backend)
    assert not out.any()


def test_gradients_of_the_definition() -> None:
    pool = make_pool(3, 5, 4, torch.float64)
    slots = torch.tensor([[0, 2, -1], [-1, -1, -1], [2, 2, 1]])
    leaves = (torch.randn(3, 5).double(), pool.A, pool.Bt, pool.scaling.double(), torch.randn(3, 3).double())
    leaves = tuple(leaf.requires_grad_() for leaf in leaves)
    assert torch.autograd.gradcheck(lambda x, A, Bt, scaling, weights: delta(x, A, Bt, scaling, slots, weights), leaves)


def test_a_gradient_is_never_lost() -> None:
    pool = make_pool(3, 5, 4, torch.float32)
    x = torch.randn(2, 5, requires_grad=True)
    slots, weights = torch.tensor([[0], [1]], dtype=torch.int32), torch.ones(2, 1)
    sum_delta(x, pool, slots, weights, out=torch.zeros(2, 4)).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    with pytest.raises(BackendError, match="gradient"):
        sum_delta(x, pool, slots, weights, out=torch.zeros(2, 4), backend="numba")


def test_large_reference_is_done_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make_pool(4, 37, 21, torch.float32)
    x, slots, weights = torch.randn(33, 37), make_slots(33, 4, "zipf"), torch.rand(33, 4)
    whole = delta(x, *pool, slots, weights)
    monkeypatch.setattr("atomlora.kernels.reference._BLOCK_ELEMENTS", 4 * 4 * 37 * 5)
    torch.testing.assert_close(delta(x, *pool, slots, weights), whole)
