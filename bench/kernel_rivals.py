"""The contenders of `bench/kernels.py`: each computes the sum of adapter deltas of one call.

PEFT's base layer is replaced by one that costs next to nothing, so every figure is of the deltas alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import peft
import torch
from beside import beside
from peft.tuners.lora.arrow import ArrowLoraLinearLayer

from atomlora.kernels import AdapterPool, FactorPool, reference, sum_delta

sgmv = beside("kernel_sgmv")

RANK = 4
# PEFT holds an adapter for each row of each of these; they are made before the clock starts.
PEFT_COMPOSITIONS = 4
PEFT_MOST_ROWS = 64

Call = Callable[[int], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One shape: adapters as `factors` (float32) and in pools by storage; slots, weights (compositions, rows, k)."""

    factors: FactorPool
    pools: dict[str, FactorPool]
    x: torch.Tensor
    slots: torch.Tensor
    weights: torch.Tensor


def make_pools(
    d_in: int, d_out: int, adapters: int, device: str, seed: int
) -> tuple[FactorPool, dict[str, FactorPool]]:
    """Random adapters of RANK: plain float32 tensors, and AdapterPools in each storage."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn((adapters, RANK, d_in), generator=generator) / d_in**0.5
    Bt = torch.randn((adapters, RANK, d_out), generator=generator)
    pools = {}
    for name in ("bfloat16", "int8", "float32"):
        pool = AdapterPool([("", d_in, d_out)], adapters, RANK, getattr(torch, name), device)
        names = [str(number) for number in range(adapters)]
        slots = pool.acquire(names, lambda name: ([(A[int(name)], Bt[int(name)])], 1.0))
        if slots != list(range(adapters)):
            raise RuntimeError("a new pool fills its slots in order")
        pools[name] = pool.factors("")
    return FactorPool(A.to(device), Bt.to(device), torch.ones(adapters, device=device)), pools


def contenders(case: Case) -> dict[str, Call]:
    """Functions of the composition's number; each returns the delta (rows, d_out). Checked against the definition."""
    rows = case.slots.shape[1]
    d_out = case.factors.Bt.shape[2]
    x, device = case.x, case.x.device
    index, slots, weights = case.slots.long(), list(case.slots), list(case.weights)
    half = FactorPool(case.factors.A.bfloat16(), case.factors.Bt.bfloat16(), case.factors.scaling)

    def ours(pool: FactorPool) -> Call:
        out = torch.zeros(rows, d_out, dtype=x.dtype, device=device)
        return lambda turn: sum_delta(x, pool, slots[turn], weights[turn], out=out)

    def gather_bmm(pool: FactorPool) -> Call:
        def call(turn: int) -> torch.Tensor:
            a, bt, gains = concatenated(pool, index[turn], weights[turn])
            return bmm(a, bt, gains, x)

        return call

    def concat_bmm() -> Call:
        made = [concatenated(half, index[turn], weights[turn]) for turn in range(PEFT_COMPOSITIONS)]
        return lambda turn: bmm(*made[turn % PEFT_COMPOSITIONS], x)

    def concat_alone(turn: int) -> torch.Tensor:
        return concatenated(half, index[turn], weights[turn])[0]

    def dense_merge() -> Call:
        merged = torch.einsum("rd,ro->do", case.factors.A[0], case.factors.Bt[0]).to(x.dtype)
        return lambda _: x @ merged

    calls = {f"sum_delta {name}": ours(pool) for name, pool in case.pools.items()}
    calls["gather + bmm float32"] = gather_bmm(case.factors)
    calls["gather + bmm bfloat16"] = gather_bmm(half)
    calls["concat made before, bmm"] = concat_bmm()
    calls["virtual-row SGMV (own)"] = virtual_rows(case, half)
    checked = dict.fromkeys(calls)
    calls["concat, making it"] = concat_alone
    calls["dense merge of one (bound)"] = dense_merge()
    if rows <= PEFT_MOST_ROWS:
        calls |= peft_calls(case)
        checked |= dict.fromkeys(name for name in calls if name.startswith("PEFT") and "own" not in name)
    for name in checked:  # the first call of each, when the sums still start at zero
        stored = case.pools["int8"] if "int8" in name else case.factors if "float32" in name or "PEFT" in name else half
        gates = torch.ones_like(weights[3]) if name == "PEFT set_adapter list" else weights[3]
        expected = reference.delta(x.float(), *stored, slots[3], gates)
        close = {"rtol": 5e-2, "atol": 0.3} if x.dtype == torch.bfloat16 or "bmm" in name or "SGMV" in name else {}
        torch.testing.assert_close(calls[name](3).float(), expected, **{"rtol": 1e-3, "atol": 1e-2, **close})
    return calls


