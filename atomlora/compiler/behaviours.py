"""Behaviour atoms: trained from examples of input and output by the trainer of knowledge atoms, with settings of their
own, and mounted beside whatever is routed.

They stand beside knowledge atoms in every answer, so they are trained beside the frozen pool of these and beside some
of the store's own, which their records name, and are kept silent on what these state. Where a file
has examples that the behaviour must leave alone, it is also kept silent on the general questions, at the weight 1 at
which it is always mounted; a behaviour that is to show in every answer (a tone) must not be.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from atomlora.atom import BEHAVIOUR, Atom, digest_json
from atomlora.bases import Base
from atomlora.compiler.drafts import Draft, draft_of
from atomlora.compiler.examples import LEFT_ALONE
from atomlora.compiler.session import TrainingSession
from atomlora.errors import StoreError, UsageError
from atomlora.prompts import chat_prompt
from atomlora.runtime.decoding import base_answers
from atomlora.settings import PROCEDURE, CompileSettings, TrainSettings
from atomlora.store import Manifest, StoreWriter
from atomlora.store.records import unpack
from atomlora.training.adapters import FrozenPool, StackedAdapters, pool_from_records
from atomlora.training.objective import CandidateHead
from atomlora.training.pool import PoolRecords, general_examples, load_or_train_pool, pool_facts
from atomlora.training.silence import SilenceBank, build_bank
from atomlora.training.trainer import TrainedAtom, Trainer
from atomlora.training.trunk import Example, Trunk
from atomlora.wordings import training_wordings

_BESIDE = 64  # knowledge atoms of the store beside which a behaviour is trained
_QUESTIONS_EACH = 2  # of every knowledge atom, in the silence bank
_OWN_ANSWER_TOKENS = 32  # of the base's own answer to an example that is to be left alone
# Settings that are those of atoms that stay, whatever a run is told
SHAPING = ("adapter", "train", "question_writer", "max_questions", "question_rounds", "round_trip", "embedder")


class Behaviours(NamedTuple):
    """The behaviour atoms of a version, and how many of them this run trained."""

    atoms: tuple[Atom, ...]
    trained: int


def kept_drafts(atoms: Sequence[Atom]) -> list[Draft]:
    """Drafts of behaviour atoms that are in the store already: everything that they were made from is there."""
    return [draft_of(atom) for atom in atoms if atom.type == BEHAVIOUR]


def as_before(head: Manifest, settings: CompileSettings, base: Base) -> CompileSettings:
    """The settings with what shapes knowledge atoms as the version `head` has it, whose atoms are to stay, and with its
    choices that were not made anew. Raises UsageError when they are of another base, StoreError when their settings
    are not of this atomlora."""
    if head.base.fingerprint != base.fingerprint:
        raise UsageError(
            f"the store's atoms are for base {head.base.name!r}; give --base {head.base.name}, or give SRC to compile "
            f"the documents for {base.name!r}"
        )
    chosen = [name for name in ("on_conflict", "storage", "reader") if name not in settings.model_fields_set]
    known = {name: head.settings[name] for name in (*SHAPING, *chosen) if name in head.settings}
    try:
        before = CompileSettings.model_validate(known)
    except ValidationError as error:
        raise StoreError("the store was compiled by another version of atomlora; give SRC too") from error
    return settings.model_copy(update={name: getattr(before, name) for name in known})


def train_behaviours(
    drafts: Sequence[Draft], session: TrainingSession, writer: StoreWriter, knowledge: Sequence[Atom]
) -> Behaviours:
    """The atoms of these drafts, in their order, and how many had to be trained; `session` is that of the run's
    knowledge atoms, which are given too. An atom of the same examples, base and recipe is taken over, with the mount
    of now."""
    if not drafts:
        return Behaviours((), 0)
    beside = neighbours_of(knowledge, session, writer)
    finished = writer.finished()
    atoms: dict[int, Atom] = {}
    trained = 0
    for alone in (False, True):
        chosen = {i: draft for i, draft in enumerate(drafts) if _leaves_alone(draft) is alone}
        mine = BehaviourSession(session, alone, beside)
        fresh: dict[int, Draft] = {}
        for i, draft in chosen.items():
            known = finished.get(draft.identity(mine.base.fingerprint, mine.recipe))
            if known is None:
                fresh[i] = draft
            else:
                now = {"mount": draft.mount, "labels": draft.labels, "provenances": draft.provenances}
                atoms[i] = known.model_copy(update=now)
        atoms |= mine.train(fresh, writer)
        trained += len(fresh)
    return Behaviours(tuple(atoms[i] for i in range(len(drafts))), trained)


def neighbours_of(
    knowledge: Sequence[Atom], session: TrainingSession, writer: StoreWriter
) -> list[tuple[Atom, np.ndarray]]:
    """Up to `_BESIDE` of the version's knowledge atoms with their records, chosen by nothing but their ids."""
    rank = session.settings.adapter.rank
    usable = sorted((a for a in knowledge if a.record.passed and a.rank == rank), key=lambda atom: atom.id)
    return [(atom, unpack(writer.weights(atom), rank, session.targets)) for atom in usable[:_BESIDE]]


