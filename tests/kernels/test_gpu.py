"""What only a CUDA device can show: `pytest -m gpu tests/kernels`, or `make gpu`. Skipped elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from neighbours import beside

from atomlora.kernels import AdapterPool, FactorPool, available_backends, sum_delta, sum_delta_gated, sum_delta_many

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


# The pools, slots and the loop in float64 of the other backends' tests
cases, gated = beside(__file__, "test_sum_delta"), beside(__file__, "test_sum_delta_gated")


def on_gpu(pool: FactorPool) -> FactorPool:
    return FactorPool(*(tensor.cuda() for tensor in pool))


def assert_near(x: torch.Tensor, pool: FactorPool, slots: torch.Tensor, weights: torch.Tensor) -> None:
    """triton on the GPU against the loop in float64 on the CPU."""
    before = torch.randn((x.shape[0], pool.Bt.shape[2]), generator=torch.Generator().manual_seed(9)).to(x.dtype)
    out = before.cuda()
    sum_delta(x.cuda(), on_gpu(pool), slots.cuda(), weights.cuda(), out=out, backend="triton")
    total, bound = cases.loop(x, pool, slots, weights)
    start = before.double().numpy()
    error = np.abs(out.cpu().double().numpy() - (start + total))
    assert (error <= cases.TOLERANCE[x.dtype] * (bound + np.abs(start))).all()


def test_auto_is_triton() -> None:
    assert available_backends("cuda")[0] == "triton"


@pytest.mark.parametrize("popularity", cases.POPULARITIES)
@pytest.mark.parametrize("dtype", cases.STORAGE, ids=str)
@pytest.mark.parametrize("k", [1, 2, 8, 16])
@pytest.mark.parametrize("count", [0, 1, 7, 33, 133])
def test_rows_atoms_and_popularity(count: int, k: int, dtype: torch.dtype, popularity: str) -> None:
    pool = cases.make_pool(4, 37, 53, dtype)
    x = torch.randn((count, 37), generator=torch.Generator().manual_seed(1))
    weights = torch.rand((count, k), generator=torch.Generator().manual_seed(2))
    assert_near(x, pool, cases.make_slots(count, k, popularity), weights)


@pytest.mark.parametrize("ends", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rank", [1, 4, 8, 16, 64])
@pytest.mark.parametrize(("count", "popularity"), [(5, "uniform"), (300, "identical"), (300, "skewed")])
def test_ranks_and_dtypes(rank: int, ends: torch.dtype, count: int, popularity: str) -> None:
    pool = cases.make_pool(rank, 576, 1536, torch.bfloat16, mixed=rank == 16)
    x = torch.randn((count, 576), generator=torch.Generator().manual_seed(1)).to(ends)
    weights = torch.rand((count, 4), generator=torch.Generator().manual_seed(2))
    assert_near(x, pool, cases.make_slots(count, 4, popularity), weights)


@pytest.mark.parametrize("activation", gated.ACTIVATIONS)
@pytest.mark.parametrize("ends", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", cases.STORAGE, ids=str)
@pytest.mark.parametrize(
    ("count", "k", "rank"), [(0, 2, 4), (3, 0, 4), (1, 8, 4), (7, 1, 1), (33, 16, 16), (133, 8, 64)]
)
def test_gated(count: int, k: int, rank: int, dtype: torch.dtype, ends: torch.dtype, activation: str) -> None:
    pools = gated.make_pools(rank, 576, 1536, dtype, mixed=rank == 16)
    x = torch.randn((count, 576), generator=torch.Generator().manual_seed(1)).to(ends)
    weights = torch.rand((count, k), generator=torch.Generator().manual_seed(2))
    slots = cases.make_slots(count, k, "uniform")
    gated.assert_formula(x, pools, slots, weights, activation, "triton", device="cuda")


@pytest.mark.parametrize("way", ["many", "gated"])
def test_a_graph_replays_with_other_atoms_and_other_counts_of_them(way: str) -> None:
    """Captured with one atom per row, replayed with none, with eight, and with a slot that was reloaded."""
    targets = [("gate", 576, 1536), ("up", 576, 1536)]
    pool = AdapterPool(targets, capacity=16, rank=4, device="cuda")
    random = np.random.default_rng(0)

    def load(_name: str) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
        return [
            (random.normal(size=(4, a)).astype(np.float32), random.normal(size=(4, b)).astype(np.float32))
            for _, a, b in targets
        ], 0.5

    loaded = pool.acquire([str(number) for number in range(16)], load)
    x = torch.randn(7, 576, device="cuda", dtype=torch.bfloat16)
    outs = [torch.zeros(7, 1536, device="cuda", dtype=torch.bfloat16) for _ in targets]
    slots = torch.full((7, 8), -1, dtype=torch.int32, device="cuda")
    weights = torch.zeros((7, 8), device="cuda")
    slots[:, 0], weights[:, 0] = loaded[0], 1.0
    factors = [pool.factors(key) for key, _, _ in targets]

    bare = [torch.randn(7, 1536, device="cuda", dtype=torch.bfloat16) for _ in targets]

    def call(backend: str = "triton") -> None:
        for out, before in zip(outs, bare, strict=True):
            out.copy_(before)
        if way == "many":
            sum_delta_many(x, factors, slots, weights, outs=outs, backend=backend)
        else:
            sum_delta_gated(x, tuple(factors), slots, weights, gate=outs[0], up=outs[1], backend=backend)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()  # compiles and tunes
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    pool.release([str(number) for number in range(16)])
    for turn, mounted in enumerate((0, 1, 8, 3, 8)):
        for name in (f"new {turn} {number}" for number in range(3)):
            with pool.mounted([name], load):
                pass
        torch.cuda.synchronize()
        slots.fill_(-1)
        if mounted:
            slots[:, :mounted] = torch.randint(0, 16, (7, mounted), device="cuda", dtype=torch.int32)
        weights.copy_(torch.rand(7, 8))
        x.copy_(torch.randn(7, 576))
        graph.replay()
        found = [out.clone() for out in outs][: 2 if way == "many" else 1]
        call("reference")
        for one, out in zip(found, outs, strict=False):
            torch.testing.assert_close(one.float(), out.float(), rtol=2e-2, atol=2e-1)


def test_the_same_bits_each_time() -> None:
    pool = on_gpu(cases.make_pool(4, 576, 1536, torch.bfloat16))
    x, slots, weights = torch.randn(33, 576).cuda(), cases.make_slots(33, 8, "zipf").cuda(), torch.rand(33, 8).cuda()
    results = [sum_delta(x, pool, slots, weights, out=torch.zeros(33, 1536).cuda()) for _ in range(5)]
    assert all(torch.equal(result, results[0]) for result in results)


def test_uploads_arrive_before_they_are_read_and_wait_for_readers() -> None:
    """A pool of two slots under thirty adapters: each call must see its own, though nothing synchronises."""
    wide = [("a", 4096, 4096)]
    pool = AdapterPool(wide, capacity=2, rank=16, device="cuda")
    x = torch.ones(64, 4096, device="cuda")
    weights = torch.ones(64, 1, device="cuda")
    outs = []
    for number in range(30):
        record = [(np.full((16, 4096), number, np.float32), np.full((16, 4096), 1.0, np.float32))]
        with pool.mounted([str(number)], lambda _, record=record: (record, 1.0)) as (slot,):
            slots = torch.full((64, 1), slot, dtype=torch.int32, device="cuda")
            outs.append(sum_delta(x, pool.factors("a"), slots, weights, out=torch.zeros_like(x), backend="triton"))
    for number, out in enumerate(outs):
        assert (out == number * 16 * 4096).all()
    assert pool.stats.evictions == 28
