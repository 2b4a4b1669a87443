"""Time per call of the sum of adapter deltas on CPU, side by side with what else would do the job.

    python bench/kernels.py [--json] [--rounds N]

Contenders, on the same adapters, slots, weights and inputs, checked against the definition before timing:

- numba_bfloat16, numba_float32: `atomlora.kernels.sum_delta`, by storage;
- gather_bmm: torch, all (rows, k) factors gathered and multiplied with two bmm;
- peft_mixed: a PEFT LoRA layer with `adapter_names`, one adapter a row, so that rows are repeated k times;
- peft_stacked (one row only): the same layer with k active adapters; it knows no weights and is spared them.

PEFT's base layer is replaced by one that costs next to nothing, so every figure is of the deltas alone.
Contenders take turns within each round, so that a busy moment of the machine strikes all; each call uses the
next of 64 compositions, so that factors come from the pool and not from the nearest cache. One pinned thread.
"""

from __future__ import annotations

import os
import sys

# ruff: noqa: E402 - threads and the import path are settled before anything heavy is imported.
# This file must not be importable as `kernels`: transformers probes for a package of that name.
sys.path[:] = [entry for entry in sys.path if not os.path.isfile(os.path.join(entry, "kernels.py"))]
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import peft
import torch

from atomlora.kernels import FactorPool, reference, sum_delta, warm_up

RANK = 4
COMPOSITIONS = 64
SHAPES = ((576, 1536, 512), (2048, 2048, 256))  # d_in, d_out, adapters
BATCHES = (1, 16)
ATOMS_PER_ROW = (1, 4, 8)
TURN_SECONDS = 0.004

