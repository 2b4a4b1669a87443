"""Time per call of the sum of adapter deltas, side by side with what else would do the job.

    python bench/kernels.py [--device cpu|cuda] [--json] [--plot FILE.png] [--full | --shapes … --rows … …]

The contenders (bench/kernel_rivals.py) run on the same adapters, slots, weights and inputs and are checked against the
definition before timing. They take turns within each round, so that a busy moment of the machine strikes all; each
call uses the next of 64 compositions, so that factors come from the pool and not from the nearest cache. On the CPU
one pinned thread's own time is taken, which other processes lengthen less than the clock on the wall; on CUDA events.
Reading bandwidth and GEMM rate of the same run stand beside the figures, as do a `bound` (the adapters' bytes read once
at the faster of the two measured rates: no kernel takes less) and the time of loading an adapter into a slot pool. The
rows `gated` are of a gated MLP's first half (bench/kernel_gated.py).
"""

from __future__ import annotations

import os
import sys

# Threads are settled before anything heavy is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import platform
import statistics
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from beside import beside

from atomlora.kernels import AdapterPool, FactorPool, available_backends, sum_delta, warm_up

gated, rivals, timing = beside("kernel_gated"), beside("kernel_rivals"), beside("kernel_timing")

# d_in and d_out of an MLP's gate; `square` stands for any base and for earlier figures.
SHAPES = {
    "smollm2-135m": (576, 1536),
    "square": (2048, 2048),
    "llama-3.2-1b": (2048, 8192),
    "llama-3-8b": (4096, 14336),
}
DEFAULTS = {
    "cpu": {"shapes": "smollm2-135m,square", "rows": "1,16", "k": "1,8", "unique": "distinct"},
    "cuda": {"shapes": "smollm2-135m,llama-3-8b", "rows": "1,64", "k": "8", "unique": "64,distinct"},
}
FULL = {"shapes": ",".join(SHAPES), "rows": "1,16,64,256", "k": "1,8,16", "unique": "8,64,512,distinct"}
OURS = "sum_delta bfloat16"
STREAM = "stream"


def make_case(shape: str, adapters: tuple[Any, Any], unique: str, rows: int, k: int, device: str) -> Any:
    """Slots drawn from `unique` adapters, different within a row, and all different within a call if "distinct"."""
    factors, pools = adapters
    d_in, _ = SHAPES[shape]
    random = np.random.default_rng(0)
    size = len(factors.A)
    width = size if unique == "distinct" else min(int(unique), size)
    slots = np.empty((timing.COMPOSITIONS, rows, k), np.int32)
    for composition in slots:
        if unique == "distinct":
            composition[:] = random.permutation(size)[: rows * k].reshape(rows, k)
        else:
            composition[:] = [random.permutation(width)[:k] for _ in range(rows)]
    x = torch.from_numpy(random.normal(size=(rows, d_in)).astype(np.float32)).to(device)
    weights = torch.from_numpy(random.random(slots.shape, np.float32)).to(device)
    if device != "cpu":
        x = x.bfloat16()
    return rivals.Case(factors, pools, x, torch.from_numpy(slots).to(device), weights)


