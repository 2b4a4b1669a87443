"""What is known of atoms that stand side by side: records, kept with a version of a store. Import light."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pydantic import ConfigDict, model_validator

from atomlora.atom import Record

PEAK_OF_MEAN = 20.0  # the largest rise of a token's NLL by the mean rise, over 3,010 measured answers


class PairRecord(Record):
    """What happens to an atom at weight 1 when the atom `other` joins it at weight 1, on statements that the first
    was trained to make, under teacher forcing.

    `delta_nll`: change of the mean NLL per answer token, in nats. `peak`: the largest rise of one answer token's NLL,
    for a statement is lost by its worst token; `half_peak`: the same with `other` at weight 1/2, from which follows
    what happens at gates. `overlap`: ||s B_j A_j h|| / ||W h||, mean over the
    answer's columns and over adapted modules, h being what the first atom alone makes of them: what `other` adds to
    layers, whether or not it points where the first one does. `kl`: KL(alone || joined) per answer token, in nats.
    `flips`: share of answer tokens that were greedy alone and are no longer. Those on answers are taken over a
    candidate set of the vocabulary (see `atomlora.interference.measure`).
    """

    other: str
    delta_nll: float
    peak: float
    half_peak: float
    overlap: float
    kl: float
    flips: float

    @model_validator(mode="before")
    @classmethod
    def _with_peaks(cls, data: Any) -> Any:
        """Records of older stores have the mean at weight 1/2 instead of the peaks."""
        if not isinstance(data, dict) or not {"delta_nll", "half_delta_nll"} <= data.keys():
            return data
        now = {name: value for name, value in data.items() if name != "half_delta_nll"}
        means = {"peak": data["delta_nll"], "half_peak": data["half_delta_nll"]}
        return now | {name: PEAK_OF_MEAN * max(0.0, float(mean)) for name, mean in means.items()}


class AtomRecord(Record):
    """An atom beside its neighbours, nearest first. `weights_digest` names the weights that were measured."""

    id: str
    weights_digest: str
    pairs: tuple[PairRecord, ...]


class InterferenceRecords(Record):
    """Records of a version's atoms. `neighbours` is how many were measured of each, `probes` on how many statements;
    records made with other numbers are not mixed."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    neighbours: int
    probes: int
    atoms: tuple[AtomRecord, ...] = ()

    @cached_property
    def pairs(self) -> dict[tuple[str, str], PairRecord]:
        """{(atom, other): record}."""
        return {(atom.id, pair.other): pair for atom in self.atoms for pair in atom.pairs}

    @cached_property
    def measured(self) -> dict[str, str]:
        """{atom id: digest of the weights that were measured}."""
        return {atom.id: atom.weights_digest for atom in self.atoms}
