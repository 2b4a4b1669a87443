"""What mounted atoms cost at inference: prefill and decoding, composed against the bare base, interleaved.

    python bench/decode.py --json [--layers N --modules all --scope all]

Random atoms of the given rank on the MLPs of the last sixth of the layers, or on as many layers and modules as asked
for. Composed and bare steps alternate
token by token, so that a noisy machine burdens both alike; `prefill_ratio` and `decode_ratio` are medians of
composed / bare over such pairs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from importlib.metadata import version
from typing import Any

import beside  # noqa: F401 - takes this folder off the import path
import numpy as np
import torch

from atomlora.atom import Target
from atomlora.bases import EMBEDDED_BASE, blocks, load_base
from atomlora.kernels import AdapterPool, available_backends
from atomlora.runtime.composition import Composition, composition
from atomlora.runtime.mount import Mount, pool_targets
from atomlora.training.shape import late_blocks

MODULES = {
    "mlp": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    "all": (
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    ),
}


def late_targets(model: Any, layers: int | None, modules: str) -> tuple[Target, ...]:
    """The linears that `modules` names in the last `layers` blocks (default: a sixth of them)."""
    every = blocks(model)
    late = late_blocks(len(every), f"late:{layers}" if layers else "late:auto")
    return tuple(
        Target(layer=number, module=name.split(".")[-1], d_in=linear.in_features, d_out=linear.out_features)
        for number in late
        for name in MODULES[modules]
        for linear in [every[number].get_submodule(name)]
    )


def random_pool(targets: tuple[Target, ...], atoms: int, rank: int, device: Any) -> AdapterPool:
    """A pool filled with `atoms` small random adapters named "0", "1", …"""
    pool = AdapterPool(pool_targets(targets), capacity=atoms, rank=rank, dtype=torch.bfloat16, device=device)
    random = np.random.default_rng(0)

    def load(_name: str) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
        pairs = [
            (
                random.normal(0, 0.01, (rank, target.d_in)).astype(np.float32),
                random.normal(0, 0.01, (rank, target.d_out)).astype(np.float32),
            )
            for target in targets
        ]
        return pairs, 1.0

    pool.acquire([str(number) for number in range(atoms)], load)
    return pool


def summary(bare: list[float], composed: list[float]) -> dict[str, float]:
    """Medians in milliseconds, and the median over neighbouring measurements of composed / bare."""
    return {
        "bare_ms": round(statistics.median(bare) * 1000, 3),
        "composed_ms": round(statistics.median(composed) * 1000, 3),
        "ratio": round(statistics.median(b / a for a, b in zip(bare, composed, strict=True)), 4),
        "measurements": len(bare),
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All measurements of one base."""
    torch.set_num_threads(arguments.threads)
    base = load_base(arguments.base, device=arguments.device)
    model, device = base.model, base.model.device
    targets = late_targets(model, arguments.layers, arguments.modules)
    pool = random_pool(targets, arguments.batch * arguments.top_k, arguments.rank, device)
    length = arguments.prompt_tokens
    ids = torch.randint(10, model.config.vocab_size, (arguments.batch, length), device=device)
    slots = np.arange(arguments.batch * arguments.top_k).reshape(arguments.batch, arguments.top_k).tolist()
    weights = [[1.0] * arguments.top_k] * arguments.batch
    request = composition(slots, weights, [length - 1] * arguments.batch, device, pool)

    # On one CPU thread its own time is taken: what other processes do to the wall clock is not ours.
    own_time = device.type == "cpu" and arguments.threads == 1

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.thread_time() if own_time else time.perf_counter()

    def step(tokens: torch.Tensor, cache: Any, given: Composition | None) -> tuple[float, Any]:
        start = clock()
        out = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1, composition=given)
        return clock() - start, out

    times: dict[str, tuple[list[float], list[float]]] = {"prefill": ([], []), "decode_token": ([], [])}
    with torch.inference_mode(), Mount(model, targets, pool, arguments.scope):
        for number in range(arguments.rounds + 1):
            sides = (0, 1) if number % 2 else (1, 0)  # neither side always goes first
            outs: list[Any] = [None, None]
            for token in range(arguments.new_tokens + 1):
                for side in sides:
                    out = outs[side]
                    tokens = out.logits[:, -1:].argmax(-1) if token else ids
                    cache = out.past_key_values if token else None
                    seconds, outs[side] = step(tokens, cache, request if side else None)
                    if number:  # the first round compiles kernels and touches memory
                        times["decode_token" if token else "prefill"][side].append(seconds)
    figures = {name: summary(*sides) for name, sides in times.items()}
    return {
        "machine": {"cpu": platform.processor() or platform.machine(), "device": str(device)},
        "versions": {name: version(name) for name in ("torch", "transformers", "numba")},
        "settings": {
            "base": arguments.base,
            "dtype": str(model.dtype).removeprefix("torch."),
            "threads": arguments.threads,
            "batch": arguments.batch,
            "prompt_tokens": length,
            "top_k": arguments.top_k,
            "rank": arguments.rank,
            "layers": len(targets) // len(MODULES[arguments.modules]),
            "modules": arguments.modules,
            "scope": arguments.scope,
            "rounds": arguments.rounds,
            "kernel": available_backends(device.type)[0],
            "clock": "thread time" if own_time else "wall",
        },
        "rows": [{"what": name, **row} for name, row in figures.items()],
        "prefill_ratio": figures["prefill"]["ratio"],
        "decode_ratio": figures["decode_token"]["ratio"],
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--base", default=EMBEDDED_BASE)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt-tokens", type=int, default=48)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--top-k", type=int, default=4)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--layers", type=int, default=None, help="late layers (default: a sixth)")
    parser.add_argument("--modules", choices=tuple(MODULES), default="mlp")
    parser.add_argument("--scope", choices=("answer", "all"), default="answer")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    result = run(arguments)
    if arguments.json:
        json.dump(result, sys.stdout, indent=2)
        print()
        return
    print("{:>14} {:>10} {:>12} {:>8}".format("", "bare ms", "composed ms", "ratio"))
    for row in result["rows"]:
        print(f"{row['what']:>14} {row['bare_ms']:10.2f} {row['composed_ms']:12.2f} {row['ratio']:8.3f}")


if __name__ == "__main__":
    main()
