"""What a compile run is about to do, decided before a question is written: settings, recipe, and what stays."""

from __future__ import annotations

from typing import NamedTuple

from atomlora.atom import BEHAVIOUR, Atom, Target, digest_json
from atomlora.bases import Base
from atomlora.compiler.behaviours import as_before
from atomlora.compiler.drafts import of_others
from atomlora.questions.registry import settings_writer
from atomlora.questions.types import QuestionWriter
from atomlora.router import Embedder, load_embedder
from atomlora.settings import CompileSettings
from atomlora.store import Store, StoreWriter
from atomlora.training.shape import resolve_targets


class Plan(NamedTuple):
    """The settings that count (the current version's, where its atoms of documents stay), the digest of what shapes an
    atom, the adapted layers, who writes questions and who embeds; the `current` version's atoms, and those of documents
    that are not compiled now and stay."""

    settings: CompileSettings
    recipe: str
    targets: tuple[Target, ...]
    writer: QuestionWriter
    embedder: Embedder
    current: list[Atom]
    staying: list[Atom]


def plan_run(store: StoreWriter, base: Base, settings: CompileSettings, compiling: bool, tenant: str | None) -> Plan:
    """`compiling`: whether documents (of `tenant`) are given. Raises UsageError or BaseModelError where it cannot."""
    current: list[Atom] = []
    if store.head is not None:
        with Store.open(store.path) as opened:
            current = list(opened.atoms())
    staying = of_others(current, tenant) if compiling else [atom for atom in current if atom.type != BEHAVIOUR]
    shaped = store.head if staying or not compiling else None
    if shaped is not None:
        settings = as_before(shaped, settings, base)
    writer = settings_writer(settings, base.model, base.tokenizer)
    recipe = digest_json([settings.recipe(), writer.digest, settings.max_questions])
    if shaped is not None and not compiling:
        recipe = shaped.recipe
    targets = resolve_targets(base.model, settings.adapter)
    return Plan(settings, recipe, targets, writer, load_embedder(settings.embedder), current, staying)
