"""The baseline: one adapter that learns everything, of as many parameters as all atoms together.

Its rank is the sum of the atoms' ranks, but not more than the smallest side of the layers that it adapts, beyond which
rank adds nothing. It adapts the same layers, acts from the same token on, learns the same wordings by the same trainer,
and stops by the same rule; it stands alone, so it sees no neighbours and no silence. Alpha stays that of an atom, so
that the first steps are as large as an atom's, whatever the rank.

All its examples are in memory at once (some 0.4 MB each with the embedded base): it is for corpora of up to some
thousand atoms, as a baseline is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from atomlora.atom import Atom, digest_json
from atomlora.compiler.drafts import draft_of
from atomlora.compiler.session import TrainingSession, train_record
from atomlora.store import StoreWriter, weights_digest
from atomlora.training.pool import load_or_train_pool
from atomlora.training.trainer import AtomJob, Trainer
from atomlora.wordings import training_wordings

ONE_ADAPTER = "one_adapter"  # its type
ROWS_PER_STEP = 64
PASSES = 15  # at most, of all examples; an atom makes some 7 of its own before it stops


def train_one_adapter(atoms: Sequence[Atom], session: TrainingSession, writer: StoreWriter) -> str:
    """The digest of the segment that holds the one adapter of these knowledge atoms, trained now unless the store has
    it. `session` is that of the run's atoms."""
    settings = session.settings
    rank = min(sum(atom.rank for atom in atoms), *(min(t.d_in, t.d_out) for t in session.targets))
    parts = [ONE_ADAPTER, session.base.fingerprint, session.recipe, rank, ROWS_PER_STEP, PASSES]
    identity = digest_json([*parts, sorted(atom.id for atom in atoms)])
    if (known := writer.finished().get(identity)) is not None:
        return writer.segment_of(known)
    drafts = [draft_of(atom) for atom in atoms]
    examples = tuple(example for draft in drafts for example in session.examples(draft))
    asked = [wording.question for draft in drafts for wording in training_wordings(draft)]
    steps = max(settings.train.max_steps, PASSES * math.ceil(len(examples) / ROWS_PER_STEP))
    train = settings.train.model_copy(
        update={
            "rows_per_step": ROWS_PER_STEP,
            "max_steps": steps,
            "decay_steps": steps,
            "mixed_visibility": 0.0,
            "silence_rows": 0,
        }
    )
    adapter = settings.adapter.model_copy(update={"rank": rank})
    session.teller.tell("train", 0, 1, message=f"one adapter of rank {rank} for {len(atoms)} atoms: one long job")
    trunk = session.trunk()
    pool = load_or_train_pool(session.base, trunk, session.targets, settings, session.pool_progress)
    trainer = Trainer(session.base.model, trunk, session.targets, adapter, train, 1, whitening=pool.whitening)
    (trained,) = trainer.run([AtomJob(identity, examples)])
    record = train_record(trained, asked)
    atom = Atom(
        id=identity,
        type=ONE_ADAPTER,
        title="",
        text=f"One adapter for {len(atoms)} atoms",
        questions=(),
        rank=rank,
        alpha=adapter.alpha,
        record=record,
        weights_digest=weights_digest(trained.record),
    )
    session.teller.tell("train", 1, 1, recall=record.recall)
    return writer.write_segment([(atom, trained.record)])
