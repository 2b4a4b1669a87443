"""What a mount puts around a module's `forward`, and which composition the forward that runs in this context has."""

from __future__ import annotations

import copy
from contextvars import ContextVar
from typing import Any, NamedTuple

from atomlora.runtime.composition import Active


class Bound(NamedTuple):
    """A composed forward: the mount (known by identity) and where it is adapted."""

    mount: object
    active: Active | None


# Of the forward that runs in this context, if it is composed.
bound: ContextVar[Bound | None] = ContextVar("atomlora_bound_composition", default=None)


class WrappedForward:
    """Stands in for a module's `forward` once it is assigned there; subclasses say what a call does."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.inner = module.forward
        self._replaced = vars(module).get("forward")

    def restore(self) -> None:
        """Give the module back what it had, unless somebody has put something else there since."""
        if self.module.forward is not self:
            return
        if self._replaced is None:
            del self.module.forward
        else:
            self.module.forward = self._replaced

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # A copied model is bare: its forward must be that of the copy, and no mount's.
        return copy.deepcopy(self.inner, memo)