def concatenated(
    pool: FactorPool, index: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each row's atoms as one adapter of rank k * r: A (rows, k r, d_in), Bt (rows, k r, d_out), gains (rows, k r)."""
    rows, k = index.shape
    a, bt = pool.A[index].reshape(rows, k * RANK, -1), pool.Bt[index].reshape(rows, k * RANK, -1)
    return a, bt, (weights * pool.scaling[index]).repeat_interleave(RANK, dim=1)


def bmm(a: torch.Tensor, bt: torch.Tensor, gains: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    hidden = torch.bmm(a, x.to(a.dtype)[:, :, None])[:, :, 0] * gains
    return torch.bmm(hidden.to(bt.dtype)[:, None], bt)[:, 0]


def virtual_rows(case: Case, half: FactorPool) -> Call:
    """SGMV over (row, atom) pairs that were sorted before the clock starts; the first 16 compositions in turn."""
    rows, k = case.slots.shape[1:]
    device = case.x.device
    found = [sgmv.segments(slots) for slots in case.slots[:16]]
    gains = [(w * half.scaling[s.long()]).flatten() for w, s in zip(case.weights[:16], case.slots[:16], strict=True)]
    out = torch.zeros(rows, half.Bt.shape[2], device=device)
    if device.type == "cpu":
        x = case.x
        return lambda turn: sgmv.on_cpu(x, half.A, half.Bt, gains[turn % 16], found[turn % 16], k, out)
    call = sgmv.CudaSgmv(case.x, half.A, half.Bt, k)
    import triton

    call.tune(gains[0], found[0], out, lambda launch: triton.testing.do_bench(launch, warmup=5, rep=20))
    out.zero_()
    return lambda turn: call(gains[turn % 16], found[turn % 16], out)


def peft_calls(case: Case) -> dict[str, Call]:
    """PEFT's ways, for the first PEFT_COMPOSITIONS compositions in turn.

    mixed batch: `adapter_names`, one adapter per row, of rank k r, concatenated beforehand with the weights in it;
    activated: the same adapters as Activated LoRA (arXiv 2504.12397), active on their one token; per atom: one
    adapter per (row, atom), x repeated; set_adapter list: k adapters active at once, for a single row, without
    weights; Arrow: its layer over k experts with its own coefficients, for a single row.
    """
    rows, k = case.slots.shape[1:]
    x, factors = case.x, case.factors
    turns = range(PEFT_COMPOSITIONS)
    wide: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for turn in turns:
        a, bt, gains = concatenated(factors, case.slots[turn].long(), case.weights[turn])
        wide |= {f"{turn} {row}": (a[row], bt[row] * gains[row, :, None]) for row in range(rows)}
    names = [[f"{turn} {row}" for row in range(rows)] for turn in turns]
    used = case.slots[: len(turns)].unique().tolist()
    atoms = {str(slot): (factors.A[slot], factors.Bt[slot]) for slot in used}
    flat = [[str(slot) for slot in case.slots[turn].flatten().tolist()] for turn in turns]
    gates = [weights.reshape(rows, 1, k).to(x.dtype) for weights in case.weights[: len(turns)]]
    mixed, single = make_layer(wide, x), make_layer(atoms, x)
    activated = make_layer(wide, x, alora_invocation_tokens=[1])

    def per_atom(turn: int) -> torch.Tensor:
        turn %= PEFT_COMPOSITIONS
        deltas = single(x.repeat_interleave(k, dim=0), adapter_names=flat[turn]).reshape(rows, k, -1)
        return torch.bmm(gates[turn], deltas)[:, 0]

    def stacked(turn: int) -> torch.Tensor:
        single._active_adapter = flat[turn % PEFT_COMPOSITIONS]  # set_adapter, without its walk over all adapters
        return torch.as_tensor(single(x))

    calls: dict[str, Call] = {
        "PEFT mixed batch": lambda turn: mixed(x, adapter_names=names[turn % PEFT_COMPOSITIONS]),
        "PEFT activated LoRA": lambda turn: activated(
            x[:, None], adapter_names=names[turn % PEFT_COMPOSITIONS], alora_offsets=[1] * rows
        )[:, 0],
        "PEFT per atom": per_atom,
    }
    if rows == 1:
        calls["PEFT set_adapter list"] = stacked
        settings = SimpleNamespace(
            top_k=k, router_temperature=1.0, rng_seed=0, task_adapter_names=flat[0], gks_adapter_names=[], use_gks=False
        )
        arrow = ArrowLoraLinearLayer(x.shape[1], settings)
        arrow.build_prototypes(single.lora_A, single.lora_B)
        calls["PEFT Arrow (own weights)"] = lambda _: arrow(
            x, single.lora_A, single.lora_B, torch.nn.Identity(), single.scaling
        )
    return calls


def make_layer(adapters: dict[str, tuple[torch.Tensor, torch.Tensor]], x: torch.Tensor, **more: Any) -> Any:
    """A PEFT LoRA layer with these adapters (A (r, d_in), Bt (r, d_out)), scaling 1, over a base of no cost."""
    (rank, d_in), d_out = next(iter(adapters.values()))[0].shape, next(iter(adapters.values()))[1].shape[1]

    class Nothing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_zeros((*x.shape[:-1], d_out))

    model: Any = torch.nn.Sequential(torch.nn.Linear(d_in, d_out, bias=False, device=x.device, dtype=x.dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"], init_lora_weights=False, **more)
        for name in adapters:
            peft.inject_adapter_in_model(config, model, adapter_name=name)
    layer = model[0]
    with torch.no_grad():
        for name, (a, bt) in adapters.items():
            layer.lora_A[name].weight.data = a.to(x.dtype).contiguous()
            layer.lora_B[name].weight.data = bt.to(x.dtype).T.contiguous()
    layer.base_layer = Nothing()
    return layer.eval().requires_grad_(False)
