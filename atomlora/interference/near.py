"""Which atoms are near each other in the router's space, and so likely to be routed together."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

SHORTLIST = 8  # times as many atoms by their mean key as are then looked at key by key
BLOCK = 128  # atoms whose mean keys are compared with all others' in one product


def nearest(embeddings: np.ndarray, positions: np.ndarray, atoms: int, many: int) -> np.ndarray:
    """The `many` nearest other atoms of each, nearest first: (atoms, m) int64, m = min(many, atoms - 1).

    `embeddings` float32 (n, d) unit rows, `positions` int32 (n,) the atom of each key. Nearness is half the largest
    and half the mean cosine between keys, as the router mixes them; atoms are shortlisted by their mean keys. An atom
    without keys is near to none and to any alike.
    """
    many = min(many, atoms - 1)
    if many < 1:
        return np.zeros((atoms, 0), np.int64)
    order = np.argsort(positions, kind="stable")
    starts = np.searchsorted(positions[order], np.arange(atoms + 1))
    keys = [embeddings[order[first:last]] for first, last in pairwise(starts)]
    means = np.stack([key.mean(0) if len(key) else np.zeros(embeddings.shape[1], np.float32) for key in keys])
    found = np.zeros((atoms, many), np.int64)
    listed = min(many * SHORTLIST, atoms - 1)
    for start in range(0, atoms, BLOCK):
        for atom, rough in enumerate(means[start : start + BLOCK] @ means.T, start):
            rough[atom] = -np.inf
            some = np.argpartition(-rough, listed - 1)[:listed]
            largest = [float((keys[atom] @ keys[one].T).max(initial=-1.0)) for one in some]
            found[atom] = some[np.lexsort((some, -(np.array(largest) + rough[some])))][:many]
    return found
