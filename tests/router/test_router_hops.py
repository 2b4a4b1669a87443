"""Following names from one atom to the next."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomlora.router import AtomAttributes, Calibration, Place, RouteFilter, Router, RouterSettings
from atomlora.router.hops import NAMES, Found, follow, follow_ups
from atomlora.router.lexical import words
from atomlora.router.scores import Candidates

QUESTION = "Who is the brother of the captain of the Marla?"
CAPTAIN, BROTHER = "The captain of the Marla is Osk Berrin.", "The brother of Osk Berrin is Tam Berrin."


def test_what_an_atom_accounts_for_is_left_out_and_its_names_come_in() -> None:
    assert follow_ups(QUESTION, CAPTAIN) == ["Who is the brother of the of the Osk Berrin"]
    assert follow_ups("How old was Osk Berrin in 1987?", "Osk Berrin steers the Marla since 1987.") == [
        "How old was in Marla"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "The garden grows Plums.",  # nothing in common
        "The brother of the captain of the Marla is Osk.",  # nothing left to ask
        "the captain of the Marla is tall",  # no new name
        "The captain of the Marla is on the Marla.",
        "",
    ],
)
def test_nothing_is_followed_where_nothing_leads_on(text: str) -> None:
    assert follow_ups(QUESTION, text) == []


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.text(max_size=80))
def test_any_text_gives_a_few_new_questions(question: str, text: str) -> None:
    found = follow_ups(question, text)
    assert len(found) <= NAMES
    assert len(set(found)) == len(found)
    for one in found:
        assert one.strip()
        assert set(words(one)) - set(words(question))


TEXTS = [
    CAPTAIN,
    BROTHER,
    "The brother of Lena Frost is Ivo Frost.",
    "The captain of the Heron is Lena Frost.",
    "The sister of Tam Berrin is Una Berrin.",
    "The harbour of Keldan is closed in Winter.",
]


class WordVectors:
    """The sum of fixed random word vectors, of unit length."""

    name, fingerprint, dimension = "words", "words-1", 96

    def encode(self, texts):
        rows = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in words(text):
                seed = int.from_bytes(word.encode()[:8].ljust(8), "little")
                row += np.random.default_rng(seed).normal(size=self.dimension).astype(np.float32)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def make_router(attributes=None, **options) -> Router:
    embedder = WordVectors()
    positions, ids = np.arange(len(TEXTS), dtype=np.int32), [str(n) for n in range(len(TEXTS))]
    chosen = RouterSettings(abstain=False, min_weight=0.01, **options)
    return Router(embedder, embedder.encode(TEXTS), positions, ids, TEXTS, Calibration(), chosen, attributes=attributes)


def test_a_second_round_finds_what_the_first_leads_to() -> None:
    once, twice = make_router().route(QUESTION), make_router(hops=2).route(QUESTION)
    assert once.atoms[0].id == twice.atoms[0].id == "0"
    weights = {atom.id: atom.weight for atom in twice.atoms}
    assert twice.atoms[1].id == "1"
    assert weights["1"] > {atom.id: atom.weight for atom in once.atoms}.get("1", 0.0)
    assert (once.abstained, once.confidence) == (twice.abstained, twice.confidence)


def test_a_third_round_goes_on_from_the_second() -> None:
    question = "Who is the sister of the brother of the captain of the Marla?"
    found = {hops: [atom.id for atom in make_router(hops=hops).route(question, 3).atoms] for hops in (1, 3)}
    assert set(found[3][:3]) == {"0", "1", "4"}
    assert set(found[1][:3]) != {"0", "1", "4"}


def test_a_question_of_one_step_stays_as_it_is() -> None:
    question = "Who is the brother of Osk Berrin?"
    assert make_router(hops=2).route(question).atoms[0] == make_router().route(question).atoms[0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(" ".join(TEXTS).split()), min_size=1, max_size=9).map(" ".join), st.integers(1, 9))
def test_routes_of_several_rounds_are_bounded_unique_and_sorted_by_weight(question: str, top_k: int) -> None:
    route = make_router(hops=3).route(question, top_k)
    weights = [atom.weight for atom in route.atoms]
    assert 1 <= len(route.atoms) <= top_k
    assert weights == sorted(weights, reverse=True)
    assert all(0 <= weight <= 1 for weight in weights)
    assert len({atom.id for atom in route.atoms}) == len(weights)


def test_no_round_leads_through_what_the_filter_shuts_out() -> None:
    """The captain's brother is another tenant's: neither that atom nor what it leads to is found."""
    attributes = [AtomAttributes((), (Place("a.md", None, "globex" if n == 1 else None),)) for n in range(len(TEXTS))]
    router = make_router(attributes, hops=3)
    question = "Who is the sister of the brother of the captain of the Marla?"
    seen = router.route(question, 6, RouteFilter(tenant="acme"))
    assert "1" not in [atom.id for atom in seen.atoms]
    assert "1" in [atom.id for atom in router.route(question, 6, RouteFilter(tenant="globex")).atoms]


def test_ways_of_little_weight_are_not_gone_and_gates_multiply() -> None:
    def ask(questions):
        some = np.array([0.9], np.float32)
        return [Candidates(np.array([7], np.int32), some, some, some, some) for _ in questions]

    def followed(weight: float, least: float) -> dict[int, float]:
        first = [Found(3, weight, 1.0, QUESTION)]
        found = follow(first, 2, lambda _: CAPTAIN, ask, lambda _: np.array([0.5]), least)
        return {one.atom: one.weight for one in found}

    assert followed(0.8, 0.05) == {3: 0.8, 7: pytest.approx(0.4)}
    assert followed(0.8, 0.5) == {3: 0.8}


def test_a_name_begins_with_a_capital_of_any_alphabet_and_is_whole() -> None:
    found = follow_ups(
        "Who leads the Fähre?", "Die Fähre öffnet für Anna Größe und Süß, naïve Gäste, Élise und Łukasz."
    )
    names = " ".join(found)
    assert "öffnet" not in names
    assert "ïve" not in names
    assert all(name in names for name in ("Anna Größe", "Süß"))
