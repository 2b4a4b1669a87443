"""Measuring a store that stands already, and keeping the records as its next version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atomlora.errors import StoreError
from atomlora.interference.check import Progress, measured_now
from atomlora.interference.lab import Lab
from atomlora.store import Manifest, Store

if TYPE_CHECKING:
    from atomlora.model import AtomLoRA

MESSAGE = "interference measured"


def remeasure(model: AtomLoRA, on_progress: Progress = lambda _stage, _done, _total: None) -> Manifest:
    """Commit the version that `model` has open once more, with records of what its atoms do to each other; pairs that
    it has records of are not measured again. Nothing is committed where nothing is new.

    Raises StoreError while another writer is at work, or when the version is no longer the store's current one.
    """
    store = model.store
    if store.url is not None:
        raise StoreError(
            f"{store.url}: read-only here; get it with: atomlora pull {store.url} FOLDER, and measure that"
        )
    before = store.interference()
    with Store.writer(store.path) as writer:
        manifest = store.manifest
        if writer.head is None or writer.head.version != store.version:
            raise StoreError(f"{store.path}: version {store.version[:12]} is not the current one; check that one out")
        lab = Lab(model.base, manifest.targets)
        records = measured_now(model, lab, on_progress, before)
        if records == before:
            return manifest
        kept = manifest.model_dump(include={"base", "embedder", "settings", "recipe", "calibration", "stats"})
        return writer.commit(
            list(store.atoms()),
            store.keys(),
            targets=manifest.targets,
            message=MESSAGE,
            conflicts=store.conflicts(),
            one_adapter=manifest.one_adapter,
            interference=records,
            **kept,
        )
