"""A store of random atoms over a tiny base, opened and not; and a random model with a pool, to mount on."""

from dataclasses import dataclass

import pytest
from tiny_base import PROMPT_WORDS, mlp_targets, tiny_llama, word_tokenizer, words_in
from tiny_mount import make_model, make_pool
from tiny_store import FACTS, WordEmbedder, make_atom, random_record, write_store

from atomlora import AtomLoRA
from atomlora.bases import Base, fingerprint
from atomlora.router import RouterSettings

RANK = 4
TARGETS = mlp_targets(1, 2)


def make_base(seed=0, name="tiny"):
    """A random Llama over a vocabulary of words."""
    words = words_in(PROMPT_WORDS, *(text for fact in FACTS for text in fact))
    tokenizer = word_tokenizer([*words, *(f"w{i}" for i in range(72))])
    model = tiny_llama(len(tokenizer), seed=seed)
    return Base(name=name, fingerprint=fingerprint(model, tokenizer), model=model, tokenizer=tokenizer)


@dataclass
class World:
    """What a test needs of the store."""

    base: Base
    path: object
    atoms: list
    records: list
    embedder: WordEmbedder

    @property
    def settings(self):
        """What the store is opened with: its own base and embedder, no silence, and no asking again, which atoms of
        random numbers would always need."""
        router = RouterSettings(abstain=False, min_weight=0.0)
        return {"base": self.base, "embedder": self.embedder, "router": router, "steady": 0.0}


@pytest.fixture
def world(tmp_path):
    base, embedder = make_base(), WordEmbedder()
    records = [random_record(number, RANK, TARGETS) for number in range(len(FACTS))]
    atoms = [
        make_atom(fact, base, record, rank=RANK, start=number)
        for number, (fact, record) in enumerate(zip(FACTS, records, strict=True))
    ]
    items = list(zip(atoms, records, strict=True))
    path = write_store(tmp_path / "store", base, embedder, items, TARGETS, rank=RANK)
    return World(base, path, atoms, records, embedder)


@pytest.fixture
def opened(world):
    with AtomLoRA.open(world.path, **world.settings) as model:
        yield model


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def pool():
    return make_pool()
