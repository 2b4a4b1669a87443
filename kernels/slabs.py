"""Memory for the factors of S slots: one contiguous record per slot, and what brings a record there.

A record holds the scales of a slot and, target after target, its A (r, d_in) and Bt (r, d_out). So one copy
loads an adapter, whatever the number of targets; a target's A over all slots is a strided view. Nothing moves:
views, pointers and captured CUDA graphs made once stay good.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

_ALIGNMENT = 64
_HUGE_BYTES = 1 << 22
_STAGED = 4
# numpy knows no bfloat16: its bits are held as uint16.
_NUMPY = {torch.float32: np.float32, torch.bfloat16: np.uint16, torch.int8: np.int8}


class FactorPool(NamedTuple):
    """The factors of one target linear for S slots: A (S, r, d_in) and Bt (S, r, d_out), float32, bfloat16 or
    int8. Bt is the transpose of B, so that rank rows are contiguous in both; slots may lie any distance apart.
    scaling (S,) float32 = alpha / rank, or (S, r) where each rank row has its own, as int8 needs:
    alpha / rank * (scale of A's row) * (scale of Bt's row)."""

    A: torch.Tensor
    Bt: torch.Tensor
    scaling: torch.Tensor


class SlotMemory:
    """The bytes of `capacity` slots on `device`, and the `factors` of each target over all slots."""

    def __init__(
        self,
        targets: Sequence[tuple[str, int, int]],
        capacity: int,
        rank: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.rank = rank
        self.dtype = dtype
        self.own_scales = dtype == torch.int8
        item = dtype.itemsize
        scales = rank if self.own_scales else 1
        self._parts: list[tuple[int, int, int, int, int]] = []  # offsets of scales, A, Bt; widths
        at = 0 if self.own_scales else _aligned(4)
        for _, d_in, d_out in targets:
            scale_at = at if self.own_scales else 0
            a_at = at + (_aligned(4 * rank) if self.own_scales else 0)
            bt_at = a_at + _aligned(rank * d_in * item)
            at = bt_at + _aligned(rank * d_out * item)
            self._parts.append((scale_at, a_at, bt_at, d_in, d_out))
        self.record_bytes = max(at, _ALIGNMENT)
        self._slab = _allocate(capacity * self.record_bytes, device)
        self._records = self._slab.view(capacity, self.record_bytes)
        self._host = self._records.numpy() if device.type == "cpu" else None
        self._uploads = _Uploads(self.record_bytes, device) if device.type == "cuda" else None
        self.factors = {}
        for (key, _, _), (scale_at, a_at, bt_at, d_in, d_out) in zip(targets, self._parts, strict=True):
            step = self.record_bytes // item
            shape, strides = (capacity, rank), (step, 1)
            typed, numbers = self._slab.view(dtype), self._slab.view(torch.float32)
            scaling = numbers.as_strided((capacity, scales), (self.record_bytes // 4, 1), scale_at // 4)
            self.factors[key] = FactorPool(
                A=typed.as_strided((*shape, d_in), (strides[0], d_in, 1), a_at // item),
                Bt=typed.as_strided((*shape, d_out), (strides[0], d_out, 1), bt_at // item),
                scaling=scaling if self.own_scales else scaling[:, 0],
            )

    @property
    def size_bytes(self) -> int:
        """Bytes of all slots together."""
        return self._slab.numel()

    def stored(self, values: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """An array or tensor (rank, d) as it is stored, and the scales (rank,) of its rows where it has some.

        numpy uint16 is read as bfloat16."""
        if isinstance(values, np.ndarray) and values.dtype == _NUMPY[self.dtype] and not self.own_scales:
            return values, None
        tensor = _as_tensor(values)
        if not self.own_scales:
            tensor = tensor.to(device="cpu", dtype=self.dtype)
            return (tensor.view(torch.uint16) if self.dtype == torch.bfloat16 else tensor).numpy(), None
        rows = tensor.to(device="cpu", dtype=torch.float32)
        largest = rows.abs().amax(dim=-1) if rows.numel() else rows.new_zeros(rows.shape[:-1])
        scales = torch.where(largest > 0, largest / 127, 1.0)
        return (rows / scales[..., None]).round_().to(torch.int8).numpy(), scales.numpy()

    def write(self, slot: int, pairs: Sequence[tuple[Any, Any]], scaling: float) -> None:
        """Overwrite a slot with the `stored` factors of every target; smaller ranks are padded with zeros.

        On CUDA the copy is asynchronous: it waits for the work that was queued when the slot was released,
        and `ready` makes later work wait for it."""
        record = self._host[slot] if self._host is not None else None
        if record is None and self._uploads is not None:
            record = self._uploads.buffer()
        elif record is None:
            record = np.empty(self.record_bytes, np.uint8)
        kind = np.dtype(_NUMPY[self.dtype])
        if not self.own_scales:
            record[:4].view(np.float32)[0] = scaling
        for (scale_at, a_at, bt_at, d_in, d_out), (a, bt) in zip(self._parts, pairs, strict=True):
            for (values, _), at, width in ((a, a_at, d_in), (bt, bt_at, d_out)):
                place = record[at : at + self.rank * width * kind.itemsize].view(kind).reshape(self.rank, width)
                place[: values.shape[0]] = values
                place[values.shape[0] :] = 0
            if self.own_scales:
                scales = record[scale_at : scale_at + 4 * self.rank].view(np.float32)
                scales[: a[1].shape[0]] = scaling * a[1] * bt[1]
                scales[a[1].shape[0] :] = 0
        if self._uploads is not None:
            self._uploads.send(slot, self._records[slot])
        elif self._host is None:
            self._records[slot].copy_(torch.from_numpy(record))

    def ready(self, slots: Sequence[int]) -> None:
        """Make work that is queued from now on wait until these slots hold what was written."""
        if self._uploads is not None:
            self._uploads.ready(slots)

    def released(self, slots: Sequence[int]) -> None:
        """Work queued so far may read these slots; an upload into them waits for it."""
        if self._uploads is not None:
            self._uploads.released(slots)


class _Uploads:
    """Copies of records to a CUDA device on a stream of their own, through pinned buffers that take turns."""

    def __init__(self, record_bytes: int, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._buffers = [torch.empty(record_bytes, dtype=torch.uint8, pin_memory=True) for _ in range(_STAGED)]
        self._views = [buffer.numpy() for buffer in self._buffers]
        self._sent: list[torch.cuda.Event | None] = [None] * _STAGED
        self._turn = 0
        self._arrived: dict[int, torch.cuda.Event] = {}
        self._readers: dict[int, torch.cuda.Event] = {}

    def buffer(self) -> np.ndarray:
        """The next pinned buffer, once its last copy is through."""
        self._turn = (self._turn + 1) % _STAGED
        sent = self._sent[self._turn]
        if sent is not None:
            sent.synchronize()
        return self._views[self._turn]

    def send(self, slot: int, record: torch.Tensor) -> None:
        readers = self._readers.pop(slot, None)
        if readers is not None:
            self._stream.wait_event(readers)
        with torch.cuda.stream(self._stream):
            record.copy_(self._buffers[self._turn], non_blocking=True)
            event = self._stream.record_event()
        self._sent[self._turn] = self._arrived[slot] = event

    def ready(self, slots: Sequence[int]) -> None:
        for slot in slots:
            event = self._arrived.get(slot)
            if event is None:
                continue
            if event.query():
                del self._arrived[slot]
            else:
                torch.cuda.current_stream(self._device).wait_event(event)

    def released(self, slots: Sequence[int]) -> None:
        event = torch.cuda.current_stream(self._device).record_event()
        stream = torch.cuda.current_stream(self._device)
        for slot in slots:
            before = self._readers.get(slot)
            if before is not None and not before.query():
                stream.wait_event(before)  # a slot has one event: the later stream's covers the earlier's
                event = stream.record_event()
            self._readers[slot] = event


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _allocate(size: int, device: torch.device) -> torch.Tensor:
    """Zeroed bytes that become resident when they are first written.

    On Linux large CPU memory asks for pages of 2 MiB: reading slots scattered over pages of 4 KiB spends a
    tenth to a sixth of its time on finding the pages (bench/RESULTS.md)."""
    if device.type == "cpu" and size >= _HUGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
        return torch.frombuffer(memory, dtype=torch.uint8)
    return torch.zeros(size, dtype=torch.uint8, device=device)


def _as_tensor(values: Any) -> torch.Tensor:
    """A tensor of the same values; numpy uint16 is read as bfloat16."""
    if isinstance(values, torch.Tensor):
        return values.detach()
    array = np.array(values)  # a copy: stored records are read-only maps, which torch would warn of
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
