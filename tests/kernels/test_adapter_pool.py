"""Slots: padding, eviction of the least recently used, pins, failures half-way, threads, and a model."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from atomlora.errors import CorruptStoreError, UsageError
from atomlora.kernels import AdapterPool, sum_delta
from atomlora.kernels.pools import Factors

TARGETS = [("gate", 6, 9), ("down", 9, 6)]


def load(name: str) -> tuple[Factors, float]:
    """Factors filled with the adapter's number n, of rank 1 + n % 3 and scaling n / 2."""
    number = int(name)
    rank = 1 + number % 3
    return [(np.full((rank, a), number, np.float32), np.full((rank, b), -number, np.float32)) for _, a, b in TARGETS], (
        number / 2
    )


def assert_holds(pool: AdapterPool, slot: int, name: str) -> None:
    factors, scaling = load(name)
    for (key, _, _), (a, bt) in zip(TARGETS, factors, strict=True):
        stored = pool.factors(key)
        for tensor, values in ((stored.A, a), (stored.Bt, bt)):
            expected = torch.zeros(tensor.shape[1:])
            expected[: len(values)] = torch.from_numpy(values)
            assert torch.equal(tensor[slot].float(), expected)
        assert stored.scaling[slot] == scaling


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_loads_pads_and_overwrites(dtype: torch.dtype) -> None:
    pool = AdapterPool(TARGETS, capacity=1, rank=3, dtype=dtype)
    for name in ("5", "3", "2"):  # ranks 3, 1, 3: the second must not see the first one's rows
        with pool.mounted([name], load) as slots:
            assert slots == [0]
            assert_holds(pool, 0, name)


def test_bfloat16_bits_and_tensors_are_taken_as_they_are() -> None:
    bits = np.arange(6, dtype=np.uint16).reshape(1, 6) + 0x3F80
    bits.setflags(write=False)
    record = [(bits, torch.full((1, 9), 1.5)), (torch.ones(1, 9), bits)]
    pool = AdapterPool(TARGETS, capacity=2, rank=1)
    (slot,) = pool.acquire(["a"], lambda _: (record, 2.0))
    stored = pool.factors("gate").A[slot].view(torch.int16).numpy()
    assert np.array_equal(stored.view(np.uint16), bits)
    assert pool.factors("gate").Bt[slot].tolist() == [[1.5] * 9]


def test_unload_frees_slots() -> None:
    pool = AdapterPool(TARGETS, capacity=2, rank=3)
    for name in ("1", "2"):
        with pool.mounted([name], load):
            pass
    held = pool.acquire(["2"], load)
    with pytest.raises(UsageError, match="adapter 2 is in use"):
        pool.unload(["1", "2"])
    assert pool.stats.resident == 2
    pool.unload(["1", "1", "never loaded"])
    assert (pool.stats.resident, pool.stats.evictions) == (1, 0)
    other = pool.acquire(["3"], load)
    assert pool.stats.evictions == 0
    assert {*held, *other} == {0, 1}
    assert_holds(pool, other[0], "3")


def test_addresses_stay() -> None:
    pool = AdapterPool(TARGETS, capacity=2, rank=3)
    before = [tensor.data_ptr() for key, _, _ in TARGETS for tensor in pool.factors(key)]
    for number in range(9):
        with pool.mounted([str(number)], load):
            pass
    assert before == [tensor.data_ptr() for key, _, _ in TARGETS for tensor in pool.factors(key)]
    assert pool.stats.size_bytes >= 2 * 3 * 2 * sum(a + b for _, a, b in TARGETS)


def test_least_recently_used_goes_first() -> None:
    pool = AdapterPool(TARGETS, capacity=3, rank=3)
    for name in ("1", "2", "3", "1", "4"):
        with pool.mounted([name], load):
            pass
    loaded: list[str] = []

    def noted(name: str) -> tuple[Factors, float]:
        loaded.append(name)
        return load(name)

    with pool.mounted(["1", "3", "4"], noted):
        assert loaded == []
    with pool.mounted(["2"], noted):
        assert loaded == ["2"]
    stats = pool.stats
    assert (stats.hits, stats.misses, stats.evictions, stats.resident, stats.pinned) == (4, 5, 2, 3, 0)


def test_resident_adapters_of_a_call_are_not_evicted_by_it() -> None:
    pool = AdapterPool(TARGETS, capacity=2, rank=3)
    for name in ("1", "2"):
        with pool.mounted([name], load):
            pass
    slots = pool.acquire(["3", "1"], load)  # 1 is the older of the two residents, and is wanted
    assert_holds(pool, slots[0], "3")
    assert_holds(pool, slots[1], "1")


def test_too_many_at_once() -> None:
    pool = AdapterPool(TARGETS, capacity=2, rank=3)
    with pytest.raises(UsageError, match="3 distinct adapters asked for at once, but the pool holds 2"):
        pool.acquire(["1", "2", "3"], load)
    assert len(pool.acquire(["1", "2", "1"], load)) == 3
    with pytest.raises(UsageError, match="in use by other requests"):
        pool.acquire(["3"], load)
    pool.release(["1"])
    with pytest.raises(UsageError, match="in use"):
        pool.acquire(["3"], load)
    pool.release(["1", "2"])
    assert pool.acquire(["3"], load) == [0]
    with pytest.raises(UsageError, match="more often"):
        pool.release(["2"])


