"""`compile_corpus`: documents -> atoms -> questions -> micro-LoRAs -> store, in one screen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from atomlora.bases import EMBEDDED_BASE, load_base
from atomlora.compiler.asking import ask, read_replacing
from atomlora.compiler.behaviours import kept_drafts, train_behaviours
from atomlora.compiler.drafts import drafts_from, reuse, united
from atomlora.compiler.examples import behaviour_drafts
from atomlora.compiler.given import given_questions
from atomlora.compiler.interference import compiled_interference
from atomlora.compiler.one_adapter import train_one_adapter
from atomlora.compiler.plan import plan_run
from atomlora.compiler.progress import CompileReport, Listener, Teller
from atomlora.compiler.rank import with_rank
from atomlora.compiler.report import atom_counts, failures
from atomlora.compiler.routing import found_conflicts, routing_of
from atomlora.compiler.session import TrainingSession
from atomlora.quantised import quantised_name
from atomlora.questions.cache import cached
from atomlora.settings import CompileSettings
from atomlora.store import Store


def compile_corpus(
    sources: Sequence[Path | str],
    store: Path | str,
    settings: CompileSettings | None = None,
    *,
    base: str | None = None,
    base_quantisation: str | None = None,
    questions: Path | None = None,
    examples: Sequence[Path] | None = None,
    mount: str = "always",
    tenant: str | None = None,
    allow_empty: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    on_progress: Listener | None = None,
) -> CompileReport:
    """Compile documents into the store at `store`, as its next version. `base`: name, folder or hub id (default: the
    store's own, of a new one the embedded base), kept in `base_quantisation` (int8 or nf4) where its name says none.

    Atoms whose text, questions, base and recipe are those of an atom already in the store (committed, or finished
    by an interrupted run) are kept and not trained again. `examples` are files of examples, each of which makes a
    behaviour atom, mounted as `mount` says (`always` or `label:NAME`). Without sources the version's atoms of
    documents stay as they are, without `examples` its behaviours do; an empty list of examples takes them away.
    `tenant`: whose documents the sources are (default: everybody's); those of others stay as they are, and give the
    settings that shape atoms. `allow_empty`: sources without a document take away all that the version has of the
    tenant's, instead of being refused. `questions` is a question file, see `atomlora.compiler.given`. `device` and
    `dtype` as in `load_base`: atoms are checked as the base computes then, so ask them in the type that they were
    compiled in.

    Nothing of the version before is touched until the last step, the commit. Raises InputError, UsageError,
    BaseModelError or StoreError; after Ctrl-C the same call resumes.
    """
    began, teller = time.perf_counter(), Teller(on_progress)
    reading = bool(sources) or examples is None
    passages, skipped = read_replacing(sources, store, tenant, allow_empty, teller) if reading else ([], [])
    taught = None if examples is None else behaviour_drafts(examples, mount)
    with Store.writer(store) as writer:
        own = EMBEDDED_BASE if writer.head is None else writer.head.base.name
        base = quantised_name(base or own, base_quantisation)
        loaded = load_base(base, device, dtype)
        given = given_questions(drafts_from(passages, tenant), questions)
        settings = with_rank(settings or CompileSettings(), given, writer.head, loaded.tokenizer)
        plan = plan_run(writer, loaded, settings, bool(sources), tenant)
        settings, recipe = plan.settings, plan.recipe

        kept = reuse(given.drafts, given.questions, writer.finished(), loaded.fingerprint, recipe, given.covered)
        drafts = ask(given, kept, cached(plan.writer, loaded.fingerprint), settings.max_questions, teller)
        plan.writer.close()

        session = TrainingSession(loaded, plan.targets, settings, recipe, teller)
        trained = session.train({i: d for i, d in enumerate(drafts) if i not in kept}, writer)
        knowledge = united([*(kept[i] if i in kept else trained[i] for i in range(len(drafts))), *plan.staying])
        taught = kept_drafts(plan.current) if taught is None else taught
        behaviours = train_behaviours(taught, session, writer, knowledge)
        one_adapter = train_one_adapter(knowledge, session, writer) if settings.one_adapter and knowledge else None
        atoms = [*knowledge, *behaviours.atoms]

        teller.tell("route", 0, len(atoms))
        routing = routing_of(atoms, plan, writer)
        conflicts = found_conflicts(atoms, routing.keys, writer)
        teller.tell("route", len(atoms), len(atoms))
        interference = compiled_interference(
            loaded, plan.targets, knowledge, routing.keys, writer, settings.interference, teller
        )
        counts = atom_counts(atoms, plan.current)
        manifest = writer.commit(
            atoms,
            routing.keys,
            base={"name": base, "fingerprint": loaded.fingerprint},
            embedder={"name": plan.embedder.name, "fingerprint": plan.embedder.fingerprint},
            settings=settings.model_dump(mode="json"),
            recipe=recipe,
            targets=plan.targets,
            calibration=routing.calibration,
            conflicts=conflicts,
            one_adapter=one_adapter,
            interference=interference,
            stats=counts | {"settings_recipe": settings.recipe(), "atoms_since_calibration": routing.changed},
        )
    teller.close()
    return CompileReport(
        store=str(store),
        version=manifest.version,
        **counts,
        seconds=time.perf_counter() - began,
        atoms_per_second=(len(trained) + behaviours.trained) / max(teller.seconds.get("train", 0.0), 1e-9),
        seconds_by_stage=teller.seconds,
        failed=failures(atoms),
        conflicts=tuple(conflicts),
        skipped=tuple(skipped),
        warnings=(*plan.notes, *given.notes),
    )
