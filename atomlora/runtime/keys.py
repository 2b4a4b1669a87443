"""How the router sees a store: the texts that key an atom, and the router of one version.

Import light: no torch, no embedder until `open_router` is called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atomlora.atom import Atom
from atomlora.errors import BaseModelError, StoreError

if TYPE_CHECKING:
    from atomlora.router import Embedder, Router, RouterSettings
    from atomlora.store import Store


def key_texts(atom: Atom) -> list[str]:
    """The texts by which an atom is found: its own text under its title, then its questions, each once.

    A store's key embeddings are those of these texts, in this order within an atom; texts are not stored
    twice.
    """
    own = f"{atom.title}: {atom.text}" if atom.title else atom.text
    return list(dict.fromkeys([own, *(question.text for question in atom.questions)]))


def texts_of_keys(atoms: Sequence[Atom], positions: np.ndarray) -> list[str]:
    """The text of every key, aligned with `positions` (n,): the j-th key of an atom is its j-th key text.

    Raises StoreError when there are other numbers of keys than of key texts.
    """
    texts = [key_texts(atom) for atom in atoms]
    seen: Counter[int] = Counter()
    found = []
    for position in positions.tolist():
        own = texts[position]
        if seen[position] >= len(own):
            raise StoreError(
                f"the store's keys do not fit its atom {atoms[position].id[:12]}; compile it again"
            )
        found.append(own[seen[position]])
        seen[position] += 1
    return found


def open_router(
    store: Store,
    atoms: Sequence[Atom],
    settings: RouterSettings | None = None,
    embedder: Embedder | None = None,
) -> Router:
    """The router over a store's version (`atoms` in the catalogue's order), with its embedder loaded.

    Raises BaseModelError when the embedder is not the one that made the keys, naming both.
    """
    from atomlora.router import Calibration, Router, load_embedder

    manifest = store.manifest
    embedder = embedder or load_embedder(manifest.embedder.name)
    if embedder.fingerprint != manifest.embedder.fingerprint:
        raise BaseModelError(
            f"{store.path} was compiled with embedder {manifest.embedder.name!r} "
            f"({manifest.embedder.fingerprint[:12]}…), not {embedder.name!r} ({embedder.fingerprint[:12]}…); "
            "open it with that embedder or compile it again"
        )
    embeddings, positions = store.keys()
    cache: Path | None
    try:
        cache = store.cache_path("keys.faiss")
    except StoreError:  # a store on a read-only disk is routed without a cache
        cache = None
    return Router(
        embedder,
        embeddings,
        positions,
        [atom.id for atom in atoms],
        texts_of_keys(atoms, positions),
        Calibration.model_validate(manifest.calibration) if manifest.calibration else None,
        settings,
        cache=cache,
        stamp=store.version,
    )
