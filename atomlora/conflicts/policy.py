"""What the composer does when a question is routed to two atoms that contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atomlora.answers import Conflict
from atomlora.conflicts.records import ConflictRecord, OnConflict
from atomlora.errors import ConflictError

if TYPE_CHECKING:
    from atomlora.composer import Policy, Selection


def conflict_policy(records: Sequence[ConflictRecord], on_conflict: OnConflict) -> Policy:
    """A policy by the conflicts of a version.

    `warn` notes a conflict and lets both atoms speak; `newest` drops the older one too, where it is known which that
    is; `error` raises ConflictError.
    """

    pairs = [(record.pair, record) for record in records]

    def policy(selection: Selection) -> Selection:
        present = {atom.id for atom in selection.atoms}
        met = [record for pair, record in pairs if pair <= present]
        if met and on_conflict == "error":
            raise ConflictError(
                f"the documents disagree: {met[0].reason}; mend them and compile again, or ask with "
                "--on-conflict newest or warn"
            )
        noted = tuple(_noted(record) for record in met)
        selection = selection.model_copy(update={"conflicts": (*selection.conflicts, *noted)})
        if on_conflict != "newest":
            return selection
        return selection.without({record.older.atom: _why(record) for record in met if record.decided_by})

    return policy


def _noted(record: ConflictRecord) -> Conflict:
    return Conflict(
        a=record.older.atom,
        b=record.newer.atom,
        reason=record.reason,
        source_a=record.older.source,
        source_b=record.newer.source,
        newer=record.newer.atom if record.decided_by else None,
    )


def _why(record: ConflictRecord) -> str:
    return (
        f"{record.newer.place} is newer by {record.decided_by} and says {record.newer.value} instead of "
        f"{record.older.value}"
    )
