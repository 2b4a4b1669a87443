"""The first half of a gated MLP for `bench/kernels.py`: act(gate + delta) * (up + delta), by one kernel and by several.

Each call begins with copies of the bare layers' outputs, for all of them work in place; what the copies alone take is
measured in the same rounds and taken off.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from beside import beside
from torch.nn.functional import silu

from atomlora.kernels import AdapterPool, FactorPool, sum_delta, sum_delta_gated, sum_delta_many

rivals, timing = beside("kernel_rivals"), beside("kernel_timing")

COPIES = "gated: copies alone"
UNFUSED = "gated: two sum_delta, act, product"
FUSED = "gated: sum_delta_gated"


def make_pools(factors: FactorPool, device: str) -> tuple[FactorPool, FactorPool]:
    """Pools of gate and up in bfloat16; up's adapters are gate's in reverse order."""
    count, _, d_in = factors.A.shape
    sides = [(name, d_in, factors.Bt.shape[2]) for name in ("gate", "up")]
    pool = AdapterPool(sides, count, rivals.RANK, torch.bfloat16, device)
    pairs = [(a, bt) for a, bt in zip(factors.A.cpu(), factors.Bt.cpu(), strict=True)]
    pool.acquire(
        [str(number) for number in range(count)], lambda name: ([pairs[int(name)], pairs[count - 1 - int(name)]], 1.0)
    )
    return pool.factors("gate"), pool.factors("up")


def measure(
    pools: tuple[FactorPool, FactorPool], case: Any, about: dict[str, Any], rounds: int, device: str
) -> list[dict[str, Any]]:
    """Figures as those of the other contenders, copies taken off; ratios to the fused kernel."""
    rows, d_out = case.slots.shape[1], pools[0].Bt.shape[2]
    bare = [torch.randn(rows, d_out, dtype=case.x.dtype, device=device) for _ in pools]
    outs = [torch.empty_like(some) for some in bare]

    def copies(_turn: int) -> torch.Tensor:
        for out, before in zip(outs, bare, strict=True):
            out.copy_(before)
        return outs[0]

    def unfused(turn: int) -> torch.Tensor:
        copies(turn)
        for some, out in zip(pools, outs, strict=True):
            sum_delta(case.x, some, case.slots[turn], case.weights[turn], out=out)
        return silu(outs[0]) * outs[1]

    def many(turn: int) -> torch.Tensor:
        copies(turn)
        sum_delta_many(case.x, pools, case.slots[turn], case.weights[turn], outs=outs)
        return silu(outs[0]) * outs[1]

    def fused(turn: int) -> torch.Tensor:
        copies(turn)
        return sum_delta_gated(case.x, pools, case.slots[turn], case.weights[turn], gate=outs[0], up=outs[1])

    calls: dict[str, Callable[[int], torch.Tensor]] = {COPIES: copies, UNFUSED: unfused, FUSED: fused}
    if device != "cpu":
        calls["gated: sum_delta_many, act, product"] = many
        calls |= {f"{name}, graph": timing.captured(call) for name, call in dict(calls).items()}
    close = {"rtol": 1e-4, "atol": 1e-4} if device == "cpu" else {"rtol": 5e-2, "atol": 0.3}
    torch.testing.assert_close(fused(3).clone(), unfused(3), **close)
    times = timing.interleaved(calls, rounds, device)
    figures = []
    for name, values in times.items():
        end = ", graph" if name.endswith(", graph") else ""
        if name == COPIES + end:
            continue
        net = [value - copied for value, copied in zip(values, times[COPIES + end], strict=True)]
        ours = [value - copied for value, copied in zip(times[FUSED + end], times[COPIES + end], strict=True)]
        low, median, high = (round(value, 2) for value in statistics.quantiles(net, n=4))
        figures.append(
            {
                "contender": name,
                **about,
                "median_us": median,
                "quartiles_us": [low, high],
                "times_ours": round(statistics.median(a / b for a, b in zip(net, ours, strict=True)), 2),
            }
        )
    return figures
