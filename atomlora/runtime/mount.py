"""Hooks that add the sum of atom deltas to a Hugging Face model's own linear layers.

No module is replaced; on CUDA, where launches count, the forward of gated MLPs is wrapped too (see `gated`). A
`Composition` comes in as the keyword `composition` of `model(...)` or `model.generate(...)` and is bound for the
duration of one forward in a context variable: threads and nested calls do not see each other's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import update_wrapper
from typing import Any

import torch

from atomlora.atom import Target
from atomlora.bases import blocks, linear_layers
from atomlora.errors import BaseModelError, UsageError
from atomlora.kernels import AdapterPool, FactorPool, sum_delta, warm_up
from atomlora.runtime.composition import Active, Composition, Scope, active_rows
from atomlora.runtime.forwards import Bound, WrappedForward, bound
from atomlora.runtime.gated import GatedForward, gated_forward

# Where gated MLPs go by `sum_delta_gated`. On a CPU it saves two thousandths of a token (bench/RESULTS.md): not worth
# more code to compile and modules to wrap, so there the hooks do everything.
_GATED_ON = ("cuda",)


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
    found = linear_layers(layers[target.layer], target.module)
    if len(found) != 1:
        known = linear_layers(layers[target.layer])
        problem = "is not in that block" if not found else f"is ambiguous there ({', '.join(found)})"
        raise BaseModelError(
            f"target {target.layer}.{target.module}: {problem}; its linear layers are {', '.join(known) or 'none'}"
        )
    (module,) = found.values()
    shape = (int(module.in_features), int(module.out_features))
    if shape != (target.d_in, target.d_out):
        raise BaseModelError(
            f"target {target.layer}.{target.module}: {shape[0]} to {shape[1]} features in this base, but "
            f"the atoms are made for {target.d_in} to {target.d_out}; use the base that the store names"
        )
    return module


class Mount:
    """The hooks of one pool and one scope on a model; `unmount` leaves the model as it was.

    `pool` must have the targets `pool_targets(targets)`. With scope `answer` atoms act from each row's
    `answer_start` on, with scope `all` on every token that is not padding. Without a composition every output
    is the bare base's, bit for bit. Composed forwards give no gradients. Several stores may be mounted on one
    model: a composition acts through the pool that it names.
    """

    def __init__(self, model: Any, targets: Sequence[Target], pool: AdapterPool, scope: Scope = "answer") -> None:
        self.model = model
        self.pool = pool
        self.scope = scope
        if pool.device.type == "cpu":
            warm_up(pool.dtype)  # here, so that no first answer waits for compiled code
        # Nothing is touched if a module is missing.
        modules = [resolve_target(model, target) for target in targets]
        gated = list(self._gated_forwards(dict(zip(modules, targets, strict=True))))
        self._handles = [
            module.register_forward_hook(self._adapting_hook(pool.factors(target_key(target))))
            for module, target in zip(modules, targets, strict=True)
        ]
        if not isinstance(model.forward, _ComposedForward):
            model.forward = _ComposedForward(model)
        self._forward: _ComposedForward = model.forward
        self._forward.mounts.append(self)
        self._gated: list[GatedForward] = []
        for forward, factors in gated:
            forward.module.forward = forward
            forward.pools[self] = factors
            self._gated.append(forward)

    def unmount(self) -> None:
        """Remove every hook; may be called twice."""
        for handle in self._handles:
            handle.remove()
        for forward in self._gated:
            forward.pools.pop(self, None)
            if not forward.pools:
                forward.restore()
        self._handles, self._gated = [], []
        if self in self._forward.mounts:
            self._forward.mounts.remove(self)
        if not self._forward.mounts:
            self._forward.restore()

    def __enter__(self) -> Mount:
        return self

    def __exit__(self, *exception: object) -> None:
        self.unmount()

    def active(self, request: Composition, given: dict[str, Any]) -> Active | None:
        """Where a forward with the arguments `given` (by name) is adapted."""
        tokens = given.get("input_ids")
        if tokens is None:
            tokens = given["inputs_embeds"]
        cache = given.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        mask = given.get("attention_mask")
        if not isinstance(mask, torch.Tensor):
            mask = None
        return active_rows(request, self.scope, int(tokens.shape[0]), int(tokens.shape[1]), past, mask)

    def _gated_forwards(
        self, adapted: dict[Any, Target]
    ) -> Iterator[tuple[GatedForward, tuple[FactorPool, FactorPool]]]:
        """Where that pays, the gated MLPs whose gate and up are both adapted, each with its factors."""
        if self.pool.device.type not in _GATED_ON:
            return
        for layer in sorted({target.layer for target in adapted.values()}):
            mlp = blocks(self.model)[layer].mlp
            gate, up = (adapted.get(getattr(mlp, name, None)) for name in ("gate_proj", "up_proj"))
            if gate is None or up is None or not hasattr(mlp, "down_proj"):
                continue
            trial = torch.linspace(-2, 2, gate.d_in, dtype=self.model.dtype, device=self.pool.device)[None]
            forward = gated_forward(mlp, trial)
            if forward is not None:
                yield forward, (self.pool.factors(target_key(gate)), self.pool.factors(target_key(up)))

    def _adapting_hook(self, factors: FactorPool) -> Callable[..., Any]:
        d_in, d_out = factors.A.shape[2], factors.Bt.shape[2]

        def hook(_module: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
            here = bound.get()
            if here is None or here.active is None or here.mount is not self:
                return None
            if output.requires_grad:
                raise UsageError("composed forwards give no gradients; run them under torch.no_grad()")
            active = here.active
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


class _ComposedForward(WrappedForward):
    """A model's `forward` with the keyword `composition`, and the live list of the model's mounts.

    `forward` is wrapped, and not hooked, for two reasons: hooks that are always called are not called on
    Ctrl-C, and `generate` accepts keywords by the signature of `forward`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        update_wrapper(self, self.inner)
        self.mounts: list[Mount] = []
        self.plain = inspect.signature(self.inner)
        keyword = inspect.Parameter("composition", inspect.Parameter.KEYWORD_ONLY, default=None)
        parameters = list(self.plain.parameters.values())
        has_rest = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
        parameters.insert(len(parameters) - has_rest, keyword)
        self.__signature__ = self.plain.replace(parameters=parameters)

    def __call__(self, *args: Any, composition: Composition | None = None, **kwargs: Any) -> Any:
        if composition is None and bound.get() is None:
            return self.inner(*args, **kwargs)
        here = None
        if composition is not None:
            mount = _chosen(self.mounts, composition)
            given = self.plain.bind_partial(*args, **kwargs).arguments if args else kwargs
            here = Bound(mount, mount.active(composition, given))
        token = bound.set(here)
        try:
            return self.inner(*args, **kwargs)
        finally:
            bound.reset(token)


def _chosen(mounts: list[Mount], request: Composition) -> Mount:
    if not isinstance(request, Composition):
        raise UsageError(f"composition must be a Composition, not {type(request).__name__}")
    found = [mount for mount in mounts if request.pool is None or mount.pool is request.pool]
    if len(found) != 1:
        raise UsageError(
            "the composition's pool is not mounted on this model"
            if not found
            else f"{len(found)} pools are mounted on this model; the composition must name its own"
        )
    return found[0]
