"""What a store keeps of two atoms that state different answers to the same question."""

from __future__ import annotations

from typing import Literal

from atomlora.atom import Record
from atomlora.errors import UsageError

OnConflict = Literal["newest", "warn", "error"]
ON_CONFLICT: tuple[OnConflict, ...] = ("newest", "warn", "error")


def checked_choice(on_conflict: str | None) -> OnConflict | None:
    """`on_conflict` itself; UsageError for what is no choice."""
    for choice in ON_CONFLICT:
        if on_conflict == choice:
            return choice
    if on_conflict is None:
        return None
    raise UsageError(f"--on-conflict {on_conflict}: unknown; use {', '.join(ON_CONFLICT)}")


class Side(Record):
    """One of the two: the atom, where it stands, the sentence, and the value that the other contradicts. `date` is
    that of the document that states it, None where none is known."""

    atom: str
    source: str | None
    sentence: str
    value: str
    date: str | None = None

    @property
    def place(self) -> str:
        """The source for messages, with the date where one is known."""
        named = self.source or f"atom {self.atom[:12]}"
        return f"{named} ({self.date})" if self.date else named


class ConflictRecord(Record):
    """Two atoms in conflict. Where it can be told, `older` and `newer` are in this order and `decided_by` says by what;
    else `decided_by` is None and the order means nothing. `kind`: what differs (quantity, money, date, time, number,
    name, negation, table). `question`: one that the two answer differently, where one was written."""

    older: Side
    newer: Side
    kind: str
    decided_by: str | None
    question: str | None = None

    @property
    def pair(self) -> frozenset[str]:
        return frozenset((self.older.atom, self.newer.atom))

    @property
    def reason(self) -> str:
        """One line for people: who says what, and who is newer."""
        if self.older.value == self.older.sentence:
            said = f'{self.older.place} says "{self.older.value}", {self.newer.place} says "{self.newer.value}"'
        else:
            said = f"{self.older.place} says {self.older.value}, {self.newer.place} says {self.newer.value}"
        told = f"the latter is newer by {self.decided_by}" if self.decided_by else "neither is known to be newer"
        return f"{said}; {told}"
