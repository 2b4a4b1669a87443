"""The store: content-addressed segments of trained atoms, a manifest per version, one writer, any number of
readers."""

from atomlora.store.maintenance import GcReport, Problem, VerifyReport
from atomlora.store.manifest import FORMAT_VERSION, Manifest, ModelName, SegmentEntry
from atomlora.store.segments import weights_digest
from atomlora.store.store import Store
from atomlora.store.writer import StoreWriter

__all__ = [
    "FORMAT_VERSION",
    "GcReport",
    "Manifest",
    "ModelName",
    "Problem",
    "SegmentEntry",
    "Store",
    "StoreWriter",
    "VerifyReport",
    "weights_digest",
]
