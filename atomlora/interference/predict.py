"""What a stack will do to each of its atoms, from records alone: no forward pass.

The strain on an atom is what its companions add to the NLL of the answer token that suffers most, for a statement is
lost by its worst token: what was measured of the pairs, brought to the weights at hand and added up. It goes as a power
of the weight, halfway between what a pair's measurements at weights 1 and 1/2 say and what pairs at large do. A pair
that was not measured is taken for an ordinary one of the two atoms: what the first suffers from its neighbours at
large, times how loud the second is beside its own (geometric means, which told harm better than arithmetic ones).
Strain becomes damage, the expected loss of recall in points, by a logistic curve over its logarithm, fitted on 40
atoms of the sample corpus beside 16 others each, at weights .3, .5 and 1 (bench/RESULTS.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from atomlora.interference.records import InterferenceRecords

STRAIN_AT_HALF = 0.78  # nats at which half of all statements are lost; the curve's steepness is 1
POWER = 3.2  # of the weight: the median of the pairs
POWERS = (1.0, 5.0)
FAINT = 0.02  # strains below this are alike where pairs are averaged
QUIET = 0.002  # strain that cannot be told from none


class Pair(NamedTuple):
    """The strain of one atom on another at weight 1, and the power of the weight with which it falls."""

    strain: float
    power: float

    def at(self, weight: float) -> float:
        """The strain at a weight in [0, 1]."""
        return float(self.strain * max(0.0, weight) ** self.power)

    def weight(self, strain: float) -> float:
        """The weight at which no more than `strain` is left; above 1 where weight 1 is borne."""
        if strain <= 0:
            return 0.0
        return math.inf if not self.strain else float((strain / self.strain) ** (1 / self.power))


class Predicted(NamedTuple):
    """What is expected for one atom of a stack: `damage` in points of recall (0 to 100), the `strain` behind it, and
    which other atom (its place in the stack) brings most of it."""

    damage: float
    strain: float
    worst: int | None


class Predictor:
    """Predicts from the measured pairs of one version: {(atom, other): largest rise of an answer token's NLL with the
    other at weight 1, and at weight 1/2}. Atoms without pairs are taken for ordinary ones."""

    def __init__(self, measured: Mapping[tuple[str, str], tuple[float, float]]) -> None:
        self._pairs = {pair: _pair(*changes) for pair, changes in measured.items()}
        suffered: dict[str, list[float]] = {}
        done: dict[str, list[float]] = {}
        for (atom, other), pair in self._pairs.items():
            logarithm = math.log(max(pair.strain, FAINT))
            suffered.setdefault(atom, []).append(logarithm)
            done.setdefault(other, []).append(logarithm)
        every = [one for found in suffered.values() for one in found]
        self._mean = sum(every) / len(every) if every else -math.inf
        self._frail = {atom: _shrunk(found, self._mean) for atom, found in suffered.items()}
        self._loud = {atom: _shrunk(found, self._mean) for atom, found in done.items()}

    @classmethod
    def of(cls, records: InterferenceRecords) -> Predictor:
        """The predictor of a version's records."""
        return cls({pair: (record.peak, record.half_peak) for pair, record in records.pairs.items()})

    def pair(self, atom: str, other: str) -> Pair:
        """What `other` does to `atom` at weight 1."""
        known = self._pairs.get((atom, other))
        if known is not None:
            return known
        if not self._pairs:
            return Pair(0.0, POWER)
        logarithm = self._frail.get(atom, self._mean) + self._loud.get(other, self._mean) - self._mean
        return Pair(math.exp(logarithm), POWER)

    def stack(self, ids: Sequence[str], weights: Sequence[float]) -> list[Predicted]:
        """For each atom of a stack: what happens to it when it leads at weight 1 and the others stand beside it at
        their weights."""
        found = []
        for at, atom in enumerate(ids):
            strains = [
                0.0 if at == other else self.pair(atom, ids[other]).at(weight) for other, weight in enumerate(weights)
            ]
            total = sum(strains)
            worst = max(range(len(ids)), key=strains.__getitem__) if total > QUIET else None
            found.append(Predicted(damage(total), total, worst))
        return found


def damage(strain: float) -> float:
    """Points of recall that an atom is expected to lose under a strain (nats on its worst answer token)."""
    return 0.0 if strain <= QUIET else float(100.0 * strain / (strain + STRAIN_AT_HALF))


def strain_at(points: float) -> float:
    """The strain under which that many points are lost, 0 < points < 100."""
    return float(STRAIN_AT_HALF * points / (100.0 - points))


def _pair(whole: float, half: float) -> Pair:
    """A measured pair; changes too small to tell count as none. Its own power rests on one figure over another, so it
    is held halfway towards that of all pairs, which told harm better than either."""
    if whole <= QUIET:
        return Pair(max(0.0, whole), POWER)
    power = (math.log2(whole / max(half, QUIET / 2)) + POWER) / 2
    return Pair(whole, min(max(power, POWERS[0]), POWERS[1]))


def _shrunk(found: Sequence[float], mean: float) -> float:
    """The mean of a few figures, held towards the mean of all by the weight of two."""
    return (sum(found) + 2 * mean) / (len(found) + 2)
