"""Slots for adapter factors: a fixed-size pool per target with least-recently-used eviction and pins.

All tensors are allocated once and keep their addresses; loading an adapter overwrites one slot in every
target. So views, pointers and captured graphs made once stay good for every later composition.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from atomlora.errors import UsageError

Factors = Sequence[tuple[Any, Any]]
Load = Callable[[str], tuple[Factors, float]]


class FactorPool(NamedTuple):
    """The factors of one target linear for S slots: A (S, r, d_in) and Bt (S, r, d_out), float32 or bfloat16,
    and scaling (S,) float32 = alpha / rank. Bt is the transpose of B, so that rank rows are contiguous in
    both."""

    A: torch.Tensor
    Bt: torch.Tensor
    scaling: torch.Tensor


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

    `dtype` (torch.bfloat16 or torch.float32) is the storage; `device` where it lies. Safe to use from many
    threads: one lock covers look-up, eviction and loading.
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
        if dtype not in (torch.bfloat16, torch.float32):
            raise UsageError(f"adapter pool: dtype {dtype} cannot be stored; use bfloat16 or float32")
        if len({key for key, _, _ in targets}) != len(targets):
            raise UsageError("adapter pool: a target is named twice; give each target linear once")
        self.targets = tuple(targets)
        self.capacity = capacity
        self.rank = rank
        self.dtype = dtype
        self.device = torch.device(device)
        self._scaling = torch.zeros(capacity, dtype=torch.float32, device=self.device)
        self._factors = {
            key: FactorPool(
                A=torch.zeros((capacity, rank, d_in), dtype=dtype, device=self.device),
                Bt=torch.zeros((capacity, rank, d_out), dtype=dtype, device=self.device),
                scaling=self._scaling,
            )
            for key, d_in, d_out in targets
        }
        self._lock = threading.RLock()
        self._slots: OrderedDict[str, int] = OrderedDict()  # resident adapters, least recently used first
        self._free = list(range(capacity - 1, -1, -1))
        self._pins: Counter[str] = Counter()
        self._hits = self._misses = self._evictions = 0

    def factors(self, key: str) -> FactorPool:
        """The factor pool of one target; the same tensors for the life of this pool."""
        return self._factors[key]

    def acquire(self, ids: Sequence[str], load: Load) -> list[int]:
        """Slots of the adapters `ids`, loaded where absent and pinned until `release` with the same ids.

        `load(id)` returns `([(A (rank, d_in), Bt (rank, d_out)), …] in the order of the targets, scaling)`;
        arrays are torch tensors or numpy float32, or numpy uint16 holding bfloat16. Smaller ranks are padded
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
            return [self._slots[name] for name in ids]

    def release(self, ids: Sequence[str]) -> None:
        """Undo one `acquire` of the same ids; the adapters stay resident until their slots are needed."""
        with self._lock:
            wanted = Counter(ids)
            for name, count in wanted.items():
                if self._pins[name] < count:
                    raise UsageError(f"adapter {name} is released more often than it was acquired")
            for name, count in wanted.items():
                self._pins[name] -= count
                if not self._pins[name]:
                    del self._pins[name]

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
        with self._lock:
            tensors = [tensor for pool in self._factors.values() for tensor in (pool.A, pool.Bt)]
            return PoolStats(
                hits=self._hits,
                misses=self._misses,
                evictions=self._evictions,
                resident=len(self._slots),
                pinned=len(self._pins),
                capacity=self.capacity,
                size_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
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
            for (key, _, _), (a, bt) in zip(self.targets, pairs, strict=True):
                pool = self._factors[key]
                for tensor, values in ((pool.A, a), (pool.Bt, bt)):
                    tensor[slot, : values.shape[0]].copy_(values)
                    tensor[slot, values.shape[0] :].zero_()
            self._scaling[slot] = float(scaling)
        except BaseException:
            self._free.append(slot)
            raise
        self._slots[name] = slot

    def _checked(self, name: str, factors: Factors) -> list[tuple[torch.Tensor, torch.Tensor]]:
        if len(factors) != len(self.targets):
            raise UsageError(f"adapter {name} has {len(factors)} targets; this pool has {len(self.targets)}")
        pairs = []
        for (key, d_in, d_out), (a, bt) in zip(self.targets, factors, strict=True):
            a, bt = _as_tensor(a), _as_tensor(bt)
            rank = a.shape[0]
            if a.shape != (rank, d_in) or bt.shape != (rank, d_out) or rank > self.rank:
                raise UsageError(
                    f"adapter {name}, target {key}: A {tuple(a.shape)} and Bt {tuple(bt.shape)} do not fit "
                    f"a pool of rank up to {self.rank}, d_in {d_in}, d_out {d_out}"
                )
            pairs.append((a, bt))
        return pairs


def _as_tensor(values: Any) -> torch.Tensor:
    """A tensor of the same values; numpy uint16 is read as bfloat16."""
    if isinstance(values, torch.Tensor):
        return values.detach()
    array = np.array(values)  # a copy: stored records are read-only maps, which torch would warn of
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
