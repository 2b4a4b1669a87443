"""The knowledge atom: what is learnt, from where, and how well.

The identity of an atom covers what it is trained from (base fingerprint, recipe, text, questions) and nothing else,
so a moved file or a new label trains nothing; `weights_digest` names the trained bytes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from atomlora.corpora.dates import DateOrigin
from atomlora.questions.types import Question

BEHAVIOUR = "behaviour"  # the type of atoms that are trained from examples
Mount = Literal["routed", "always", "label"]
"""When an atom is mounted: when the router finds it (knowledge), always, or when a label of its own is asked for."""


class Record(BaseModel):
    """Frozen base of everything that is written to a store."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def digest_json(value: Any) -> str:
    """sha256 (hex) of a value's canonical JSON: sorted keys, no spaces, UTF-8."""
    data = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(data.encode()).hexdigest()


class Provenance(Record):
    """Where an atom's text stands: `source` is a POSIX path relative to the compiled root (`FILE#id` for jsonl);
    `start`/`end` are character offsets into the extracted text; `page` counts from 1 (PDF only). `date` (ISO 8601, in
    whatever precision) is the document's, known by `date_origin` (see `atomlora.corpora.dates`); `tenant` is whose
    document it is (None: everybody's)."""

    source: str
    start: int
    end: int
    source_sha256: str
    page: int | None = None
    date: str | None = None
    date_origin: DateOrigin | None = None
    tenant: str | None = None


class TrainRecord(Record):
    """How training went. `recall` is the share of questions whose whole answer (with its end token) greedy decoding
    reproduces under teacher forcing with the atom alone at weight 1; `loss` is the last mean NLL per answer token;
    `beside` names the store's own atoms that were mounted in training, the frozen pool's apart."""

    steps: int
    loss: float
    recall: float
    seconds: float
    failed_questions: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every trained answer was learnt."""
        return not self.failed_questions


class Target(Record):
    """One adapted linear layer: `y = W x + sum_j w_j s_j B_j (A_j x)`, with A (rank, d_in) and Bt (rank, d_out)."""

    layer: int
    module: str
    d_in: int
    d_out: int


class Atom(Record):
    """The immutable part of an atom and, beside it, what may change without retraining (provenances, labels, mount)."""

    id: str
    type: str
    title: str
    text: str
    headings: tuple[str, ...] = ()
    questions: tuple[Question, ...]
    rank: int
    alpha: float
    record: TrainRecord
    weights_digest: str
    provenances: tuple[Provenance, ...] = ()
    labels: tuple[str, ...] = ()
    mount: Mount = "routed"

    @property
    def tenants(self) -> frozenset[str | None]:
        """Whose documents the text stands in; None among them where it is everybody's."""
        return frozenset(place.tenant for place in self.provenances) or frozenset([None])

    @property
    def scaling(self) -> float:
        """s of s · B A: alpha / rank."""
        return self.alpha / self.rank


def atom_identity(
    base_fingerprint: str,
    recipe: str,
    title: str,
    headings: tuple[str, ...],
    text: str,
    questions: tuple[Question, ...],
) -> str:
    """sha256 over what an atom is trained from. `recipe` is the digest of the training settings and the writer."""
    pairs = [[q.text, q.answer, *([] if q.trained is None else [q.kind, q.trained])] for q in questions]
    return digest_json([base_fingerprint, recipe, title, headings, text, pairs])


def record_size(rank: int, targets: tuple[Target, ...]) -> int:
    """Number of elements in an atom's flat weight record."""
    return sum(rank * (t.d_in + t.d_out) for t in targets)


def split_record(flat: np.ndarray, rank: int, targets: tuple[Target, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Views of a flat record as [(A (rank, d_in), Bt (rank, d_out)), ...] in the order of `targets`."""
    views, at = [], 0
    for target in targets:
        a = flat[at : at + rank * target.d_in].reshape(rank, target.d_in)
        at += a.size
        bt = flat[at : at + rank * target.d_out].reshape(rank, target.d_out)
        at += bt.size
        views.append((a, bt))
    return views
