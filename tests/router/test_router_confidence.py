"""The line from default log-odds to a store's own, and what people's questions stand for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomlora.router import Calibration
from atomlora.router.confidence import (
    FLATTEST,
    SHARES,
    Line,
    fit_line,
    held_out,
    people_logits,
    people_threshold,
    scope_logits,
)
from atomlora.router.features import DEFAULT_PEOPLE, DEFAULT_SCOPE, LATE_PEOPLE, LATE_SCOPE, PEOPLE_ALPHAS
from atomlora.router.logistic import calibration_error
from atomlora.router.scores import Candidates


@pytest.mark.parametrize("late", [False, True])
def test_where_both_kinds_are_as_many_the_confidence_is_the_share_of_people(late: bool) -> None:
    random = np.random.default_rng(0)
    people = np.interp(random.random(4000), SHARES, people_logits(late, SHARES))
    foreign = random.normal(-1, 2, 4000)
    line = fit_line(foreign, late)
    logits, covered = np.concatenate([people, foreign]), np.arange(8000) < 4000
    error = calibration_error(line.chances(logits), covered)
    assert error < 0.04
    assert calibration_error(Line().chances(logits), covered) > 2 * error


@given(st.lists(st.floats(-30, 30), max_size=60), st.booleans())
def test_more_certain_stays_more_certain(foreign: list[float], late: bool) -> None:
    line = fit_line(np.array(foreign), late)
    assert line.slope >= FLATTEST
    assert np.isfinite(line).all()
    assert (np.diff(line.chances(np.linspace(-5, 5, 50))) > 0).all()


def test_no_foreign_question_leaves_the_defaults() -> None:
    assert fit_line(np.zeros(0), True) == Line(1.0, 0.0)
    assert held_out(np.zeros(0), True).shape == (0,)
    assert Line().coefficients(True) == LATE_SCOPE
    assert Line().coefficients(False) == DEFAULT_SCOPE


def test_the_further_off_foreign_questions_are_the_surer_a_doubtful_one() -> None:
    doubtful = np.array([0.0])
    chances = [float(fit_line(np.full(100, at), True).chances(doubtful)[0]) for at in (1.0, -1.0, -3.0, -6.0)]
    assert chances == sorted(chances)


@pytest.mark.parametrize("late", [False, True])
def test_a_calibration_with_the_coefficients_of_a_line_says_what_the_line_says(late: bool) -> None:
    random = np.random.default_rng(1)
    parts = [np.sort(random.random(12).astype(np.float32))[::-1] for _ in range(5)]
    candidates = Candidates(np.arange(12, dtype=np.int32), *parts[:4], parts[4] if late else None)
    line = Line(1.5, -0.75)
    calibration = Calibration(scope=line.coefficients(late), late=late)
    said = line.chances(scope_logits([candidates], late))[0]
    assert calibration.confidence(candidates) == pytest.approx(said)


def test_each_is_judged_by_a_line_that_it_took_no_part_in() -> None:
    foreign = np.full(40, -6.0)
    foreign[7] = 6.0
    alone = fit_line(foreign[np.arange(40) % 5 != 2], True).chances(foreign[7:8])
    assert held_out(foreign, True)[7] == alone[0] > fit_line(foreign, True).chances(foreign[7:8])[0]


@pytest.mark.parametrize(("late", "measured"), [(False, DEFAULT_PEOPLE), (True, LATE_PEOPLE)])
def test_the_share_given_up_sets_what_people_pass(late: bool, measured: tuple[float, ...]) -> None:
    at_measured = [people_threshold(late, alpha) for alpha in PEOPLE_ALPHAS]
    np.testing.assert_allclose(at_measured, measured)
    assert people_threshold(late, 0.001) == pytest.approx(measured[0])
    assert measured[3] < people_threshold(late, 0.15) < measured[4]
    assert people_threshold(late, 0.05, Line(1.0, -2.0)) < people_threshold(late, 0.05)
    assert Calibration.default(late).threshold == pytest.approx(measured[2])
