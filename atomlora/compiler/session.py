"""One training run: drafts in, atoms out, segments written as atoms finish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from atomlora.atom import Atom, Target, TrainRecord
from atomlora.bases import Base
from atomlora.compiler.drafts import Draft
from atomlora.compiler.progress import Teller
from atomlora.prompts import common_prefix
from atomlora.settings import CompileSettings
from atomlora.store import StoreWriter, pack, weights_digest
from atomlora.training.pool import load_or_train_pool, neighbours_and_bank
from atomlora.training.trainer import AtomJob, TrainedAtom, Trainer
from atomlora.training.trunk import Example, Trunk
from atomlora.wordings import training_wordings

SEGMENT_ATOMS = 32


class TrainingSession:
    """Trains drafts on a loaded base; the distractor pool and the silence bank are made when first needed."""

    def __init__(
        self, base: Base, targets: tuple[Target, ...], settings: CompileSettings, recipe: str, teller: Teller
    ) -> None:
        self.base, self.targets, self.settings, self.recipe, self.teller = (
            base,
            targets,
            settings,
            recipe,
            teller,
        )

    def train(self, drafts: Mapping[int, Draft], writer: StoreWriter) -> dict[int, Atom]:
        """{draft number: atom}; every atom is durable in a segment before this returns, whole segments as soon as
        their atoms are finished, so that an interruption loses at most the atoms in flight."""
        if not drafts:
            return {}
        trainer = self._trainer()
        numbers = {draft.identity(self.base.fingerprint, self.recipe): i for i, draft in drafts.items()}
        jobs = (AtomJob(identity, self.examples(drafts[i])) for identity, i in numbers.items())
        atoms: dict[int, Atom] = {}
        waiting: list[tuple[Atom, np.ndarray]] = []
        asked = right = 0
        self.teller.tell("train", 0, len(drafts))
        try:
            for trained in trainer.run(jobs):
                number = numbers[trained.identity]
                stored = pack(trained.record, self.settings.adapter.rank, self.targets, self.settings.storage)
                atom = self._atom(trained, drafts[number], weights_digest(stored))
                atoms[number] = atom
                waiting.append((atom, stored))
                asked, right = asked + len(trained.passed), right + sum(trained.passed)
                if len(waiting) >= SEGMENT_ATOMS:
                    writer.write_segment(waiting)
                    waiting = []
                self.teller.tell("train", len(atoms), len(drafts), recall=right / asked)
        finally:
            if waiting:  # what is finished is kept, also when the run is interrupted
                writer.write_segment(waiting)
        return {i: atoms[numbers[d.identity(self.base.fingerprint, self.recipe)]] for i, d in drafts.items()}

    def examples(self, draft: Draft) -> tuple[Example, ...]:
        return tuple(Example.asked(self.base.tokenizer, *wording) for wording in training_wordings(draft))

    def _trainer(self) -> Trainer:
        base, settings = self.base, self.settings
        trunk = self.trunk()
        pool = load_or_train_pool(base, trunk, self.targets, settings, self.pool_progress)
        neighbours, bank = neighbours_and_bank(base, trunk, self.targets, pool, settings)
        adapter, train = settings.adapter, settings.train
        return Trainer(
            base.model, trunk, self.targets, adapter, train, settings.slots, bank, neighbours, pool.whitening
        )

    def trunk(self) -> Trunk:
        """The frozen base below the adapted layers."""
        first_late = min(target.layer for target in self.targets)
        tokenizer = self.base.tokenizer
        return Trunk(self.base.model, first_late, common_prefix(tokenizer), tokenizer.pad_token_id)

    def pool_progress(self, done: int, total: int) -> None:
        """Told while the pool is trained."""
        self.teller.tell("pool", done, total)

    def _atom(self, trained: TrainedAtom, draft: Draft, digest: str) -> Atom:
        asked = [wording.question for wording in training_wordings(draft)]
        record = train_record(trained, asked)
        return Atom(
            id=trained.identity,
            type=draft.type,
            title=draft.title,
            text=draft.text,
            headings=draft.headings,
            questions=draft.questions,
            rank=self.settings.adapter.rank,
            alpha=self.settings.adapter.alpha,
            record=record,
            weights_digest=digest,
            provenances=draft.provenances,
            labels=draft.labels,
            mount=draft.mount,
        )


def train_record(trained: TrainedAtom, asked: Sequence[str]) -> TrainRecord:
    """How training went; `asked` are the questions of the atom's examples, in their order."""
    return TrainRecord(
        steps=trained.steps,
        loss=trained.loss,
        recall=sum(trained.passed) / len(trained.passed),
        seconds=trained.seconds,
        failed_questions=tuple(q for q, ok in zip(asked, trained.passed, strict=True) if not ok),
    )