def measure_case(
    case: Any, about: dict[str, Any], rounds: int, limits: dict[str, float], device: str
) -> list[dict[str, Any]]:
    d_in, d_out = case.factors.A.shape[2], case.factors.Bt.shape[2]
    calls = rivals.contenders(case)
    if device != "cpu":
        calls["sum_delta bfloat16, graph"] = timing.captured(calls[OURS])
    # The stream takes turns too: what a busy machine takes from a kernel it takes from its measure.
    times = timing.interleaved({**calls, STREAM: timing.reading(timing.STREAM_BYTES, device)}, rounds, device)
    rates = [timing.STREAM_BYTES / us / 1e3 for us in times.pop(STREAM)]
    fastest = max(statistics.median(rates), limits["cached_read_gb_per_s"])
    figures = []
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        row = {
            "contender": name,
            **about,
            "median_us": round(median, 2),
            "quartiles_us": [round(low, 2), round(high, 2)],
        }
        # Turns of one round are neighbours in time: the median of their ratios is steadier than medians.
        row["times_ours"] = round(statistics.median(a / b for a, b in zip(values, times[OURS], strict=True)), 2)
        if name.startswith("sum_delta"):
            item = 1 if "int8" in name else 2 if "bfloat16" in name else 4
            size = case.slots[0].numel() * rivals.RANK * (d_in + d_out) * item
            row["factor_gb_per_s"] = round(size / median / 1e3, 2)
            shares = [size / us / 1e3 / rate for us, rate in zip(values, rates, strict=True)]
            row["share_of_stream"] = round(statistics.median(shares), 2)
            distinct = case.slots[0].unique().numel() / case.slots[0].numel()
            row["bound_us"] = round(distinct * size / fastest / 1e3, 1)
        figures.append(row)
    made, used, ours = (statistics.median(times[n]) for n in ("concat, making it", "concat made before, bmm", OURS))
    for row in figures:
        if row["contender"] == "concat made before, bmm":
            # Calls with the same composition after which concatenating it was worth its cost.
            row["break_even_calls"] = round(made / (ours - used), 1) if used < ours else None
    return figures


def pool_loads(device: str) -> dict[str, float]:
    """Microseconds to load an adapter (15 MLP linears of the 135M base, rank 4, bfloat16) into a pool of 4,096 slots
    that is new, and that has seen 10,000 loads."""
    targets = [(f"{n}.{name}", *size) for n in range(5) for name, size in (("g", (576, 1536)), ("d", (1536, 576)))]
    targets += [(f"{n}.u", 576, 1536) for n in range(5)]
    pool = AdapterPool(targets, 4096, rivals.RANK, torch.bfloat16, device)
    record = [tuple(np.full((rivals.RANK, width), 0x3F80, np.uint16) for width in size) for _, *size in targets]
    times = []
    for number in range(10_000):
        start = time.thread_time()
        with pool.mounted([str(number)], lambda _: (record, 1.0)):
            pass
        times.append(time.thread_time() - start)
    first, last = (statistics.median(some) * 1e6 for some in (times[:100], times[-100:]))
    return {
        "first_100_us": round(first, 1),
        "last_100_of_10000_us": round(last, 1),
        "ratio": round(last / first, 3),
        "resident": pool.stats.resident,
    }


def call_overhead(rounds: int, device: str) -> float:
    """Median microseconds of a call whose slots are all empty: checks, addresses and the way into compiled code."""
    pool = FactorPool(*(t.to(device) for t in (torch.zeros(1, 4, 576), torch.zeros(1, 4, 1536), torch.ones(1))))
    x, out = torch.zeros(1, 576, device=device), torch.zeros(1, 1536, device=device)
    slots, weights = torch.full((1, 4), -1, dtype=torch.int32, device=device), torch.ones(1, 4, device=device)
    calls = {"empty": lambda _: sum_delta(x, pool, slots, weights, out=out)}
    return round(statistics.median(timing.interleaved(calls, rounds, device)["empty"]), 2)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    device = options.device
    core = timing.pin_to_one_core() if device == "cpu" else None
    for dtype in (torch.bfloat16, torch.int8, torch.float32):
        warm_up(dtype)
    before = timing.machine_limits(device)
    rows = [int(value) for value in options.rows.split(",")]
    ks = [int(value) for value in options.k.split(",")]
    figures: list[dict[str, Any]] = []
    for shape in options.shapes.split(","):
        adapters = rivals.make_pools(*SHAPES[shape], max(2048, max(rows) * max(ks)), device, 0)
        pair = gated.make_pools(adapters[0], device)
        for unique in options.unique.split(","):
            for count in rows:
                for k in ks:
                    if unique != "distinct" and int(unique) < k:
                        continue
                    about = {"shape": shape, "rows": count, "k": k, "rank": rivals.RANK, "unique": unique}
                    case = make_case(shape, adapters, unique, count, k, device)
                    figures += measure_case(case, about, options.rounds, before, device)
                    figures += gated.measure(pair, case, about, options.rounds, device)
                    print(f"{shape} {about}", file=sys.stderr)
        del adapters, pair
    machine = {"processor": timing.processor(), "cores": os.cpu_count(), "pinned_to_core": core, "device": device}
    if device != "cpu":
        machine["gpu"] = torch.cuda.get_device_name()
    return {
        "machine": {
            **machine,
            "load_average": os.getloadavg(),
            "limits_before": before,
            "limits_after": timing.machine_limits(device),
        },
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("torch", "numba", "peft")}},
        "backend": available_backends(device)[0],
        "rounds": options.rounds,
        "call_overhead_us": call_overhead(options.rounds, device),
        "pool_loads": pool_loads(device),
        "rows": figures,
    }


