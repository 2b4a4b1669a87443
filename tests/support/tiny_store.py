"""A few facts, an embedder of their words, atoms of random factors, and a store of those."""

import hashlib
import re

import numpy as np

from atomlora.atom import Atom, Provenance, TrainRecord, atom_identity, record_size
from atomlora.questions.types import Question
from atomlora.runtime.keys import store_keys
from atomlora.store import ModelName, Store, weights_digest

# (title, text, question, answer)
FACTS = (
    ("Ferry", "The ferry Marla leaves at nine.", "When does the ferry leave?", "nine"),
    ("Ferry", "Captain Osk steers the ferry.", "Who steers the ferry?", "Osk"),
    ("Tower", "The tower was built of slate.", "What was the tower built of?", "slate"),
    ("Garden", "Plums grow in the garden.", "Which fruit grows in the garden?", "Plums"),
)


class WordEmbedder:
    """Bags of words in hashed dimensions; `calls` counts what it was asked for."""

    name = "words"
    fingerprint = "f" * 64

    def __init__(self, dimension=256):
        self.dimension = dimension
        self.calls = 0

    def encode(self, texts):
        self.calls += 1
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                vectors[row, int(hashlib.sha256(word.encode()).hexdigest(), 16) % self.dimension] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def random_record(seed, rank, targets, loudness=0.4):
    """bfloat16 bits of random factors, as the store keeps them."""
    values = np.random.default_rng(seed).normal(0, loudness, record_size(rank, targets)).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def make_atom(fact, base, record, *, rank, alpha=8.0, kind="user", start=0):
    """The atom of a fact with this record; it stands in the file of its title from `start` on."""
    title, text, question, answer = fact
    questions = (Question(text=question, answer=answer, kind=kind),)
    place = Provenance(source=f"{title.lower()}.md", start=start, end=start + len(text), source_sha256="0" * 64)
    return Atom(
        id=atom_identity(base.fingerprint, "recipe", title, (), text, questions),
        type="statement",
        title=title,
        text=text,
        questions=questions,
        rank=rank,
        alpha=alpha,
        record=TrainRecord(steps=1, loss=0.0, recall=1.0, seconds=0.0),
        weights_digest=weights_digest(record),
        provenances=(place,),
    )


def write_store(path, base, embedder, items, targets, *, rank, **fields):
    """A version that holds exactly these (atom, record); `fields` are further ones of the commit."""
    atoms = [atom for atom, _ in items]
    keys = store_keys(atoms)
    vectors = embedder.encode([text for _, text in keys])
    with Store.writer(path) as writer:
        writer.write_segment(items)
        writer.commit(
            atoms,
            (vectors, np.array([position for position, _ in keys], np.int32)),
            base=ModelName(name=base.name, fingerprint=base.fingerprint),
            embedder=ModelName(name=embedder.name, fingerprint=embedder.fingerprint),
            settings={"adapter": {"rank": rank, "scope": "answer"}},
            recipe="recipe",
            targets=targets,
            **fields,
        )
    return path
