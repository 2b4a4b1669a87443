"""What a version keeps beside its atoms: records of their conflicts and of what they do to each other, and the one
adapter for everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atomlora.atom import Atom
from atomlora.store.conflicts import read_conflicts
from atomlora.store.interference import read_interference
from atomlora.store.manifest import Manifest
from atomlora.store.objects import ObjectFolder
from atomlora.store.segments import read_single

if TYPE_CHECKING:
    from atomlora.conflicts.records import ConflictRecord
    from atomlora.interference.records import InterferenceRecords


class Beside:
    """The part of `Store` that reads them; every byte is verified."""

    manifest: Manifest
    _objects: ObjectFolder

    def conflicts(self) -> tuple[ConflictRecord, ...]:
        """The version's atoms that contradict each other."""
        digest = self.manifest.conflicts
        return () if digest is None else read_conflicts(self._objects, digest)

    def interference(self) -> InterferenceRecords | None:
        """What the version's atoms do to each other; None where nothing was measured."""
        digest = self.manifest.interference
        return None if digest is None else read_interference(self._objects, digest)

    def one_adapter(self) -> tuple[Atom, np.ndarray] | None:
        """The one adapter for everything and its record (bfloat16 as uint16 (n,)); None without one."""
        digest = self.manifest.one_adapter
        return None if digest is None else read_single(self._objects, digest)
