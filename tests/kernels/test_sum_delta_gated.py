"""`sum_delta_gated` of every backend against the formula in float64; pools and slots are test_sum_delta's."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
import pytest
import torch
from neighbours import beside

from atomlora.errors import BackendError
from atomlora.kernels import Activation, FactorPool, dispatch, sum_delta_gated

cases = beside(__file__, "test_sum_delta")
ACTIVATIONS = ("silu", "gelu_tanh")
Pools = tuple[FactorPool, FactorPool]


def make_pools(
    rank: int, d_in: int, d_out: int, dtype: torch.dtype, mixed: bool = False, small: float = 0.05
) -> tuple[FactorPool, FactorPool]:
    """Of gate and up; deltas are small, so that activations are where they bend."""
    gate, up = (cases.make_pool(rank, d_in, d_out, dtype, seed, mixed) for seed in (0, 1))
    return gate._replace(scaling=gate.scaling * small), up._replace(scaling=up.scaling * small)


def ends(count: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    gate, up = (3 * torch.randn((count, width), generator=generator) for _ in "gu")
    return gate.to(dtype), up.to(dtype)


def formula(
    x: torch.Tensor,
    pools: Pools,
    slots: torch.Tensor,
    weights: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    activation: Activation,
) -> tuple[np.ndarray, np.ndarray]:
    """The definition in float64, and how far it may move when each sum moves by its largest possible value."""
    (of_gate, bound_gate), (of_up, bound_up) = (cases.loop(x, pool, slots, weights) for pool in pools)
    g, u = gate.double().numpy() + of_gate, up.double().numpy() + of_up
    if activation == "silu":
        act = g / (1 + np.exp(-g))
    else:
        act = g / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3)))
    bound_gate += abs(gate.double().numpy())
    bound_up += abs(up.double().numpy())
    # Neither activation is steeper than 1.13.
    return act * u, 1.13 * bound_gate * abs(u) + abs(act) * bound_up + abs(act * u)


def assert_formula(
    x: torch.Tensor,
    pools: Pools,
    slots: torch.Tensor,
    weights: torch.Tensor,
    activation: Activation,
    backend: str,
    device: str = "cpu",
) -> None:
    gate, up = ends(len(x), pools[0].Bt.shape[2], x.dtype)
    wanted, bound = formula(x, pools, slots, weights, gate, up, activation)
    moved = tuple(FactorPool(*(tensor.to(device) for tensor in pool)) for pool in pools)
    out = gate.to(device)
    returned = sum_delta_gated(
        x.to(device),
        moved,
        slots.to(device),
        weights.to(device),
        gate=out,
        up=up.to(device),
        activation=activation,
        backend=backend,
    )
    assert returned is out
    error = np.abs(out.cpu().double().numpy() - wanted)
    assert (error <= cases.TOLERANCE[x.dtype] * bound).all()


@pytest.fixture(params=cases.BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", cases.STORAGE, ids=str)
@pytest.mark.parametrize("k", [0, 1, 2, 8, 16])
@pytest.mark.parametrize("count", [0, 1, 7, 33])
def test_rows_and_adapters_per_row(
    backend: str, count: int, k: int, dtype: torch.dtype, activation: Activation
) -> None:
    x = torch.randn((count, 37), generator=torch.Generator().manual_seed(1))
    weights = torch.rand((count, k), generator=torch.Generator().manual_seed(2))
    slots = cases.make_slots(count, k, "uniform")
    assert_formula(x, make_pools(4, 37, 53, dtype), slots, weights, activation, backend)


@pytest.mark.parametrize("dtype", cases.STORAGE, ids=str)
@pytest.mark.parametrize(("d_in", "d_out"), [(1, 1), (5, 37), (37, 5), (576, 1536), (130, 259)])
@pytest.mark.parametrize(("rank", "mixed"), [(1, False), (4, False), (7, False), (16, True)])
def test_ranks_and_widths(backend: str, rank: int, mixed: bool, d_in: int, d_out: int, dtype: torch.dtype) -> None:
    x = torch.randn((3, d_in), generator=torch.Generator().manual_seed(3))
    weights = torch.rand((3, 5), generator=torch.Generator().manual_seed(4))
    pools = make_pools(rank, d_in, d_out, dtype, mixed)
    assert_formula(x, pools, cases.make_slots(3, 5, "uniform", seed=5), weights, "silu", backend)


@pytest.mark.parametrize("popularity", cases.POPULARITIES)
def test_popularity(backend: str, popularity: str) -> None:
    x = torch.randn((33, 64), generator=torch.Generator().manual_seed(6))
    weights = torch.rand((33, 8), generator=torch.Generator().manual_seed(7)) - 0.2
    pools = make_pools(4, 64, 96, torch.bfloat16)
    assert_formula(x, pools, cases.make_slots(33, 8, popularity), weights, "gelu_tanh", backend)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_over_their_whole_range(backend: str, activation: Activation) -> None:
    """No atoms: act(gate) alone, against torch in float64; what is not finite stays seen."""
    gate = torch.cat([torch.linspace(-200, 200, 4001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 3e38, -3e38])])[None]
    pools = make_pools(1, 2, gate.shape[1], torch.float32)
    empty = torch.full((1, 1), -1, dtype=torch.int32), torch.ones(1, 1)
    act = torch.nn.functional.silu if activation == "silu" else partial(torch.nn.functional.gelu, approximate="tanh")
    out = sum_delta_gated(
        torch.zeros(1, 2), pools, *empty, gate=gate.clone(), up=torch.ones_like(gate), activation=activation,
        backend=backend,
    )  # fmt: skip
    torch.testing.assert_close(out.double(), act(gate.double()), rtol=1e-6, atol=2e-6)
    gate = torch.tensor([[float("nan"), float("inf"), 1.0]])
    up = torch.tensor([[1.0, 2.0, float("nan")]])
    pools = make_pools(1, 2, 3, torch.float32)
    out = sum_delta_gated(torch.zeros(1, 2), pools, *empty, gate=gate, up=up, activation=activation, backend=backend)
    assert out.isnan().tolist() == [[True, False, True]]
    assert out[0, 1] == float("inf")


def test_an_empty_slot_reads_nothing_of_the_pools(backend: str) -> None:
    pools, clean = (make_pools(4, 37, 21, torch.float32) for _ in "12")
    for pool in pools:
        pool.A[0], pool.Bt[0], pool.scaling[0] = float("nan"), float("nan"), float("inf")
    x, slots = torch.randn(3, 37), torch.tensor([[-1, 5], [5, -1], [-1, 0]], dtype=torch.int32)
    weights = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    gate, up = ends(3, 21)
    one, other = (
        sum_delta_gated(x, some, slots, weights, gate=gate.clone(), up=up.clone(), backend=backend)
        for some in (pools, clean)
    )
    if backend == "reference":  # where weight 0 is multiplied like any other
        one, other = one[:2], other[:2]
    assert torch.equal(one, other)


def test_duplicates_add_up(backend: str) -> None:
    pools, x = make_pools(4, 37, 21, torch.float32), torch.randn(1, 37)
    gate, up = ends(1, 21)
    results = [
        sum_delta_gated(
            x,
            pools,
            torch.tensor([slots], dtype=torch.int32),
            torch.tensor([weights]),
            gate=gate.clone(),
            up=up.clone(),
            backend=backend,
        )
        for slots, weights in (([2, 2], [0.25, 0.5]), ([2], [0.75]))
    ]
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["last column", "transposed", "strided"])
def test_tensors_that_are_not_contiguous(backend: str, layout: str) -> None:
    pools = make_pools(4, 37, 21, torch.bfloat16)
    slots, weights = cases.make_slots(6, 3, "uniform"), torch.rand(3, 6).T
    if layout == "last column":
        x, gate, up = torch.randn(6, 5, 37)[:, -1], torch.randn(6, 5, 21)[:, -1], torch.randn(6, 2, 21)[:, -1]
    elif layout == "transposed":
        x, gate, up = torch.randn(37, 6).T, torch.randn(21, 6).T, torch.randn(21, 6).T
    else:
        x, gate, up = torch.randn(12, 74)[::2, ::2], torch.randn(12, 42)[::2, ::2], torch.randn(6, 21)
    wide = torch.stack([slots, slots], dim=-1)[..., 0]
    assert not x.is_contiguous()
    wanted, bound = formula(x, pools, slots, weights, gate.clone(), up.clone(), "silu")
    sum_delta_gated(x, pools, wide, weights, gate=gate, up=up, backend=backend)
    assert (np.abs(gate.double().numpy() - wanted) <= cases.TOLERANCE[torch.float32] * bound).all()


@pytest.mark.parametrize("dtype", cases.STORAGE, ids=str)
def test_slots_that_lie_apart_at_other_distances(backend: str, dtype: torch.dtype) -> None:
    whole = make_pools(4, 37, 21, dtype)
    pools = []
    for pool, gap in zip(whole, (9, 40), strict=True):
        record = torch.full((cases.SLOTS, 4 * 58 + gap), 1, dtype=dtype)
        A, Bt = record[:, : 4 * 37].view(-1, 4, 37), record[:, 4 * 37 : 4 * 58].view(-1, 4, 21)
        A.copy_(pool.A)
        Bt.copy_(pool.Bt)
        pools.append(FactorPool(A, Bt, pool.scaling))
    x = torch.randn((7, 37), generator=torch.Generator().manual_seed(6))
    weights = torch.rand((7, 3), generator=torch.Generator().manual_seed(7))
    assert_formula(x, tuple(pools), cases.make_slots(7, 3, "uniform"), weights, "silu", backend)


def test_large_work_over_two_threads() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x = torch.randn((17, 600), generator=torch.Generator().manual_seed(1))
        weights = torch.rand((17, 16), generator=torch.Generator().manual_seed(2))
        assert 2 * 17 * 16 * 16 * 1203 >= 1 << 20
        pools = make_pools(16, 600, 603, torch.bfloat16)
        assert_formula(x, pools, cases.make_slots(17, 16, "uniform"), weights, "gelu_tanh", "numba")
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_reference_in_other_dtypes(dtype: torch.dtype) -> None:
    x = torch.randn((7, 37), generator=torch.Generator().manual_seed(1)).to(dtype)
    pools = make_pools(4, 37, 21, torch.float32)
    assert_formula(x, pools, cases.make_slots(7, 4, "uniform"), torch.rand(7, 4), "silu", "auto")


def test_what_does_not_fit_is_named(backend: str) -> None:
    pools = make_pools(4, 37, 21, torch.float32)
    x, gate, up = torch.zeros(2, 37), torch.zeros(2, 21), torch.zeros(2, 21)
    slots, weights = torch.zeros((2, 3), dtype=torch.int32), torch.ones(2, 3)
    call = {"x": x, "pools": pools, "slots": slots, "weights": weights, "gate": gate, "up": up, "backend": backend}
    for wrong in (
        {"x": x[:, :36]},
        {"gate": gate[:1]},
        {"up": up[:, :20]},
        {"up": up[:, :20], "pools": (pools[0], make_pools(4, 37, 20, torch.float32)[1])},
        {"slots": slots[:1], "weights": weights[:1]},
        {"pools": (pools[0], pools[1]._replace(Bt=pools[1].Bt[:, :2].contiguous()))},
    ):
        with pytest.raises(ValueError, match="shapes do not fit"):
            sum_delta_gated(**{**call, **wrong})
    with pytest.raises(IndexError, match="slots"):
        sum_delta_gated(**{**call, "slots": slots + cases.SLOTS})
    with pytest.raises(ValueError, match=r"'relu' is unknown; use silu or gelu_tanh"):
        sum_delta_gated(**call, activation="relu")
    assert not gate.any()
    assert not up.any()


def test_a_backend_that_cannot_is_passed_over_or_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pools of different storage: only the reference takes them."""
    monkeypatch.setattr(dispatch, "_told", set())
    pools = make_pools(4, 37, 21, torch.float32)[0], make_pools(4, 37, 21, torch.bfloat16)[1]
    x, slots, weights = torch.randn(2, 37), cases.make_slots(2, 3, "distinct"), torch.rand(2, 3)
    with caplog.at_level(logging.INFO, logger=dispatch.__name__):
        assert_formula(x, pools, slots, weights, "silu", "auto")
    assert "the pools of gate and up differ" in caplog.text
    gate, up = ends(2, 21)
    with pytest.raises(BackendError, match="the pools of gate and up differ"):
        sum_delta_gated(x, pools, slots, weights, gate=gate, up=up, backend="numba")
    assert torch.equal(gate, ends(2, 21)[0])
