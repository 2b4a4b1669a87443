"""`sum_delta` and the choice of the backend that runs it.

`backend="auto"` takes the fastest backend for the device that can run the call and falls back to the reference,
which is logged once per reason; a backend asked for by name runs or raises. The environment variable
ATOMLORA_KERNEL, or `use_backend` in a test, puts a name in the place of "auto".
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, get_args

import torch

from atomlora.errors import BackendError
from atomlora.kernels import reference
from atomlora.kernels.reference import Activation
from atomlora.kernels.slabs import FactorPool

_log = logging.getLogger(__name__)


class Backend(Protocol):
    """A backend does the work and returns None, or touches nothing and says why it cannot."""

    def run(
        self,
        x: torch.Tensor,
        pool: FactorPool,
        slots: torch.Tensor,
        weights: torch.Tensor,
        out: torch.Tensor,
        rows: torch.Tensor | None,
    ) -> str | None: ...

    def run_gated(
        self,
        x: torch.Tensor,
        pools: tuple[FactorPool, FactorPool],
        slots: torch.Tensor,
        weights: torch.Tensor,
        gate: torch.Tensor,
        up: torch.Tensor,
        activation: Activation,
    ) -> str | None: ...


def _numba() -> Backend:
    from atomlora.kernels import numba_cpu

    return numba_cpu


def _triton() -> Backend:
    from atomlora.kernels import triton_gpu

    return triton_gpu


def _reference() -> Backend:
    return reference


_LOADERS: dict[str, Callable[[], Backend]] = {"triton": _triton, "numba": _numba, "reference": _reference}
# What "auto" tries, in this order, by the kind of device; elsewhere only the reference, which runs everything.
_FOR_DEVICE = {"cuda": ("triton", "reference"), "cpu": ("numba", "reference")}
_ACTIVATIONS = get_args(Activation)
_loaded: dict[str, Backend | None] = {}
_missing: dict[str, str] = {}
_told: set[str] = set()
_forced: str | None = os.environ.get("ATOMLORA_KERNEL") or None


def sum_delta(
    x: torch.Tensor,
    pool: FactorPool,
    slots: torch.Tensor,
    weights: torch.Tensor,
    *,
    out: torch.Tensor,
    rows: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """In place, `out[t] += sum_j weights[t,j] * scaling[s] * Bt[s].T @ (A[s] @ x[t])` with s = slots[t,j].

    x (T, d_in) and out (T, d_out) in the model's dtype, of any stride; pool A (S, r, d_in), Bt (S, r, d_out),
    scaling (S,); slots (T, k) int32 with negative = empty; weights (T, k) float32. Sums run in float32. Rows
    are independent: different adapters, weights and counts per row, duplicates add up, and a row whose slots
    are all empty or weigh exactly zero keeps every bit. Returns `out`.

    `rows` (n,) int64 (distinct) limits the work to those rows of x and out; slots and weights then have
    n rows, in the order of `rows`.

    Raises ValueError for shapes that do not fit, IndexError (on CPU) for slots outside the pool, and
    BackendError for a backend asked for by name that is unknown or cannot run this call.
    """
    _run("run", x, backend, pool, slots, weights, out, rows)
    return out


def sum_delta_many(
    x: torch.Tensor,
    pools: Sequence[FactorPool],
    slots: torch.Tensor,
    weights: torch.Tensor,
    *,
    outs: Sequence[torch.Tensor],
    rows: torch.Tensor | None = None,
    backend: str = "auto",
) -> None:
    """`sum_delta` of several targets that share their input, as gate and up of an MLP do: outs[i] by pools[i].

    The triton backend takes up to three targets of equal rank and slots in one shrink and one expand launch;
    everywhere else it is the same as one `sum_delta` after the other. Raises what `sum_delta` raises."""
    name = _forced if backend == "auto" and _forced is not None else backend
    if name == "triton" or (name == "auto" and x.is_cuda and "triton" in available_backends("cuda")):
        _named("triton")
        from atomlora.kernels import triton_gpu

        if triton_gpu.run_many(x, pools, slots, weights, outs, rows) is None:
            return
    for pool, out in zip(pools, outs, strict=True):
        sum_delta(x, pool, slots, weights, out=out, rows=rows, backend=backend)


def sum_delta_gated(
    x: torch.Tensor,
    pools: tuple[FactorPool, FactorPool],
    slots: torch.Tensor,
    weights: torch.Tensor,
    *,
    gate: torch.Tensor,
    up: torch.Tensor,
    activation: Activation = "silu",
    backend: str = "auto",
) -> torch.Tensor:
    """What a gated MLP hands to its last layer, from its first two layers' outputs and their atoms, in place:

        gate[t] = act(gate[t] + delta of pools[0]) * (up[t] + delta of pools[1])

    with the deltas of `sum_delta`, every row's. gate and up (T, d_out), the bare layers' outputs in x's dtype, are read
    once, in float32, and gate is rounded and written once; up is used up: what it then holds is not defined. Rows
    without atoms get act(gate) * up, to within rounding of torch's own operations and not bit for bit, so where that
    matters leave them to those. Returns `gate`.

    `activation`: "silu", x * sigmoid(x), or "gelu_tanh", x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))
    (arXiv 1606.08415, section 2).

    Use it where an output need not be seen between the layers and the activation. On CUDA it is two launches instead of
    six and reads or writes 3 rows of d_out instead of 9. Raises what `sum_delta` raises, and ValueError for an unknown
    activation.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown; use {' or '.join(_ACTIVATIONS)}")
    _run("run_gated", x, backend, pools, slots, weights, gate, up, activation)
    return gate


