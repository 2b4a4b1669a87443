"""Late interaction with the embedder that the product uses."""

import numpy as np
import pytest

from atomlora.router import TokenEmbedder, load_embedder
from atomlora.router.late import LateIndex, open_late


@pytest.fixture(scope="module")
def minilm():
    return load_embedder()


def test_real_token_states(minilm) -> None:
    texts = ["A ferry.", "When was the harbour light rebuilt after the storm?", "word " * 400, "naïve café", ""]
    vectors, states = minilm.encode_both(texts)
    np.testing.assert_allclose(vectors, minilm.encode(texts), atol=1e-5)
    assert isinstance(minilm, TokenEmbedder)
    for text, (rows, ids), alone in zip(texts, states, minilm.encode_tokens(texts), strict=True):
        assert rows.dtype == np.float32
        assert rows.shape == (len(ids), minilm.dimension)
        assert ids == alone[1] == minilm.encode_tokens([text])[0][1]
        np.testing.assert_allclose(rows, minilm.encode_tokens([text])[0][0], atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    # "a", "ferry", "." without the two special tokens, and no padding
    assert [len(ids) for _, ids in states[:1]] == [3]
    assert len(states[4][1]) == 0


def test_a_named_thing_finds_its_atom(minilm) -> None:
    """The organisation that every document names pulls nothing; the word that one of them holds does."""
    documents = [
        "Harrow Ferries. Fleet. The Calder Rose carries 140 passengers.",
        "Harrow Ferries. Tickets. Dogs travel free of charge in winter.",
        "Harrow Ferries. History. Harrow Ferries was founded by two brothers.",
    ]
    index = open_late(minilm, documents)
    assert isinstance(index, LateIndex)
    questions = ["How many people fit on Harrow Ferries' Calder Rose?", "Does my dog pay on Harrow Ferries?"]
    for want, states in enumerate(minilm.encode_tokens(questions)):
        assert int(index.score(states, np.arange(3)).argmax()) == want
