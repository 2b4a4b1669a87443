"""What is done about a stack whose atoms are expected to disturb each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from atomlora.answers import Conflict
from atomlora.errors import UsageError
from atomlora.interference.predict import Predicted, Predictor, strain_at

if TYPE_CHECKING:
    from atomlora.composer import Policy, Selection
    from atomlora.store import Store

Action = Literal["downweight", "drop", "warn", "alone", "off"]


class PolicySettings(BaseModel):
    """`tolerance`: points of recall that an atom may be expected to lose to its companions before `action` is taken.

    `downweight` lets the companion stand beside at a lower weight, down to 0, and still lead its own statement (see
    `atomlora.turns`); `drop` leaves out the one that the router ranks lower; `warn` only tells; `alone` falls back to
    the first atom; `off` predicts nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action = "downweight"
    tolerance: float = Field(10.0, gt=0, lt=100)


class InterferencePolicy:
    """A composer's policy (see `atomlora.composer.Policy`) on the predictions of one version's records."""

    def __init__(self, predictor: Predictor, settings: PolicySettings | None = None) -> None:
        self.predictor, self.settings = predictor, settings or PolicySettings()

    def __call__(self, selection: Selection) -> Selection:
        if len(selection.atoms) < 2 or self.settings.action == "off":
            return selection
        found = self._predicted(selection)
        if max(one.damage for one in found) <= self.settings.tolerance:
            return selection
        match self.settings.action:
            case "warn":
                return self._warned(selection, found)
            case "alone":
                return self._alone(selection, found)
            case "drop":
                return self._dropped(selection)
            case _:
                return self._downweighted(selection)

    def _predicted(self, selection: Selection) -> list[Predicted]:
        return self.predictor.stack([a.id for a in selection.atoms], [a.weight for a in selection.atoms])

    def _worst(self, selection: Selection) -> tuple[int, int, Predicted] | None:
        """(harmed atom, its worst companion, what is expected), by places; None where all is within tolerance."""
        found = self._predicted(selection)
        harmed = max(range(len(found)), key=lambda at: found[at].damage)
        worst = found[harmed].worst
        if worst is None or found[harmed].damage <= self.settings.tolerance:
            return None
        return harmed, worst, found[harmed]

    def _warned(self, selection: Selection, found: list[Predicted]) -> Selection:
        notes = []
        for at, one in enumerate(found):
            if one.worst is not None and one.damage > self.settings.tolerance:
                other = selection.atoms[one.worst]
                reason = f"beside it at {other.weight:.2f} the second is expected to cost {_points(one.damage)}"
                notes.append(Conflict(a=selection.atoms[at].id, b=other.id, reason=reason))
        return selection.model_copy(update={"conflicts": (*selection.conflicts, *notes)})

    def _alone(self, selection: Selection, found: list[Predicted]) -> Selection:
        loss = max(one.damage for one in found)
        reason = f"interference: stacked, these atoms are expected to lose {_points(loss)}; the first answers alone"
        return selection.without({atom.id: reason for atom in selection.atoms[1:]})

    def _dropped(self, selection: Selection) -> Selection:
        while (pair := self._worst(selection)) is not None:
            harmed, worst, expected = pair
            kept, gone = sorted((harmed, worst))  # the router's order
            reason = (
                f"interference: beside atom {selection.atoms[kept].id[:12]} it is expected to cost "
                f"{_points(expected.damage)}"
            )
            selection = selection.without({selection.atoms[gone].id: reason})
        return selection

    def _downweighted(self, selection: Selection) -> Selection:
        routed = {atom.id: atom.weight for atom in selection.atoms}
        limit = strain_at(self.settings.tolerance) * (1 - 1e-9)
        blamed: dict[str, tuple[str, float]] = {}
        for _ in range(2 * len(selection.atoms) ** 2):  # each round puts a companion right or takes it to 0
            if (pair := self._worst(selection)) is None:
                break
            harmed, worst, expected = pair
            atoms = list(selection.atoms)
            other = atoms[worst]
            blamed.setdefault(other.id, (atoms[harmed].id, expected.damage))
            pair_of = self.predictor.pair(atoms[harmed].id, other.id)
            allowed = pair_of.weight(limit - (expected.strain - pair_of.at(other.weight)))
            atoms[worst] = other.model_copy(update={"weight": min(allowed, other.weight)})
            selection = selection.model_copy(update={"atoms": tuple(atoms)})
        notes = [
            Conflict(
                a=by,
                b=atom.id,
                reason=f"at {routed[atom.id]:.2f} the second is expected to cost {_points(loss)} beside the first; "
                f"it stands beside others at {atom.weight:.2f}",
            )
            for atom in selection.atoms
            if atom.id in blamed
            for by, loss in (blamed[atom.id],)
        ]
        return selection.model_copy(update={"conflicts": (*selection.conflicts, *notes)})


def policy_settings(wanted: PolicySettings | str | None) -> PolicySettings:
    """Settings as they are given, by their action alone, or the defaults. UsageError for an unknown action."""
    if isinstance(wanted, PolicySettings):
        return wanted
    for action in get_args(Action):
        if wanted == action:
            return PolicySettings(action=action)
    if wanted is None:
        return PolicySettings()
    raise UsageError(f"interference {wanted!r}: unknown; use {', '.join(get_args(Action))}")


def store_policies(store: Store, wanted: PolicySettings | str | None = None) -> tuple[Policy, ...]:
    """The policy of a store that has interference records; none where it has not."""
    settings = policy_settings(wanted)
    records = None if settings.action == "off" else store.interference()
    return () if records is None else (InterferencePolicy(Predictor.of(records), settings),)


def _points(loss: float) -> str:
    return f"{loss:.0f} points of recall"
