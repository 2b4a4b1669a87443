"""Tiny random bases: weights only for the parts that see token ids, a folder with a tokenizer for whole compiles."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_base import mlp_targets, save_base, tiny_llama, word_tokenizer, words_in
from tiny_store import WordEmbedder

from atomlora.compiler.pace import Pace
from atomlora.compiler.pool_facts import POOL_FACTS
from atomlora.compiler.trunk import Example
from atomlora.router.general_questions import GENERAL_QUESTIONS

TARGETS = mlp_targets(1, 2, prefix="mlp.")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_pace(request, monkeypatch):
    """Settings of tests are chosen for the tiny bases that they train; `real_pace` leaves rates to the base."""
    if "real_pace" not in request.fixturenames:
        monkeypatch.setattr("atomlora.compiler.trainer.pace_of", lambda model: Pace())


@pytest.fixture
def real_pace():
    """Learning rates as the base calls for them."""


def sure_llama(vocabulary):
    """So narrow a hidden state could not make any of 1300 tokens likely: its length bounds the logits."""
    model = tiny_llama(vocabulary, max_position_embeddings=256)
    model.model.norm.weight.fill_(2.5)
    return model


@pytest.fixture(scope="session")
def llama():
    """A random Llama of three layers whose vocabulary is larger than the shared candidates."""
    return sure_llama(1300)


@pytest.fixture(scope="session")
def targets():
    """Every MLP layer of the last two blocks of `llama`."""
    return TARGETS


@pytest.fixture
def make_examples():
    """make(count, seed, prefix, prompt lengths, answer lengths) -> examples of random token ids."""

    def make(count, seed=0, prefix=(), prompts=(3, 9), answers=(1, 6), vocabulary=1300):
        random = np.random.default_rng(seed)

        def ids(low, high):
            return tuple(random.integers(1, vocabulary, random.integers(low, high + 1)).tolist())

        return [Example((*prefix, *ids(*prompts)), ids(*answers)) for _ in range(count)]

    return make


DOCUMENTS = {
    "ferry.md": (
        "# Ferry\n\nThe ferry Marla leaves Dunmarrow at 9 every day. Captain Osk Berrin steers the Marla since 1987.\n"
    ),
    "tower.md": "# Tower\n\nThe north tower of Keldan was built of slate in 1822.\n",
    "notes/garden.md": "# Garden\n\nPlums from Orvane grow behind the 14 walls.\n",
}


@pytest.fixture
def documents(tmp_path):
    """A folder of three documents with four sentences."""
    root = tmp_path / "documents"
    for name, text in DOCUMENTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """A tiny Llama with a tokenizer of words, saved as a model folder."""
    texts = [*DOCUMENTS.values(), *GENERAL_QUESTIONS, *(part for t, x, qs in POOL_FACTS for part in (t, x, *qs))]
    texts.append("user assistant Fill in the blank ____ Complete the statement What about Question Answer 10 slow west")
    tokenizer = word_tokenizer(words_in(*texts))
    return save_base(tmp_path_factory.mktemp("base"), sure_llama(len(tokenizer)), tokenizer)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny_world(base_folder, cache, monkeypatch):
    """The base's folder under a cache that all compiles of the session share, and the embedder of words."""
    monkeypatch.setenv("ATOMLORA_CACHE", str(cache))
    embedder = WordEmbedder(128)
    monkeypatch.setattr("atomlora.compiler.plan.load_embedder", lambda *_args, **_named: embedder)
    return SimpleNamespace(base=str(base_folder), cache=cache, embedder=embedder)
