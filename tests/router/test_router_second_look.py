"""A second look at questions that the scores leave open."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomlora.router import AtomAttributes, Calibration, Place, RouteFilter, Router, RouterSettings
from atomlora.router.second_look import READ, UNSURE, joined, unsure

WORDS = ("ferry", "harbour", "plum", "bell", "captain", "fare", "tide", "dog")
TEXTS = [f"{first} {second}" for first, second in pairwise(WORDS)]
OPEN, SURE = "ferry harbour", "bell captain"


class Letters:
    """A direction for each word."""

    name, fingerprint, dimension = "letters", "letters-1", len(WORDS)

    def encode(self, texts):
        rows = np.array([[float(word in text) for word in WORDS] for text in texts], np.float32)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


class Reads:
    """Evidence that notes what it is asked, and says the same of everything."""

    def __init__(self, nats):
        self.nats, self.asked = nats, []

    def __call__(self, questions, texts):
        self.asked += zip(questions, texts, strict=True)
        return [self.nats] * len(questions)


class Fixed(Calibration):
    """Confidence by the question's first candidate alone: OPEN's is in doubt."""

    def confidence(self, candidates):
        return {0: 0.6, 1: 0.4}.get(int(candidates.atoms[0]), 0.999)


def make_router(evidence, attributes=None, **settings):
    embedder = Letters()
    positions, ids = np.arange(len(TEXTS), dtype=np.int32), [str(number) for number in range(len(TEXTS))]
    chosen = RouterSettings(min_weight=0.0, **settings)
    how = {"attributes": attributes, "evidence": evidence}
    return Router(embedder, embedder.encode(TEXTS), positions, ids, TEXTS, Fixed(threshold=0.5), chosen, **how)


def test_evidence_decides_where_the_scores_leave_it_open() -> None:
    assert not make_router(None).route(OPEN).abstained
    assert make_router(Reads(0.0)).route(OPEN).abstained
    assert not make_router(Reads(40.0)).route("harbour plum").abstained
    route = make_router(Reads(20.0)).route(OPEN)
    assert route.confidence == pytest.approx(float(joined([0.6], [20.0])[0]))


def test_what_the_scores_are_sure_of_is_not_read() -> None:
    evidence = Reads(0.0)
    router = make_router(evidence)
    sure, doubted = router.route_batch([SURE, OPEN])
    assert [question for question, _ in evidence.asked] == [OPEN]
    assert not sure.abstained
    assert sure.confidence == 0.999
    assert doubted == router.route(OPEN)


def test_nothing_is_read_where_nothing_hangs_on_it() -> None:
    evidence = Reads(0.0)
    assert make_router(evidence, abstain=False).route(OPEN).confidence == 0.6
    assert not evidence.asked


def test_the_first_atoms_are_read_as_far_as_the_filter_admits_them() -> None:
    evidence = Reads(0.0)
    make_router(evidence).route(OPEN)
    ((_, texts),) = evidence.asked
    assert len(texts) == READ
    assert texts[0] == OPEN
    secret = [AtomAttributes((), (Place("a.md", None, "north" if number == 1 else None),)) for number in range(7)]
    evidence.asked.clear()
    router = make_router(evidence, secret)
    router.route(OPEN)
    router.route(OPEN, where=RouteFilter(tenant="south"))
    assert all(TEXTS[1] not in texts for _, texts in evidence.asked)


@given(st.floats(UNSURE[0], UNSURE[1], exclude_min=True, exclude_max=True), st.floats(-50, 50), st.floats(0.1, 20))
def test_more_evidence_means_more_confidence(confidence: float, nats: float, more: float) -> None:
    assert unsure(confidence)
    less, greater = joined([confidence, confidence], [nats, nats + more])
    assert 0 <= less < greater <= 1
