"""The store: content-addressed segments of trained atoms, a manifest per version, one writer, any number of
readers."""

from atomlora.store.compaction import CompactReport, compact
from atomlora.store.differences import Difference, difference
from atomlora.store.evaluations import Evaluation, EvaluationFolder
from atomlora.store.history import Checkout, checkout, delete_tag, list_tags, set_tag
from atomlora.store.maintenance import GcReport, Problem, VerifyReport
from atomlora.store.manifest import FORMAT_VERSION, Manifest, ModelName, SegmentEntry
from atomlora.store.records import RecordType, pack, weights_digest
from atomlora.store.store import Store
from atomlora.store.transfer import TransferReport, pull, push
from atomlora.store.writer import StoreWriter

__all__ = [
    "FORMAT_VERSION",
    "Checkout",
    "CompactReport",
    "Difference",
    "Evaluation",
    "EvaluationFolder",
    "GcReport",
    "Manifest",
    "ModelName",
    "Problem",
    "RecordType",
    "SegmentEntry",
    "Store",
    "StoreWriter",
    "TransferReport",
    "VerifyReport",
    "checkout",
    "compact",
    "delete_tag",
    "difference",
    "list_tags",
    "pack",
    "pull",
    "push",
    "set_tag",
    "weights_digest",
]
