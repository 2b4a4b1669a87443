"""Which atoms may be candidates at all: by tenant, label, source and date, before anything is searched.

A tenant is a wall, the others narrow. What belongs to a tenant is found by that tenant alone, and the rarities of
words and tokens are counted among what the tenant sees, so scores and gates of a question are what they would be if
the atoms of other tenants were not in the store. Labels, sources and dates only leave atoms out; those that stay
score as they would without the filter.

Not kept apart: the coefficients of the calibration, which one fit over the whole store yields; above the size where
search is exact, which of the tenant's own atoms an approximate index happens to miss; and the time that a search
takes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from fnmatch import fnmatchcase
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, StringConstraints, field_validator, model_validator

_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:T\d{2}:\d{2}(?::\d{2})?Z?)?)?)?")
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Place(NamedTuple):
    """One place where an atom's text stands: the document's `source`, its `date` (ISO 8601, in whatever precision;
    None where unknown) and the `tenant` whose document it is (None: everybody's)."""

    source: str
    date: str | None = None
    tenant: str | None = None


class AtomAttributes(NamedTuple):
    """What an atom can be filtered by. Without a place it is everybody's, and of no source and no date."""

    labels: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()


class RouteFilter(BaseModel):
    """What may take part in an answer.

    `tenant`: its own atoms and those that belong to no tenant; None: only the latter. `every_tenant` takes that wall
    away: for whoever runs the store, not for whoever asks. `labels`: atoms that carry all of them. `sources`: atoms
    from any of them; each is a document, a folder of documents, a jsonl file, or a pattern in which * (which also
    stands for /), ? and [...] are placeholders. `since` and `until`: atoms of documents from that time, both ends
    included; "2024" and "2024-03" are periods, and a document of which only the year is known is in all of its days.
    Tenant, source and dates have to hold of one and the same place of an atom's text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: Name | None = None
    every_tenant: bool = False
    labels: tuple[Name, ...] = ()
    sources: tuple[Name, ...] = ()
    since: str | None = None
    until: str | None = None

    @field_validator("since", "until")
    @classmethod
    def _is_a_date(cls, value: str | None) -> str | None:
        if value is None:
            return None
        found = _DATE.fullmatch(value.strip())
        try:
            if found is None:
                raise ValueError
            date(int(found[1]), int(found[2] or 1), int(found[3] or 1))
        except ValueError:
            raise ValueError(f"{value!r} is no date; write it like 2024, 2024-03 or 2024-03-12") from None
        return value.strip()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.every_tenant and self.tenant is not None:
            raise ValueError("tenant and every_tenant exclude each other")
        if self.since and self.until and not _not_after(self.since, self.until):
            raise ValueError(f"since {self.since} is after until {self.until}")
        return self

    @property
    def narrows(self) -> bool:
        """Whether anything but the tenant is asked for."""
        return bool(self.labels or self.sources or self.since or self.until)

    def admits(self, place: Place) -> bool:
        """Whether an atom may take part for the sake of this place."""
        return (
            self._sees(place.tenant)
            and (not self.sources or any(_of_source(place.source, wanted) for wanted in self.sources))
            and self._in_time(place.date)
        )

    def _sees(self, tenant: str | None) -> bool:
        return tenant is None or self.every_tenant or tenant == self.tenant

    def _in_time(self, when: str | None) -> bool:
        if not self.since and not self.until:
            return True
        if not when:
            return False
        return _not_after(self.since or when, when) and _not_after(when, self.until or when)


EVERYTHING = RouteFilter(every_tenant=True)


class AttributeTable:
    """The attributes of all atoms by column, for masks over them."""

    def __init__(self, attributes: Sequence[AtomAttributes]) -> None:
        self.atoms = len(attributes)
        placed = [place for one in attributes for place in one.places]
        self._owners = np.repeat(np.arange(self.atoms), [len(one.places) for one in attributes])
        self._kinds = sorted(set(placed), key=lambda place: tuple(part or "" for part in place))
        numbers = {place: number for number, place in enumerate(self._kinds)}
        self._places = np.array([numbers[place] for place in placed], np.int64)
        self._homeless = np.ones(self.atoms, bool)
        self._homeless[self._owners] = False
        labelled: dict[str, list[int]] = {}
        for atom, one in enumerate(attributes):
            for label in one.labels:
                labelled.setdefault(label, []).append(atom)
        self._labelled = {label: np.array(atoms) for label, atoms in labelled.items()}
        self._walled = any(place.tenant is not None for place in self._kinds)
        self._kept = np.ones(self.atoms, bool)
        self.removals = 0

    def remove(self, atoms: np.ndarray) -> None:
        """From now on nobody sees these atoms (int)."""
        kept = self._kept.copy()  # masks that were given out stay as they are
        kept[atoms] = False
        self._kept = kept
        self.removals += 1

    def visible(self, where: RouteFilter) -> np.ndarray | None:
        """bool (atoms,): what the filter's tenant sees of the store; None where that is all of it."""
        if where.every_tenant or not self._walled:
            return None if self._kept.all() else self._kept
        return self._mask(RouteFilter(tenant=where.tenant)) & self._kept

    def allowed(self, where: RouteFilter) -> np.ndarray | None:
        """bool (atoms,): what passes the whole filter; None where nothing is asked for that leaves an atom out."""
        return self._mask(where) & self._kept if where.narrows else self.visible(where)

    def _mask(self, where: RouteFilter) -> np.ndarray:
        admitted = np.array([where.admits(kind) for kind in self._kinds], bool)
        mask = np.zeros(self.atoms, bool)
        mask[self._owners[admitted[self._places]]] = True
        if not where.sources and not where.since and not where.until:
            mask |= self._homeless
        for label in where.labels:
            carries = np.zeros(self.atoms, bool)
            carries[self._labelled.get(label, np.zeros(0, np.int64))] = True
            mask &= carries
        return mask


def _of_source(source: str, wanted: str) -> bool:
    whole = wanted.rstrip("/")
    return source == whole or source.startswith((f"{whole}/", f"{whole}#")) or fnmatchcase(source, wanted)


def _not_after(first: str, second: str) -> bool:
    """Whether `first` can be at or before `second`, each known to its own precision."""
    first, second = first.rstrip("Z"), second.rstrip("Z")
    shared = min(len(first), len(second))
    return first[:shared] <= second[:shared]
