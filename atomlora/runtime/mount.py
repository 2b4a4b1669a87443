"""Hooks that add the sum of atom deltas to a Hugging Face model's own linear layers.

No module is replaced. A `Composition` comes in as the keyword `composition` of `model(...)` or
`model.generate(...)` and is bound for the duration of one forward in a context variable: threads and nested
calls do not see each other's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import wraps
from typing import Any, NamedTuple

import torch

from atomlora.atom import Target
from atomlora.bases import blocks
from atomlora.errors import BaseModelError, UsageError
from atomlora.kernels import AdapterPool, FactorPool, sum_delta
from atomlora.runtime.composition import Active, Composition, Scope, active_rows


class _Bound(NamedTuple):
    mount: Mount
    active: Active | None


_bound: ContextVar[_Bound | None] = ContextVar("atomlora_bound_composition", default=None)


def target_key(target: Target) -> str:
    """Name of a target's factors in an AdapterPool."""
    return f"{target.layer}.{target.module}"


def pool_targets(targets: Sequence[Target]) -> list[tuple[str, int, int]]:
    """Manifest targets as AdapterPool takes them: [(key, d_in, d_out), …] in the same order."""
    return [(target_key(target), target.d_in, target.d_out) for target in targets]


def resolve_target(model: Any, target: Target) -> Any:
    """The linear module (plain or quantised) that a target names by its path in the block, or the path's end.

    Raises BaseModelError when the base has no such layer or module, several of that name, or one of another
    shape.
    """
    layers = blocks(model)
    if not 0 <= target.layer < len(layers):
        raise BaseModelError(
            f"target {target.layer}.{target.module}: the base has layers 0 to {len(layers) - 1}; "
            "use the base that the store was compiled for"
        )
    linears = {name: module for name, module in layers[target.layer].named_modules() if _is_linear(module)}
    found = [name for name in linears if name == target.module or name.endswith("." + target.module)]
    if len(found) != 1:
        problem = "is not in that block" if not found else f"is ambiguous there ({', '.join(found)})"
        raise BaseModelError(
            f"target {target.layer}.{target.module}: {problem}; "
            f"its linear layers are {', '.join(linears) or 'none'}"
        )
    module = linears[found[0]]
    shape = (int(module.in_features), int(module.out_features))
    if shape != (target.d_in, target.d_out):
        raise BaseModelError(
            f"target {target.layer}.{target.module}: {shape[0]} to {shape[1]} features in this base, but the "
            f"atoms are made for {target.d_in} to {target.d_out}; use the base that the store was compiled for"
        )
    return module


def _is_linear(module: Any) -> bool:
    # Quantised layers are no subclasses of nn.Linear everywhere, but all of them carry these two sizes.
    return isinstance(getattr(module, "in_features", None), int) and isinstance(
        getattr(module, "out_features", None), int
    )


class Mount:
    """The hooks of one model, one pool and one scope; `unmount` leaves the model as it was.

    `pool` must have the targets `pool_targets(targets)`. With scope `answer` atoms act from each row's
    `answer_start` on, with scope `all` on every token that is not padding. Without a composition every
    output is the bare base's, bit for bit. Composed forwards give no gradients.
    """

    def __init__(
        self, model: Any, targets: Sequence[Target], pool: AdapterPool, scope: Scope = "answer"
    ) -> None:
        if getattr(model.forward, "atomlora_mount", None) is not None:
            raise UsageError("atoms are mounted on this model already; unmount them first")
        self.model = model
        self.scope = scope
        modules = [
            resolve_target(model, target) for target in targets
        ]  # nothing is touched if one is missing
        self._handles = [
            module.register_forward_hook(self._adapting_hook(pool.factors(target_key(target))))
            for module, target in zip(modules, targets, strict=True)
        ]
        self._own_forward = vars(model).get("forward")
        model.forward = self._taking_composition(model.forward)

    def unmount(self) -> None:
        """Remove every hook; may be called twice."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if getattr(self.model.forward, "atomlora_mount", None) is self:
            if self._own_forward is None:
                del self.model.forward
            else:
                self.model.forward = self._own_forward

    def __enter__(self) -> Mount:
        return self

    def __exit__(self, *exception: object) -> None:
        self.unmount()

    def _taking_composition(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """`inner` with the keyword `composition`.

        A wrapper and no forward hook, for two reasons: hooks that are always called are not called on
        Ctrl-C, and `generate` accepts keywords by the signature of `forward`.
        """
        signature = inspect.signature(inner)
        keyword = inspect.Parameter("composition", inspect.Parameter.KEYWORD_ONLY, default=None)
        parameters = list(signature.parameters.values())
        has_rest = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
        parameters.insert(len(parameters) - has_rest, keyword)

        @wraps(inner)
        def forward(*args: Any, composition: Composition | None = None, **kwargs: Any) -> Any:
            if composition is None and _bound.get() is None:
                return inner(*args, **kwargs)
            active = None
            if composition is not None:
                given = signature.bind_partial(*args, **kwargs).arguments if args else kwargs
                active = self._active(composition, given)
            token = _bound.set(_Bound(self, active))
            try:
                return inner(*args, **kwargs)
            finally:
                _bound.reset(token)

        forward.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        forward.atomlora_mount = self  # type: ignore[attr-defined]
        return forward

    def _active(self, request: Composition, given: dict[str, Any]) -> Active | None:
        if not isinstance(request, Composition):
            raise UsageError(f"composition must be a Composition, not {type(request).__name__}")
        tokens = given.get("input_ids")
        if tokens is None:
            tokens = given["inputs_embeds"]
        cache = given.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        mask = given.get("attention_mask")
        if not isinstance(mask, torch.Tensor):
            mask = None
        return active_rows(request, self.scope, int(tokens.shape[0]), int(tokens.shape[1]), past, mask)

    def _adapting_hook(self, factors: FactorPool) -> Callable[..., Any]:
        d_in, d_out = factors.A.shape[2], factors.Bt.shape[2]

        def hook(_module: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
            bound = _bound.get()
            if bound is None or bound.active is None or bound.mount is not self:
                return None
            if output.requires_grad:
                raise UsageError("composed forwards give no gradients; run them under torch.no_grad()")
            active = bound.active
            x = inputs[0].reshape(-1, d_in)
            flat = output.reshape(-1, d_out)  # a view: linear layers write contiguous outputs
            if flat.shape[0] != active.tokens:
                raise BaseModelError(
                    f"an adapted layer saw {flat.shape[0]} tokens of {active.tokens}; "
                    "layers that regroup tokens (mixtures of experts) cannot be adapted"
                )
            sum_delta(x, factors, active.slots, active.weights, out=flat, rows=active.rows)
            return flat.view(output.shape)

        return hook
