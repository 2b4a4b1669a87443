"""Gates and confidence of candidates, whatever their scores: bounded, ordered, and as stored calibrations had them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomlora.router import Calibration
from atomlora.router.features import gate_features, scope_features
from atomlora.router.scores import Candidates

numbers = st.floats(-1, 1, width=32)


def candidates_of(scores: list[tuple[float, float, float]], weight: float = 0.5) -> Candidates:
    table = np.array(scores, np.float32)
    fused = table[:, 0] / 2 + table[:, 1] / 2 + np.float32(weight) * table[:, 2]
    order = np.argsort(-fused, kind="stable")
    parts = (fused[order], table[order, 0], table[order, 1], table[order, 2])
    return Candidates(np.arange(len(table), dtype=np.int32), *parts)


@settings(max_examples=60)
@given(st.lists(st.tuples(numbers, numbers, st.floats(0, 1, width=32)), min_size=1, max_size=20))
def test_gates_and_confidence_are_bounded(scores: list[tuple[float, float, float]]) -> None:
    calibration = Calibration()
    candidates = candidates_of(scores)
    gates = calibration.gates(candidates)
    assert gates.shape == (len(scores),)
    assert ((gates >= 0) & (gates <= 1)).all()
    assert 0 <= calibration.confidence(candidates) <= 1


@given(st.lists(numbers, min_size=1, max_size=40), st.integers(0, 39), st.floats(0, 1))
def test_a_better_score_never_lowers_the_gate(fused: list[float], which: int, more: float) -> None:
    which %= len(fused)
    raised = [score + more * (number == which) for number, score in enumerate(fused)]
    gates = []
    for scores in (fused, raised):
        order = np.argsort(-np.array(scores), kind="stable").astype(np.int32)
        flat = np.zeros(len(order), np.float32)
        found = Candidates(order, np.array(scores, np.float32)[order], flat, flat, flat)
        gates.append(float(Calibration().gates(found)[order == which][0]))
    assert gates[1] >= gates[0] - 1e-6


def test_gates_need_a_lead_even_without_rivals() -> None:
    """In a store of one atom a good score opens the gate and a poor one does not."""
    gates = []
    for score in (1.0, 0.2):
        part = np.array([score], np.float32)
        gates.append(float(Calibration().gates(Candidates(np.array([0], np.int32), part, part, part, part))[0]))
    assert gates[0] > 0.9
    assert gates[1] < 0.1


def test_equal_rivals_share_no_certainty() -> None:
    flat = np.full(2, 0.9, np.float32)
    twins = gate_features(Candidates(np.arange(2, dtype=np.int32), flat, flat, flat, flat))
    assert twins[0, 0] == twins[1, 0] == 0


def test_a_first_atom_that_stands_out_raises_the_confidence() -> None:
    """The same best scores among others as good, which is what a near miss finds, and among others that are not."""
    crowded = candidates_of([(0.5, 0.5, 0.2)] + [(0.5, 0.49, 0.2)] * 9)
    alone = candidates_of([(0.5, 0.5, 0.2)] + [(0.2, 0.1, 0.0)] * 9)
    np.testing.assert_array_equal(scope_features(crowded)[:2], scope_features(alone)[:2])
    assert scope_features(alone)[2] > scope_features(crowded)[2] + 1
    calibration = Calibration()
    assert calibration.confidence(alone) > calibration.confidence(crowded) + 0.05
    # of the same pair, a calibration from before the gate took part says the same
    before = Calibration(scope=(3.42, 0.75, 2.82))
    assert before.confidence(alone) == before.confidence(crowded)


@settings(max_examples=60)
@given(st.lists(st.tuples(numbers, numbers, st.floats(0, 1, width=32)), min_size=1, max_size=20))
def test_three_coefficients_answer_as_they_did(scores: list[tuple[float, float, float]]) -> None:
    """The formula of stores calibrated before the gate took part, written out: dense and lexical scores alone."""
    stored = {"gate": [1.43, 1.17, -2.02], "scope": [3.42, 0.75, 2.82], "threshold": 0.142, "alpha": 0.05}
    candidates = candidates_of(scores)
    dense, lexical = float(candidates.dense_max.max()), float(candidates.lexical.max())
    margin = 3.42 * (dense - 0.6) / 0.15 + 0.75 * (lexical - 0.4) / 0.2 + 2.82
    calibration = Calibration.model_validate(stored)
    assert calibration.confidence(candidates) == pytest.approx(1 / (1 + np.exp(-margin)), rel=1e-9)
    assert Calibration.model_validate_json(calibration.model_dump_json()) == calibration
    assert len(calibration.model_dump(mode="json")["scope"]) == 3


@pytest.mark.parametrize("scope", [(1.0, 1.0), (1.0,) * 5, ()])
def test_another_number_of_coefficients_is_refused(scope: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="scope"):
        Calibration.model_validate({"scope": scope})
