"""A tiny base and random atoms loud enough to disturb each other, as a lab and as a store."""

import pytest
import torch
from tiny_base import PROMPT_WORDS, mlp_targets, save_base, tiny_llama, word_tokenizer, words_in
from tiny_store import FACTS, WordEmbedder, make_atom, random_record, write_store

from atomlora.bases import Base, fingerprint
from atomlora.interference.lab import Lab

ALL_FACTS = (*FACTS, ("Garden", "The garden wall was built of slate.", "What was the wall built of?", "slate"))
TARGETS = mlp_targets(1, 2, prefix="mlp.")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def embedder():
    return WordEmbedder()


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A random Llama of three layers over a vocabulary of words, larger than the shared candidates."""
    words = words_in(PROMPT_WORDS, "What about Tell me do you know", *(text for fact in ALL_FACTS for text in fact))
    tokenizer = word_tokenizer([*(f"w{i}" for i in range(1250)), *words])
    model = tiny_llama(len(tokenizer))
    folder = save_base(tmp_path_factory.mktemp("base"), model, tokenizer)
    return Base(name=str(folder), fingerprint=fingerprint(model, tokenizer), model=model, tokenizer=tokenizer)


def made(base, number, seed=None, loudness=0.4, rank=4):
    """An atom of ALL_FACTS and its record, bfloat16 bits of random factors."""
    record = random_record(number if seed is None else seed, rank, TARGETS, loudness)
    return make_atom(ALL_FACTS[number], base, record, rank=rank, kind="written", start=40 * number), record


@pytest.fixture(scope="session")
def items(base):
    """(atom, record) of every fact; one atom is of smaller rank."""
    return [made(base, number, rank=2 if number == 2 else 4) for number in range(len(ALL_FACTS))]


@pytest.fixture(scope="session")
def records(items):
    """{atom id: record}."""
    return {atom.id: record for atom, record in items}


@pytest.fixture
def lab(base, items, records):
    lab = Lab(base, TARGETS)
    lab.mount([atom for atom, _ in items], lambda atom: records[atom.id])
    return lab


@pytest.fixture
def make_store(base, embedder, tmp_path):
    """make(items, interference, conflicts) -> path of a store of these atoms; made again, it gets a next version."""

    def make(items, interference=None, conflicts=(), path=tmp_path / "facts.atoms"):
        told = {"interference": interference, "conflicts": conflicts, "calibration": {"threshold": 0.0}}
        return write_store(path, base, embedder, items, TARGETS, rank=4, **told)

    return make
