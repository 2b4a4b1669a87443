"""What a compile run is about to do, decided before a question is written: settings, recipe, and what stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from atomlora.atom import BEHAVIOUR, Atom, Target, digest_json
from atomlora.bases import Base
from atomlora.compiler.behaviours import SHAPING, as_before
from atomlora.compiler.drafts import of_others
from atomlora.questions.registry import settings_writer
from atomlora.questions.types import QuestionWriter
from atomlora.router import Embedder, load_embedder
from atomlora.settings import CompileSettings, Settings
from atomlora.store import Store, StoreWriter
from atomlora.training.objective import check_head
from atomlora.training.shape import resolve_targets

_OPTIONS = {
    **{f"adapter.{field}": f"--{field}" for field in ("rank", "alpha", "layers", "targets")},
    "question_writer": "--question-writer",
    "question_rounds": "--question-rounds",
    "embedder": "--embedder",
}


class Plan(NamedTuple):
    """The settings that count (the current version's, where its atoms of documents stay), the digest of what shapes an
    atom, the adapted layers, who writes questions and who embeds; the `current` version's atoms, and those of documents
    that are not compiled now and stay; `notes`: what the user should know."""

    settings: CompileSettings
    recipe: str
    targets: tuple[Target, ...]
    writer: QuestionWriter
    embedder: Embedder
    current: list[Atom]
    staying: list[Atom]
    notes: tuple[str, ...]


def plan_run(store: StoreWriter, base: Base, settings: CompileSettings, compiling: bool, tenant: str | None) -> Plan:
    """`compiling`: whether documents (of `tenant`) are given. Raises UsageError or BaseModelError where it cannot."""
    current: list[Atom] = []
    if store.head is not None:
        with Store.open(store.path) as opened:
            current = list(opened.atoms())
    staying = of_others(current, tenant) if compiling else [atom for atom in current if atom.type != BEHAVIOUR]
    shaped = store.head if staying or not compiling else None
    notes: tuple[str, ...] = ()
    if shaped is not None:
        wanted, settings = settings, as_before(shaped, settings, base)
        notes = _not_followed(wanted, settings)
    writer = settings_writer(settings, base.model, base.tokenizer)
    recipe = digest_json([settings.recipe(), writer.digest, settings.max_questions])
    if shaped is not None and not compiling:
        recipe = shaped.recipe
    targets = resolve_targets(base.model, settings.adapter)
    check_head(base.model)
    return Plan(settings, recipe, targets, writer, load_embedder(settings.embedder), current, staying, notes)


def _not_followed(wanted: CompileSettings, used: CompileSettings) -> tuple[str, ...]:
    """A note that names what was chosen for a run and is otherwise in what stays; none where nothing is."""
    having = dict(_shaping(used, only_chosen=False))
    other = [
        f"{name} {_shown(value)} (it has {_shown(having[name])})"
        for name, value in _shaping(wanted, only_chosen=True)
        if value != having[name]
    ]
    why = "what stays in the store was made with its settings, which new atoms follow too; not followed: "
    return (f"{why}{', '.join(other)}",) if other else ()


def _shaping(settings: CompileSettings, only_chosen: bool) -> Iterator[tuple[str, object]]:
    """(name, value) of what shapes atoms; an option of the command line by its name there."""
    for name in SHAPING:
        value = getattr(settings, name)
        parts, fields = (value, type(value).model_fields) if isinstance(value, Settings) else (settings, [name])
        for field in fields:
            if not only_chosen or field in parts.model_fields_set:
                plain = field if parts is settings else f"{name}.{field}"
                yield _OPTIONS.get(plain, plain), getattr(parts, field)


def _shown(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