Call = Callable[[int], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One shape with its inputs; `slots` and `weights` are (COMPOSITIONS, rows, k)."""

    pool: FactorPool
    x: torch.Tensor
    slots: torch.Tensor
    weights: torch.Tensor


def pin_to_one_core() -> int | None:
    """Pin this process to the last core it may use; returns the core, or None where the system cannot pin."""
    torch.set_num_threads(1)
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def make_layer(pool: FactorPool) -> Any:
    """A PEFT LoRA layer that holds every adapter of the pool under its slot's number, over a base of no
    cost."""

    class Nothing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_zeros((*x.shape[:-1], pool.Bt.shape[2]))

    model: Any = torch.nn.Sequential(torch.nn.Linear(pool.A.shape[2], pool.Bt.shape[2], bias=False))
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["0"], init_lora_weights=False)
    model = peft.inject_adapter_in_model(config, model, adapter_name="0")
    layer = model[0]
    for slot in range(1, len(pool.A)):
        peft.inject_adapter_in_model(config, model, adapter_name=str(slot))
    with torch.no_grad():
        for slot in range(len(pool.A)):
            layer.lora_A[str(slot)].weight.copy_(pool.A[slot])
            layer.lora_B[str(slot)].weight.copy_(pool.Bt[slot].T)
            layer.scaling[str(slot)] = float(pool.scaling[slot])
    layer.base_layer = Nothing()
    return layer.eval().requires_grad_(False)


def contenders(case: Case, layer: Any) -> dict[str, Call]:
    """Functions of the composition's number; each returns the delta (rows, d_out)."""
    rows, k = case.slots.shape[1:]
    d_out = case.pool.Bt.shape[2]
    half = FactorPool(case.pool.A.bfloat16(), case.pool.Bt.bfloat16(), case.pool.scaling)
    names = [[str(slot) for slot in composition.flatten().tolist()] for composition in case.slots]
    index = case.slots.long()
    gates = [weights.reshape(rows, 1, k) for weights in case.weights]
    slots, weights = list(case.slots), list(case.weights)

    def numba_on(pool: FactorPool) -> Call:
        out = torch.zeros(rows, d_out)
        return lambda turn: sum_delta(case.x, pool, slots[turn], weights[turn], out=out, backend="numba")

    def gather_bmm(turn: int) -> torch.Tensor:
        chosen = index[turn]
        a = case.pool.A[chosen].reshape(rows, k * RANK, -1)
        bt = case.pool.Bt[chosen].reshape(rows, k * RANK, d_out)
        gain = (weights[turn] * case.pool.scaling[chosen]).repeat_interleave(RANK, dim=1)
        hidden = torch.bmm(a, case.x[:, :, None])[:, :, 0] * gain
        return torch.bmm(hidden[:, None], bt)[:, 0]

    def peft_mixed(turn: int) -> torch.Tensor:
        repeated = case.x.repeat_interleave(k, dim=0)
        deltas = layer(repeated, adapter_names=names[turn]).reshape(rows, k, d_out)
        return torch.bmm(gates[turn], deltas)[:, 0]

    def peft_stacked(turn: int) -> torch.Tensor:
        layer._active_adapter = names[turn]  # what set_adapter does, without its walk over every adapter
        return torch.as_tensor(layer(case.x))

    calls = {
        "numba_bfloat16": numba_on(half),
        "numba_float32": numba_on(case.pool),
        "gather_bmm": gather_bmm,
        "peft_mixed": peft_mixed,
    }
    if rows == 1:
        calls["peft_stacked"] = peft_stacked
    for name, call in calls.items():  # the first call of each, when the sums of numba still start at zero
        gates_of = torch.ones_like(weights[3]) if name == "peft_stacked" else weights[3]
        pool = half if name == "numba_bfloat16" else case.pool
        expected = reference.delta(case.x, *pool, slots[3], gates_of)
        torch.testing.assert_close(call(3), expected, rtol=1e-3, atol=1e-2)
    return calls


def interleaved(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Microseconds per call of each contender, one figure a round."""
    repeats = {}
    for name, call in calls.items():
        call(0)
        start = time.perf_counter()
        for turn in range(3):
            call(turn)
        repeats[name] = max(3, min(2000, int(TURN_SECONDS * 3 / (time.perf_counter() - start))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name, call in calls.items():
            turns = [(number + turn) % COMPOSITIONS for turn in range(repeats[name])]
            start = time.perf_counter()
            for turn in turns:
                call(turn)
            times[name].append((time.perf_counter() - start) / repeats[name] * 1e6)
    return times


def machine_limits() -> dict[str, float]:
    """Copy bandwidth (GB/s read plus written, 128 MiB arrays) and float32 GEMM rate (GFLOP/s, 1024 cubed)."""
    source = np.ones(1 << 25, np.float32)
    target = np.empty_like(source)
    square = torch.randn(1024, 1024)
    copies, products = [], []
    for _ in range(7):
        start = time.perf_counter()
        np.copyto(target, source)
        copies.append(time.perf_counter() - start)
        start = time.perf_counter()
        torch.mm(square, square)
        products.append(time.perf_counter() - start)
    return {
        "copy_gb_per_s": round(2 * source.nbytes / statistics.median(copies) / 1e9, 1),
        "gemm_gflop_per_s": round(2 * 1024**3 / statistics.median(products) / 1e9, 1),
    }


def measure_case(case: Case, layer: Any, rounds: int) -> list[dict[str, object]]:
    rows, k = case.slots.shape[1:]
    d_in, d_out = case.pool.A.shape[2], case.pool.Bt.shape[2]
    times = interleaved(contenders(case, layer), rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    figures: list[dict[str, object]] = []
    for name, values in times.items():
        low, _, high = statistics.quantiles(values, n=4)
        # Turns of one round are neighbours in time: the median of their ratios is steadier than medians.
        ratio = statistics.median(mine / best for mine, best in zip(values, times["numba_bfloat16"], strict=True))
        size = 2 if name == "numba_bfloat16" else 4
        figures.append(
            {
                "contender": name,
                "d_in": d_in,
                "d_out": d_out,
                "rows": rows,
                "k": k,
                "rank": RANK,
                "median_us": round(medians[name], 2),
                "best_us": round(min(values), 2),
                "quartiles_us": [round(low, 2), round(high, 2)],
                "factor_gb_per_s": round(rows * k * RANK * (d_in + d_out) * size / medians[name] / 1e3, 2),
                "times_numba_bfloat16": round(ratio, 2),
            }
        )
    return figures


def call_overhead(rounds: int) -> float:
    """Median microseconds of a call whose slots are all empty: checks, addresses and the way into compiled
    code."""
    pool = FactorPool(torch.zeros(1, RANK, 576), torch.zeros(1, RANK, 1536), torch.ones(1))
    x, out = torch.zeros(1, 576), torch.zeros(1, 1536)
    slots, weights = torch.full((1, 4), -1, dtype=torch.int32), torch.ones(1, 4)
    return statistics.median(
        interleaved({"empty": lambda _: sum_delta(x, pool, slots, weights, out=out)}, rounds)["empty"]
    )


def measure(rounds: int) -> dict[str, object]:
    core = pin_to_one_core()
    for dtype in (torch.bfloat16, torch.float32):
        warm_up(dtype)
    generator = torch.Generator().manual_seed(0)
    before = machine_limits()
    figures = []
    for d_in, d_out, adapters in SHAPES:
        pool = FactorPool(
            torch.randn((adapters, RANK, d_in), generator=generator) / d_in**0.5,
            torch.randn((adapters, RANK, d_out), generator=generator),
            torch.ones(adapters),
        )
        layer = make_layer(pool)
        for rows in BATCHES:
            for k in ATOMS_PER_ROW:
                size = (COMPOSITIONS, rows, k)
                case = Case(
                    pool=pool,
                    x=torch.randn((rows, d_in), generator=generator),
                    slots=torch.randint(0, adapters, size, generator=generator, dtype=torch.int32),
                    weights=torch.rand(size, generator=generator),
                )
                figures += measure_case(case, layer, rounds)
    return {
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "pinned_to_core": core,
            "threads": torch.get_num_threads(),
            "limits_before": before,
            "limits_after": machine_limits(),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numba": numba.__version__,
            "peft": peft.__version__,
        },
        "rounds": rounds,
        "call_overhead_us": round(call_overhead(rounds), 2),
        "rows": figures,
    }


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def print_table(result: dict[str, object]) -> None:
    print(json.dumps({key: value for key, value in result.items() if key != "rows"}))
    heads = f"{'d_in':>5} {'d_out':>5} {'rows':>4} {'k':>2}  {'contender':<15} {'median µs':>10}"
    print(heads, f"{'quartiles':>20} {'times':>8}")
    for row in result["rows"]:  # type: ignore[attr-defined]
        low, high = row["quartiles_us"]
        print(
            f"{row['d_in']:>5} {row['d_out']:>5} {row['rows']:>4} {row['k']:>2}  {row['contender']:<15} "
            f"{row['median_us']:>10.1f} {f'{low:.1f} to {high:.1f}':>20} {row['times_numba_bfloat16']:>8.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the sum of adapter deltas on CPU against torch and PEFT.")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--rounds", type=int, default=21, help="rounds of turns per case (default 21)")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds must be at least 2, else there is no spread")
    warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
    with torch.inference_mode():
        result = measure(options.rounds)
    if options.json:
        print(json.dumps(result))
    else:
        print_table(result)


if __name__ == "__main__":
    main()
