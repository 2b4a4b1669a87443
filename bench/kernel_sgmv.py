"""Rivals of `bench/kernels.py` that group rows by adapter: SGMV over virtual rows, on CPU and on CUDA.

An own reimplementation of a published design, not vLLM's code: segmented gather matrix-vector multiplication
(Punica, arXiv 2310.18547) as vLLM's LoRA kernels lay it out, rows sorted by adapter, one program per adapter and
tile of 16 rows, a split shrink that adds atomically into a zeroed buffer. There a row has one adapter; k atoms a
row become k virtual rows, which add into the same y. The sorting is not charged: vLLM does it once a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class Segments(NamedTuple):
    """Virtual rows in the order of their adapters: adapters (n,) with `starts` (n + 1,), and the virtual rows."""

    adapters: torch.Tensor
    starts: torch.Tensor
    rows: torch.Tensor


def segments(slots: torch.Tensor) -> Segments:
    """Sort (row, atom) pairs of slots (rows, k) by adapter; none may be empty."""
    flat = slots.flatten().long()
    order = torch.argsort(flat, stable=True)
    adapters, counts = torch.unique_consecutive(flat[order], return_counts=True)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Segments(adapters.int(), starts.int(), order.int())


def on_cpu(
    x: torch.Tensor, A: torch.Tensor, Bt: torch.Tensor, gains: torch.Tensor, found: Segments, k: int, out: torch.Tensor
) -> torch.Tensor:
    """One pair of matrix products per adapter. gains (rows * k,) hold weight times scaling."""
    starts = found.starts.tolist()
    for number, adapter in enumerate(found.adapters.tolist()):
        pairs = found.rows[starts[number] : starts[number + 1]].long()
        rows = pairs // k
        hidden = (x[rows].to(A.dtype) @ A[adapter].T).float() * gains[pairs, None]
        out.index_add_(0, rows, (hidden.to(Bt.dtype) @ Bt[adapter]).to(out.dtype))
    return out


class CudaSgmv:
    """The same in Triton, for float32 sums over bfloat16 or float32 factors; tuned by a sweep of its own."""

    def __init__(self, x: torch.Tensor, A: torch.Tensor, Bt: torch.Tensor, k: int) -> None:
        import triton

        from atomlora.kernels.tuning import bucket

        self.x, self.A, self.Bt, self.k = x, A, Bt, k
        self.shrink, self.expand = _kernels()
        self.rank = max(16, bucket(A.shape[1]))
        self.hidden = torch.zeros(x.shape[0] * k, A.shape[1], device=x.device)
        self.cdiv = triton.cdiv
        self.sizes = (128, 8, 128)  # BLOCK_K, SPLIT, BLOCK_N

    def tune(self, gains: torch.Tensor, found: Segments, out: torch.Tensor, time: Callable[..., float]) -> None:
        """Take the fastest of 27 configurations on these inputs."""
        times: dict[tuple[int, int, int], float] = {}
        for sizes in [(k, split, n) for k in (64, 128, 256) for split in (1, 8, 32) for n in (64, 128, 256)]:
            self.sizes = sizes
            times[sizes] = time(lambda: self(gains, found, out))
        self.sizes = min(times, key=lambda sizes: times[sizes])

    def __call__(self, gains: torch.Tensor, found: Segments, out: torch.Tensor) -> torch.Tensor:
        width, split, columns = self.sizes
        x, A, Bt = self.x, self.A, self.Bt
        pairs = x.shape[0] * self.k
        # How long the longest segment is lies on the device, so tiles cover the worst case, as in vLLM.
        tiles, adapters = self.cdiv(pairs, 16), found.adapters.numel()
        self.hidden.zero_()
        self.shrink[(tiles * split, adapters)](
            x, A, self.hidden, gains, found.adapters, found.starts, found.rows, x.stride(0), A.stride(0),
            x.shape[1], A.shape[1], K=self.k, SPLIT=split, BLOCK_R=self.rank, BLOCK_K=width,
        )  # fmt: skip
        self.expand[(tiles * self.cdiv(Bt.shape[2], columns), adapters)](
            out, Bt, self.hidden, found.adapters, found.starts, found.rows, out.stride(0), Bt.stride(0),
            Bt.shape[2], Bt.shape[1], K=self.k, BLOCK_R=self.rank, BLOCK_N=columns,
        )  # fmt: skip
        return out


def _kernels() -> tuple[Any, Any]:
    import triton
    import triton.language as tl

    globals()["tl"] = tl  # kernels look their names up among the module's

    @triton.jit
    def shrink(x, A, hidden, gains, adapters, starts, rows, x_step, a_step, d_in, rank,
               K: tl.constexpr, SPLIT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
        number = tl.program_id(1)
        part, tile = tl.program_id(0) % SPLIT, tl.program_id(0) // SPLIT
        first, last = tl.load(starts + number), tl.load(starts + number + 1)
        at = first + tile * 16 + tl.arange(0, 16)
        if first + tile * 16 < last:
            pair = tl.load(rows + at, mask=at < last, other=0)
            adapter = tl.load(adapters + number).to(tl.int64)
            r = tl.arange(0, BLOCK_R)
            sums = tl.zeros((16, BLOCK_R), tl.float32)
            for start in range(part * BLOCK_K, d_in, SPLIT * BLOCK_K):
                d = start + tl.arange(0, BLOCK_K)
                v = tl.load(x + (pair // K)[:, None] * x_step + d[None, :],
                            mask=(at < last)[:, None] & (d < d_in)[None, :], other=0.0)  # fmt: skip
                a = tl.load(A + adapter * a_step + r[None, :] * d_in + d[:, None],
                            mask=(r < rank)[None, :] & (d < d_in)[:, None], other=0.0)  # fmt: skip
                sums = tl.dot(v.to(a.dtype), a, sums)
            gain = tl.load(gains + pair, mask=at < last, other=0.0)
            tl.atomic_add(hidden + pair[:, None] * rank + r[None, :], sums * gain[:, None],
                          mask=(at < last)[:, None] & (r < rank)[None, :])  # fmt: skip

    @triton.jit
    def expand(y, Bt, hidden, adapters, starts, rows, y_step, bt_step, d_out, rank,
               K: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
        number = tl.program_id(1)
        columns = tl.cdiv(d_out, BLOCK_N)
        tile = tl.program_id(0) // columns
        n = (tl.program_id(0) % columns) * BLOCK_N + tl.arange(0, BLOCK_N)
        first, last = tl.load(starts + number), tl.load(starts + number + 1)
        at = first + tile * 16 + tl.arange(0, 16)
        if first + tile * 16 < last:
            pair = tl.load(rows + at, mask=at < last, other=0)
            adapter = tl.load(adapters + number).to(tl.int64)
            r = tl.arange(0, BLOCK_R)
            h = tl.load(hidden + pair[:, None] * rank + r[None, :],
                        mask=(at < last)[:, None] & (r < rank)[None, :], other=0.0)  # fmt: skip
            b = tl.load(Bt + adapter * bt_step + r[:, None] * d_out + n[None, :],
                        mask=(r < rank)[:, None] & (n < d_out)[None, :], other=0.0)  # fmt: skip
            tl.atomic_add(y + (pair // K)[:, None] * y_step + n[None, :], tl.dot(h.to(b.dtype), b),
                          mask=(at < last)[:, None] & (n < d_out)[None, :])  # fmt: skip

    return shrink, expand
