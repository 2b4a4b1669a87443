"""A tiny base in a folder, and examples that it can learn by heart in a second."""

import json

import pytest
from tiny_base import save_base, tiny_llama, word_tokenizer, words_in

from atomlora.bases import load_base
from atomlora.reader.settings import AdaptSettings

EXAMPLES = (
    {"text": "The ferry leaves at nine .", "question": "When does the ferry leave ?", "answer": "nine"},
    {"text": "The ferry leaves at nine .", "question": "What leaves at nine ?", "answer": "The ferry"},
    {"statements": ["Osk steers .", "Plums grow ."], "question": "Who steers ?", "answer": "Osk"},
)
FAST = AdaptSettings(learning_rate=3e-2, epochs=40, batch_tokens=64, rank=4, warmup=2)


def save_reading_base(folder, layers=2, **shape):
    """A random Llama over the words of the examples."""
    said = [[*value] if isinstance(value, list) else [value] for one in EXAMPLES for value in one.values()]
    words = words_in(*(text for texts in said for text in texts))
    tokenizer = word_tokenizer(["Text", "Question", "Answer", ":", *words], template=None)
    model = tiny_llama(len(tokenizer), layers=layers, heads=2, max_position_embeddings=64, **shape)
    return str(save_base(folder, model, tokenizer))


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    return save_reading_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def wide_folder(tmp_path_factory):
    """A base whose layers are wide enough for blocks of 64, as four bits need them."""
    return save_reading_base(tmp_path_factory.mktemp("wide"), width=64, inner=128)


@pytest.fixture(scope="session")
def other_base(tmp_path_factory):
    return load_base(save_reading_base(tmp_path_factory.mktemp("other"), layers=3), "cpu")


@pytest.fixture
def base(base_folder):
    return load_base(base_folder, "cpu")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "examples.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in EXAMPLES))
    return path


@pytest.fixture(scope="session")
def fast():
    return FAST


@pytest.fixture(scope="session")
def folder(tmp_path_factory, base_folder, data):
    """A reader that learnt its examples."""
    from atomlora.reader.training import adapt

    out = tmp_path_factory.mktemp("reader") / "little"
    adapt(data, out, base_folder, FAST, "cpu")
    return out
