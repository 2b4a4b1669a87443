"""How the benchmarks of the kernels take time, and what the machine can do at most."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch

COMPOSITIONS = 64
TURN_SECONDS = 0.02
STREAM_BYTES = 1 << 29


def pin_to_one_core() -> int | None:
    """Pin this process to the last core it may use; returns the core, or None where the system cannot pin."""
    torch.set_num_threads(1)
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def seconds(call: Callable[[int], Any], turns: list[int], device: str) -> float:
    """Seconds per call over the compositions `turns`."""
    if device == "cpu":
        start = time.thread_time()
        for turn in turns:
            call(turn)
        return (time.thread_time() - start) / len(turns)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for turn in turns:
        call(turn)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / len(turns)


def interleaved(calls: dict[str, Any], rounds: int, device: str) -> dict[str, list[float]]:
    """Microseconds per call of each contender, one figure a round."""
    repeats = {}
    for name, call in calls.items():
        seconds(call, [0], device)
        repeats[name] = max(3, min(1000, int(TURN_SECONDS / max(1e-7, seconds(call, [1, 2, 3], device)))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name, call in calls.items():
            turns = [(number + turn) % COMPOSITIONS for turn in range(repeats[name])]
            times[name].append(seconds(call, turns, device) * 1e6)
    return times


def captured(call: Callable[[int], Any]) -> Callable[[int], Any]:
    """The call as a CUDA graph of composition 0."""
    call(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call(0)
    return lambda _: graph.replay()


@numba.njit(fastmath=True)  # type: ignore[untyped-decorator]
def _total(values: Any) -> Any:
    total = np.float32(0)
    for index in range(values.shape[0]):
        total += values[index]
    return total


def reading(size: int, device: str) -> Callable[[int], Any]:
    """A call that reads `size` bytes (a multiple of 4) once, in huge pages where the system has them."""
    if device == "cpu":
        values = np.ones(size // 4, np.float32)
        return lambda _: _total(values)
    field = torch.ones(size // 4, device=device)
    return lambda _: field.sum()


def machine_limits(device: str) -> dict[str, float]:
    """Reading bandwidth (GB/s: of STREAM_BYTES, and of 32 MiB over and over, which the last cache may hold) and GEMM
    rate (GFLOP/s; float32 of 1024 cubed on the CPU, bfloat16 of 8192 cubed on CUDA)."""
    limits = {}
    for name, size in (("stream_read_gb_per_s", STREAM_BYTES), ("cached_read_gb_per_s", 1 << 25)):
        limits[name] = round(size / _median_of_seven(reading(size, device), device) / 1e9, 2)
    width, dtype = (1024, torch.float32) if device == "cpu" else (8192, torch.bfloat16)
    square = torch.randn(width, width, device=device, dtype=dtype)
    product = _median_of_seven(lambda _: square @ square, device)
    return {**limits, "gemm_gflop_per_s": round(2 * width**3 / product / 1e9, 1)}


def _median_of_seven(call: Callable[[int], Any], device: str) -> float:
    call(0)
    return statistics.median(seconds(call, [0], device) for _ in range(7))


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