def print_table(result: dict[str, Any]) -> None:
    print(json.dumps({key: value for key, value in result.items() if key != "rows"}))
    for row in result["rows"]:
        low, high = row["quartiles_us"]
        share = ""
        if "share_of_stream" in row:
            share = f"{row['share_of_stream']:.2f} of stream, bound {row['bound_us']:.1f} µs"
        print(
            f"{row['shape']:>13} {row['rows']:>4} rows k {row['k']:>2} {row['unique']:>8}  {row['contender']:<26} "
            f"{row['median_us']:>9.1f} µs {f'{low:.1f} to {high:.1f}':>20} {row['times_ours']:>8.2f} × {share}"
        )


def plot(result: dict[str, Any], path: str) -> None:
    """One panel a case, a bar a contender, on a logarithmic scale (needs the extra `bench`)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    cases = list(dict.fromkeys((r["shape"], r["rows"], r["k"], r["unique"]) for r in result["rows"]))
    figure, axes = pyplot.subplots(len(cases), 1, figsize=(9, 3.4 * len(cases)), squeeze=False)
    for axis, case in zip(axes[:, 0], cases, strict=True):
        rows = [r for r in result["rows"] if (r["shape"], r["rows"], r["k"], r["unique"]) == case]
        rows.sort(key=lambda row: -row["median_us"])
        colours = ["tab:blue" if row["contender"].startswith("sum_delta") else "tab:gray" for row in rows]
        axis.barh([row["contender"] for row in rows], [row["median_us"] for row in rows], color=colours)
        rows_shown = f"{case[1]} row{'s' * (case[1] > 1)}"
        axis.set(xscale="log", xlabel="µs a call", title=f"{case[0]}, {rows_shown}, k = {case[2]}, atoms {case[3]}")
        axis.set_xlim(rows[-1]["median_us"] / 2, rows[0]["median_us"] * 2)
        axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        times = [row["median_us"] for row in rows]
        axis.bar_label(axis.containers[0], labels=[f" {us:,.{int(us < 100)}f}" for us in times])
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the sum of adapter deltas against torch and PEFT.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the figures too")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of turns per case (default 15)")
    parser.add_argument("--full", action="store_true", help="every shape and size: hours on a CPU")
    parser.add_argument("--shapes", help=f"of {', '.join(SHAPES)}")
    for name, what in (("rows", "rows of x"), ("k", "atoms a row"), ("unique", "distinct atoms, or `distinct`")):
        parser.add_argument(f"--{name}", help=what)
    options = parser.parse_args()
    for name, value in (FULL if options.full else DEFAULTS[options.device]).items():
        setattr(options, name, getattr(options, name) or value)
    if options.rounds < 2:
        parser.error("--rounds must be at least 2, else there is no spread")
    if unknown := [shape for shape in options.shapes.split(",") if shape not in SHAPES]:
        parser.error(f"--shapes {unknown[0]}: known are {', '.join(SHAPES)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here")
    with torch.inference_mode():
        result = measure(options)
    if options.plot:
        plot(result, options.plot)
    if options.json:
        print(json.dumps(result))
    else:
        print_table(result)


if __name__ == "__main__":
    main()
