"""From a route to atoms on the model: select what may take part, load it into slots, pin it, let it go."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from atomlora.answers import Conflict, Dropped
from atomlora.atom import Atom, split_record
from atomlora.errors import UsageError
from atomlora.kernels import AdapterPool
from atomlora.router import Route, RoutedAtom
from atomlora.runtime.composition import Composition, composition
from atomlora.runtime.mount import Mount, pool_targets

if TYPE_CHECKING:
    from atomlora.store import Store


class Selection(BaseModel):
    """What of a route takes part (`atoms`, best first), and what does not; `beside` are the behaviour atoms that stand
    beside it in every statement."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    atoms: tuple[RoutedAtom, ...] = ()
    beside: tuple[RoutedAtom, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    conflicts: tuple[Conflict, ...] = ()

    def without(self, reasons: dict[str, str]) -> Selection:
        """This selection less the atoms named in `reasons` ({atom id: why}), which become `dropped`."""
        gone = [Dropped(id=atom.id, reason=reasons[atom.id]) for atom in self.atoms if atom.id in reasons]
        kept = tuple(atom for atom in self.atoms if atom.id not in reasons)
        return self.model_copy(update={"atoms": kept, "dropped": (*self.dropped, *gone)})

    def whole(self) -> Selection:
        """What is mounted where everything is mounted at once."""
        return Selection(atoms=(*self.atoms, *self.beside))

    def bare(self) -> Selection:
        """The behaviours alone, without knowledge."""
        return Selection(atoms=self.beside)


Policy = Callable[[Selection], Selection]
"""Narrows a selection or notes its conflicts; policies run in order on what the one before kept."""


class Composer:
    """Mounts the atoms of one store's version on one model. Thread-safe.

    `atoms`: {id: Atom} of the version. `capacity`: atoms resident at once; requests that do not fit wait up
    to `patience_s` seconds for others to end. `scope` as the store was compiled. `close` takes every hook
    off.
    """

    def __init__(
        self,
        store: Store,
        model: Any,
        atoms: dict[str, Atom],
        *,
        capacity: int = 64,
        policies: Sequence[Policy] = (),
        patience_s: float = 60.0,
    ) -> None:
        import torch

        manifest = store.manifest
        self.store = store
        self.atoms = atoms
        self._behaviours = tuple(atom for atom in atoms.values() if atom.mount != "routed")
        self.policies = tuple(policies)
        self.patience_s = patience_s
        self.pool = AdapterPool(
            pool_targets(manifest.targets),
            capacity=max(1, min(capacity, len(atoms))),
            rank=max((atom.rank for atom in atoms.values()), default=1),
            dtype=torch.bfloat16,
            device=model.device,
        )
        scope = manifest.settings.get("adapter", {}).get("scope", "answer")
        self._mount = Mount(model, manifest.targets, self.pool, scope)
        self._in_use: Counter[str] = Counter()
        self._released = threading.Condition()

    def select(self, route: Route, labels: Sequence[str] = ()) -> Selection:
        """The atoms of a route that take part, after every policy, and the behaviours that are mounted always or by
        one of these labels. Atoms that training taught nothing stay out. UsageError for a label that no behaviour
        has."""
        selection = Selection(atoms=route.atoms)
        reasons: dict[str, str] = {}
        for routed in route.atoms:
            atom = self.atoms.get(routed.id)
            if atom is None:
                reasons[routed.id] = "not in this version of the store"
            elif atom.record.recall <= 0:
                reasons[routed.id] = "training taught it none of its questions"
            elif routed.weight <= 0:
                reasons[routed.id] = "its weight is 0"
        selection = self._with_behaviours(selection.without(reasons), labels)
        for policy in self.policies:
            selection = policy(selection)
        return selection

    def _with_behaviours(self, selection: Selection, labels: Sequence[str]) -> Selection:
        known = {label for atom in self._behaviours if atom.mount == "label" for label in atom.labels}
        if unknown := [label for label in labels if label not in known]:
            names = f"has those of {', '.join(sorted(known))}" if known else "has no behaviour by label"
            raise UsageError(f"--label {unknown[0]}: no behaviour atom has it; the store {names}")
        wanted = [atom for atom in self._behaviours if atom.mount == "always" or set(atom.labels) & set(labels)]
        beside = tuple(RoutedAtom(id=a.id, weight=1.0, score=1.0) for a in wanted if a.record.recall > 0)
        untaught = tuple(
            Dropped(id=a.id, reason="training taught it none of its examples") for a in wanted if a.record.recall <= 0
        )
        return selection.model_copy(update={"beside": beside, "dropped": (*selection.dropped, *untaught)})

    @contextmanager
    def mounted(self, selections: Sequence[Selection], answer_start: Sequence[int]) -> Iterator[Composition | None]:
        """The composition of a batch, one row per selection, with its atoms pinned while the block runs.

        `answer_start`: column of each row's last prompt token in the padded input. None when no row has an
        atom. Raises UsageError when the atoms do not fit into the pool, CorruptStoreError when an atom's
        bytes changed.
        """
        ids = list(dict.fromkeys(atom.id for selection in selections for atom in selection.atoms))
        if not ids:
            yield None
            return
        slot_of = dict(zip(ids, self._acquire(ids), strict=True))
        try:
            yield composition(
                [[slot_of[atom.id] for atom in selection.atoms] for selection in selections],
                [[atom.weight for atom in selection.atoms] for selection in selections],
                answer_start,
                self.pool.device,
                self.pool,
            )
        finally:
            self._release(ids)

    def close(self) -> None:
        """Take every hook off the model."""
        self._mount.unmount()

    def _acquire(self, ids: list[str]) -> list[int]:
        deadline = time.monotonic() + self.patience_s
        with self._released:
            capacity = self.pool.capacity
            while len(ids) <= capacity < len(self._in_use.keys() | set(ids)):
                if not self._released.wait(deadline - time.monotonic()):
                    raise UsageError(
                        f"{len(ids)} atoms found no free slot in {self.patience_s:g} s beside the "
                        f"{len(self._in_use)} in use; open the store with a capacity above {capacity}"
                    )
            slots = self.pool.acquire(ids, self._load)
            self._in_use.update(ids)
            return slots

    def _release(self, ids: list[str]) -> None:
        with self._released:
            self.pool.release(ids)
            self._in_use.subtract(ids)
            self._in_use += Counter()  # forget those at zero
            self._released.notify_all()

    def _load(self, atom_id: str) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
        atom = self.atoms[atom_id]
        record = self.store.weights(atom_id)
        return split_record(record, atom.rank, self.store.manifest.targets), atom.scaling
