"""Routing from question to atoms, with an instant stand-in embedder and once with the real one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomlora.errors import StoreError, UsageError
from atomlora.router import (
    GENERAL_QUESTIONS,
    Calibration,
    Router,
    RouterSettings,
    fit_calibration,
    load_embedder,
)
from atomlora.router.lexical import LexicalIndex, words

VOCABULARY = ["amber", "anvil", "barge", "beacon", "canvas", "cedar", "copper", "ferry"]
VOCABULARY += ["gannet", "harbour", "kelp", "lantern", "mast", "oak", "quay", "rudder"]


class WordEmbedder:
    """The sum of fixed random word vectors, of unit length."""

    name = "words"
    fingerprint = "words-1"
    dimension = 64

    def __init__(self) -> None:
        self.vectors: dict[str, np.ndarray] = {}

    def encode(self, texts):
        rows = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().replace("?", "").split():
                if word not in self.vectors:
                    seed = int.from_bytes(word.encode()[:8].ljust(8), "little")
                    self.vectors[word] = np.random.default_rng(seed).normal(size=self.dimension).astype(np.float32)
                row += self.vectors[word]
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


TEXTS = [
    f"{a} {b} {c}"
    for a, b, c in zip(VOCABULARY, VOCABULARY[5:] + VOCABULARY, VOCABULARY[9:] + VOCABULARY, strict=False)
]
EMBEDDER = WordEmbedder()


def make_router(settings: RouterSettings | None = None, **options) -> Router:
    positions = np.arange(len(TEXTS), dtype=np.int32)
    ids = [f"atom-{p}" for p in positions]
    return Router(EMBEDDER, EMBEDDER.encode(TEXTS), positions, ids, TEXTS, None, settings, **options)


ROUTER = make_router(RouterSettings(abstain=False))
asked = st.lists(st.sampled_from([*VOCABULARY, "where", "zebra", "is"]), min_size=1, max_size=6).map(" ".join)


def test_every_text_routes_to_its_own_atom_first_with_a_high_gate() -> None:
    for number, text in enumerate(TEXTS):
        route = make_router().route(text)
        assert not route.abstained
        assert route.atoms[0].id == f"atom-{number}"
        assert route.atoms[0].weight > 0.9
        assert all(atom.weight < 0.5 for atom in route.atoms[1:])


def test_a_far_question_gets_no_atom() -> None:
    route = make_router().route("zebra umbrella pianist")
    assert route.abstained
    assert route.atoms == ()
    assert route.confidence < 0.1


def test_without_abstaining_the_best_atom_is_always_there() -> None:
    route = ROUTER.route("zebra umbrella pianist")
    assert not route.abstained
    assert len(route.atoms) == 1
    assert route.atoms[0].weight < ROUTER.settings.min_weight


def test_an_empty_store_abstains() -> None:
    empty = Router(EMBEDDER, np.zeros((0, 64), np.float32), np.zeros(0, np.int32), [], [])
    route = empty.route("anything at all")
    assert (route.abstained, route.atoms, route.confidence) == (True, (), 0.0)


def test_atoms_without_a_key_are_never_routed() -> None:
    router = Router(EMBEDDER, EMBEDDER.encode(TEXTS[:1]), np.array([1], np.int32), ["bare", "keyed"], TEXTS[:1])
    assert [a.id for a in router.route(TEXTS[0]).atoms] == ["keyed"]


@settings(max_examples=50, deadline=None)
@given(asked, st.integers(1, 20))
def test_routes_are_bounded_sorted_unique_and_repeatable(question: str, top_k: int) -> None:
    route = ROUTER.route(question, top_k)
    scores = [atom.score for atom in route.atoms]
    assert 1 <= len(route.atoms) <= top_k
    assert scores == sorted(scores, reverse=True)
    assert len({atom.id for atom in route.atoms}) == len(route.atoms)
    assert all(0 <= atom.weight <= 1 for atom in route.atoms)
    assert all(atom.weight >= ROUTER.settings.min_weight for atom in route.atoms[1:])
    assert 0 <= route.confidence <= 1
    assert ROUTER.route(question, top_k) == route
    assert ROUTER.route(question, top_k + 3).atoms[:top_k] == route.atoms


@settings(max_examples=30, deadline=None)
@given(st.lists(asked, max_size=30))
def test_a_batch_gives_what_single_questions_give(questions: list[str]) -> None:
    assert ROUTER.route_batch(questions) == [ROUTER.route(question) for question in questions]


@settings(max_examples=30, deadline=None)
@given(asked, st.integers(0, 2**31))
def test_the_order_of_the_keys_does_not_matter(question: str, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(TEXTS))
    texts = [TEXTS[i] for i in order]
    ids = [f"atom-{i}" for i in range(len(TEXTS))]
    shuffled = Router(EMBEDDER, EMBEDDER.encode(texts), order.astype(np.int32), ids, texts, None, ROUTER.settings)
    one, other = ROUTER.route(question), shuffled.route(question)
    assert [a.id for a in one.atoms] == [a.id for a in other.atoms]
    np.testing.assert_allclose([a.weight for a in one.atoms], [a.weight for a in other.atoms], atol=1e-4)


@pytest.mark.parametrize("top_k", [0, -3])
def test_top_k_below_one_is_a_usage_error(top_k: int) -> None:
    with pytest.raises(UsageError, match="--top-k"):
        ROUTER.route("oak", top_k)


def test_an_empty_question_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="question 2 of 2 is empty"):
        ROUTER.route_batch(["oak", " \n"])


def test_keys_that_do_not_fit_are_refused() -> None:
    vectors, positions = EMBEDDER.encode(TEXTS), np.arange(len(TEXTS), dtype=np.int32)
    ids = [str(p) for p in positions]
    with pytest.raises(StoreError, match="embedder 'words'"):
        Router(EMBEDDER, vectors[:, :10], positions, ids, TEXTS)
    with pytest.raises(StoreError, match="do not fit together"):
        Router(EMBEDDER, vectors, positions, ids, TEXTS[:-1])
    with pytest.raises(StoreError, match="positions"):
        Router(EMBEDDER, vectors, positions, ids[:-1], TEXTS)
    with pytest.raises(StoreError, match="float32"):
        Router(EMBEDDER, vectors.astype(np.float64), positions, ids, TEXTS)


def test_lexical_score_is_the_share_accounted_for() -> None:
    index = LexicalIndex(["the copper beacon", "the oak mast", "an oak quay"])
    full, half, none = index.score("copper beacon"), index.score("copper giraffe"), index.score("giraffe")
    assert 0.5 < full[0] < 0.8
    assert full[1] == full[2] == none.max() == 0
    assert 0.2 < half[0] < full[0] - 0.2
    # a rare word weighs more than a common one
    assert index.score("oak beacon")[0] > index.score("oak beacon")[1]


def test_words_drop_endings_and_stop_words() -> None:
    assert words("Which ferries were painted?") == words("the ferry painting")
    assert words("Żelazowa's GLASSES") == ["żelazowa", "glasse"[:6].rstrip("e")]


def test_general_questions_are_many_and_different() -> None:
    assert len(GENERAL_QUESTIONS) >= 120
    assert len({q.lower() for q in GENERAL_QUESTIONS}) == len(GENERAL_QUESTIONS)
    assert all(q == q.strip() and q for q in GENERAL_QUESTIONS)


@pytest.mark.parametrize("field", [{"top_k": 0}, {"min_weight": 2}, {"colour": 1}])
def test_settings_refuse_nonsense(field: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        RouterSettings(**field)


def test_real_questions_with_the_real_embedder() -> None:
    """Statements and machine-like questions as keys; people's wordings and foreign questions as queries."""
    facts = [
        (
            "The lighthouse on Tarn Head was lit for the first time in 1871.",
            "When was Tarn Head lighthouse lit?",
        ),
        ("The ferry Calder Rose carries 140 passengers.", "How many passengers does the Calder Rose carry?"),
        ("The harbour master of Port Ennis is Wilma Strand.", "Who is the harbour master of Port Ennis?"),
        ("Dogs travel free of charge on all winter sailings.", "What do dogs pay on winter sailings?"),
        ("In thick fog the bell is rung every two minutes.", "How often is the bell rung in fog?"),
        ("The workshop in Lune Street repairs propellers.", "What does the workshop in Lune Street repair?"),
    ]
    texts = [key for fact in facts for key in fact]
    positions = np.repeat(np.arange(len(facts)), 2).astype(np.int32)
    embedder = load_embedder()
    embeddings = embedder.encode(texts)
    calibration = fit_calibration(embedder, embeddings, positions, texts)
    router = Router(embedder, embeddings, positions, [str(n) for n in range(len(facts))], texts, calibration)
    asked_by_people = [
        "In what year did the light at Tarn Head first shine?",
        "What's the capacity of the Calder Rose?",
        "Who runs the port at Ennis?",
        "Do I have to buy a ticket for my dog in winter?",
        "What signal is given when it is foggy?",
        "Where can I have a propeller mended?",
    ]
    routes = router.route_batch(asked_by_people)
    assert [route.atoms[0].id if route.atoms else "-" for route in routes].count("-") <= 1
    assert sum(route.atoms[0].id == str(n) for n, route in enumerate(routes) if route.atoms) >= 5
    far = router.route_batch(["Who wrote Pride and Prejudice?", "What is 12 times 12?", "Tell me a bedtime story."])
    assert all(route.abstained for route in far)
    assert isinstance(calibration, Calibration)
