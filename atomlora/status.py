"""`status`: how far documents and a store have drifted apart, without a model and without training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from atomlora.atom import Atom, Record
from atomlora.compiler.drafts import Draft, drafts_from, of_tenant, reuse
from atomlora.compiler.given import Given, given_questions
from atomlora.corpora import Document, Passage, SkippedFile, read_corpus, split_document
from atomlora.settings import CompileSettings
from atomlora.store import Manifest, Store


class MovedFile(Record):
    """A document whose bytes now lie under another name."""

    before: str
    now: str


class FileStatus(Record):
    """Documents by what happened to them; `empty` ones hold no sentence to learn from."""

    new: tuple[str, ...]
    changed: tuple[str, ...]
    moved: tuple[MovedFile, ...]
    removed: tuple[str, ...]
    unchanged: int
    empty: tuple[str, ...]
    skipped: tuple[SkippedFile, ...]


class AtomStatus(Record):
    """Atoms that a compile would train (`new`), keep, leave out (`removed`) or train again although their text is the
    same (`stale`); and of the kept ones those that were not learnt in full (`failed`)."""

    new: int
    kept: int
    removed: int
    stale: int
    failed: int


class Status(Record):
    """The drift between documents and a store's current version. `up_to_date`: a compile with the store's settings
    would change nothing. `stale_because` says why atoms are stale, where some are."""

    store: str
    version: str
    up_to_date: bool
    files: FileStatus
    atoms: AtomStatus
    stale_because: tuple[str, ...]


def status(
    sources: Sequence[Path | str], path: Path | str, questions: Path | None = None, tenant: str | None = None
) -> Status:
    """Compare documents (files and folders) of a tenant (default: everybody's) with what the store at `path` has of it.

    What a compile with the store's own base and settings would do. It may train less than is said here, because it
    also finds atoms of older versions and of interrupted runs. Raises InputError and StoreError.
    """
    documents: dict[str, str] = {}
    empty: list[str] = []
    skipped: list[SkippedFile] = []
    passages: list[Passage] = []
    for document in _documents(sources, skipped):
        found = split_document(document)
        passages += found
        if found:
            documents[document.source] = document.sha256
        else:
            empty.append(document.source)
    with Store.open(path) as store:
        manifest, atoms = store.manifest, {atom.id: atom for atom in of_tenant(store.atoms(), tenant)}
    given = _given(drafts_from(passages, tenant), atoms, questions)
    drafts = given.drafts
    kept = reuse(drafts, given.questions, atoms, manifest.base.fingerprint, manifest.recipe, given.covered)
    texts = {(atom.text, atom.headings) for atom in atoms.values()}
    asked_anew = sum(i not in kept and (draft.text, draft.headings) in texts for i, draft in enumerate(drafts))
    otherwise = _trains_otherwise(manifest)
    there = {(draft.text, draft.headings) for draft in drafts}
    files = _files(documents, atoms, empty, skipped)
    facts = AtomStatus(
        new=len(drafts) - len(kept) - asked_anew,
        kept=0 if otherwise else len(kept),
        removed=sum((atom.text, atom.headings) not in there for atom in atoms.values()),
        stale=asked_anew + (len(kept) if otherwise else 0),
        failed=sum(not atom.record.passed for atom in kept.values()),
    )
    drifted = facts.new or facts.removed or facts.stale or files.new or files.changed or files.moved or files.removed
    because = [otherwise] if otherwise else []
    if asked_anew:
        because.append(f"{asked_anew} with other questions of your own, another title or another type")
    return Status(
        store=str(path),
        version=manifest.version,
        up_to_date=not drifted,
        files=files,
        atoms=facts,
        stale_because=tuple(because),
    )


def _documents(sources: Sequence[Path | str], skipped: list[SkippedFile]) -> Iterator[Document]:
    for found in read_corpus(sources):
        if isinstance(found, SkippedFile):
            skipped.append(found)
        else:
            yield found


def _given(drafts: list[Draft], atoms: Mapping[str, Atom], file: Path | None) -> Given:
    """The questions of the file, or those that the store's atoms were given."""
    if file is not None:
        return given_questions(drafts, file)
    known = {(atom.text, atom.headings): atom.questions for atom in atoms.values()}
    asked = {
        i: known[draft.text, draft.headings] for i, draft in enumerate(drafts) if (draft.text, draft.headings) in known
    }
    covered = frozenset(i for i, found in asked.items() if any(q.trained is not None for q in found))
    own = {i: tuple(q for q in found if i in covered or q.kind == "user") for i, found in asked.items()}
    return Given(drafts, {i: found for i, found in own.items() if found}, covered)


def _trains_otherwise(manifest: Manifest) -> str:
    """Why this atomlora would train other weights from the version's own settings; "" where it would not, or where
    the version does not tell (those made before format 2)."""
    made = manifest.stats.get("settings_recipe")
    try:
        now = CompileSettings.model_validate(manifest.settings).recipe()
    except ValidationError as error:
        return f"the store's settings are not known to this atomlora ({error.errors()[0]['msg']})"
    return "this atomlora trains other weights from the same settings" if made is not None and made != now else ""


def _files(
    documents: Mapping[str, str], atoms: Mapping[str, Atom], empty: Sequence[str], skipped: Sequence[SkippedFile]
) -> FileStatus:
    stored = {place.source: place.source_sha256 for atom in atoms.values() for place in atom.provenances}
    new = [source for source in documents if source not in stored]
    removed = [source for source in stored if source not in documents]
    by_digest = {stored[source]: source for source in removed}
    moved = {source: by_digest[documents[source]] for source in new if documents[source] in by_digest}
    gone = set(moved.values())
    changed = [source for source in documents if source in stored and documents[source] != stored[source]]
    return FileStatus(
        new=tuple(source for source in new if source not in moved),
        changed=tuple(changed),
        moved=tuple(MovedFile(before=before, now=now) for now, before in moved.items()),
        removed=tuple(sorted(source for source in removed if source not in gone)),
        unchanged=len(documents) - len(new) - len(changed),
        empty=tuple(empty),
        skipped=tuple(skipped),
    )
