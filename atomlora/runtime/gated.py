"""Gated MLPs with atoms on both first layers: both sums of deltas and the activation in one kernel.

No hook can leave out an activation between two layers, so the `forward` of such an MLP is wrapped while atoms are
mounted, as the model's own is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import gelu, silu

from atomlora.errors import UsageError
from atomlora.kernels import Activation, FactorPool, sum_delta_gated
from atomlora.runtime.forwards import WrappedForward, bound

_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": silu,
    "gelu_tanh": lambda x: gelu(x, approximate="tanh"),
}


class GatedForward(WrappedForward):
    """The forward of an MLP that computes down_proj(act_fn(gate_proj(x)) * up_proj(x)).

    `pools` holds, by mount, the factors of gate_proj and up_proj. A composed forward in which every token is adapted,
    as when decoding, goes by `sum_delta_gated`; any other is the module's own, whose layers have hooks.
    """

    def __init__(self, module: Any, activation: Activation) -> None:
        super().__init__(module)
        self.activation = activation
        self.pools: dict[object, tuple[FactorPool, FactorPool]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        here = bound.get()
        pools = None if here is None else self.pools.get(here.mount)
        active = None if here is None else here.active
        if pools is None or active is None or active.rows is not None or len(args) != 1 or kwargs:
            return self.inner(*args, **kwargs)
        (x,) = args
        tokens = x.reshape(-1, x.shape[-1])
        if tokens.shape[0] != active.tokens:
            return self.inner(x)  # whose hooks say what is wrong
        mlp = self.module
        token = bound.set(None)  # for these two layers' hooks have nothing to add
        try:
            gate, up = mlp.gate_proj(x), mlp.up_proj(x)
        finally:
            bound.reset(token)
        if gate.requires_grad or up.requires_grad:
            raise UsageError("composed forwards give no gradients; run them under torch.no_grad()")
        hidden = sum_delta_gated(
            tokens,
            pools,
            active.slots,
            active.weights,
            gate=gate.reshape(len(tokens), -1),
            up=up.reshape(len(tokens), -1),
            activation=self.activation,
        )
        return mlp.down_proj(hidden.view(gate.shape))


@torch.no_grad()
def gated_forward(mlp: Any, trial: torch.Tensor) -> GatedForward | None:
    """What to assign as the `forward` of a module that is such an MLP with an activation that the kernel knows, else
    None; a module that has one keeps it.

    Asked of the module itself: on the rows `trial` (T, d_in) it must give what the formula gives, bit for bit.
    """
    if isinstance(mlp.forward, GatedForward):
        return mlp.forward
    gate, up, wanted = mlp.gate_proj(trial), mlp.up_proj(trial), mlp(trial)
    for name, activation in _ACTIVATIONS.items():
        if torch.equal(mlp.down_proj(activation(gate) * up), wanted):
            return GatedForward(mlp, name)
    return None
