"""How the router sees a store: the texts that key an atom, and the router of one version.

Import light: no torch, no embedder until `open_router` is called.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomlora.atom import Atom, Provenance
from atomlora.errors import BaseModelError, StoreError

if TYPE_CHECKING:
    import numpy as np

    from atomlora.router import AtomAttributes, Calibration, Embedder, Place, RouteFilter, Router, RouterSettings
    from atomlora.router.second_look import Evidence
    from atomlora.store import Store

# In the store's cache folder: token states for late interaction, which compiling may make ahead
TOKEN_CACHE = "documents.tokens"
# There too: the index over the keys, where it is more than a copy of them
KEY_CACHE = "keys.faiss"


def store_keys(atoms: Sequence[Atom]) -> list[tuple[int, str]]:
    """The keys of a version: (position in the catalogue, text), atom by atom; see
    `atomlora.router.key_texts`.

    A store keeps the keys' embeddings only, in this order; their texts follow from the catalogue. An atom's
    neighbours are those before and after it in the document of its first provenance; one whose text stands in the
    documents of several tenants has none, for they would show one tenant's text in the scores of another. Atoms that
    are not routed have no keys.
    """
    from atomlora.router import key_texts

    places = sorted(
        (_document(atom), atom.provenances[0].start, position)
        for position, atom in enumerate(atoms)
        if atom.provenances and atom.mount == "routed" and len(atom.tenants) == 1
    )
    before: dict[int, str] = {}
    after: dict[int, str] = {}
    for (document, _, first), (next_document, _, second) in pairwise(places):
        if document == next_document:
            after[first], before[second] = atoms[second].text, atoms[first].text
    return [
        (position, text)
        for position, atom in enumerate(atoms)
        if atom.mount == "routed"
        for text in key_texts(
            atom.text,
            atom.title,
            atom.headings,
            [question.text for question in atom.questions if question.kind != "open"],
            before.get(position, ""),
            after.get(position, ""),
        )
    ]


def _document(atom: Atom) -> tuple[str, str]:
    """Whose document an atom's text stands in first, and which."""
    return atom.provenances[0].tenant or "", atom.provenances[0].source


def store_attributes(atoms: Sequence[Atom]) -> list[AtomAttributes]:
    """What each atom can be filtered by."""
    from atomlora.router import AtomAttributes

    return [AtomAttributes(atom.labels, tuple(place_of(place) for place in atom.provenances)) for atom in atoms]


def place_of(provenance: Provenance) -> Place:
    """A provenance as the router's filters see it."""
    from atomlora.router import Place

    return Place(provenance.source, provenance.date, provenance.tenant)


def seen_place(atom: Atom, where: RouteFilter | None) -> Provenance | None:
    """The first place of an atom's text that the filter (default: of no tenant) admits."""
    from atomlora.router import RouteFilter

    admitted = where or RouteFilter()
    return next((place for place in atom.provenances if admitted.admits(place_of(place))), None)


def store_documents(atoms: Sequence[Atom]) -> list[str]:
    """What late interaction reads of each atom: "title. headings. text" (see `atomlora.router.late`)."""
    return [
        ". ".join(
            [part.strip().rstrip(".") for part in (atom.title, *atom.headings) if part.strip()] + [atom.text.strip()]
        )
        for atom in atoms
    ]


def open_embedder(store: Store, embedder: Embedder | None = None) -> Embedder:
    """The embedder that made the store's keys, loaded unless given; BaseModelError, naming both, for another one."""
    from atomlora.router import load_embedder

    wanted = store.manifest.embedder
    embedder = embedder or load_embedder(wanted.name)
    if embedder.fingerprint != wanted.fingerprint:
        raise BaseModelError(
            f"{store.path} was compiled with embedder {wanted.name!r} "
            f"({wanted.fingerprint[:12]}…), not {embedder.name!r} ({embedder.fingerprint[:12]}…); "
            "open it with that embedder or compile it again"
        )
    return embedder


def kept_keys(store: Store, atoms: Sequence[Atom]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """A version's keys: embeddings float32 (n, d), positions int32 (n,) and texts. StoreError when they were made from
    other texts than `store_keys` gives of its `atoms`, which are in the catalogue's order."""
    embeddings, positions = store.keys()
    keys = store_keys(atoms)
    if positions.tolist() != [position for position, _ in keys]:
        raise StoreError(f"{store.path}: its keys do not fit its atoms; compile it again with this atomlora")
    return embeddings, positions, [text for _, text in keys]


def fit_store_calibration(
    embedder: Embedder,
    atoms: Sequence[Atom],
    keys: tuple[np.ndarray, np.ndarray, Sequence[str]],
    path: Path,
    **choices: Any,
) -> Calibration:
    """The calibration of a version of the store at `path` with these atoms and keys (embeddings, positions, texts); its
    caches are used and made ahead. `choices`: of `atomlora.router.fit_calibration`."""
    from atomlora.router import fit_calibration

    cache = path / "cache"
    return fit_calibration(
        embedder,
        *keys,
        documents=store_documents(atoms),
        token_cache=cache / TOKEN_CACHE,
        cache=cache / KEY_CACHE,
        **choices,
    )


def open_router(
    store: Store,
    atoms: Sequence[Atom],
    settings: RouterSettings | None = None,
    embedder: Embedder | None = None,
    evidence: Evidence | None = None,
) -> Router:
    """The router over a store's version (`atoms` in the catalogue's order), with its embedder loaded; `evidence` is as
    for `Router`.

    Raises BaseModelError when the embedder is not the one that made the keys, naming both; StoreError when
    the keys were made from other texts than `store_keys` gives.
    """
    from atomlora.router import Calibration, Router

    embedder = open_embedder(store, embedder)
    embeddings, positions, texts = kept_keys(store, atoms)
    calibration = store.manifest.calibration
    cache: Path | None
    token_cache: Path | None
    try:
        cache, token_cache = store.cache_path(KEY_CACHE), store.cache_path(TOKEN_CACHE)
    except StoreError:  # a store on a read-only disk is routed without a cache
        cache = token_cache = None
    return Router(
        embedder,
        embeddings,
        positions,
        [atom.id for atom in atoms],
        texts,
        Calibration.model_validate(calibration) if calibration else None,
        settings,
        cache=cache,
        documents=store_documents(atoms),
        token_cache=token_cache,
        attributes=store_attributes(atoms),
        evidence=evidence,
    )


def open_routes(router: Router) -> Router:
    """The router without its silence and without the floor under its gates."""
    ranking = copy.copy(router)  # shares the index
    ranking.settings = ranking.settings.model_copy(update={"abstain": False, "min_weight": 0.0})
    return ranking