def _run(method: str, x: torch.Tensor, backend: str, *arguments: Any) -> None:
    """Have the backend that is asked for, or the first that can, do it."""
    name = _forced if backend == "auto" and _forced is not None else backend
    if name != "auto":
        reason = getattr(_named(name), method)(x, *arguments)
        if reason is not None:
            raise BackendError(f"kernel backend {name!r} cannot run this: {reason}; use backend='auto'")
        return
    for choice in _FOR_DEVICE["cpu"] if x.is_cpu else _FOR_DEVICE.get(x.device.type, ("reference",)):
        module = _loaded[choice] if choice in _loaded else _load(choice)
        if module is None:
            continue
        reason = getattr(module, method)(x, *arguments)
        if reason is None:
            return
        if reason not in _told:
            _told.add(reason)
            _log.info("kernel backend %s passes: %s", choice, reason)
    raise BackendError("no kernel backend can run this call")


def available_backends(device: str = "cpu") -> tuple[str, ...]:
    """Names of the backends for a kind of device ("cpu", "cuda") that import here, the preferred first."""
    names = _FOR_DEVICE.get(device, ("reference",))
    return tuple(name for name in names if (_loaded[name] if name in _loaded else _load(name)) is not None)


def warm_up(dtype: torch.dtype = torch.bfloat16) -> None:
    """Compile, or load from the cache on disk, what a first call would, for pools of `dtype` on the CPU."""
    if _forced not in (None, "numba") or "numba" not in available_backends():
        return
    from atomlora.kernels import numba_cpu

    numba_cpu.warm_up(dtype)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the block `backend="auto"` means `name`, in every thread (for tests and measurements)."""
    global _forced
    _named(name)
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def _named(name: str) -> Backend:
    if name not in _LOADERS:
        known = ", ".join(("auto", *_LOADERS))
        raise BackendError(f"kernel backend {name!r} (option or ATOMLORA_KERNEL) is unknown; use {known}")
    module = _loaded[name] if name in _loaded else _load(name)
    if module is None:
        raise BackendError(f"kernel backend {name!r} cannot be loaded ({_missing[name]}); use 'auto'")
    return module


def _load(name: str) -> Backend | None:
    try:
        _loaded[name] = _LOADERS[name]()
    except (ImportError, OSError) as error:  # OSError: a shared library that the package needs is absent
        _loaded[name] = None
        _missing[name] = str(error)
        _log.warning("kernel backend %s cannot be loaded (%s); slower ones stand in", name, error)
    return _loaded[name]
