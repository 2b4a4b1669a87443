"""How a slot's bytes are kept: int8 with a scale per rank row, and memory that is there only while it is used."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from atomlora.kernels import AdapterPool

TARGETS = [("gate", 6, 9), ("down", 9, 6)]


@pytest.mark.parametrize("rank", [1, 3])
def test_int8_keeps_each_rank_row_to_a_127th_of_its_largest_value(rank: int) -> None:
    random = np.random.default_rng(0)
    sizes = 10.0 ** random.integers(-3, 3, (rank, 1))  # rows of very different size
    record = [(random.normal(size=(rank, a)) * sizes, random.normal(size=(rank, b)) / sizes) for _, a, b in TARGETS]
    record[0][0][0] = 0
    pool = AdapterPool(TARGETS, capacity=2, rank=3, dtype=torch.int8)
    with pool.mounted(["other"], lambda _: ([(np.ones((3, a)), np.ones((3, b))) for _, a, b in TARGETS], 9.0)):
        pass
    pool.unload(["other"])
    (slot,) = pool.acquire(["a"], lambda _: (record, 0.5))
    assert slot == 0
    for (key, _, _), (a, bt) in zip(TARGETS, record, strict=True):
        stored = pool.factors(key)
        scaling = stored.scaling[slot, :rank, None].double().numpy()
        for i in range(rank):
            got = scaling[i] * stored.A[slot, i, :, None].double().numpy() * stored.Bt[slot, i].double().numpy()
            error = np.abs(got - 0.5 * np.outer(a[i], bt[i]))
            assert (error <= 0.5 * np.abs(a[i]).max() * np.abs(bt[i]).max() / 100).all()
        assert not stored.scaling[slot, rank:].any()
        assert not stored.A[slot, rank:].any()


@pytest.mark.skipif(not hasattr(os, "sysconf") or not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_memory_is_taken_when_it_is_used_and_given_back() -> None:
    def resident_mib() -> float:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    before = resident_mib()
    wide = [("a", 4096, 4096)]
    pool = AdapterPool(wide, capacity=4096, rank=4)  # 256 MiB
    assert resident_mib() - before < 32
    record = [(np.ones((4, 4096), np.float32), np.ones((4, 4096), np.float32))]
    for number in range(1024):
        with pool.mounted([str(number)], lambda _: (record, 1.0)):
            pass
    assert resident_mib() - before > 48
    del pool
    assert resident_mib() - before < 32
