"""Fitting a store's gates and its threshold of silence anew, as a version of its own.

A compile keeps the calibration while few atoms change, so that answers that have nothing to do with an edit stay as
they are. Here it is made anew when the user says so, from the current version's keys and with their own say in how
much the router keeps silent. Atoms and keys stay the same bytes; `atomlora checkout STORE HEAD~1` takes it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from atomlora.errors import StoreError, UsageError
from atomlora.store import Store


class Recalibrated(BaseModel):
    """The `version` that was made, its threshold and the one before, and what the fit reaches on questions that it did
    not see (`stats`, see `atomlora.router.Calibration`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    version: str
    alpha: float
    threshold: float
    threshold_before: float | None
    stats: dict[str, float]


def recalibrate(store: Path, alpha: float = 0.05, foreign: Sequence[str] = ()) -> Recalibrated:
    """Fit the calibration of the store's current version and commit it.

    `alpha`: the share of answerable questions that may be given up for silence, at most. `foreign`: questions that the
    store does not cover, beside the general ones. Raises UsageError for an `alpha` outside of (0, 1), StoreError where
    there is no store, none with keys, or a writer at work, BaseModelError where the embedder that made the keys is not
    there.
    """
    from atomlora.router import GENERAL_QUESTIONS
    from atomlora.runtime.keys import fit_store_calibration, kept_keys, open_embedder

    if not 0 < alpha < 1:
        raise UsageError(f"--alpha must lie between 0 and 1, not {alpha:g}")
    # Opened first: the writer would make a store where there is none.
    with Store.open(store) as opened, Store.writer(store) as writer:
        if writer.head is None or writer.head.version != opened.version:
            raise StoreError(f"{store}: a new version came in between; run the same command again")
        atoms = list(opened.atoms())
        keys = kept_keys(opened, atoms)
        if not keys[2]:
            raise StoreError(f"{store}: no atom of it is routed, so there is nothing to calibrate; compile documents")
        general = (*GENERAL_QUESTIONS, *foreign)
        fitted = fit_store_calibration(open_embedder(opened), atoms, keys, store, general=general, alpha=alpha)
        before = opened.manifest.calibration.get("threshold")
        written = writer.recommit(atoms, f"recalibrated, alpha {alpha:g}", calibration=fitted.model_dump(mode="json"))
    return Recalibrated(
        store=str(store),
        version=written.version,
        alpha=alpha,
        threshold=fitted.threshold,
        threshold_before=None if before is None else float(before),
        stats=fitted.stats,
    )