class BehaviourSession(TrainingSession):
    """Trains behaviours on the base of a run, beside the pool of its knowledge atoms; `silent`: whether they are kept
    silent on general questions."""

    def __init__(
        self, knowledge: TrainingSession, silent: bool, beside: Sequence[tuple[Atom, np.ndarray]] = ()
    ) -> None:
        settings = behaviour_settings(knowledge.settings)
        recipe = digest_json([PROCEDURE, knowledge.settings.recipe(), settings.recipe()])
        super().__init__(knowledge.base, knowledge.targets, settings, recipe, knowledge.teller)
        self.knowledge = knowledge
        self.silent = silent
        self.beside = tuple(beside)

    def examples(self, draft: Draft) -> tuple[Example, ...]:
        """The examples with the base's own answers where it is to be left alone."""
        alone = [question.text for question in draft.questions if question.answer == LEFT_ALONE]
        own = dict(zip(alone, base_answers(self.base, alone, _OWN_ANSWER_TOKENS), strict=True))
        return tuple(
            Example(tuple(chat_prompt(self.base.tokenizer, q.text)), own[q.text])
            if q.answer == LEFT_ALONE
            else Example.asked(self.base.tokenizer, q.text, q.answer)
            for q in draft.questions
        )

    def _atom(self, trained: TrainedAtom, draft: Draft, digest: str) -> Atom:
        """The atom, with the names of those beside which it was trained."""
        atom = super()._atom(trained, draft, digest)
        beside = tuple(other.id for other, _ in self.beside)
        return atom.model_copy(update={"record": atom.record.model_copy(update={"beside": beside})})

    def _trainer(self) -> Trainer:
        trunk = self.trunk()
        pool = load_or_train_pool(self.base, trunk, self.targets, self.knowledge.settings, self.pool_progress)
        neighbours, bank = self._neighbours_and_bank(trunk, pool)
        return Trainer(
            self.base.model,
            trunk,
            self.targets,
            self.settings.adapter,
            self.settings.train,
            1,  # one after the other: an atom has as many rows as its file has lines
            bank,
            neighbours,
            pool.whitening,
        )

    def _neighbours_and_bank(self, trunk: Trunk, pool: PoolRecords) -> tuple[FrozenPool | None, SilenceBank | None]:
        """The pool's atoms and those of the store as neighbours, and on what a behaviour must be silent: what they
        state, up to its end (it may add something behind); where it leaves things alone, also the general questions.
        """
        tokenizer, shape = self.base.tokenizer, self.knowledge.settings.adapter
        tokens = self.knowledge.settings.train.silence_tokens
        said = [(text, questions) for _, text, questions in pool_facts(self.knowledge.settings)]
        said += [(a.text, tuple(w.question for w in training_wordings(a))) for a, _ in self.beside]
        if not said:
            return None, None
        records = [*pool.records, *(record for _, record in self.beside)]
        neighbours = pool_from_records(records, shape.rank, shape.alpha, self.targets, self.base.model.device)
        asked = [Example.asked(tokenizer, q, text) for text, all_ in said for q in islice(cycle(all_), _QUESTIONS_EACH)]
        known = [Example(example.prompt, example.answer[:-1]) for example in asked]
        general = general_examples(self.base, pool.answers, tokens) if self.silent else []
        adapters = StackedAdapters(self.base.model, self.targets, 1, shape.rank, shape.alpha, neighbours)
        return neighbours, build_bank(trunk, CandidateHead(self.base.model), general, known, adapters)


def behaviour_settings(settings: CompileSettings) -> CompileSettings:
    """The settings of a run as its behaviours are trained."""
    own = settings.behaviour
    train: TrainSettings = settings.train.model_copy(
        update={
            "max_steps": own.max_steps,
            "rows_per_step": own.rows_per_step,
            "decay_steps": own.max_steps,
            "own_weight_min": 1.0,
            "learning_rate_a": settings.train.learning_rate_a * own.learning_rate_scale,
            "learning_rate_b": settings.train.learning_rate_b * own.learning_rate_scale,
            "pass_probability": own.pass_probability,
            "silence_rows": own.silence_rows,
            "silence_weight": own.silence_weight,
            "silence_at_full_gate": 1.0,
        }
    )
    adapter = settings.adapter.model_copy(update={"rank": own.rank, "alpha": 2.0 * own.rank})
    return settings.model_copy(update={"adapter": adapter, "train": train})


def _leaves_alone(draft: Draft) -> bool:
    return any(question.answer == LEFT_ALONE for question in draft.questions)
