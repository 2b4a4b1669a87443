"""Slots for adapter factors: a pool of fixed size with least-recently-used eviction and pins.

All tensors are allocated once and keep their addresses; loading an adapter overwrites one slot, in time that
does not depend on how many are resident. So views, pointers and captured graphs made once stay good for every
later composition.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from atomlora.errors import UsageError
from atomlora.kernels.slabs import FactorPool, SlotMemory

Factors = Sequence[tuple[Any, Any]]
Load = Callable[[str], tuple[Factors, float]]


class PoolStats(BaseModel):
    """Counters since the pool was made, in adapters (not targets), and its state now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hits: int
    misses: int
    evictions: int
    resident: int
    pinned: int
    capacity: int
    size_bytes: int


class AdapterPool:
    """`capacity` slots for adapters of up to `rank`, in each of the targets `(key, d_in, d_out)`.

    `dtype` (torch.bfloat16, torch.float32, or torch.int8 with one scale per rank row) is the storage; `device`
    where it lies. Safe to use from many threads: one lock covers look-up, eviction and loading. On CUDA an
    adapter is uploaded from pinned memory on a stream of its own: nothing waits on the host, the current
    stream waits for the upload, and the upload for work that may still read the slot.
    """

    def __init__(
        self,
        targets: Sequence[tuple[str, int, int]],
        capacity: int,
        rank: int,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        if capacity < 1 or rank < 1:
            raise UsageError(f"adapter pool: capacity {capacity} and rank {rank} must be at least 1")
        if dtype not in (torch.bfloat16, torch.float32, torch.int8):
            raise UsageError(f"adapter pool: dtype {dtype} cannot be stored; use bfloat16, float32 or int8")
        if len({key for key, _, _ in targets}) != len(targets):
            raise UsageError("adapter pool: a target is named twice; give each target linear once")
        self.targets = tuple(targets)
        self.capacity = capacity
        self.rank = rank
        self.dtype = dtype
        self.device = torch.device(device)
        self._memory = SlotMemory(self.targets, capacity, rank, dtype, self.device)
        self._lock = threading.RLock()
        self._slots: OrderedDict[str, int] = OrderedDict()  # resident adapters, least recently used first
        self._free = list(range(capacity - 1, -1, -1))
        self._pins: Counter[str] = Counter()
        self._hits = self._misses = self._evictions = 0

    def factors(self, key: str) -> FactorPool:
        """The factor pool of one target; the same tensors for the life of this pool."""
        return self._memory.factors[key]

    def acquire(self, ids: Sequence[str], load: Load) -> list[int]:
        """Slots of the adapters `ids`, loaded where absent and pinned until `release` with the same ids.

        `load(id)` returns `([(A (rank, d_in), Bt (rank, d_out)), …] in the order of the targets, scaling)`;
        arrays are torch tensors or numpy float32, or numpy uint16 holding bfloat16, and are read once, so
        that views of a memory-mapped file will do. Smaller ranks are padded
        with zeros. An id named twice is pinned twice. If anything fails, nothing of this call stays pinned.
        Raises UsageError when the ids do not fit beside the adapters in use.
        """
        with self._lock:
            self._check_room(ids)
            taken: list[str] = []
            try:
                # What is resident is pinned first, so that loading the others cannot evict it.
                for name in ids:
                    if name in self._slots:
                        self._hits += 1
                        self._slots.move_to_end(name)
                        self._pins[name] += 1
                        taken.append(name)
                for name, repeats in Counter(name for name in ids if name not in self._slots).items():
                    self._bring_in(name, load)
                    self._misses += 1
                    self._hits += repeats - 1
                    self._pins[name] += repeats
                    taken.extend([name] * repeats)
            except BaseException:
                self.release(taken)
                raise
            slots = [self._slots[name] for name in ids]
            self._memory.ready(slots)
            return slots

    def release(self, ids: Sequence[str]) -> None:
        """Undo one `acquire` of the same ids; the adapters stay resident until their slots are needed."""
        with self._lock:
            wanted = Counter(ids)
            for name, count in wanted.items():
                if self._pins[name] < count:
                    raise UsageError(f"adapter {name} is released more often than it was acquired")
            self._memory.released([self._slots[name] for name in wanted])
            for name, count in wanted.items():
                self._pins[name] -= count
                if not self._pins[name]:
                    del self._pins[name]

    def unload(self, ids: Sequence[str]) -> None:
        """Free the slots of these adapters; those that are not resident are passed over.

        Raises UsageError, and frees nothing, when one of them is acquired."""
        with self._lock:
            for name in ids:
                if name in self._pins:
                    raise UsageError(f"adapter {name} is in use; release it before it is unloaded")
            for name in dict.fromkeys(ids):
                if name in self._slots:
                    self._free.append(self._slots.pop(name))

    @contextmanager
    def mounted(self, ids: Sequence[str], load: Load) -> Iterator[list[int]]:
        """`acquire` on entry, `release` on exit."""
        slots = self.acquire(ids, load)
        try:
            yield slots
        finally:
            self.release(ids)

    @property
    def stats(self) -> PoolStats:
        """What the pool holds now, and how often what was acquired was there already."""
        with self._lock:
            return PoolStats(
                hits=self._hits,
                misses=self._misses,
                evictions=self._evictions,
                resident=len(self._slots),
                pinned=len(self._pins),
                capacity=self.capacity,
                size_bytes=self._memory.size_bytes,
            )

    def _check_room(self, ids: Sequence[str]) -> None:
        distinct = set(ids)
        if len(distinct) > self.capacity:
            raise UsageError(
                f"{len(distinct)} distinct adapters asked for at once, but the pool holds {self.capacity}; "
                "raise the pool's capacity or mount fewer adapters"
            )
        others = len(self._pins.keys() - distinct)
        if others + len(distinct) > self.capacity:
            raise UsageError(
                f"{len(distinct)} adapters do not fit: {others} of {self.capacity} slots are in use by other "
                "requests; raise the pool's capacity or wait until those are released"
            )

    def _bring_in(self, name: str, load: Load) -> None:
        factors, scaling = load(name)
        pairs = self._checked(name, factors)
        if self._free:
            slot = self._free.pop()
        else:
            victim = next(other for other in self._slots if other not in self._pins)
            slot = self._slots.pop(victim)
            self._evictions += 1
        try:
            self._memory.write(slot, pairs, float(scaling))
        except BaseException:
            self._free.append(slot)
            raise
        self._slots[name] = slot

    def _checked(self, name: str, factors: Factors) -> list[tuple[Any, Any]]:
        if len(factors) != len(self.targets):
            raise UsageError(f"adapter {name} has {len(factors)} targets; this pool has {len(self.targets)}")
        pairs = []
        for (key, d_in, d_out), (a, bt) in zip(self.targets, factors, strict=True):
            rank = len(a)
            if tuple(a.shape) != (rank, d_in) or tuple(bt.shape) != (rank, d_out) or rank > self.rank:
                raise UsageError(
                    f"adapter {name}, target {key}: A {tuple(a.shape)} and Bt {tuple(bt.shape)} do not fit "
                    f"a pool of rank up to {self.rank}, d_in {d_in}, d_out {d_out}"
                )
            pairs.append((self._memory.stored(a), self._memory.stored(bt)))
        return pairs
