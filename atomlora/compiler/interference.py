"""The last step of a compile run before the commit: what its atoms do to each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atomlora.atom import Atom, Target
from atomlora.bases import Base
from atomlora.compiler.progress import Teller
from atomlora.interference.lab import Lab
from atomlora.interference.measure import measure
from atomlora.interference.near import nearest
from atomlora.interference.records import InterferenceRecords
from atomlora.settings import InterferenceSettings
from atomlora.store import Store, StoreWriter
from atomlora.store.records import unpack


def compiled_interference(
    base: Base,
    targets: tuple[Target, ...],
    atoms: Sequence[Atom],
    keys: tuple[np.ndarray, np.ndarray],
    writer: StoreWriter,
    settings: InterferenceSettings,
    teller: Teller,
) -> InterferenceRecords | None:
    """Records of the atoms that are about to be committed with these keys (embeddings, positions); those of the version
    before are taken over where neither atom has changed. None where the settings want none."""
    if not settings.neighbours or len(atoms) < 2:
        return None
    before = None
    if writer.head is not None:
        with Store.open(writer.path) as old:
            before = old.interference()
    near = nearest(*keys, len(atoms), settings.neighbours)

    def weights(atom: Atom) -> np.ndarray:
        return unpack(writer.weights(atom), atom.rank, targets)

    def on_progress(done: int, total: int) -> None:
        teller.tell("interference", done, total)

    return measure(Lab(base, targets), atoms, weights, near, settings.probes, before, on_progress)
