"""Applying many small adapters at once: `out[t] += sum_j w[t,j] * s_j * B_j (A_j x[t])`.

Import light: torch and numba are loaded when a name below is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomlora.kernels.dispatch import (
        available_backends,
        sum_delta,
        sum_delta_gated,
        sum_delta_many,
        use_backend,
        warm_up,
    )
    from atomlora.kernels.grouped import Frozen, grouped_delta
    from atomlora.kernels.pools import AdapterPool, PoolStats
    from atomlora.kernels.reference import Activation
    from atomlora.kernels.slabs import FactorPool

_HOMES = {
    "Activation": "reference",
    "available_backends": "dispatch",
    "sum_delta": "dispatch",
    "sum_delta_gated": "dispatch",
    "sum_delta_many": "dispatch",
    "use_backend": "dispatch",
    "warm_up": "dispatch",
    "AdapterPool": "pools",
    "FactorPool": "slabs",
    "Frozen": "grouped",
    "PoolStats": "pools",
    "grouped_delta": "grouped",
}

__all__ = [
    "Activation",
    "AdapterPool",
    "FactorPool",
    "Frozen",
    "PoolStats",
    "available_backends",
    "grouped_delta",
    "sum_delta",
    "sum_delta_gated",
    "sum_delta_many",
    "use_backend",
    "warm_up",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
