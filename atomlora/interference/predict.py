"""What a stack will do to each of its atoms, from records alone: no forward pass.

The strain on an atom is what its companions add to its NLL per answer token: those of stored pairs at weight 1,
shrunk to the weights at hand and added up. A pair that was not measured is taken for an ordinary one of the two atoms:
what the first suffers from its neighbours at large, times how loud the second is beside its own. Strain becomes damage, the
expected loss of recall in points, by a logistic curve (see `STRAIN_AT_HALF`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from atomlora.interference.records import InterferenceRecords

WEIGHT_POWER = 2.0  # a companion at half its weight strains a quarter as much
STRAIN_AT_HALF = 0.15  # nats per answer token at which half of all statements are lost
STEEPNESS = 1.5  # of the curve, over the logarithm of the strain
QUIET = 1e-4  # strain that nobody can tell from none


class Predicted(NamedTuple):
    """What is expected for one atom of a stack: `damage` in points of recall (0 to 100), the `strain` behind it, and
    which other atom (its place in the stack) brings most of it."""

    damage: float
    strain: float
    worst: int | None


class Predictor:
    """Predicts from the measured pairs of one version: {(atom, other): change of the atom's NLL per answer token, both
    at weight 1}. Atoms without pairs are taken for ordinary ones."""

    def __init__(self, pairs: Mapping[tuple[str, str], float]) -> None:
        self._pairs = {pair: max(0.0, change) for pair, change in pairs.items()}
        suffered: dict[str, list[float]] = {}
        done: dict[str, list[float]] = {}
        for (atom, other), strain in self._pairs.items():
            suffered.setdefault(atom, []).append(strain)
            done.setdefault(other, []).append(strain)
        self._mean = sum(self._pairs.values()) / max(len(self._pairs), 1)
        self._frail = {atom: _shrunk(found, self._mean) for atom, found in suffered.items()}
        self._loud = {atom: _shrunk(found, self._mean) for atom, found in done.items()}

    @classmethod
    def of(cls, records: InterferenceRecords) -> Predictor:
        """The predictor of a version's records."""
        return cls({pair: record.delta_nll for pair, record in records.pairs.items()})

    def strain(self, atom: str, other: str) -> float:
        """Nats per answer token that `other` adds to `atom`'s NLL, both at weight 1."""
        known = self._pairs.get((atom, other))
        if known is not None:
            return known
        if not self._mean:
            return 0.0
        return self._frail.get(atom, self._mean) * self._loud.get(other, self._mean) / self._mean

    def stack(self, ids: Sequence[str], weights: Sequence[float]) -> list[Predicted]:
        """For each atom of a stack: what happens to it when it leads at weight 1 and the others stand beside it at
        their weights."""
        shares = [share(weight) for weight in weights]
        found = []
        for at, atom in enumerate(ids):
            strains = [0.0 if at == j else shares[j] * self.strain(atom, ids[j]) for j in range(len(ids))]
            total = sum(strains)
            worst = max(range(len(ids)), key=strains.__getitem__) if total > QUIET else None
            found.append(Predicted(damage(total), total, worst))
        return found


def share(weight: float) -> float:
    """Of the strain at weight 1, what is left at `weight`."""
    return max(0.0, weight) ** WEIGHT_POWER


def weight_of(share: float) -> float:
    """The weight at which that share of the strain is left."""
    return float(max(0.0, share) ** (1 / WEIGHT_POWER))


def damage(strain: float) -> float:
    """Points of recall that an atom is expected to lose under a strain (nats per answer token)."""
    if strain <= QUIET:
        return 0.0
    return 100.0 / (1.0 + (STRAIN_AT_HALF / strain) ** STEEPNESS)


def strain_at(points: float) -> float:
    """The strain under which that many points are lost, 0 < points < 100."""
    return float(STRAIN_AT_HALF * (points / (100.0 - points)) ** (1 / STEEPNESS))


def _shrunk(found: Sequence[float], mean: float) -> float:
    """The mean of a few figures, held towards the mean of all by the weight of two."""
    return (sum(found) + 2 * mean) / (len(found) + 2)
