"""A tiny base in a folder, an embedder of words, and a store of random atoms, all openable by name."""

import json

import pytest
from click.testing import CliRunner
from tiny_base import PROMPT_WORDS, mlp_targets, save_base, tiny_llama, word_tokenizer, words_in
from tiny_store import FACTS, WordEmbedder, make_atom, random_record, write_store

from atomlora.bases import load_base
from atomlora.cli import main

TARGETS = mlp_targets(1, width=16, inner=24)


def save_word_base(folder, seed):
    """A random Llama of two layers over a vocabulary of words."""
    tokenizer = word_tokenizer(words_in(PROMPT_WORDS, *(text for fact in FACTS for text in fact)))
    model = tiny_llama(len(tokenizer), layers=2, width=16, inner=24, heads=2, seed=seed)
    return save_base(folder, model, tokenizer)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    return save_word_base(tmp_path_factory.mktemp("base"), seed=0)


@pytest.fixture(scope="session")
def other_base_folder(tmp_path_factory):
    return save_word_base(tmp_path_factory.mktemp("other-base"), seed=1)


@pytest.fixture
def words(monkeypatch):
    """The embedder of words under every name."""
    embedder = WordEmbedder()
    monkeypatch.setattr("atomlora.router.embedder.load_embedder", lambda *_args, **_named: embedder)
    return embedder


@pytest.fixture(scope="session")
def base(base_folder):
    return load_base(str(base_folder), "cpu")


@pytest.fixture
def store(tmp_path, base, words):
    """A store of four atoms, two of them from ferry.md, that never abstains."""
    items = []
    for number, fact in enumerate(FACTS):
        record = random_record(number, 2, TARGETS)
        items.append((make_atom(fact, base, record, rank=2, alpha=4.0, start=40 * number), record))
    path, calibration = tmp_path / "facts.atoms", {"threshold": 0.0}
    return write_store(path, base, words, items, TARGETS, rank=2, calibration=calibration)


@pytest.fixture
def run():
    """Runs the command line in this process; anything but a planned exit is an error of the test."""

    def invoke(*arguments, stdin=None):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def golden(tmp_path):
    """A golden file for the store."""
    lines = [
        {"question": question, "answer": answer, "source": f"{title.lower()}.md"}
        for title, _text, question, answer in FACTS
    ]
    path = tmp_path / "golden.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path
