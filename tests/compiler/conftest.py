"""A tiny random base with a tokenizer, in a folder, for whole compiles."""

from types import SimpleNamespace

import pytest
from tiny_base import save_base, word_tokenizer, words_in
from tiny_store import WordEmbedder
from tiny_training import (  # noqa: F401 (fixtures)
    _one_thread,
    _own_pace,
    llama,
    make_examples,
    real_pace,
    sure_llama,
    targets,
)

from atomlora.router.general_questions import GENERAL_QUESTIONS
from atomlora.training.pool_facts import POOL_FACTS

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
