"""`compile_corpus`: documents -> atoms -> questions -> micro-LoRAs -> store, in one screen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atomlora.atom import Atom, digest_json
from atomlora.bases import EMBEDDED_BASE, load_base
from atomlora.compiler.asking import ask, read_passages
from atomlora.compiler.behaviours import as_before, kept_drafts, train_behaviours
from atomlora.compiler.drafts import BEHAVIOUR, drafts_from, of_others, reuse, united
from atomlora.compiler.examples import behaviour_drafts
from atomlora.compiler.given import given_questions
from atomlora.compiler.one_adapter import train_one_adapter
from atomlora.compiler.progress import CompileReport, FailedAtom, Listener, Teller
from atomlora.compiler.session import TrainingSession
from atomlora.compiler.shape import resolve_targets
from atomlora.conflicts.find import find_conflicts
from atomlora.conflicts.newest import first_seen
from atomlora.conflicts.records import ConflictRecord
from atomlora.interference.compiling import compiled_interference
from atomlora.questions.cache import cached
from atomlora.questions.registry import settings_writer
from atomlora.router import Embedder, fit_calibration, load_embedder
from atomlora.runtime.keys import KEY_CACHE, TOKEN_CACHE, store_documents, store_keys
from atomlora.settings import CompileSettings
from atomlora.store import Manifest, Store, StoreWriter

RECALIBRATE_SHARE = 0.05  # of the atoms: when more than these have changed, gates are fitted anew


def compile_corpus(
    sources: Sequence[Path | str],
    store: Path | str,
    settings: CompileSettings | None = None,
    *,
    base: str = EMBEDDED_BASE,
    questions: Path | None = None,
    examples: Sequence[Path] | None = None,
    mount: str = "always",
    tenant: str | None = None,
    device: str = "auto",
    on_progress: Listener | None = None,
) -> CompileReport:
    """Compile documents into the store at `store`, as its next version.

    Atoms whose text, questions, base and recipe are those of an atom already in the store (committed, or finished
    by an interrupted run) are kept and not trained again. `examples` are files of examples, each of which makes a
    behaviour atom, mounted as `mount` says (`always` or `label:NAME`). Without sources the version's atoms of
    documents stay as they are, without `examples` its behaviours do; an empty list of examples takes them away.
    `tenant`: whose documents the sources are (default: everybody's); those of others stay as they are, and give the
    settings that shape atoms.
    `questions` is a question file, see `atomlora.compiler.given`.
    Nothing of the version before is touched until the last step, the commit. Raises InputError, UsageError,
    BaseModelError or StoreError; after Ctrl-C the same call resumes.
    """
    settings, began, teller = settings or CompileSettings(), time.perf_counter(), Teller(on_progress)
    passages, skipped = read_passages(sources, teller) if sources or examples is None else ([], [])
    taught = None if examples is None else behaviour_drafts(examples, mount)
    with Store.writer(Path(store)) as writer:
        loaded = load_base(base, device)
        current = _current(Path(store)) if writer.head else []
        staying = of_others(current, tenant) if sources else [a for a in current if a.type != BEHAVIOUR]
        shaped = writer.head if staying or not sources else None
        if shaped is not None:
            settings = as_before(shaped, settings, loaded)
        question_writer = settings_writer(settings, loaded.model, loaded.tokenizer)
        embedder = load_embedder(settings.embedder)
        targets = resolve_targets(loaded.model, settings.adapter)
        recipe = digest_json([settings.recipe(), question_writer.digest, settings.max_questions])
        if shaped is not None and not sources:
            recipe = shaped.recipe

        given = given_questions(drafts_from(passages, tenant), questions)
        kept = reuse(given.drafts, given.questions, writer.finished(), loaded.fingerprint, recipe, given.covered)
        asking = cached(question_writer, loaded.fingerprint)
        drafts = ask(given, kept, asking, settings.max_questions, teller)
        question_writer.close()
        session = TrainingSession(loaded, targets, settings, recipe, teller)
        trained = session.train({i: d for i, d in enumerate(drafts) if i not in kept}, writer)

        atoms = [kept[i] if i in kept else trained[i] for i in range(len(drafts))]
        knowledge = united([*atoms, *staying])
        taught = kept_drafts(current) if taught is None else taught
        behaviours = train_behaviours(taught, session, writer, knowledge)
        atoms = [*knowledge, *behaviours.atoms]
        one_adapter = train_one_adapter(knowledge, session, writer) if settings.one_adapter and knowledge else None
        teller.tell("route", 0, len(atoms))
        before = {atom.id for atom in current}
        ids = {atom.id for atom in atoms}
        since = _since_calibration(writer.head, recipe, embedder, len(ids ^ before), len(ids))
        keys, calibration = _keys(atoms, embedder, writer, Path(store), keep_calibration=since is not None)
        conflicts = _conflicts(atoms, keys, writer, Path(store))
        teller.tell("route", len(atoms), len(atoms))
        interference = compiled_interference(
            loaded,
            targets,
            knowledge,
            keys,
            writer,
            settings.interference,
            lambda done, total: teller.tell("interference", done, total),
        )
        failed = tuple(_failure(atom) for atom in atoms if not atom.record.passed)
        manifest = writer.commit(
            atoms,
            keys,
            base={"name": base, "fingerprint": loaded.fingerprint},
            embedder={"name": embedder.name, "fingerprint": embedder.fingerprint},
            settings=settings.model_dump(mode="json"),
            recipe=recipe,
            targets=targets,
            calibration=calibration,
            conflicts=conflicts,
            one_adapter=one_adapter,
            interference=interference,
            stats={
                "atoms_total": len(atoms),
                "atoms_new": len(ids - before),
                "atoms_kept": len(ids & before),
                "atoms_removed": len(before - ids),
                "atoms_failed": len(failed),
                "settings_recipe": settings.recipe(),
                "atoms_since_calibration": since or 0,
            },
        )
    teller.close()
    seconds = time.perf_counter() - began
    return CompileReport(
        store=str(store),
        version=manifest.version,
        atoms_total=len(atoms),
        atoms_new=len(ids - before),
        atoms_kept=len(ids & before),
        atoms_removed=len(before - ids),
        atoms_failed=len(failed),
        seconds=seconds,
        atoms_per_second=(len(trained) + behaviours.trained) / max(teller.seconds.get("train", 0.0), 1e-9),
        seconds_by_stage=teller.seconds,
        failed=failed,
        conflicts=tuple(conflicts),
        skipped=tuple(skipped),
        warnings=given.notes,
    )


def _since_calibration(head: Manifest | None, recipe: str, embedder: Embedder, changed: int, atoms: int) -> int | None:
    """How many atoms came or went since the calibration of the version before was fitted, `changed` now among
    them; None where that is so many, or so much else has changed, that it must be fitted anew.

    A new fit moves the gates of every atom a little, and so answers that have nothing to do with what was edited.
    """
    if head is None or not head.calibration or head.recipe != recipe:
        return None
    if head.embedder.fingerprint != embedder.fingerprint:
        return None
    since = int(head.stats.get("atoms_since_calibration", 0)) + changed
    return since if since <= RECALIBRATE_SHARE * atoms else None


def _keys(
    atoms: list[Atom], embedder: Embedder, writer: StoreWriter, path: Path, keep_calibration: bool
) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, object]]:
    """Embeddings of all keys (those of the version before are taken over) and the calibration: that of the version
    before, or one fitted on them."""
    keys = store_keys(atoms)
    known: dict[str, np.ndarray] = {}
    if writer.head is not None and writer.head.embedder.fingerprint == embedder.fingerprint:
        with Store.open(path) as old:
            vectors, _ = old.keys()
            texts = [text for _, text in store_keys(list(old.atoms()))]
            known = dict(zip(texts, vectors, strict=True))
    fresh = list(dict.fromkeys(text for _, text in keys if text not in known))
    known.update(zip(fresh, embedder.encode(fresh), strict=True) if fresh else ())
    embeddings = np.array([known[text] for _, text in keys], np.float32).reshape(len(keys), embedder.dimension)
    positions = np.array([position for position, _ in keys], dtype=np.int32)
    if keep_calibration and writer.head is not None:
        return (embeddings, positions), writer.head.calibration
    calibration = fit_calibration(
        embedder,
        embeddings,
        positions,
        [text for _, text in keys],
        documents=store_documents(atoms),
        token_cache=path / "cache" / TOKEN_CACHE,
        cache=path / "cache" / KEY_CACHE,
    )
    return (embeddings, positions), calibration.model_dump(mode="json")


def _conflicts(
    atoms: list[Atom], keys: tuple[np.ndarray, np.ndarray], writer: StoreWriter, path: Path
) -> list[ConflictRecord]:
    """Which atoms contradict each other; an atom's first key is its bare text."""
    embeddings, positions = keys
    numbers, first = np.unique(positions, return_index=True)

    def seen(ids: frozenset[str]) -> dict[str, int]:
        if writer.head is None:
            return first_seen(None, ids)
        with Store.open(path) as current:
            return first_seen(current, ids)

    return find_conflicts([atoms[position] for position in numbers], embeddings[first], seen)


def _current(store: Path) -> list[Atom]:
    with Store.open(store) as current:
        return list(current.atoms())


def _failure(atom: Atom) -> FailedAtom:
    source = atom.provenances[0].source if atom.provenances else ""
    if atom.type == BEHAVIOUR:  # one line of the file an example
        failed = next(i for i, q in enumerate(atom.questions) if q.text in atom.record.failed_questions)
        source = atom.provenances[failed].source
    return FailedAtom(id=atom.id, text=atom.text, source=source, questions=atom.record.failed_questions)