def test_nothing_stays_pinned_after_a_failure() -> None:
    pool = AdapterPool(TARGETS, capacity=2, rank=3)

    def broken(name: str) -> tuple[Factors, float]:
        if name == "2":
            raise CorruptStoreError("2 is damaged")
        return load(name)

    with pytest.raises(CorruptStoreError):
        pool.acquire(["1", "2"], broken)
    assert pool.stats.pinned == 0
    slots = pool.acquire(["2", "3"], load)
    assert_holds(pool, slots[0], "2")
    assert_holds(pool, slots[1], "3")


@pytest.mark.parametrize(
    "factors",
    [
        [(np.ones((1, 6)), np.ones((1, 9)))],
        [(np.ones((4, 6)), np.ones((4, 9))), (np.ones((4, 9)), np.ones((4, 6)))],
        [(np.ones((1, 6)), np.ones((1, 9))), (np.ones((1, 9)), np.ones((2, 6)))],
        [(np.ones((1, 5)), np.ones((1, 9))), (np.ones((1, 9)), np.ones((1, 6)))],
        [(np.ones((1, 6)), np.ones((1, 9))), (np.ones(9), np.ones((1, 6)))],
    ],
    ids=["a target short", "rank too large", "ranks differ", "width differs", "one dimension"],
)
def test_adapters_that_do_not_fit(factors: Factors) -> None:
    pool = AdapterPool(TARGETS, capacity=1, rank=3)
    with pool.mounted(["1"], load):
        pass
    with pytest.raises(UsageError, match="adapter odd"):
        pool.acquire(["odd"], lambda _: (factors, 1.0))
    assert_holds(pool, 0, "1")
    assert pool.stats.resident == 1


def test_settings_that_make_no_pool() -> None:
    with pytest.raises(UsageError, match="capacity 0"):
        AdapterPool(TARGETS, capacity=0, rank=1)
    with pytest.raises(UsageError, match="float16 cannot"):
        AdapterPool(TARGETS, capacity=1, rank=1, dtype=torch.float16)
    with pytest.raises(UsageError, match="twice"):
        AdapterPool([TARGETS[0], TARGETS[0]], capacity=1, rank=1)


def test_slots_feed_sum_delta() -> None:
    pool = AdapterPool(TARGETS, capacity=4, rank=3)
    x = torch.arange(6.0)[None]
    with pool.mounted(["2", "4"], load) as slots:
        out = sum_delta(
            x,
            pool.factors("gate"),
            torch.tensor([slots], dtype=torch.int32),
            torch.tensor([[1.0, 0.5]]),
            out=torch.zeros(1, 9),
        )
    # rank * scaling * weight * (-n) * n * sum(x), for n = 2 (rank 3) and n = 4 (rank 2)
    assert out.tolist() == [[3 * 1.0 * 1.0 * -4 * 15 + 2 * 2.0 * 0.5 * -16 * 15] * 9]


def test_threads_see_their_own_adapters() -> None:
    pool = AdapterPool(TARGETS, capacity=8, rank=3)
    failures: list[str] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(40):
            names = [str(number) for number in random.choice(12, size=2, replace=False)]
            with pool.mounted(names, load) as slots:
                for slot, name in zip(slots, names, strict=True):
                    if float(pool.factors("gate").A[slot, 0, 0]) != float(name):
                        failures.append(name)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert pool.stats.pinned == 0
    assert pool.stats.hits + pool.stats.misses == 4 * 40 * 2


class PoolMachine(RuleBasedStateMachine):
    """The pool against a plain model: a list of names by use, and a count of pins."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = AdapterPool(TARGETS, capacity=3, rank=3, dtype=torch.float32)
        self.by_use: list[str] = []
        self.held: list[list[str]] = []
        self.slots: dict[str, int] = {}
        self.counts = Counter[str]()

    def pinned(self) -> set[str]:
        return {name for names in self.held for name in names}

    @rule(
        names=st.lists(st.sampled_from("012345"), max_size=4),
        broken=st.sets(st.sampled_from("012345"), max_size=1),
    )
    def acquire(self, names: list[str], broken: set[str]) -> None:
        def sometimes(name: str) -> tuple[Factors, float]:
            if name in broken:
                raise OSError(name)
            return load(name)

        distinct = set(names)
        if len(distinct | self.pinned()) > 3:
            with pytest.raises(UsageError):
                self.pool.acquire(names, sometimes)
            return
        resident = [name for name in names if name in self.by_use]
        absent = list(dict.fromkeys(name for name in names if name not in self.by_use))
        self.counts["hits"] += len(resident)
        for name in resident:
            self.by_use.remove(name)
            self.by_use.append(name)
        for name in absent:
            if name in broken:
                with pytest.raises(OSError, match=name):
                    self.pool.acquire(names, sometimes)
                return
            if len(self.by_use) == 3:
                victim = next(other for other in self.by_use if other not in self.pinned() | distinct)
                self.by_use.remove(victim)
                self.counts["evictions"] += 1
            self.by_use.append(name)
            self.counts["misses"] += 1
            self.counts["hits"] += names.count(name) - 1
        self.slots.update(zip(names, self.pool.acquire(names, sometimes), strict=True))
        self.held.append(names)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        names = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.pool.release(names)

    @invariant()
    def pinned_adapters_stand_in_their_slots(self) -> None:
        for name in self.pinned():
            assert_holds(self.pool, self.slots[name], name)
        assert len({self.slots[name] for name in self.pinned()}) == len(self.pinned())

    @invariant()
    def counters_agree(self) -> None:
        stats = self.pool.stats
        assert (stats.resident, stats.pinned) == (len(self.by_use), len(self.pinned()))
        assert {key: getattr(stats, key) for key in ("hits", "misses", "evictions")} == {
            key: self.counts[key] for key in ("hits", "misses", "evictions")
        }


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None, database=None)
