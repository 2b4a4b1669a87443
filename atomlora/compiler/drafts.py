"""From passages to atom drafts: what will be trained, with its questions, before any weight exists."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from atomlora.atom import BEHAVIOUR, Atom, Mount, Provenance, atom_identity
from atomlora.corpora import Passage
from atomlora.questions.types import Question


@dataclass(frozen=True)
class Draft:
    """An atom before training. The same text under the same title and headings is one atom, however many files
    hold it."""

    type: str
    title: str
    text: str
    headings: tuple[str, ...]
    labels: tuple[str, ...]
    provenances: tuple[Provenance, ...]
    questions: tuple[Question, ...] = field(default=())
    mount: Mount = "routed"

    @property
    def key(self) -> tuple[str, str, tuple[str, ...]]:
        """What tells drafts of one compile apart."""
        return self.title, self.text, self.headings

    def identity(self, base_fingerprint: str, recipe: str) -> str:
        """The id of the atom that is trained from it."""
        return atom_identity(base_fingerprint, recipe, self.title, self.headings, self.text, self.questions)


def draft_of(atom: Atom) -> Draft:
    """What an atom was trained from."""
    places = atom.provenances
    return Draft(atom.type, atom.title, atom.text, atom.headings, atom.labels, places, atom.questions, atom.mount)


def drafts_from(passages: Iterable[Passage], tenant: str | None = None) -> list[Draft]:
    """One draft per distinct (title, text, headings), in order of first appearance; `tenant`: whose documents they
    are."""
    drafts: dict[tuple[str, str, tuple[str, ...]], Draft] = {}
    for p in passages:
        place = Provenance(
            source=p.source,
            start=p.start,
            end=p.end,
            source_sha256=p.source_sha256,
            page=p.page,
            date=p.date,
            date_origin=p.date_origin,
            tenant=tenant,
        )
        draft = Draft(p.kind, p.title, p.text, p.headings, tuple(sorted(p.labels)), (place,))
        known = drafts.get(draft.key)
        if known is not None:
            labels = tuple(sorted({*known.labels, *draft.labels}))
            draft = replace(known, provenances=(*known.provenances, place), labels=labels)
        drafts[draft.key] = draft
    return list(drafts.values())


def reuse(
    drafts: Sequence[Draft],
    given: Mapping[int, Sequence[Question]],
    finished: Mapping[str, Atom],
    base_fingerprint: str,
    recipe: str,
    covered: Collection[int] = (),
) -> dict[int, Atom]:
    """Drafts that a finished atom already answers for: same text, same recipe, same given questions (all of an atom's
    where the draft is `covered`, else the user's own). Its questions are taken over, so that nothing is written or
    trained again; its title too, where the very same file was renamed and has no title but its name."""
    by_key: dict[tuple[str, str, tuple[str, ...]], list[Atom]] = {}
    same_bytes: dict[tuple[str | None, str, int, str, tuple[str, ...]], list[Atom]] = {}
    for atom in finished.values():
        by_key.setdefault((atom.title, atom.text, atom.headings), []).append(atom)
        for place in atom.provenances:
            bytes_there = (place.tenant, place.source_sha256, place.start, atom.text, atom.headings)
            same_bytes.setdefault(bytes_there, []).append(atom)
    kept: dict[int, Atom] = {}
    places: dict[str, tuple[Provenance, ...]] = {}
    for index, draft in enumerate(drafts):
        wanted = _compared(given.get(index, ()), whole=index in covered)
        first = draft.provenances[0]
        # Under whichever name: from the run after a rename on, the atom's place has the new one, its title the old.
        bytes_here = (first.tenant, first.source_sha256, first.start, draft.text, draft.headings)
        for atom in (*by_key.get(draft.key, ()), *same_bytes.get(bytes_here, ())):
            own = _compared(atom.questions, whole=index in covered)
            same = atom.id == atom_identity(
                base_fingerprint, recipe, atom.title, atom.headings, atom.text, atom.questions
            )
            if same and own == wanted:
                places[atom.id] = (*places.get(atom.id, ()), *draft.provenances)
                kept[index] = atom.model_copy(update={"type": draft.type, "labels": draft.labels})
                break
    # A copy under another name is the same atom, and it stands in both.
    return {i: atom.model_copy(update={"provenances": places[atom.id]}) for i, atom in kept.items()}


def of_tenant(atoms: Iterable[Atom], tenant: str | None) -> list[Atom]:
    """The atoms of a tenant's documents, at their places in these."""
    return _at_places(atoms, lambda place: place.tenant == tenant)


def of_others(atoms: Iterable[Atom], tenant: str | None) -> list[Atom]:
    """What a version holds of documents that are not this tenant's: each such atom, at the places of the others."""
    return _at_places(atoms, lambda place: place.tenant != tenant)


def _at_places(atoms: Iterable[Atom], wanted: Callable[[Provenance], bool]) -> list[Atom]:
    """Those that stand at a wanted place; behaviours stand in no document."""
    kept = []
    for atom in atoms:
        if atom.type != BEHAVIOUR and (places := tuple(place for place in atom.provenances if wanted(place))):
            kept.append(atom.model_copy(update={"provenances": places}))
    return kept


def united(atoms: Iterable[Atom]) -> list[Atom]:
    """The atoms, each once, with all places and labels under which it comes."""
    found: dict[str, Atom] = {}
    for atom in atoms:
        known = found.get(atom.id, atom)
        places = tuple(dict.fromkeys((*known.provenances, *atom.provenances)))
        labels = tuple(sorted({*known.labels, *atom.labels}))
        found[atom.id] = known.model_copy(update={"provenances": places, "labels": labels})
    return list(found.values())


def _compared(questions: Sequence[Question], whole: bool) -> list[tuple[object, ...]]:
    """What must be the same for an atom to be kept. A question file's mark tells apart atoms whose questions it
    replaced from those to which it only added."""
    return [
        (q.text, q.answer, q.kind, q.trained) for q in questions if whole or q.kind == "user" or q.trained is not None
    ]
